"""The verdict on alignments: which tasks are the most alike, where their intervals tell."""

from __future__ import annotations

import math
from collections.abc import Sequence

from unembed.report.alignment.pairs import (
    FORMS,
    TaskPair,
    by_joint,
    estimate,
    every_pair,
    why_not,
)
from unembed.report.parts.wording import count, counted, full, listed, side_of
from unembed.report.verdicts.samples import OK, doubted_words, few_documents
from unembed.report.verdicts.verdict import Verdict
from unembed.signatures.alignment.records import Alignments


def of_record(record: Alignments) -> Verdict:
    """The verdict on alignments."""
    return verdict(record)


def verdict(alignments: Alignments) -> Verdict:
    """The most alike two tasks where the interval of their joint lies above all others."""
    return Verdict(
        sentence(alignments),
        f"Quality: {_quality(alignments)}",
        f"Found: {_found(alignments)}",
        f"Trust: {_trust(alignments)}",
        _next(alignments),
    )


def sentence(alignments: Alignments) -> str:
    """The most alike pair, or those that cannot be told apart, in one sentence."""
    pairs = by_joint(alignments)
    if len(alignments.tasks) < 2:
        return f"{alignments.tasks[0].name if alignments.tasks else 'No task'} has none to compare."
    if not pairs:
        reasons = [why_not(alignments, pair) for pair in every_pair(len(alignments.tasks))]
        return f"No two tasks can be compared: {reasons[0]}."
    first = estimate(alignments, "joint", pairs[0])
    if len(alignments.tasks) == 2:
        both = _named(alignments, pairs[0])
        if first.low is None:
            return f"{both} have a joint alignment of {_joint(alignments, pairs[0])}."
        if first.low <= 0:
            return f"Whether {both} have anything in common cannot be told."
        return f"{both} have {_joint(alignments, pairs[0])} in common (1: the same, 0: nothing)."
    lost = len(every_pair(len(alignments.tasks))) - len(pairs)
    of = f"Of the {counted(len(pairs), 'pair')} that can be compared, " if lost else ""
    if len(pairs) == 1:
        return f"Only {_named(alignments, pairs[0])} can be compared."
    if first.low is None:
        return f"{of}{_named(alignments, pairs[0])} score highest; how sure that is, is not known."
    alike = most_alike(alignments)
    if len(alike) == 1:
        return f"{of}{_named(alignments, alike[0])} are the most alike."
    if first.low <= 0:
        return f"{of}{'no' if of else 'No'} two tasks are surely alike."
    if len(alike) == 2:
        both = ", and ".join(_named(alignments, pair) for pair in alike)
        return f"{of}{both}, cannot be told apart as the most alike."
    return (
        f"{count(len(alike))} of {counted(len(pairs), 'pair')} cannot be told apart as the most "
        f"alike, {_named(alignments, alike[0])} among them."
    )


def most_alike(alignments: Alignments, *, least: bool = False) -> list[TaskPair]:
    """The pairs that may have the largest joint, or the ``least``: whose intervals reach it."""
    pairs = by_joint(alignments)[:: -1 if least else 1]
    spans = {pair: _span(alignments, pair) for pair in pairs}
    low, high = spans[pairs[0]]
    return [
        pair
        for pair, (its_low, its_high) in spans.items()
        if (its_low <= high if least else its_high >= low)
    ]


def _span(alignments: Alignments, pair: TaskPair) -> tuple[float, float]:
    """The interval of a joint, unbounded where it is not known."""
    joint = estimate(alignments, "joint", pair)
    if joint.low is None or joint.high is None:
        return -math.inf, math.inf
    return joint.low, joint.high


def _quality(alignments: Alignments) -> str:
    """The highest joint, and what it is a number of."""
    pairs = by_joint(alignments)
    if not pairs:
        return "there is no number to judge."
    scale = "1: the same push, 0: nothing in common"
    who = _named(alignments, pairs[0])
    return f"the highest joint alignment is {_joint(alignments, pairs[0])}, of {who} ({scale})."


def _found(alignments: Alignments) -> str:
    """The least alike pair, and how often coupling is not 1."""
    pairs = by_joint(alignments)
    every = len(every_pair(len(alignments.tasks)))
    if not pairs:
        return f"none of {counted(every, 'pair')} has a joint."
    words = []
    if len(pairs) > 1:
        last = most_alike(alignments, least=True)
        least = _joint(alignments, last[0])
        if len(last) == 1:
            words.append(f"{_named(alignments, last[0])} are the least alike, {least}.")
        else:
            others = count(len(last) - 1)
            words.append(
                f"the lowest is {least}, of {_named(alignments, last[0])}; {others} more may be as "
                "little alike."
            )
    coupling = _coupling(alignments, pairs)
    if coupling:
        words.append(coupling)
    return " ".join(words) or f"{counted(len(pairs), 'pair')} compared."


def _coupling(alignments: Alignments, pairs: Sequence[TaskPair]) -> str:
    """How often coupling is not 1, in words."""
    if alignments.coupling is None:
        return ""
    told = "what their inputs and their errors alone say"
    if len(pairs) == 1:
        found = estimate(alignments, "coupling", pairs[0])
        return f"the two are {full(found, FORMS['coupling'])} times as alike as {told}."
    sides = [side_of(estimate(alignments, "coupling", pair), 1.0) for pair in pairs]
    up, down = sides.count(1), sides.count(-1)
    return (
        f"Of {count(len(pairs))} pairs, {count(up)} {'is' if up == 1 else 'are'} surely more alike "
        f"than {told}, and {count(down)} less."
    )


def _trust(alignments: Alignments) -> str:
    """Whether the samples suffice, and how many it takes."""
    tasks = alignments.tasks
    few = few_documents(min(task.documents for task in tasks))
    doubted = [task for task in tasks if task.status != OK]
    if doubted:
        told = [(task.name, task.status) for task in doubted]
        words = doubted_words(told, counted(len(tasks), "task"))
        needed = max(task.participation_ratio or 0.0 for task in doubted)
        if not few and needed > max(task.samples for task in doubted):
            few = f"It takes more than {count(math.ceil(needed))} samples, the largest ratio."
        return f"{words} {few}".strip()
    if few:
        return few
    least = min(tasks, key=lambda task: task.samples)
    amount = f"{counted(least.samples, 'sample')} or more in each task"
    pairs = by_joint(alignments)
    if len(pairs) > 1 and len(most_alike(alignments)) > 1:
        more = "four times the text would about halve the intervals"
        return f"no task lacks samples ({amount}); {more}."
    return f"the samples suffice ({amount}): no task is mostly noise."


def _next(alignments: Alignments) -> str:
    """More samples where they do not suffice, else a ranking for one of the tasks."""
    lacking = any("few" in task.status for task in alignments.tasks)
    if lacking or few_documents(min(task.documents for task in alignments.tasks)):
        return "unembed sketch MODEL TEXT --max-positions N -o TASK.safetensors"
    return "unembed rank TARGET SOURCES -o RUN" if len(alignments.tasks) > 2 else ""


def _joint(alignments: Alignments, pair: TaskPair) -> str:
    return full(estimate(alignments, "joint", pair), FORMS["joint"])


def _named(alignments: Alignments, pair: TaskPair) -> str:
    return listed([alignments.tasks[at].name for at in (pair.first, pair.second)])
