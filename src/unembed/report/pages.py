"""The page of any finished run, and the record that it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from unembed.errors import UnembedError
from unembed.report.gallery.page import Entry, gallery_page, heading_of, in_words
from unembed.report.parts.facts import run_of
from unembed.report.parts.kin import IN_WORDS, Kin, href, with_kin
from unembed.report.parts.plots import Plots
from unembed.runs.files import check_output, write_output, write_whole
from unembed.runs.manifest import JOURNAL, MANIFEST, PAGE, FinishedRun, read_run
from unembed.runs.run_record import Drawn, RunRecord

MARK = b"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""In the head of every page."""

GALLERY = "index.html"
GALLERY_MARK = b'<ul class="gallery">'
"""In every gallery, and in no page of a run."""

LEVELS = 2
"""How many levels of folders are searched for runs."""

PageOfRun = Callable[[Any, FinishedRun | None, Mapping[str, str]], str]
"""HTML from a record, the run that holds it, and where the pages of runs inside it lie."""

RECORDS = {
    "audit": "unembed.decisions.audit.audit:Audit",
    "layers": "unembed.decisions.layers.layers:Layers",
    "depths": "unembed.decisions.layers.compare:LayersComparison",
    "comparison": "unembed.decisions.comparison.compare:Comparison",
    "benchmarks": "unembed.decisions.benchmarks.record:ComparedBenchmarks",
    "ladder": "unembed.decisions.ladder.ladder:Ladder",
    "refinement": "unembed.training.run.refinement:Refinement",
    "dose": "unembed.training.doses.dose:Doses",
    "alignment": "unembed.signatures.alignment.records:Alignments",
    "network": "unembed.signatures.network.records:NetworkAlignments",
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

    Of runs inside it that it links to, their own pages are drawn too. It links up to the gallery
    or to the run in whose folder it lies. ``record`` is what the run
    holds, where it is open already. Raises UnembedError as ``load_run``, and ``ReportUnavailable``
    where the extra ``plot`` is not installed.
    """
    return _write(Path(folder), None if page is None else Path(page), record, _above(folder))[0]


def write_gallery(
    places: Sequence[str | Path],
    page: str | Path,
    *,
    title: str = "Runs",
    points: Sequence[tuple[str, Path]] = (),
) -> Path:
    """Draw the page of every finished run, and one that leads to them with what each says first.

    ``places`` are folders of runs, and folders that hold some, directly or in folders of theirs;
    the order is theirs, below a folder that of names. Each run's page is ``report.html`` in its
    folder and links back. ``points`` stand first: what to know, and the page that shows it. Raises
    UnembedError before anything is drawn where a place holds no
    finished run, or where ``page`` is a file that is no page; else as ``write_page``.
    """
    page = Path(page)
    check_output(page, is_page)
    folders = list(dict.fromkeys(folder for place in places for folder in find_runs(place)))
    for folder in folders:
        check_output(folder / PAGE, is_page)
        _kind(read_run(folder))
    entries = []
    for folder in folders:
        drawn, inside = _write(folder, None, None, ("all runs", page))
        heading = heading_of(drawn.read_text(encoding="utf-8"))
        parts = tuple(
            Kin(IN_WORDS.get(name, name), href(inner, page.parent))
            for name, inner in inside.items()
        )
        entries.append(Entry(_kind(read_run(folder)), *heading, href(drawn, page.parent), parts))
    first = [Kin(words, href(shown, page.parent)) for words, shown in points]
    html = gallery_page(title, entries, first).encode("utf-8", "replace")
    write_output(page, html, is_page)
    return page


def find_runs(place: str | Path) -> list[Path]:
    """The folder itself where it is a finished run, else those that it holds, two levels deep.

    Unfinished ones are passed over. Raises UnembedError where there is none.
    """
    place = Path(place)
    if (place / MANIFEST).exists() or (place / JOURNAL).exists() or not place.is_dir():
        return [read_run(place).folder]
    found = _runs_below(place, LEVELS)
    if not found:
        raise UnembedError(
            f"{place} holds no finished run: give the folder of a run, or one that holds runs"
        )
    return found


def _runs_below(place: Path, levels: int) -> list[Path]:
    found: list[Path] = []
    for inner in sorted(one for one in place.iterdir() if one.is_dir() and not one.is_symlink()):
        if (inner / MANIFEST).exists():
            found.append(inner)
        elif levels > 1 and not (inner / JOURNAL).exists():
            found += _runs_below(inner, levels - 1)
    return found


def _write(
    folder: Path, page: Path | None, record: RunRecord | None, up: tuple[str, Path] | None
) -> tuple[Path, dict[str, Path]]:
    """Draw a run's page with a link up; where it is, and where those of runs inside it are."""
    own = page is None
    page = page or folder / PAGE
    check_output(page, is_page)
    run = read_run(folder)
    record = record or load_run(folder)
    inside = {
        name: _write(run.folder / name, None, inner, (in_words(_kind(run)), page))[0]
        for name, inner in record.sub_runs.items()
    }
    links = {name: href(inner, page.parent) for name, inner in inside.items()}
    drawn: PageOfRun = resolve_name(f"unembed.report.{_kind(run)}.page:page_of_run")
    above = None if up is None else Kin(up[0], href(up[1], page.parent))
    down = [Kin(IN_WORDS.get(name, name), where) for name, where in links.items()]
    html = with_kin(drawn(record, run, links), above, down).encode("utf-8", "replace")
    if own:
        write_whole(page, html)
    else:
        write_output(page, html, is_page)
    return page, inside


def report_of(record: Drawn, page: str | Path) -> Path:
    """Draw the page of a record, with what is known of the run that holds it.

    Raises UnembedError and ``ReportUnavailable`` as ``write_page``.
    """
    run = run_of(record)
    if run is not None and isinstance(record, RunRecord):
        return write_page(run.folder, page, record=record)
    page = Path(page)
    check_output(page, is_page)
    drawn: PageOfRun = resolve_name(f"unembed.report.{record.KIND}.page:page_of_run")
    html = with_kin(drawn(record, None, {}), None, ())
    write_output(page, html.encode("utf-8", "replace"), is_page)
    return page


def plots_of(record: Drawn) -> Plots:
    """The figures of a record's page, a method each."""
    name = f"unembed.report.{record.KIND}.plots:{record.KIND.capitalize()}Plots"
    found: type[Plots] = resolve_name(name)
    return found(record)


def is_page(start: bytes) -> bool:
    """Whether a file that begins so is a page of unembed's."""
    return start.startswith(b"<!DOCTYPE html>") and MARK in start


def _above(folder: str | Path) -> tuple[str, Path] | None:
    """The page that leads to a run's: what it is, and where; None where there is none."""
    around = Path(folder).resolve().parent
    try:
        if GALLERY_MARK in (around / GALLERY).read_bytes():
            return "all runs", Path(folder).parent / GALLERY
    except OSError:
        pass
    if (around / MANIFEST).exists() and (around / PAGE).exists():
        return in_words(_kind(read_run(around))), Path(folder).parent / PAGE
    return None


def _kind(run: FinishedRun) -> str:
    """The kind of a run, one of ``RECORDS``: a manifest names what is imported."""
    if run.kind not in RECORDS:
        raise UnembedError(
            f"{run.folder} holds a run of kind {run.kind!r}, of which there is no page: give one "
            f"of {', '.join(RECORDS)}"
        )
    return run.kind
