"""The page of one audit: nothing is computed, nothing is fetched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from unembed.decisions.audit.audit import Audit
from unembed.decisions.audit.excerpt import DocumentView, excerpts
from unembed.decisions.audit.summary import AuditSummary, Histogram
from unembed.decisions.slices.decision import DecisionSlice
from unembed.report.audit import charts
from unembed.report.audit.gap_sections import gap_section, native_section
from unembed.report.audit.rounding_section import rounding_section
from unembed.report.audit.serving_sections import batching_section, logprobs_section
from unembed.report.parts.drawing import draw
from unembed.report.parts.facts import command_of, facts_of
from unembed.report.parts.histogram import histogram_figure
from unembed.report.parts.page import template
from unembed.report.parts.parts import (
    Card,
    Figure,
    Key,
    Section,
    Table,
    card,
    estimates_table,
    table_of,
)
from unembed.report.parts.text import MOST_CANDIDATES, text_view
from unembed.report.parts.wording import between, cell, count, decimal, full, point, share, size
from unembed.report.slices.section import slices_section
from unembed.report.verdicts.audit import verdict
from unembed.runs.manifest import FinishedRun
from unembed.stats.estimate import Estimate
from unembed.stats.forms import bounded


def audit_page(
    title: str,
    summary: AuditSummary,
    facts: Sequence[tuple[str, str]],
    documents: Sequence[DocumentView],
    notes: Sequence[str] = (),
    slices: Sequence[DecisionSlice] = (),
) -> str:
    """The page of one audit: verdict, cards, charts, the sample's text, provenance.

    ``facts`` are label and value of everything that produced the numbers. Of ``documents``, whole
    ones are shown in order until the page's token budget is spent, and the page says how many.
    ``slices`` are the pictures that tokens of the documents open. The same arguments give the same
    page, byte for byte. It loads nothing from anywhere.

    Raises ``ReportUnavailable`` where the extra ``plot`` is not installed.
    """
    first, *sections = sections_of_summary(summary)
    return template("audit").render(
        title=title,
        verdict=verdict(summary),
        extent=extent(summary),
        cards=cards(summary),
        before=(first,),
        sections=sections,
        text=text_view(documents),
        slices=slices_section(slices) if slices else None,
        decisions=slices,
        documents=summary.n_documents,
        candidates=MOST_CANDIDATES,
        facts=facts,
        notes=notes,
    )


def sections_of(audit: Audit) -> tuple[Section, ...]:
    """Every figure and table of the page but the text."""
    slices = (slices_section(audit.slices),) if audit.slices else ()
    return (*sections_of_summary(audit.summary), *slices)


def sections_of_summary(summary: AuditSummary) -> tuple[Section, ...]:
    """How narrow decisions are, what margins are worth, what rounding and serving change, gap."""
    rounding = () if summary.bfloat16 is None else (rounding_section(summary, summary.bfloat16),)
    native = () if summary.native is None else (native_section(summary.native),)
    return (
        _margins(summary),
        _trust(summary),
        *rounding,
        *_serving(summary),
        gap_section(summary),
        *native,
    )


def _serving(summary: AuditSummary) -> tuple[Section, ...]:
    """What other batches change, and how far another engine and the native head are."""
    found = []
    if summary.batching is not None:
        found.append(batching_section(summary.batching))
    if summary.engine is not None:
        lead = (
            f"{summary.engine.engine} holds another engine’s log-probability of each token; the "
            "exact one is that of the float32 head. The difference is what a trainer sees between "
            "its sampler and itself, and what a server adds to the model."
        )
        title = "How far the engine is from the model"
        found.append(logprobs_section(summary.engine, "engine", title, lead))
    if summary.native is not None and summary.native.logprobs is not None:
        lead = (
            f"The same hidden states through the head in {summary.native.dtype}: the mismatch that "
            "logits in this precision alone make between a trainer and its sampler."
        )
        title = f"Log-probabilities of the {summary.native.dtype} head"
        found.append(logprobs_section(summary.native.logprobs, "logprobs", title, lead))
    return tuple(found)


def extent(summary: AuditSummary) -> str:
    """How much was measured, and what was not."""
    lost = (
        "the logits of all were finite"
        if summary.n_nonfinite == 0
        else f"{count(summary.n_nonfinite)} of them, not finite, are left out"
    )
    return f"{size(summary.n_positions, summary.n_documents)}; {lost}."


def cards(summary: AuditSummary) -> tuple[Card, ...]:
    """The headline numbers."""
    gap = summary.gap
    beta = (
        gap.published.beta
        if gap is not None
        else Estimate(None, reason=summary.gap_reason or "the gap was not fitted")
    )
    facet = "distance to the runner-up’s facet, relative to the hidden norm"
    fit = "" if gap is None else f"published fit, R² {gap.published.r_squared:.4f}"
    if gap is not None and gap.to_mind:
        fit += f"; to mind: {gap.to_mind}"
    perplexity = f"perplexity {bounded(summary.perplexity, decimal)}"
    entropy = f"probability of top-1; mean entropy {point(summary.entropy_nats, decimal)} nats"
    close: tuple[Card, ...] = ()
    if summary.bfloat16 is not None:
        changed = (
            f"{point(summary.bfloat16.changed, share)} decide otherwise when logits are rounded"
        )
        close = (card("Within a bfloat16 step", summary.bfloat16.within_step, share, "", changed),)
    likely = f"{bounded(summary.median_odds, decimal)} times as likely as the runner-up"
    return (
        card("Accuracy", summary.accuracy, share, "", "top-1 was the target"),
        card("Loss", summary.nll_nats, decimal, "nats", perplexity),
        card("Median margin", summary.median_margin, decimal, "logits", likely),
        card("Margin below 0.5", summary.share_margin_below_half, share, "", "of positions"),
        *close,
        card("Median scale-free margin", summary.median_relative_distance, decimal, "", facet),
        card("Gap slope β", beta, decimal, "", fit),
        card("Mean confidence", summary.confidence, share, "", entropy),
    )


def _margins(summary: AuditSummary) -> Section:
    lead = (
        "The margin is the logit of the chosen token minus that of the runner-up. "
        "A temperature stretches it for free; the scale-free margin, the distance to the "
        "runner-up’s facet relative to the hidden norm, does not move."
    )
    if summary.row_norm_cv is not None:
        lead += (
            f" The norms of the head’s rows vary by {share(summary.row_norm_cv)} around their mean"
            " (coefficient of variation)."
        )
    caption = (
        "Each bar is the share of positions in that range. In its upper part the choice was wrong: "
        "the target was not top-1."
    )

    def figure(
        figure: tuple[str, str],
        bins: Histogram,
        unit: str,
        median: Estimate,
        quantiles: Mapping[str, Estimate],
    ) -> Figure:
        rows = {f"{name}\u00a0%": (one, decimal) for name, one in quantiles.items()}
        tables = (estimates_table("Quantiles", rows, "quantile"),)
        return histogram_figure(figure, bins, unit, (median, decimal), caption, tables=tables)

    return Section(
        "margins",
        "How narrow the decisions are",
        lead,
        (
            figure(
                ("margin", "Margin"),
                summary.margin_histogram,
                "logits",
                summary.median_margin,
                summary.margin_quantiles,
            ),
            figure(
                ("relative", "Scale-free margin"),
                summary.relative_distance_histogram,
                "scale-free margin",
                summary.median_relative_distance,
                summary.relative_distance_quantiles,
            ),
        ),
    )


def _trust(summary: AuditSummary) -> Section:
    bands = table_of(
        "Margin bands",
        summary.bands,
        {
            "margin": lambda one: between(one.low, one.high),
            "positions": lambda one: count(one.n),
            "share": lambda one: cell(one.share, share),
            "accuracy": lambda one: cell(one.accuracy, share),
            "confidence": lambda one: cell(one.confidence, share),
        },
    )
    grid = summary.entropy_margin
    cells = Table(
        "Positions per cell, rows of entropy in nats, columns of margin in logits",
        ("entropy", *(f"from {low:.3g}" for low in grid.y_edges[:-1])),
        tuple(
            (f"from {low:.3g}", *map(count, column))
            for low, column in zip(grid.x_edges, grid.counts, strict=False)
        ),
    )
    return Section(
        "trust",
        "What a margin is worth",
        "A wide margin should mean a right decision. Where the two marks of a band part, the head "
        "is surer, or less sure, than it is right.",
        (
            Figure(
                "bands",
                "Accuracy and confidence by margin",
                "In each band of margins: how often the choice was right, and the mean "
                "probability it was given. Bars are 95 % intervals over documents.",
                draw(charts.bands(summary.bands), "Accuracy and confidence in each margin band"),
                (Key("circle", "accuracy"), Key("diamond", "confidence")),
                (bands,),
            ),
            Figure(
                "entropy",
                "Entropy against margin",
                "The stronger the colour, the more positions in a cell, in steps of equal ratio. "
                f"Spearman’s ρ is {full(summary.spearman_margin_entropy, decimal)}, that of the "
                "scale-free margin "
                f"{full(summary.spearman_relative_distance_entropy, decimal)}.",
                draw(
                    charts.density(grid, "entropy in nats", "margin in logits"),
                    "Density of positions over entropy and margin",
                ),
                (Key("ramp", "fewer to more positions"),),
                (cells,),
            ),
        ),
    )


def page_of_run(audit: Audit, run: FinishedRun | None, _links: Mapping[str, str]) -> str:
    """The page of an audit."""
    title = f"Token decisions of {Path(audit.provenance.model).name}"
    facts = facts_of(audit.provenance, command_of(run))
    return audit_page(title, audit.summary, facts, excerpts(audit), slices=audit.slices)
