"""The page of any finished run, and the record that it holds."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from pkgutil import resolve_name

from unembed.errors import UnembedError
from unembed.runs.files import check_output, write_output, write_whole
from unembed.runs.manifest import PAGE, FinishedRun, read_run
from unembed.runs.run_record import RunRecord

MARK = b"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""In the head of every page."""

PageOfRun = Callable[[RunRecord, FinishedRun, Mapping[str, str]], str]
"""HTML from a record, the run that holds it, and where the pages of runs inside it lie."""

RECORDS = {
    "audit": "unembed.decisions.audit.audit:Audit",
    "comparison": "unembed.decisions.comparison.compare:Comparison",
    "refinement": "unembed.training.run.train:Refinement",
    "dose": "unembed.training.doses.dose:Doses",
    "alignment": "unembed.signatures.alignment.records:Alignments",
    "ranking": "unembed.selection.ranking.records:Ranking",
    "mixture": "unembed.selection.mixing.record:Mixture",
    "transfer": "unembed.selection.transfer.judged:JudgedTransfer",
}
"""The record of each kind of run, imported when one is opened; ``report.KIND.page`` draws it."""


def load_run(folder: str | Path) -> RunRecord:
    """Open a finished run of any kind, with every file checked against its recorded SHA-256.

    Raises UnembedError where the folder holds none, or a damaged one.
    """
    record: type[RunRecord] = resolve_name(RECORDS[_kind(read_run(folder))])
    return record.load(folder)


def write_page(
    folder: str | Path, page: str | Path | None = None, *, record: RunRecord | None = None
) -> Path:
    """Draw the page of a finished run, by default to ``report.html`` in its folder.

    Of runs inside it that it links to, their own pages are drawn too. ``record`` is what the run
    holds, where it is open already. Raises UnembedError as ``load_run``, and ``ReportUnavailable``
    where the extra ``plot`` is not installed.
    """
    own = page is None
    check_output(Path(page or Path(folder) / PAGE), is_page)
    run = read_run(folder)
    record = record or load_run(folder)
    page = Path(page or run.folder / PAGE)
    links = {
        name: os.path.relpath(write_page(run.folder / name, record=inner), page.parent)
        for name, inner in record.sub_runs.items()
    }
    drawn: PageOfRun = resolve_name(f"unembed.report.{_kind(run)}.page:page_of_run")
    html = drawn(record, run, links).encode("utf-8", "replace")
    if own:
        write_whole(page, html)
    else:
        write_output(page, html, is_page)
    return page


def is_page(start: bytes) -> bool:
    """Whether a file that begins so is a page of unembed's."""
    return start.startswith(b"<!DOCTYPE html>") and MARK in start


def _kind(run: FinishedRun) -> str:
    """The kind of a run, one of ``RECORDS``: a manifest names what is imported."""
    if run.kind not in RECORDS:
        raise UnembedError(
            f"{run.folder} holds a run of kind {run.kind!r}, of which there is no page: give one "
            f"of {', '.join(RECORDS)}"
        )
    return run.kind
