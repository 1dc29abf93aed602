"""The verdict on alignments along a network: where tasks are most and least alike, if it shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unembed.report.parts.wording import counted, full, known, listed
from unembed.report.verdicts.depths import ranges
from unembed.report.verdicts.samples import OK, doubted_words, few_documents
from unembed.report.verdicts.verdict import Verdict
from unembed.signatures.network.modules import DEPTH, HEAD
from unembed.signatures.network.names import BLOCKS, FULL
from unembed.signatures.network.records import NetworkAlignments
from unembed.stats.forms import cosine, part, three, two

MOSTLY = 0.5
"""A place that counts for more than this is named alone."""


def of_record(record: NetworkAlignments) -> Verdict:
    """The verdict on alignments along a network."""
    return verdict(record)


def verdict(found: NetworkAlignments) -> Verdict:
    """Where tasks are most and least alike, what the whole says, what counts, how sure it is."""
    return Verdict(
        sentence(found),
        f"Quality: {_quality(found)}",
        f"Found: {_found(found)}",
        f"Trust: {_trust(found)}",
    )


def sentence(found: NetworkAlignments) -> str:
    """Where two tasks, or all on average, are most and least alike, in a sentence."""
    pair = (0, 1) if len(found.tasks) == 2 else None
    who = (
        f"{task_pair(found, pair, ' and ')} are"
        if pair is not None
        else f"On average over {counted(len(found.pairs), 'pair')}, tasks are"
    )
    places = [one for one in found.places if found.estimate(one, pair).value is not None]
    if not places:
        return "Whether any two tasks are alike along the network cannot be told."
    if len(places) == 1:
        words = full(found.estimate(places[0], pair), cosine)
        return f"{who} alike to {words} {_at(places, found)}; no other place is known."
    ends = found.extremes_of(pair)
    if set(ends.most) & set(ends.least):
        values = [found.estimate(one, pair).value or 0.0 for one in places]
        return (
            f"{who} as alike all along the network, as far as can be told: joints of "
            f"{two(min(values))} to {two(max(values))} cannot be told apart."
        )
    words = f"{who} most alike {_end(found, ends.most, pair)} and least alike "
    words += f"{_end(found, ends.least, pair, largest=False)}."
    together = len(ends.most) > 1 or len(ends.least) > 1
    return f"{words} Places named together cannot be told apart." if together else words


def _end(
    found: NetworkAlignments,
    places: Sequence[str],
    pair: tuple[int, int] | None,
    *,
    largest: bool = True,
) -> str:
    """The places at one end, with the joint of the one that is farthest out."""
    values = {one: found.estimate(one, pair).value or 0.0 for one in places}
    last = (max if largest else min)(values, key=lambda one: values[one])
    said = full(found.estimate(last, pair), cosine)
    where = "" if len(places) == 1 else f" {_at([last], found)}"
    return f"{_at(places, found)} ({said}{where})"


def _at(places: Sequence[str], found: NetworkAlignments, *, bare: bool = False) -> str:
    """Places in words: "at depths 3–5", "in the head"."""
    measured = [int(one.removeprefix(DEPTH)) for one in found.places if one.startswith(DEPTH)]
    depths = [int(one.removeprefix(DEPTH)) for one in places if one.startswith(DEPTH)]
    words = []
    if depths:
        at = "" if bare else "at "
        words.append(f"{at}depth{'s' * (len(depths) > 1)} {ranges(depths, measured)}")
    for one in places:
        if not one.startswith(DEPTH):
            name = "the head" if one == HEAD else one.partition(":")[2]
            words.append(name if bare else f"in {name}")
    return listed(words)


def _quality(found: NetworkAlignments) -> str:
    """The joints of the parts that are of all of it."""
    pair = (0, 1) if len(found.tasks) == 2 else None
    words = f"the joint of all modules, one by one, is {full(found.estimate(BLOCKS, pair), cosine)}"
    words += f"; of the whole network as one {full(found.estimate(FULL, pair), cosine)}"
    if found.has(HEAD):
        words += f"; of the head alone {full(found.estimate(HEAD, pair), cosine)}"
    mean = "" if pair is not None else ", on average"
    return f"{words}{mean} (1: the same push, 0: nothing in common)."


def _found(found: NetworkAlignments) -> str:
    """What counts in the joint of all modules, and what lies between them."""
    shares = np.array([found.weights(*pair) for pair in found.pairs])
    mean = np.nanmean(shares, 0) if np.isfinite(shares).any() else np.full(shares.shape[1], np.nan)
    words = []
    if np.isfinite(mean).all():
        top = int(mean.argmax())
        place = found.places[top]
        name = "the head" if place == HEAD else _at([place], found, bare=True)
        much = known(float(mean[top]), part)
        words.append(
            f"{name} counts for {much} of the joint of all modules"
            + (
                ", more than all else together."
                if mean[top] > MOSTLY
                else ", the most of all places."
            )
        )
    profiles = [found.profile_cosine(*pair) for pair in found.pairs]
    if np.isfinite(profiles).any():
        low, high = np.nanmin(profiles), np.nanmax(profiles)
        span = three(low) if len(profiles) == 1 else f"{three(low)} to {three(high)}"
        words.append(f"Tasks spread over the network with a profile cosine of {span}.")
    if found.off_diagonal:
        known_shares = [one for one in found.off_diagonal if one.value is not None]
        if known_shares:
            values = [float(one) for one in known_shares]
            span = (
                two(values[0]) if len(values) == 1 else f"{two(min(values))} to {two(max(values))}"
            )
            words.append(f"Of a task’s Fisher a share η of {span} lies between modules.")
    return " ".join(words) or "no task’s norm is known at every place."


def _trust(found: NetworkAlignments) -> str:
    doubted = [(task.name, task.status) for task in found.tasks if task.status != OK]
    fewest = min(task.documents for task in found.tasks)
    words = []
    if doubted:
        words.append(doubted_words(doubted, counted(len(found.tasks), "task")))
    else:
        words.append(
            "places are told apart by all their differences at once, with the errors of sketch and "
            "of samples."
        )
    halves = np.concatenate([found.of(place).halves for place in found.places])
    halves = halves[np.isfinite(halves)]
    if len(halves):
        words.append(
            f"Two halves of one task’s documents are alike to {two(halves.min())} to "
            f"{two(halves.max())} place by place, where 1 is the truth."
        )
    if few_documents(fewest):
        words.append(few_documents(fewest))
    if found.precision != "float32":
        words.append(f"The backward pass was {found.precision}: its rounding is in no interval.")
    return " ".join(words)


def task_pair(found: NetworkAlignments, pair: tuple[int, int], between: str = ", ") -> str:
    """Both tasks' names."""
    return f"{found.names[pair[0]]}{between}{found.names[pair[1]]}"
