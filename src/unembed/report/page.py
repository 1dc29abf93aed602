"""One self-contained HTML page from records: nothing is computed, nothing is fetched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from unembed.cells.excerpt import DocumentView
from unembed.cells.summary import AuditSummary
from unembed.report import audit, wording
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
        _environment()
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


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("unembed.report"),
        autoescape=True,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    loader = environment.loader
    assert loader is not None
    environment.globals["inline"] = lambda name: Markup(loader.get_source(environment, name)[0])
    return environment


def _printable(value: Any) -> Any:
    if isinstance(value, str) and not isinstance(value, Markup):
        return wording.visible(value)
    return value
