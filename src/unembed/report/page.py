"""One self-contained HTML page from records: nothing is computed, nothing is fetched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from unembed.cells.comparison import ComparisonSummary
from unembed.cells.excerpt import DocumentView
from unembed.cells.flip_excerpt import FlipDocument
from unembed.cells.summary import AuditSummary
from unembed.refine.dose_records import DoseTable
from unembed.refine.summary import RefinementSummary
from unembed.report import (
    audit,
    comparison,
    comparison_calibration,
    comparison_divergences,
    comparison_groups,
    comparison_margins,
    dose,
    refinement,
    refinement_curves,
    wording,
)
from unembed.report.comparison_text import flip_text_view
from unembed.report.dose_tables import published_tables
from unembed.report.text import CANDIDATES, text_view


def audit_page(
    title: str,
    summary: AuditSummary,
    facts: Sequence[tuple[str, str]],
    documents: Sequence[DocumentView],
    notes: Sequence[str] = (),
) -> str:
    """The page of one audit: reading, cards, charts, the sample's text, provenance.

    ``facts`` are label and value of everything that produced the numbers. Of ``documents``, whole
    ones are shown in order until the page's token budget is spent, and the page says how many.
    The same arguments give the same page, byte for byte. It loads nothing from anywhere.

    Raises ``ReportUnavailable`` where the extra ``plot`` is not installed.
    """
    return (
        environment()
        .get_template("audit.html.jinja")
        .render(
            title=title,
            reading=audit.reading(summary),
            extent=audit.extent(summary),
            cards=audit.cards(summary),
            before=audit.sections_before_text(summary),
            after=audit.sections_after_text(summary),
            text=text_view(documents),
            documents=summary.n_documents,
            candidates=CANDIDATES,
            facts=facts,
            notes=notes,
        )
    )


def comparison_page(
    title: str,
    summary: ComparisonSummary,
    facts: Sequence[tuple[str, str]],
    documents: Sequence[FlipDocument],
    notes: Sequence[str] = (),
) -> str:
    """The page of one comparison: what changed, for whom, and the sample's text with its flips.

    ``notes`` follow those of the summary, which say what differs besides the model. Otherwise as
    ``audit_page``: one file that loads nothing, whole documents until the token budget is spent,
    the same bytes for the same arguments.

    Raises ``ReportUnavailable`` where the extra ``plot`` is not installed.
    """
    apart = comparison_divergences.divergence_section(summary)
    return (
        environment()
        .get_template("comparison.html.jinja")
        .render(
            title=title,
            headline=comparison.headline(summary),
            extent=comparison.extent(summary),
            account=comparison.account(summary),
            cards=comparison.cards(summary),
            before=(
                comparison.flow_section(summary),
                comparison_groups.groups_section(summary),
                comparison_groups.tokens_section(summary),
            ),
            after=(
                comparison_margins.margins_section(summary),
                comparison_calibration.calibration_section(summary.calibration),
                comparison_calibration.prediction_section(summary.prediction),
                *([] if apart is None else [apart]),
            ),
            text=flip_text_view(documents),
            changed=summary.flips.changed,
            documents=summary.n_documents,
            facts=facts,
            notes=(*summary.notes, *notes),
        )
    )


def dose_page(
    title: str,
    heldout: DoseTable,
    training: DoseTable,
    facts: Sequence[tuple[str, str]],
    notes: Sequence[str] = (),
) -> str:
    """The page of a grid: verdicts at the same gain, frontier, dose curves, read-outs, tables.

    The charts are of the held-out text, the tables of both. ``notes`` follow those of the tables,
    such as points that could not be trained. Otherwise as ``audit_page``.

    Raises ``ReportUnavailable`` where the extra ``plot`` is not installed.
    """
    sections = (
        dose.frontier_section(heldout),
        dose.doses_section(heldout),
        dose.read_outs_section(heldout),
    )
    return (
        environment()
        .get_template("dose.html.jinja")
        .render(
            title=title,
            reading=dose.reading(heldout),
            extent=dose.extent(heldout, training),
            verdicts=dose.verdicts(heldout),
            verdicts_lead=dose.verdicts_lead(heldout),
            matched=dose.matched_tables(heldout),
            sections=[section for section in sections if section is not None],
            heldout=published_tables(heldout),
            training=(*dose.matched_tables(training), *published_tables(training)),
            facts=facts,
            notes=tuple(dict.fromkeys((*heldout.notes, *training.notes, *notes))),
        )
    )


def refinement_page(
    title: str,
    summary: RefinementSummary,
    recipe: Mapping[str, Any],
    facts: Sequence[tuple[str, str]],
    pages: tuple[str, str],
) -> str:
    """The page of one refinement: gain and cost, how the run went, what moved held out.

    ``recipe`` holds the plain values of the run's recipe, ``pages`` where the held-out and the
    training comparison's pages lie. Otherwise as ``audit_page``.

    Raises ``ReportUnavailable`` where the extra ``plot`` is not installed.
    """
    watched = refinement_curves.watched_section(summary)
    moved = (
        comparison.flow_section(summary.heldout),
        comparison_margins.margins_section(summary.heldout),
    )
    return (
        environment()
        .get_template("refinement.html.jinja")
        .render(
            title=title,
            headline=refinement.headline(summary),
            extent=refinement.extent(summary),
            account=refinement.account(summary),
            notes=refinement.notes(summary),
            cards=refinement.cards(summary),
            sections=(
                refinement.cost_section(summary),
                refinement_curves.training_section(summary, recipe["clip"]),
                *([] if watched is None else [watched]),
                *(replace(section, title=f"Held out: {section.title}") for section in moved),
            ),
            heldout_page=pages[0],
            training_page=pages[1],
            facts=(*refinement.recipe_facts(recipe), *facts),
        )
    )


def environment() -> Environment:
    """The templates of every page."""
    found = Environment(
        loader=PackageLoader("unembed.report"),
        autoescape=True,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals["inline"] = lambda name: Markup(found.get_template(name).render() + "\n")
    return found


def _printable(value: Any) -> Any:
    if isinstance(value, str) and not isinstance(value, Markup):
        return wording.visible(value)
    return value
