"""The page of a ranking: which source to take, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from unembed.report.parts.facts import command_of, kept_facts, with_command
from unembed.report.parts.forest import (
    Cell,
    Forest,
    ForestRow,
    ReferenceLine,
    forest_figure,
    reach,
)
from unembed.report.parts.page import template
from unembed.report.parts.parts import Section, Table, table_of
from unembed.report.parts.scales import scale_of
from unembed.report.parts.wording import Wording, count, counted, interval, point, possible_part
from unembed.report.verdicts.ranking import contenders, parted, verdict
from unembed.report.verdicts.samples import OK, doubted_notes
from unembed.runs.manifest import FinishedRun
from unembed.selection.ranking.records import Ranked, Ranking
from unembed.selection.ranking.text import chance, score_form, score_of
from unembed.selection.scores import Score, named
from unembed.signatures.network.names import said_of

MOST_NOTED = 3
"""Sources named above the page for lacking samples; the table names them all."""


def ranking_page(
    ranking: Ranking,
    *,
    title: str,
    facts: Sequence[tuple[str, str]] = (),
    command: str = "",
) -> str:
    """The page of a ranking: the first and its rivals, every score with its interval, its meaning.

    ``facts`` are label and value of what produced the numbers, to which ``command`` is added. One
    file that loads nothing; the same arguments give the same page, byte for byte.
    """
    scored, unscored = parted(ranking)
    score = named(ranking.by)
    return template("ranking").render(
        title=title,
        verdict=verdict(ranking),
        extent=extent(ranking),
        notes=notes(ranking),
        score=score.label,
        meaning=said_of(score.meaning, ranking.part),
        forest=forest(ranking) if scored else None,
        certain=len(scored) > 1 and any(source.best is not None for source in scored),
        unscored=unscored_table(unscored) if unscored else None,
        facts=with_command(facts, command),
    )


def sections_of(ranking: Ranking) -> tuple[Section, ...]:
    """Every figure and table of the page."""
    scored, unscored = parted(ranking)
    title = f"Sources for {ranking.target}, by {named(ranking.by).label}"
    figures = (forest_figure("forest", title, forest(ranking)),) if scored else ()
    found = [Section("sources", "The sources, best first", "", figures)]
    if unscored:
        table = unscored_table(unscored)
        found.append(Section("unscored", "Without a score", "", (), (table,)))
    return tuple(found)


def extent(ranking: Ranking) -> str:
    """How much was compared, and how."""
    documents = counted(ranking.documents, "document")
    words = (
        f"{counted(len(ranking.sources), 'source')}, "
        f"{counted(sum(source.samples for source in ranking.sources), 'sample')}; target: "
        f"{counted(ranking.samples, 'sample')} of {documents}. "
    )
    score = named(ranking.by)
    if _debiasable(score):
        words += "Debiased. " if ranking.debiased else "Not debiased. "
    part = f"Part of the network: {ranking.part}. " if ranking.part else ""
    return words + f"{part}Score: {score.label}. Method: {ranking.method}."


def notes(ranking: Ranking) -> tuple[str, ...]:
    """What a reader must know before trusting the order."""
    scored, _ = parted(ranking)
    found = []
    if ranking.status != OK:
        found.append(f"The target, {ranking.target}: {ranking.status}.")
    found += doubted_notes([(one.name, one.status) for one in scored], "source", MOST_NOTED)
    if not ranking.debiased and _debiasable(named(ranking.by)):
        found.append(
            "The norms count each sample against itself: the fewer a source’s samples, the lower "
            "its score reads."
        )
    return tuple(found)


def forest(ranking: Ranking) -> Forest:
    """The sources that have a score, best first; those that may be best stand out."""
    scored, _ = parted(ranking)
    form = score_form(ranking.by)
    doubts = any(source.status != OK for source in scored)
    certain = len(scored) > 1 and any(source.best is not None for source in scored)
    may = {source.name for source in contenders(ranking)}
    rows = tuple(
        _row(source, form, certain=certain, doubts=doubts, lead=source.name in may)
        for source in scored
    )
    values = reach(rows) or [0.0, 1.0]
    zero = ReferenceLine(0.0, "0") if min(values) < 0 < max(values) else None
    head = ["source", named(ranking.by).label, "score", *(["chance to be best"] if certain else [])]
    head += ["95 % interval", "samples", "documents", *(["status"] if doubts else [])]
    return Forest(
        caption=f"Sources for {ranking.target}, the most promising first",
        head=tuple(head),
        scale=scale_of(values),
        rows=rows,
        line=zero,
    )


def unscored_table(sources: Sequence[Ranked]) -> Table:
    """The sources that have no score, each with the reason."""
    return table_of(
        "Without a score, in the order given",
        sources,
        {
            "source": lambda one: one.name,
            "why": lambda one: one.status,
            "samples": lambda one: count(one.samples),
            "documents": lambda one: count(one.documents),
        },
    )


def _row(source: Ranked, form: Wording, *, certain: bool, doubts: bool, lead: bool) -> ForestRow:
    score = score_of(source)
    cells = [Cell(point(score, form))]
    if certain:
        cells.append(Cell(chance(source.best), source.best))
    cells += [
        Cell(interval(score, form) or "none"),
        Cell(count(source.samples)),
        Cell(count(source.documents)),
    ]
    if doubts:
        cells.append(Cell(source.status))
    look = "lead" if lead else "faint" if source.status != OK else ""
    drawn = possible_part(source.estimate, form)
    return ForestRow(source.name, drawn.value, drawn.low, drawn.high, tuple(cells), look)


def _debiasable(score: Score) -> bool:
    """Whether pairs of a sample with itself would raise its norms: those of Fishers."""
    return score.cosine and not score.signed


def page_of_run(ranking: Ranking, run: FinishedRun | None, _links: Mapping[str, str]) -> str:
    """The page of a ranking."""
    title = f"Which text would help {ranking.target}"
    return ranking_page(ranking, title=title, facts=kept_facts(run), command=command_of(run))
