"""Who gained and who lost, by group and by token, as sections of a comparison's page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from unembed.decisions.comparison.flips import MINIMUM_FLIPS, FlipGroup, TokenFlips
from unembed.decisions.comparison.movement import BandMovement
from unembed.decisions.comparison.summary import ComparisonSummary
from unembed.decisions.tokens import CLASSES, FREQUENCY_NAMES
from unembed.report.comparison import charts, maps
from unembed.report.parts.drawing import draw
from unembed.report.parts.parts import Figure, Key, Section, Table
from unembed.report.parts.wording import (
    between,
    count,
    full,
    p_value,
    point,
    points,
    share,
    signed_count,
    token,
)

_NET = (
    Key("gained-dot", "gain"),
    Key("lost-dot", "loss"),
    Key("few-dot", f"fewer than {MINIMUM_FLIPS} flips"),
)


def groups_section(summary: ComparisonSummary) -> Section:
    """Who gained and who lost: margin band, frequency, class."""
    cross = _group_table(
        "Class and frequency", "class, occurrences", summary.by_class_and_frequency
    )
    return Section(
        "groups",
        "Who gained and who lost",
        "A flip is a decision gained, from wrong to right, or lost, from right to wrong. Groups "
        f"with fewer than {MINIMUM_FLIPS} flips are grey: their difference says little.",
        (
            Figure(
                "band-accuracy",
                "Accuracy by margin before",
                "Both accuracies of the positions whose margin before lay in the band, in logits. "
                "Bars are 95 % intervals over documents.",
                (Key("hollow-dot", "before"), Key("full-dot", "after")),
                draw(
                    charts.before_and_after(summary.by_band_before, "margin"),
                    "Accuracy before and after in each margin band",
                ),
                (
                    _group_table("By margin before", "margin, logits", summary.by_band_before),
                    _group_table("By margin after", "margin, logits", summary.by_band_after),
                    _bands(summary.movement.bands),
                ),
            ),
            _differences("band", "Change by margin before", "margin", summary.by_band_before),
            _differences("frequency", "Change by frequency", "occurrences", summary.by_frequency),
            _differences("class", "Change by class", "class", summary.by_class),
            Figure(
                "net-map",
                "Net flips by class and frequency",
                "Each cell: wrong → right minus right → wrong, over its number of positions. The "
                "colour is the change of accuracy, in equal steps up to the largest. Blank: no "
                "position.",
                (Key("ramp-net", "loss to gain"), Key("few", f"fewer than {MINIMUM_FLIPS} flips")),
                draw(
                    maps.net_map(summary.by_class_and_frequency, CLASSES, FREQUENCY_NAMES),
                    "Net flips in each class and frequency",
                ),
                (cross,),
            ),
            Figure(
                "churn-map",
                "Churn by class and frequency",
                "Each cell: the share of its positions with another top-1, over their number. "
                "Blank: no position.",
                (
                    Key("ramp-churn", "less to more churn"),
                    Key("few", f"fewer than {MINIMUM_FLIPS} changed"),
                ),
                draw(
                    maps.churn_map(summary.by_class_and_frequency, CLASSES, FREQUENCY_NAMES),
                    "Churn in each class and frequency",
                ),
                (cross,),
            ),
        ),
        (_group_table("By place in the word", "token", summary.by_word_start),),
    )


def tokens_section(summary: ComparisonSummary) -> Section:
    """The targets that gained and that lost most."""
    found = summary.tokens
    tables = tuple(
        _token_table(f"{caption} most", rows, summary.token_texts)
        for caption, rows in (("Gained", found.gaining), ("Lost", found.losing))
        if rows
    )
    lead = (
        f"{count(found.tokens)} target tokens have a flip. Those with the largest net either way; "
        "p is the sign test of its flips, one token at a time: among many, some are small by "
        "chance."
        if found.tokens
        else "No target token has a flip: no decision went from wrong to right or back."
    )
    return Section("targets", "Tokens that gained and lost most", lead, (), tables)


def _differences(name: str, title: str, noun: str, groups: Sequence[FlipGroup]) -> Figure:
    return Figure(
        name,
        title,
        "Accuracy after minus before. Bars are 95 % intervals over documents.",
        _NET,
        draw(charts.differences(groups, noun), f"{title}: accuracy after minus before"),
        (_group_table(title, noun, groups),),
    )


def _group_table(caption: str, first: str, groups: Sequence[FlipGroup]) -> Table:
    shared = [group.share_of_net for group in groups if group.share_of_net.value is not None]
    why = "" if shared else f"; shares of the net: {point(groups[0].share_of_net, share)}"
    rows = tuple(
        (
            group.name,
            count(group.flips.n),
            full(group.flips.accuracy_before, share),
            full(group.flips.accuracy_after, share),
            full(group.flips.accuracy_difference, points),
            count(group.flips.wrong_to_right),
            count(group.flips.right_to_wrong),
            signed_count(group.flips.net),
            full(group.flips.churn, share),
            *([full(group.share_of_net, share)] if shared else []),
        )
        for group in groups
    )
    return Table(
        f"{caption}, with 95 % intervals{why}",
        (
            first,
            "n",
            "accuracy before",
            "accuracy after",
            "difference",
            "gained",
            "lost",
            "net",
            "churn",
            *(["share of net"] if shared else []),
        ),
        rows,
        frozenset(i for i, group in enumerate(groups) if charts.few(group.flips)),
    )


def _bands(bands: Sequence[BandMovement]) -> Table:
    return Table(
        "Accuracy by margin band; other positions after than before, with 95 % intervals",
        ("margin, logits", "n before", "accuracy before", "n after", "accuracy after"),
        tuple(
            (
                between(band.low, band.high),
                count(band.n_before),
                full(band.accuracy_before, share),
                count(band.n_after),
                full(band.accuracy_after, share),
            )
            for band in bands
        ),
    )


def _token_table(caption: str, rows: Sequence[TokenFlips], texts: Mapping[str, str]) -> Table:
    return Table(
        caption,
        ("token", "n", "gained", "lost", "net", "p"),
        tuple(
            (
                token(texts.get(str(row.token), f"[{row.token}]")),
                count(row.n),
                count(row.wrong_to_right),
                count(row.right_to_wrong),
                signed_count(row.net),
                p_value(row.sign_p),
            )
            for row in rows
        ),
        frozenset(
            i
            for i, row in enumerate(rows)
            if row.wrong_to_right + row.right_to_wrong < MINIMUM_FLIPS
        ),
    )
