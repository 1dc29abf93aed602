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
from unembed.report.parts.wording import (
    Wording,
    cosine,
    count,
    counted,
    decimal,
    interval,
    listed,
    point,
    three,
)
from unembed.runs.manifest import FinishedRun
from unembed.selection.ranking.records import Ranked, Ranking
from unembed.selection.scores import Score, named

OK = "ok"
"""The status of a task that has enough samples."""

MAYBE_BEST = 0.95
"""The sources that hold the best one with this probability are not told apart."""

MOST_RIVALS = 3
"""Sources that the headline names after the first; of more it gives the number."""


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
    scored, unscored = _parted(ranking)
    score = named(ranking.by)
    return template("ranking").render(
        title=title,
        reading=reading(ranking),
        extent=extent(ranking),
        notes=notes(ranking),
        score=score.label,
        meaning=score.meaning,
        forest=forest(ranking) if scored else None,
        certain=len(scored) > 1 and any(source.best is not None for source in scored),
        unscored=unscored_table(unscored) if unscored else None,
        facts=with_command(facts, command),
    )


def sections_of(ranking: Ranking) -> tuple[Section, ...]:
    """Every figure and table of the page."""
    scored, unscored = _parted(ranking)
    title = f"Sources for {ranking.target}, by {named(ranking.by).label}"
    figures = (forest_figure("forest", title, forest(ranking)),) if scored else ()
    found = [Section("sources", "The sources, best first", "", figures)]
    if unscored:
        table = unscored_table(unscored)
        found.append(Section("unscored", "Without a score", "", (), (table,)))
    return tuple(found)


def reading(ranking: Ranking) -> str:
    """The first source, with its probability, and those that may be as good, in one sentence."""
    scored, unscored = _parted(ranking)
    target = ranking.target
    if not ranking.sources:
        return f"There is no source to rank for {target}."
    if not scored:
        return f"No source can be ranked for {target}: {_lower(unscored[0].status)}."
    first = scored[0]
    value = _form(ranking, scored)(_value(first))
    if len(scored) == 1:
        others = "the only one ranked" if not unscored else "the only source with a score"
        return f"{first.name} scores {value} for {target}; it is {others}."
    ties = [source.name for source in scored if source.value == first.value]
    if len(ties) > 1:
        words = listed(ties) if len(ties) <= MOST_RIVALS + 1 else f"{count(len(ties))} sources"
        return f"{words} are equally promising sources for {target}: each scores {value}."
    if first.best is None:
        return f"{first.name} scores highest for {target}, {value}; how sure that is, is not known."
    likeliest = max(scored, key=lambda source: source.best or 0.0)
    if (likeliest.best or 0.0) > first.best:
        return (
            f"{first.name} scores highest for {target}, {value}, but {likeliest.name} is more "
            f"likely to be the best, with probability {probability(likeliest.best or 0.0)}."
        )
    sure = probability(first.best).replace("> ", "above ").replace("< ", "below ")
    words = f"{first.name} is the most promising source for {target}, with probability {sure}"
    rivals = [source.name for source in scored[1:] if source.name in contenders(ranking)]
    if not rivals:
        return words + "."
    if len(rivals) > MOST_RIVALS:
        return f"{words}; {count(len(rivals))} others cannot be told apart from it."
    return f"{words}; {listed(rivals)} cannot be told apart from it."


def contenders(ranking: Ranking) -> frozenset[str]:
    """The names of the fewest sources that hold the best one with a probability of 95 %."""
    known = [source for source in ranking.sources if source.best]
    found: list[str] = []
    held = 0.0
    for source in sorted(known, key=lambda source: -(source.best or 0.0)):
        # Rounding must not let one more in.
        if held < MAYBE_BEST - 1e-9:
            found.append(source.name)
            held += source.best or 0.0
    return frozenset(found)


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
    return words + f"Score: {score.label}. Method: {ranking.method}."


def notes(ranking: Ranking) -> tuple[str, ...]:
    """What a reader must know before trusting the order."""
    scored, unscored = _parted(ranking)
    found = []
    if ranking.status != OK:
        found.append(f"The target, {ranking.target}: {ranking.status}.")
    doubted = [source for source in scored if source.status != OK]
    found += [f"{source.name}: {source.status}." for source in doubted[:MOST_RIVALS]]
    if len(doubted) > MOST_RIVALS:
        found.append(f"{counted(len(doubted) - MOST_RIVALS, 'more source')}: see the table.")
    if unscored and scored:
        one = len(unscored) == 1
        left = f"{unscored[0].name} has" if one else f"{count(len(unscored))} sources have"
        found.append(f"{left} no score, and may be better than any that has one.")
    if scored and named(ranking.by).signed:
        against = f"by this, each source works against {ranking.target}."
        if _value(scored[0]) < 0:
            found.append(f"Every score is below 0: {against}")
        elif not any(source.low is not None and source.low > 0 for source in scored):
            found.append("No score is told apart from 0: it may be that no source helps.")
    if not ranking.debiased and _debiasable(named(ranking.by)):
        found.append(
            "The norms count each sample against itself: the fewer a source’s samples, the lower "
            "its score reads."
        )
    return tuple(found)


def forest(ranking: Ranking) -> Forest:
    """The sources that have a score, best first; those that may be best stand out."""
    scored, _ = _parted(ranking)
    form = _form(ranking, scored)
    doubts = any(source.status != OK for source in scored)
    certain = len(scored) > 1 and any(source.best is not None for source in scored)
    may = contenders(ranking)
    rows = tuple(
        _row(source, form, certain=certain, doubts=doubts, lead=source.name in may)
        for source in scored
    )
    values = reach(rows)
    zero = ReferenceLine(0.0, "0") if min(values) < 0 < max(values) else None
    head = ["source", named(ranking.by).label, "score", *(["P(best)"] if certain else [])]
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


def probability(value: float) -> str:
    """Two decimals, ``0.83``; what only rounds to a certainty does not read as one."""
    if 0 < value < 0.005:
        return "< 0.01"
    if 0.995 <= value < 1:
        return "> 0.99"
    return f"{value:.2f}"


def _row(source: Ranked, form: Wording, *, certain: bool, doubts: bool, lead: bool) -> ForestRow:
    best = "none" if source.best is None else probability(source.best)
    cells = [Cell(point(source.estimate, form))]
    if certain:
        cells.append(Cell(best, source.best))
    cells += [
        Cell(interval(source.estimate, form) or "none"),
        Cell(count(source.samples)),
        Cell(count(source.documents)),
    ]
    if doubts:
        cells.append(Cell(source.status))
    look = "lead" if lead else "faint" if source.status != OK else ""
    return ForestRow(source.name, source.value, source.low, source.high, tuple(cells), look)


def _debiasable(score: Score) -> bool:
    """Whether pairs of a sample with itself would raise its norms: those of Fishers."""
    return score.cosine and not score.signed


def _parted(ranking: Ranking) -> tuple[list[Ranked], list[Ranked]]:
    scored = [source for source in ranking.sources if source.value is not None]
    return scored, [source for source in ranking.sources if source.value is None]


def _value(source: Ranked) -> float:
    assert source.value is not None
    return source.value


def _form(ranking: Ranking, scored: Sequence[Ranked]) -> Wording:
    """That of cosines for cosines; three decimals for scores of their size, else three digits."""
    if named(ranking.by).cosine:
        return cosine
    largest = max(abs(_value(source)) for source in scored)
    return three if 0.05 <= largest <= 2 else decimal


def _lower(words: str) -> str:
    return words[:1].lower() + words[1:]


def page_of_run(ranking: Ranking, run: FinishedRun | None, _links: Mapping[str, str]) -> str:
    """The page of a ranking."""
    title = f"Which text would help {ranking.target}"
    return ranking_page(ranking, title=title, facts=kept_facts(run), command=command_of(run))
