"""The page of one audit: nothing is computed, nothing is fetched."""

from __future__ import annotations

from collections.abc import Sequence

from unembed.decisions.audit.excerpt import DocumentView
from unembed.decisions.audit.summary import AuditSummary
from unembed.report.audit import sections as audit
from unembed.report.parts.page import environment
from unembed.report.parts.text import CANDIDATES, text_view


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
