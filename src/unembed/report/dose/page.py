"""The page of one grid of refinements: nothing is computed, nothing is fetched."""

from __future__ import annotations

from collections.abc import Sequence

from unembed.report.dose import sections as dose
from unembed.report.dose.tables import published_tables
from unembed.report.parts.page import environment
from unembed.training.doses.records import DoseTable


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
