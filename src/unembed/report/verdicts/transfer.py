"""The verdict on measured transfer: which score chose sources best, and whether beyond chance."""

from __future__ import annotations

from collections.abc import Sequence

from unembed.errors import UnembedError
from unembed.report.parts.wording import count, counted, determined, full, listed, part, share
from unembed.report.transfer.verdicts import (
    AT_RANDOM,
    after_training,
    base,
    by_quality,
    deployable,
)
from unembed.report.verdicts.samples import few_words
from unembed.report.verdicts.verdict import Verdict
from unembed.selection.scores import SCORES, SIGNATURE_SCORES
from unembed.selection.transfer.judged import JudgedTransfer
from unembed.selection.transfer.records import Transfer
from unembed.selection.transfer.records import Verdict as Judged
from unembed.selection.transfer.verdicts import compared
from unembed.stats.estimate import Estimate

MOST_NAMED = 3
"""Methods that a sentence names; of more it names one less, and gives the number of the others."""


def of_record(record: JudgedTransfer) -> Verdict:
    """The verdict on a measured transfer."""
    return verdict(record.transfer, record.verdicts)


def verdict(transfer: Transfer, judged: Sequence[Judged]) -> Verdict:
    """The method that chose best beyond the interval of its difference, else those that may be."""
    ranked = [one for one in by_quality(judged) if deployable(one.method) and _known(one)]
    if not ranked:
        return Verdict(
            f"{transfer.name}: no method was judged that can be used before training.",
            f"Quality: {_chance(transfer, judged)}",
            f"Found: {_after_training(judged) or 'what was measured is below.'}",
            f"Trust: {_trust(transfer)}",
        )
    first, *rest = ranked
    rivals = [one for one in rest if not _better(transfer, first, one)]
    return Verdict(
        _sentence(transfer, judged, first, rest, rivals),
        f"Quality: {first.method} {_quality(first)}. {_chance(transfer, judged)}",
        f"Found: {_found(first, rest, rivals)} {_after_training(judged)}".strip(),
        f"Trust: {_trust(transfer)}",
        _next(first.method),
    )


def _sentence(
    transfer: Transfer,
    judged: Sequence[Judged],
    first: Judged,
    rest: Sequence[Judged],
    rivals: Sequence[Judged],
) -> str:
    than_chance = _beats_chance(transfer, judged, first)
    if than_chance is False:
        return f"No method surely chose better than chance; {first.method} came nearest."
    better = ", better than chance" if than_chance else ""
    if not rest:
        return f"{first.method} is the only method judged{better}."
    if not rivals:
        return f"{first.method} chose best{better}."
    names = [first.method, *(one.method for one in rivals)]
    if len(names) > MOST_NAMED:
        shown = names[: MOST_NAMED - 1]
        names = [*shown, f"{count(len(names) - len(shown))} others"]
    also = f"; {first.method} beat chance" if than_chance else ""
    return f"{listed(names)} cannot be told apart as the best way to choose{also}."


def _quality(one: Judged) -> str:
    if one.share.value is not None:
        return f"brought {full(one.share, part)} of the best sources’ gain"
    return f"had {_right(one)}"


def _right(one: Judged) -> str:
    if not determined(one.top1, share):
        return "a share of right first choices that is not determined"
    return f"{full(one.top1, share)} of its first choices right"


def _chance(transfer: Transfer, judged: Sequence[Judged]) -> str:
    """What choosing at random does."""
    candidates = len(transfer.tasks) - 1
    words = []
    if candidates > 1:
        words.append(
            f"Chance picks the best of {count(candidates)} sources for one target in "
            f"{count(candidates)} ({share(1 / candidates)})"
        )
    random = _random(judged)
    if random is not None and random.share.value is not None:
        words.append(f"random numbers brought {full(random.share, part)}")
    return f"{'; '.join(words)}." if words else "there is nothing to choose from."


def _found(first: Judged, rest: Sequence[Judged], rivals: Sequence[Judged]) -> str:
    """How often the first was right, and how the next did."""
    words = f"{first.method} had {_right(first)}." if first.share.value is not None else ""
    if rest:
        after = rest[0]
        told = "cannot be told apart from it" if after in rivals else "chose worse"
        words += f" The next, {after.method}, {_quality(after)} and {told}."
    return words.strip() or f"{first.method} is judged alone."


def _after_training(judged: Sequence[Judged]) -> str:
    trained = [one for one in by_quality(judged) if after_training(one.method) and _known(one)]
    if not trained:
        return ""
    return f"With a model trained on each source, {trained[0].method} {_quality(trained[0])}."


def _trust(transfer: Transfer) -> str:
    """How much the intervals hold."""
    targets, seeds = len(transfer.tasks), len(transfer.gains)
    words = f"intervals are over {counted(targets, 'target')} and {counted(seeds, 'seed')}."
    if seeds == 1:
        words = f"intervals are over {counted(targets, 'target')} alone, in one seed."
    return f"{words} {few_words(targets, 'target')}".strip()


def _next(method: str) -> str:
    """A ranking by the method that came first."""
    by = base(method)
    if by not in SCORES:
        return ""
    asked = "" if by == "joint" else f" --by {by}"
    model = "" if by in SIGNATURE_SCORES else " --model MODEL"
    return f"unembed rank TARGET SOURCES{model}{asked} -o RUN"


def _beats_chance(transfer: Transfer, judged: Sequence[Judged], one: Judged) -> bool | None:
    """Whether a method surely chose better than at random; None where that cannot be told."""
    random = _random(judged)
    if random is not None and (found := _difference(transfer, one, random)) is not None:
        return found.low is not None and found.low > 0
    candidates = len(transfer.tasks) - 1
    if one.top1.low is None or candidates < 1:
        return None
    return one.top1.low > 1 / candidates


def _better(transfer: Transfer, first: Judged, second: Judged) -> bool:
    """Whether the first surely chose better than the second."""
    found = _difference(transfer, first, second)
    return found is not None and found.low is not None and found.low > 0


def _difference(transfer: Transfer, first: Judged, second: Judged) -> Estimate | None:
    """What the first chose better than the second; None where they cannot be compared."""
    try:
        found = compared(transfer, first.method, second.method)
    except UnembedError:
        return None
    return found.share if first.share.value is not None else found.top1


def _random(judged: Sequence[Judged]) -> Judged | None:
    return next((one for one in judged if one.method in AT_RANDOM), None)


def _known(one: Judged) -> bool:
    return one.share.value is not None or one.top1.value is not None
