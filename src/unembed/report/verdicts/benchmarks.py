"""The verdict on two models' benchmark logs: better, worse, level or too close to call."""

from __future__ import annotations

from collections.abc import Sequence

from unembed.decisions.benchmarks.record import ComparedBenchmarks, TaskChange
from unembed.report.parts.wording import count, counted, listed, points
from unembed.report.verdicts.comparison import SIGNIFICANT_P
from unembed.report.verdicts.judgement import (
    ACCURACY_LEVEL,
    LOSS_LEVEL,
    Judgement,
    judge,
    small,
    within,
)
from unembed.report.verdicts.verdict import Verdict
from unembed.stats.estimate import Estimate
from unembed.stats.forms import FEW_DOCUMENTS, bounded

CALLED: dict[Judgement, str] = {
    "above": "better",
    "below": "worse",
    "level": "level",
    "close": "too close to call",
    "unknown": "not known",
}
LEVELS = {"share": ACCURACY_LEVEL, "nats": LOSS_LEVEL, "bits": LOSS_LEVEL, "number": 0.0}
"""How near to 0 is level. A score of unknown scale is never level."""
LEVEL_IN_WORDS = f"±{100 * ACCURACY_LEVEL:g}\u00a0pp"
MOST_NAMED = 4
"""Tasks of one kind that a sentence names."""


def of_record(record: ComparedBenchmarks) -> Verdict:
    """The verdict on two models' benchmark logs."""
    return verdict(record)


def verdict(found: ComparedBenchmarks) -> Verdict:
    """Quality by the mean over tasks, or of the only one; then task by task."""
    return Verdict(sentence(found), _quality(found), _change(found), _trust(found), _next(found))


def judged(one: TaskChange) -> Judgement:
    """What interval and corrected test say of a task; ``above`` is better."""
    agrees = one.corrected_p is None or one.corrected_p < SIGNIFICANT_P
    return judge(one.gain, one.change_form, LEVELS[one.unit], agrees=agrees)


def called(one: TaskChange) -> str:
    """``better``, ``worse``, ``level``, ``too close to call``, or ``not known``."""
    return CALLED[judged(one)]


def sentence(found: ComparedBenchmarks) -> str:
    """What quality is on average, or on the only task, and how many tasks are better or worse."""
    if len(found.entries) == 1:
        [one] = found.entries
        judgement = judged(one)
        slightly = _slightly(judgement, one.gain, LEVELS[one.unit])
        words = f"{slightly}{CALLED[judgement]}: {one.label} {_size(one)}"
        return f"On {one.name} quality is {words}."
    tally = _tally(found.entries)
    if found.mean is None:
        return f"Of {counted(len(found.entries), 'task')} {tally}."
    mean = found.mean.difference
    judgement = judge(mean, points, ACCURACY_LEVEL)
    size = within(mean, points) if judgement == "level" else bounded(mean, points)
    words = f"{_slightly(judgement, mean, ACCURACY_LEVEL)}{CALLED[judgement]}: {size}"
    of = counted(len(found.mean.names), "task")
    every = "" if len(found.mean.names) == len(found.entries) else "of all, "
    return f"On average of {of} quality is {words}; {every}{tally}."


def _slightly(judgement: Judgement, gain: Estimate, level: float) -> str:
    return "slightly " if judgement in ("above", "below") and small(gain, level) else ""


def _size(one: TaskChange) -> str:
    """By how much a task differs; of a level one, how far its interval reaches."""
    if judged(one) == "level":
        return f"{within(one.difference, one.change_form)} {one.in_words}".rstrip()
    return bounded(one.difference, one.change_form, one.in_words)


def _tally(changes: Sequence[TaskChange]) -> str:
    """``1 is better and 2 are too close to call``."""
    words = []
    for call in CALLED.values():
        n = sum(called(one) == call for one in changes)
        if n == len(changes):
            return f"{'both' if n == 2 else f'all {count(n)}'} are {call}"
        if n:
            words.append(f"{count(n)} {'is' if n == 1 else 'are'} {call}")
    return listed(words)


def _quality(found: ComparedBenchmarks) -> str:
    parts = []
    for call in ("worse", "better", "level"):
        some = [one for one in found.entries if called(one) == call]
        if some:
            named = ", ".join(f"{one.name} {_size(one)}" for one in some[:MOST_NAMED])
            more = f" and {count(len(some) - MOST_NAMED)} more" if len(some) > MOST_NAMED else ""
            parts.append(f"{call} on {named}{more}")
    words = "; ".join(parts) or "no task can be called better, worse or level"
    tests = len(found.entries)
    rule = f" Tests are corrected for being {count(tests)} (Holm)." if tests > 1 else ""
    return f"Quality: {words}.{rule}"


def _change(found: ComparedBenchmarks) -> str:
    binary = [one for one in found.entries if one.wrong_to_right is not None]
    if not binary:
        return "What changed: no score here is right or wrong, so that no sample flips."
    gained = sum(one.wrong_to_right or 0 for one in binary)
    lost = sum(one.right_to_wrong or 0 for one in binary)
    of = counted(sum(one.n for one in binary), "sample")
    if gained == lost == 0:
        return f"What changed: none of {of} became right or wrong."
    return f"What changed: of {of}, {count(gained)} became right and {count(lost)} wrong."


def _trust(found: ComparedBenchmarks) -> str:
    unit = "samples" if found.document is None else f"documents ({found.document})"
    words = f"Trust: intervals hold the spread between {unit} of these tasks"
    words += ", not that between tasks." if len(found.entries) > 1 else "."
    least = min(found.entries, key=lambda one: one.difference.documents or 0)
    if (least.difference.documents or 0) < FEW_DOCUMENTS:
        few = counted(least.difference.documents or 0, "document")
        words += f" {least.name} rests on {few} alone: its interval is rough."
    close = [
        one for one in found.entries if one.unit == "share" and called(one) == "too close to call"
    ]
    if close:
        words += _needed(max(close, key=lambda one: one.n))
    if found.notes:
        words += " Mind the notes below."
    return words


def _needed(one: TaskChange) -> str:
    """How many samples would make the interval of a task as narrow as what is called level."""
    low, high = one.difference.low, one.difference.high
    if low is None or high is None:
        return ""
    half = (high - low) / 2
    # Without a change the interval shrinks with the number of samples, not with its root.
    power = 2 if one.difference.value or one.wrong_to_right else 1
    needed = round(one.n * (half / ACCURACY_LEVEL) ** power, -2)
    if needed <= one.n:
        return ""
    return (
        f" An interval within {LEVEL_IN_WORDS} would take about {count(int(needed))} samples like "
        f"those of {one.name}, of which there are {count(one.n)}."
    )


def _next(found: ComparedBenchmarks) -> str:
    """The decisions on any text, which change long before a score moves."""
    calls = {called(one) for one in found.entries}
    if found.mean is not None:
        calls = {CALLED[judge(found.mean.difference, points, ACCURACY_LEVEL)]}
    if calls & {"too close to call", "level"}:
        return "unembed compare MODEL_BEFORE MODEL_AFTER CORPUS -o RUN"
    return ""
