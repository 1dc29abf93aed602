"""The verdict on a ranking: which source to take, and whether the samples suffice to say so."""

from __future__ import annotations

from collections.abc import Sequence

from unembed.report.parts.wording import capital, count, counted, full, listed
from unembed.report.verdicts.samples import (
    OK,
    doubted_words,
    few_documents,
    times_to_tell,
    times_words,
)
from unembed.report.verdicts.verdict import Verdict
from unembed.selection.ranking.records import Ranked, Ranking
from unembed.selection.ranking.text import chance, score_form, score_of
from unembed.selection.scores import FEATURES, RANDOM, Score, named

SURE = 0.95
"""The chance from which on one source is called the best; the fewest that hold it together are
not told apart."""

MOST_NAMED = 4
"""Sources that a sentence names; of more it names one less, and gives the number of the others."""


def of_record(record: Ranking) -> Verdict:
    """The verdict on a ranking."""
    return verdict(record)


def verdict(ranking: Ranking) -> Verdict:
    """The best source where its chance is at least 95 %, else those that may be the best."""
    scored, unscored = parted(ranking)
    if not scored:
        return _without_a_score(ranking, unscored)
    return Verdict(
        sentence(ranking),
        f"Quality: {_quality(ranking, scored)}",
        f"Found: {_found(ranking, scored, unscored)}",
        f"Trust: {_trust(ranking, scored)}",
        _next(ranking, scored),
    )


def sentence(ranking: Ranking) -> str:
    """Which source is the best, or which may be, in one sentence."""
    scored, unscored = parted(ranking)
    target = ranking.target
    if not ranking.sources:
        return f"There is no source to rank for {target}."
    if not scored:
        return f"No source can be ranked for {target}: {_lower(unscored[0].status)}."
    first = scored[0]
    if len(scored) == 1:
        others = "the only one ranked" if not unscored else "the only source with a score"
        return f"{first.name} is {others} for {target}: {_valued(ranking, first)}."
    ties = [source.name for source in scored if source.value == first.value]
    if len(ties) > 1:
        return f"{named_some(ties)} share the highest score for {target}."
    if named(ranking.by).signed and all(high_of(source) < 0 for source in scored):
        return f"Every source works against {target}; {first.name} does so the least."
    if first.best is None:
        return f"{first.name} scores highest for {target}; how sure that is, is not known."
    may = contenders(ranking)
    known = [source for source in scored if source.best is not None]
    fewer = len(known) < len(ranking.sources)
    of = f"of the {counted(len(known), 'source')} that can be compared, " if fewer else ""
    if len(may) == 1:
        words = f"{of}{may[0].name} is the best source for {target} (chance {chance(may[0].best)})"
    else:
        some = named_some([source.name for source in may])
        words = f"{of}{some} cannot be told apart as the best source for {target}"
    words = capital(words) if of else words
    if named(ranking.by).signed and not any(low_of(source) > 0 for source in scored):
        return f"{words}, and none is sure to help."
    return f"{words}."


def contenders(ranking: Ranking) -> list[Ranked]:
    """The fewest sources that hold the best one with a chance of 95 %, the likeliest first."""
    known = [source for source in ranking.sources if source.best]
    found: list[Ranked] = []
    held = 0.0
    for source in sorted(known, key=lambda source: -(source.best or 0.0)):
        # Rounding must not let one more in.
        if held < SURE - 1e-9:
            found.append(source)
            held += source.best or 0.0
    return found


def parted(ranking: Ranking) -> tuple[list[Ranked], list[Ranked]]:
    """The sources with a score, and those without."""
    scored = [source for source in ranking.sources if source.value is not None]
    return scored, [source for source in ranking.sources if source.value is None]


def named_some(names: Sequence[str]) -> str:
    """``a, b and c``; of many ``a, b, c and 5 others``."""
    if len(names) <= MOST_NAMED:
        return listed(names)
    shown = names[: MOST_NAMED - 1]
    return listed([*shown, f"{count(len(names) - len(shown))} others"])


def low_of(source: Ranked) -> float:
    """The lower end of a score, below everything where it is not known."""
    return float("-inf") if source.low is None else source.low


def high_of(source: Ranked) -> float:
    """The upper end of a score, above everything where it is not known."""
    return float("inf") if source.high is None else source.high


def _without_a_score(ranking: Ranking, unscored: Sequence[Ranked]) -> Verdict:
    if not unscored:
        return Verdict(
            sentence(ranking),
            "Quality: there is nothing to tell.",
            "Found: no source was given.",
            "Trust: give one source at least.",
        )
    return Verdict(
        sentence(ranking),
        "Quality: whether any source helps is not known.",
        f"Found: none of {counted(len(unscored), 'source')} has a score; the reasons are below.",
        f"Trust: the samples do not suffice: {_most(ranking)} gave no score.",
        _rank_again(ranking),
    )


def _quality(ranking: Ranking, scored: Sequence[Ranked]) -> str:
    score, first = named(ranking.by), scored[0]
    words = f"the highest {score.label} is that of {first.name}: {_valued(ranking, first)}"
    likeliest = contenders(ranking)[:1] or [first]
    more = "" if likeliest[0].name == first.name else f"; {likeliest[0].name} may well be better"
    return f"{words} ({_scale(score)}){more}."


def _scale(score: Score) -> str:
    """What the ends of a score mean."""
    if score.cosine and score.signed:
        return "1: the same pull, −1: the opposite one"
    if score.cosine:
        return "1: the same push, 0: nothing in common"
    return "above 0 helps" if score.signed else "larger promises more"


def _found(ranking: Ranking, scored: Sequence[Ranked], unscored: Sequence[Ranked]) -> str:
    """The chances of the likeliest, the lowest score, and what has none."""
    if len(scored) == 1:
        words = f"{scored[0].name} is compared with no other"
    else:
        known = sorted(
            (source for source in scored if source.best is not None),
            key=lambda source: -(source.best or 0.0),
        )[: MOST_NAMED - 1]
        chances = listed([f"{chance(source.best)} for {source.name}" for source in known] or ["–"])
        last = scored[-1]
        lowest = f"lowest is {last.name}, {_valued(ranking, last)}"
        words = f"the chance to be the best is {chances}; {lowest}" if known else lowest
    if not unscored:
        return f"{words}."
    one = len(unscored) == 1
    left = f"{unscored[0].name} has" if one else f"{count(len(unscored))} sources have"
    return f"{words}. {left} no score, and may be better."


def _trust(ranking: Ranking, scored: Sequence[Ranked]) -> str:
    """Whether the samples suffice, and how many more might."""
    if ranking.by == RANDOM:
        return "these are random numbers, there to compare other scores with."
    doubted = _doubted(ranking, scored)
    few = few_documents(min([ranking.documents, *(source.documents for source in scored)]))
    if doubted:
        words = doubted_words(doubted, counted(1 + len(scored), "text"))
        return f"{words} {few or 'More text may change the order.'}"
    may = contenders(ranking)
    if few or not may:
        return few or "no chances are known: give texts of more documents."
    amount = f"{_most(ranking)}, {_least(scored)} or more of each source"
    if len(may) == 1:
        return f"the samples suffice to name the best ({amount})."
    return (
        f"the samples do not suffice to tell the likeliest two apart ({amount}). "
        f"{times_words(times_to_tell(may[0].best, may[1].best))}"
    )


def _next(ranking: Ranking, scored: Sequence[Ranked]) -> str:
    """More samples where they do not suffice, else a mixture."""
    if ranking.by == RANDOM:
        return "unembed rank TARGET SOURCES --model MODEL -o RUN"
    may = contenders(ranking)
    least = min([ranking.documents, *(source.documents for source in scored)])
    if _doubted(ranking, scored) or few_documents(least) or len(may) != 1:
        return _rank_again(ranking)
    by = f" --by {ranking.by}" if ranking.by in FEATURES and ranking.by != "joint" else ""
    return f"unembed mix TARGET SOURCES{by} -o RUN" if len(scored) > 1 else ""


def _rank_again(ranking: Ranking) -> str:
    by = "" if ranking.by == "joint" else f" --by {ranking.by}"
    return f"unembed rank TARGET SOURCES --model MODEL{by} --max-positions N -o RUN"


def _doubted(ranking: Ranking, scored: Sequence[Ranked]) -> list[tuple[str, str]]:
    tasks = [(ranking.target, ranking.status), *((one.name, one.status) for one in scored)]
    return [(name, status) for name, status in tasks if status != OK]


def _most(ranking: Ranking) -> str:
    return (
        f"{counted(ranking.samples, 'sample')} of {ranking.target} in "
        f"{counted(ranking.documents, 'document')}"
    )


def _least(scored: Sequence[Ranked]) -> str:
    return count(min(source.samples for source in scored))


def _valued(ranking: Ranking, source: Ranked) -> str:
    return full(score_of(source), score_form(ranking.by))


def _lower(words: str) -> str:
    return words[:1].lower() + words[1:]
