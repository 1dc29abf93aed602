"""The page of a ladder: every variant by bytes, distance and direction, and the pairs of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from unembed.decisions.ladder.ladder import Ladder
from unembed.decisions.ladder.summary import LadderRow, LadderSummary, ModelFacts, VariantPair
from unembed.report.ladder.charts import direction, displacement
from unembed.report.parts.facts import command_of, facts_of, with_command
from unembed.report.parts.page import template
from unembed.report.parts.parts import Section, Table, table_of
from unembed.report.parts.wording import (
    Wording,
    cell,
    count,
    counted,
    decimal,
    known,
    point,
    points,
    share,
    side_of,
    signed,
    size,
)
from unembed.report.verdicts.ladder import by_bytes, quality, verdict
from unembed.runs.manifest import FinishedRun
from unembed.stats.estimate import Estimate
from unembed.stats.forms import in_bytes, plus_minus

KNOWN = {
    "stored": "as the files hold them",
    "nominal": "by the bits of the scheme",
    "loaded": "as they are in memory",
}
"""Where a number of bytes comes from."""


def ladder_page(
    summary: LadderSummary, *, title: str, facts: Sequence[tuple[str, str]] = ()
) -> str:
    """The page of a ladder: one table, two charts over bytes, pairs of variants, texts.

    ``facts`` are label and value of what produced the numbers. One file that loads nothing; the
    same arguments give the same page, byte for byte.
    """
    return template("ladder").render(
        title=title,
        verdict=verdict(summary),
        extent=extent(summary),
        notes=notes(summary),
        sections=sections(summary),
        facts=facts,
    )


def sections_of(ladder: Ladder) -> tuple[Section, ...]:
    """Every figure and table of the page."""
    return sections(ladder.summary)


def sections(summary: LadderSummary) -> tuple[Section, ...]:
    """The sections of a ladder's page."""
    found = (_variants(summary), _texts(summary), _pairs(summary), _bytes(summary))
    return tuple(one for one in found if one is not None)


def extent(summary: LadderSummary) -> str:
    """How much every model has read."""
    rows = summary.overall
    words = f"{size(rows[0].n, rows[0].documents)}, the same for every variant"
    if len(summary.texts) > 1:
        words += f", of {counted(len(summary.texts), 'text')}: figures are their plain means"
    return f"{words}.{f' Only {summary.only}.' if summary.only else ''}"


def notes(summary: LadderSummary) -> list[str]:
    """What was not measured, and what was given the base's tokens."""
    given = [one.name for one in summary.variants if one.base_tokens]
    return [
        *(f"{one.name} was not measured: {one.reason}" for one in summary.refused),
        *(
            f"{name} was given the base’s tokens: its own tokenizer may split a text otherwise"
            for name in given
        ),
    ]


def _variants(summary: LadderSummary) -> Section:
    nominal = any(one.bytes.known == "nominal" for one in summary.variants)
    lead = (
        "Each variant against the base at the same positions, from the fewest bytes on. How far a "
        "variant is (KL divergence, same top token) does not say which way: whether right "
        "decisions became wrong or wrong ones right does."
    )
    if nominal:
        lead += " Sizes with ≈ are by the bits of a rounding done here."
    return Section(
        "variants",
        "Every variant",
        lead,
        (direction(summary), displacement(summary)),
        (variants_table(summary, by_bytes(summary), _caption(summary)),),
        (intervals_table(by_bytes(summary)),),
        "With every interval",
    )


def _caption(summary: LadderSummary) -> str:
    where = f"the plain mean over {len(summary.texts)} texts; " if summary.averages else ""
    return f"The variants, {where}KL in nats; ± is half a 95 % interval"


def variants_table(summary: LadderSummary, rows: Sequence[LadderRow], caption: str) -> Table:
    """The table of a ladder: bytes, displacement, direction and what is to be said of it."""

    def bytes_of(part: str) -> Callable[[LadderRow], str]:
        return lambda row: sized(summary.facts(row.name), part)

    return table_of(
        caption,
        rows,
        {
            "variant": lambda row: row.name,
            "verdict": quality,
            "weights": bytes_of("weights"),
            "body": bytes_of("body"),
            "head": bytes_of("head"),
            "mean KL": lambda row: _point(row.kl_mean),
            "median": lambda row: _point(row.kl_median),
            "99 %": lambda row: _point(row.kl_high),
            "99.9 %": lambda row: _point(row.kl_extreme),
            "largest": lambda row: known(row.kl_largest, decimal),
            "same top": lambda row: point(row.same_top, share),
            "perplexity ×": lambda row: plus_minus(row.perplexity_ratio, decimal),
            "W→R": lambda row: count(row.wrong_to_right),
            "R→W": lambda row: count(row.right_to_wrong),
            "net": lambda row: cell(row.accuracy_difference, points),
        },
    )


def intervals_table(rows: Sequence[LadderRow]) -> Table:
    """What the table of variants has without room for an interval, with it."""

    def estimate(name: str, form: Wording) -> Callable[[LadderRow], str]:
        def words(row: LadderRow) -> str:
            found: Estimate | None = getattr(row, name)
            return "–" if found is None else cell(found, form)

        return words

    return table_of(
        "The variants, with 95 % intervals over documents; KL in nats",
        rows,
        {
            "variant": lambda row: row.name,
            "mean KL": estimate("kl_mean", decimal),
            "median": estimate("kl_median", decimal),
            "99 %": estimate("kl_high", decimal),
            "99.9 %": estimate("kl_extreme", decimal),
            "same top": estimate("same_top", share),
            "loss": estimate("nll_difference_nats", signed),
            "perplexity ×": estimate("perplexity_ratio", decimal),
        },
    )


def sized(model: ModelFacts, part: str) -> str:
    """``4.08 MB``; a size by a scheme's bits is ``≈`` so."""
    about = "≈\u00a0" if model.bytes.known == "nominal" and part == "weights" else ""
    return about + in_bytes(getattr(model.bytes, part))


def _point(estimate: Estimate | None) -> str:
    return "–" if estimate is None else point(estimate, decimal)


def _texts(summary: LadderSummary) -> Section | None:
    if len(summary.texts) < 2:
        return None
    tables = []
    for text in summary.texts:
        rows = [row for row in by_bytes(summary) for row in _on(summary, row.name, text.name)]
        caption = f"{text.name}: {size(rows[0].n, rows[0].documents)}"
        tables.append(variants_table(summary, rows, caption))
    return Section(
        "texts",
        "By text",
        "The same figures on each text by itself; the averages above weigh every text the same.",
        tables=tuple(tables),
    )


def _on(summary: LadderSummary, name: str, text: str) -> list[LadderRow]:
    return [row for row in summary.rows if row.name == name and row.text == text]


def _pairs(summary: LadderSummary) -> Section | None:
    pairs = summary.overall_pairs
    if not pairs:
        return None
    rest = [pair for pair in summary.pairs if pair not in pairs]
    return Section(
        "pairs",
        "Variants against each other",
        "What the second variant of a pair has more than the first, at the same positions. The "
        "intervals of a column hold together: with 95 % chance all of them hold their truths, "
        "however many pairs are looked at.",
        tables=(pairs_table(pairs, "Second minus first, simultaneous 95 % intervals"),),
        folded=tuple(
            pairs_table([pair for pair in rest if pair.text == text.name], f"On {text.name}")
            for text in summary.texts
            if rest
        ),
        more="On each text",
    )


def pairs_table(pairs: Sequence[VariantPair], caption: str) -> Table:
    """Every pair with its three differences, and whether accuracy or loss tells them apart."""
    return table_of(
        caption,
        pairs,
        {
            "pair": lambda pair: f"{pair.second} − {pair.first}",
            "accuracy": lambda pair: cell(pair.accuracy, points),
            "loss, nats": lambda pair: cell(pair.nll_nats, signed),
            "mean KL, nats": lambda pair: cell(pair.kl_nats, signed),
            "by accuracy": lambda pair: _better(pair, pair.accuracy, 1),
            "by loss": lambda pair: _better(pair, pair.nll_nats, -1),
        },
    )


def _better(pair: VariantPair, difference: Estimate, good: int) -> str:
    side = side_of(difference, 0.0) * good
    if side == 0:
        return "too close to call"
    return f"{pair.second if side > 0 else pair.first} is better"


def _bytes(summary: LadderSummary) -> Section:
    everything = (summary.base, *summary.variants)
    kinds = list(dict.fromkeys(share.kind for one in everything for share in one.bytes.rounded))
    shares = {one.name: {share.kind: share for share in one.bytes.rounded} for one in everything}

    def rounded(kind: str) -> dict[str, str]:
        return {
            one.name: share(found.rounded / found.weights)
            if (found := shares[one.name].get(kind))
            else "–"
            for one in everything
        }

    columns = {kind: rounded(kind) for kind in kinds}
    table = table_of(
        "Bytes of weights, and the share of the weights that is rounded",
        everything,
        {
            "model": lambda one: one.name,
            "weights": lambda one: in_bytes(one.bytes.weights),
            "body": lambda one: in_bytes(one.bytes.body),
            "head": lambda one: in_bytes(one.bytes.head),
            "bytes are": lambda one: KNOWN[one.bytes.known],
        }
        | {kind: (lambda one, found=found: found[one.name]) for kind, found in columns.items()},
    )
    return Section(
        "bytes",
        "What takes the bytes",
        "A matrix that embedding and head share is counted once, with the head.",
        tables=(table,),
    )


def page_of_run(ladder: Ladder, run: FinishedRun | None, _links: Mapping[str, str]) -> str:
    """The page of a ladder."""
    summary = ladder.summary
    base = Path(summary.base.model).name
    title = f"{counted(len(summary.variants), 'variant')} of {base}: how far, and which way"
    if ladder.folder is None:
        return ladder_page(summary, title=title)
    made = [
        (f"{one.name}", f"{one.model}, {one.dtype}, digest {one.digest[:16]}")
        for one in summary.variants
    ]
    facts = (*facts_of(ladder.audit().provenance, ""), *made)
    return ladder_page(summary, title=title, facts=with_command(facts, command_of(run)))
