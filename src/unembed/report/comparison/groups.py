"""Who gained and who lost, by group and by token, as sections of a comparison's page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from unembed.decisions.comparison.flips import MINIMUM_FLIPS, FlipGroup, TokenFlips
from unembed.decisions.comparison.movement import BandMovement
from unembed.decisions.comparison.summary import ComparisonSummary
from unembed.decisions.tokens import CLASSES, FREQUENCY_NAMES
from unembed.report.comparison import charts, maps
from unembed.report.parts.drawing import draw
from unembed.report.parts.parts import (
    Figure,
    Key,
    Section,
    Table,
    charts_or_tables,
    table_of,
)
from unembed.report.parts.wording import (
    between,
    cell,
    count,
    p_value,
    part,
    point,
    points,
    share,
    signed_count,
    token,
)

_NET = (
    Key("gained-dot", "gain"),
    Key("lost-dot", "loss"),
    Key("few-dot", f"not told from 0, or fewer than {MINIMUM_FLIPS} flips"),
)

TOLD_APART_P = 0.05
"""Below this p a token's flips to one side are more than chance has it, taken alone."""


def groups_section(summary: ComparisonSummary) -> Section:
    """Who gained and who lost: margin band, frequency, class."""
    both = (summary.by_class_and_frequency, CLASSES, FREQUENCY_NAMES)
    cross = (_group_table("Class and frequency", "class, occurrences", both[0]),)
    few = f"fewer than {MINIMUM_FLIPS}"
    drawn = (
        (
            Figure(
                "band-accuracy",
                "Accuracy by margin before",
                "Both accuracies of the positions whose margin before lay in the band, in logits. "
                "Bars are 95 % intervals over documents.",
                draw(
                    charts.before_and_after(summary.by_band_before, "margin"),
                    "Accuracy before and after in each margin band",
                ),
                (Key("hollow-dot", "before"), Key("full-dot", "after")),
                (
                    _group_table("By margin before", "margin, logits", summary.by_band_before),
                    _group_table("By margin after", "margin, logits", summary.by_band_after),
                    _bands(summary.movement.bands),
                ),
            ),
            summary.by_band_before,
        ),
        _differences("band", "Change by margin before", "margin", summary.by_band_before),
        _differences("frequency", "Change by frequency", "occurrences", summary.by_frequency),
        _differences("class", "Change by class", "class", summary.by_class),
        (
            Figure(
                "net-map",
                "Net flips by class and frequency",
                "Each cell: wrong → right minus right → wrong, over its number of positions. The "
                "colour is the change of accuracy, in equal steps up to the largest. Blank: no "
                "position.",
                draw(maps.net_map(*both), "Net flips in each class and frequency"),
                (
                    Key("ramp-net", "loss to gain"),
                    Key("few", f"not told from 0, or {few} flips"),
                ),
                cross,
            ),
            both[0],
        ),
        (
            Figure(
                "churn-map",
                "Churn by class and frequency",
                "Each cell: the share of its positions with another top-1, over their number. "
                "Blank: no position.",
                draw(maps.churn_map(*both), "Churn in each class and frequency"),
                (Key("ramp-churn", "less to more churn"), Key("few", f"{few} changed")),
                cross,
            ),
            both[0],
        ),
    )
    figures, tables = charts_or_tables(
        (figure, sum(group.flips.n > 0 for group in groups)) for figure, groups in drawn
    )
    return Section(
        "groups",
        "Who gained and who lost",
        "A flip is a decision gained, from wrong to right, or lost, from right to wrong. Groups "
        f"with {few} flips, or whose interval holds 0, are grey: they tell no gain from loss.",
        figures,
        (*tables, _group_table("By place in the word", "token", summary.by_word_start)),
    )


def tokens_section(summary: ComparisonSummary) -> Section:
    """The targets that gained and that lost most."""
    found = summary.tokens
    title = "Tokens that gained and lost most"
    if not found.tokens:
        lead = "No target token has a flip: no decision went from wrong to right or back."
        return Section("targets", title, lead)

    def tables(told: bool) -> tuple[Table, ...]:
        return tuple(
            _token_table(f"{caption} most", chosen, summary.token_texts)
            for caption, rows in (("Gained", found.gaining), ("Lost", found.losing))
            if (chosen := [row for row in rows if _told_apart(row) is told])
        )

    rows = (*found.gaining, *found.losing)
    told = sum(map(_told_apart, rows))
    said = f"The flips of {count(told)} of them go" if told else "Those of none go"
    lead = (
        f"{count(found.tokens)} target tokens have a flip; the {count(len(rows))} with the largest "
        f"net either way were tested. {said} to one side more than chance has it (p below "
        f"{TOLD_APART_P:g} in the sign test, one token at a time: among many, some are by chance)."
    )
    folded = tables(False)
    more = f"{count(len(rows) - told)} that are not told from chance" if folded else ""
    return Section("targets", title, lead, (), tables(True), folded, more)


def _told_apart(row: TokenFlips) -> bool:
    few = row.wrong_to_right + row.right_to_wrong < MINIMUM_FLIPS
    return not few and row.sign_p is not None and row.sign_p < TOLD_APART_P


def _differences(
    name: str, title: str, noun: str, groups: Sequence[FlipGroup]
) -> tuple[Figure, Sequence[FlipGroup]]:
    figure = Figure(
        name,
        title,
        "Accuracy after minus before. Bars are 95 % intervals over documents.",
        draw(charts.differences(groups, noun), f"{title}: accuracy after minus before"),
        _NET,
        (_group_table(title, noun, groups),),
    )
    return figure, groups


def _group_table(caption: str, first: str, groups: Sequence[FlipGroup]) -> Table:
    columns: dict[str, Callable[[FlipGroup], str]] = {
        first: lambda one: one.name,
        "n": lambda one: count(one.flips.n),
        "accuracy before": lambda one: cell(one.flips.accuracy_before, share),
        "accuracy after": lambda one: cell(one.flips.accuracy_after, share),
        "difference": lambda one: cell(one.flips.accuracy_difference, points),
        "gained": lambda one: count(one.flips.wrong_to_right),
        "lost": lambda one: count(one.flips.right_to_wrong),
        "net": lambda one: signed_count(one.flips.net),
        "churn": lambda one: cell(one.flips.churn, share),
    }
    if any(group.share_of_net.value is not None for group in groups):
        why = ""
        columns["share of net"] = lambda one: cell(one.share_of_net, part)
    else:
        why = f"; shares of the net: {point(groups[0].share_of_net, part)}"
    caption = f"{caption}, with 95 % intervals{why}"
    return table_of(caption, groups, columns, lambda one: charts.few(one.flips))


def _bands(bands: Sequence[BandMovement]) -> Table:
    return table_of(
        "Accuracy by margin band; other positions after than before, with 95 % intervals",
        bands,
        {
            "margin, logits": lambda one: between(one.low, one.high),
            "n before": lambda one: count(one.n_before),
            "accuracy before": lambda one: cell(one.accuracy_before, share),
            "n after": lambda one: count(one.n_after),
            "accuracy after": lambda one: cell(one.accuracy_after, share),
        },
    )


def _token_table(caption: str, rows: Sequence[TokenFlips], texts: Mapping[str, str]) -> Table:
    return table_of(
        caption,
        rows,
        {
            "token": lambda one: token(texts.get(str(one.token), f"[{one.token}]")),
            "n": lambda one: count(one.n),
            "gained": lambda one: count(one.wrong_to_right),
            "lost": lambda one: count(one.right_to_wrong),
            "net": lambda one: signed_count(one.net),
            "p": lambda one: p_value(one.sign_p),
        },
        lambda one: one.wrong_to_right + one.right_to_wrong < MINIMUM_FLIPS,
    )
