"""The page of one run of layers: nothing is computed, nothing is fetched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from unembed.decisions.layers.depth_rows import DepthRow
from unembed.decisions.layers.excerpt import (
    LensPassage,
    SettledDocument,
    passages,
    settled_documents,
)
from unembed.decisions.layers.layers import Layers
from unembed.decisions.layers.summary import LayersSummary
from unembed.report.layers.cloud import cloud_section
from unembed.report.layers.depths import agreement_figure, depths_section, measured
from unembed.report.layers.exits import exits_section
from unembed.report.layers.gap import gap_section
from unembed.report.layers.lens_table import lens_table
from unembed.report.layers.regimes import LAST, regimes_section
from unembed.report.layers.settling import settling_figure, settling_section
from unembed.report.layers.text import settled_text_view
from unembed.report.parts.facts import command_of, facts_of
from unembed.report.parts.page import template
from unembed.report.parts.parts import Card, Section, card
from unembed.report.parts.wording import count, decimal, point, share, size, whole_percent
from unembed.report.verdicts.layers import NARROWNESS, RHO, verdict, whole
from unembed.runs.manifest import FinishedRun
from unembed.stats.estimate import Estimate
from unembed.stats.forms import bounded


def layers_page(
    title: str,
    summary: LayersSummary,
    facts: Sequence[tuple[str, str]],
    kept: Sequence[LensPassage],
    documents: Sequence[SettledDocument],
    notes: Sequence[str] = (),
) -> str:
    """The page of a run of layers: verdict, the logit-lens table, curves by depth, the text.

    ``kept`` are the passages of the table, ``documents`` those of the text view. Otherwise as
    ``audit_page``: one file that loads nothing, the same bytes for the same arguments.

    Raises ``ReportUnavailable`` where the extra ``plot`` is not installed.
    """
    glance, *sections = sections_of_summary(summary)
    return template("layers").render(
        title=title,
        verdict=verdict(summary),
        extent=extent(summary),
        cards=cards(summary),
        glance=glance,
        sections=sections,
        table=lens_table(kept),
        lenses=[one.lens for one in measured(summary)],
        text=settled_text_view(documents),
        blocks=summary.blocks,
        documents=summary.n_documents,
        facts=facts,
        notes=notes,
    )


def sections_of(layers: Layers) -> tuple[Section, ...]:
    """Every figure and table of the page but those of tokens."""
    return sections_of_summary(layers.summary)


def sections_of_summary(summary: LayersSummary) -> tuple[Section, ...]:
    """Two figures at a glance, then what each depth knows, settling, exits and the gap."""
    glance = Section(
        "glance",
        "How the decision forms",
        "",
        (agreement_figure(summary), settling_figure(summary.settling)),
    )
    return (
        glance,
        depths_section(summary),
        settling_section(summary.settling),
        exits_section(summary.early_exit, summary.fitted_exit, summary.self_drafts),
        regimes_section(summary, summary.regimes),
        *(() if summary.cloud is None else (cloud_section(summary.cloud, summary.blocks),)),
        gap_section(summary),
    )


def extent(summary: LayersSummary) -> str:
    """How much was measured, and what was not."""
    many = f"{count(len(summary.depths))} of {count(summary.blocks + 1)} depths"
    if len(summary.depths) == summary.blocks + 1:
        many = f"all {count(len(summary.depths))} depths"
    lost = (
        "the logits of all were finite"
        if summary.n_left_out == 0
        else f"{count(summary.n_left_out)} of them, not finite at some depth, are left out"
    )
    return f"{size(summary.n_positions, summary.n_documents)}, at {many}; {lost}."


def cards(summary: LayersSummary) -> tuple[Card, ...]:
    """The headline numbers."""
    settling, exits, drafts = summary.settling, summary.early_exit, summary.self_drafts
    normed = summary.lens("normed")
    half = min(normed.rows, key=lambda row: abs(row.depth - summary.blocks / 2))
    own = summary.regimes.lenses[0].of(NARROWNESS)
    best = drafts.best_sampled
    saved = (
        Estimate(None, n=exits.n, reason=exits.chosen_reason)
        if exits.chosen is None
        else exits.chosen.saved
    )
    kept = (
        ""
        if exits.chosen is None
        else f"{bounded(exits.chosen.agreement, share)} decide as the whole"
    )
    drafted = (
        ""
        if best.speedup.value is None
        else f"T = 1, depth {whole(best.depth)} drafts {whole(best.drafted)}"
    )
    cloud: tuple[Card, ...] = ()
    if summary.cloud is not None:
        last = summary.cloud.at(summary.blocks)
        size = f"dimension by TwoNN {bounded(last.geometry.dimensions.two_nn, decimal)}"
        cloud = (
            card("Effective rank, last depth", last.spectrum.effective_rank, decimal, "", size),
        )
    alone = f"{point(settling.mean_if_independent, decimal)} if depths agreed independently"
    published = f"published: {LAST}"
    return (
        card("Mean settling depth", settling.mean, decimal, f"of {count(summary.blocks)}", alone),
        card("Settled at the last depth", settling.by_depth[-1].share, share, "", "of decisions"),
        card(f"Decides as the last, depth {half.depth}", half.agreement, share, "", "normed lens"),
        card(f"Loss at depth {half.depth}", half.nll_nats, decimal, "nats", _loss(normed.rows[-1])),
        card(f"Blocks saved at {whole_percent(exits.wanted)}", saved, share, "", kept),
        card("Speed-up as its own draft", best.speedup, decimal, "", drafted),
        card("ρ of narrowness with loss", own.by_depth[-1].rho, RHO, "", published),
        *cloud,
    )


def _loss(last: DepthRow) -> str:
    return f"{bounded(last.nll_nats, decimal)} at the last"


def page_of_run(layers: Layers, run: FinishedRun | None, _links: Mapping[str, str]) -> str:
    """The page of a run of layers."""
    title = f"How decisions form in {Path(layers.provenance.model).name}"
    facts = facts_of(layers.provenance, command_of(run))
    return layers_page(title, layers.summary, facts, passages(layers), settled_documents(layers))
