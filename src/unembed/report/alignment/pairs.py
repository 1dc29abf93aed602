"""Pairs of tasks as a reader sees them: in words, sorted, and as data for the page's hints."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from unembed.report.parts import wording
from unembed.report.parts.page import as_script
from unembed.report.verdicts.samples import OK
from unembed.signatures.alignment.kinds import ALIGNMENT_KINDS, KINDS
from unembed.signatures.alignment.records import Alignments
from unembed.stats.estimate import Estimate
from unembed.stats.forms import ROUNDING, UNDETERMINED

NAMES = {kind: one.label for kind, one in ALIGNMENT_KINDS.items()}
"""What each quantity is called on the page."""

MEANINGS = {kind: one.meaning for kind, one in ALIGNMENT_KINDS.items() if one.meaning}
"""What each quantity of an alignment asks of two tasks."""
OF_PARTS = {
    "joint": "Do two tasks push this part of the network along the same directions? 1: the same "
    "ones. 0: none in common. Which way along them does not count.",
    "activation": "The input side alone: does the module read alike activations?",
    "error": "The output side alone: are the errors that come back to it alike?",
    "first_moment": "The cosine of mean gradients, with its sign. Above 0 the tasks pull this part "
    "the same way, below 0 against each other.",
}
"""The same of a part of a network other than its head."""

FORMS = {kind: one.form for kind, one in ALIGNMENT_KINDS.items()}
"""How each quantity is written."""


@dataclass(frozen=True)
class TaskPair:
    """Two tasks by their numbers."""

    first: int
    second: int


def every_pair(tasks: int) -> list[TaskPair]:
    """Each two tasks once."""
    return [TaskPair(i, j) for i in range(tasks) for j in range(i + 1, tasks)]


def estimate(alignments: Alignments, kind: str, pair: TaskPair) -> Estimate:
    """One number with its interval; the reason where there is none."""
    found = alignments.pairs(kind)
    if found is None:
        return Estimate(None, reason="not kept")
    value, low, high = (
        float(matrix[pair.first, pair.second]) for matrix in (found.value, found.low, found.high)
    )
    if not math.isfinite(value):
        return Estimate(None, reason=why_not(alignments, pair))
    bounded = math.isfinite(low) and math.isfinite(high)
    return Estimate(value, low if bounded else None, high if bounded else None)


def possible(alignments: Alignments, kind: str) -> Float[np.ndarray, "tasks tasks"]:
    """A quantity of every pair, NaN where it is not determined, such as a cosine of 3."""
    found = alignments.pairs(kind)
    assert found is not None
    least, most = FORMS[kind].possible or (-math.inf, math.inf)
    # The diagonal is 1 but for rounding.
    inside = (found.value >= least - ROUNDING) & (found.value <= most + ROUNDING)
    filled = (found.low <= least) & (found.high >= most)
    return np.where(inside & ~filled, found.value, np.nan)


def why_not(alignments: Alignments, pair: TaskPair) -> str:
    """Why two tasks have no number."""
    tasks = [alignments.tasks[at] for at in (pair.first, pair.second)]
    reasons = [f"{task.name}: {task.status}" for task in tasks if task.status != OK]
    known = math.isfinite(float(alignments.joint.value[pair.first, pair.second]))
    return "; ".join(reasons) or (UNDETERMINED if known else "not estimated")


def by_joint(alignments: Alignments) -> list[TaskPair]:
    """The pairs whose joint is determined, the most alike first."""
    joint = possible(alignments, "joint")
    known = [
        pair
        for pair in every_pair(len(alignments.tasks))
        if math.isfinite(joint[pair.first, pair.second])
    ]
    return sorted(known, key=lambda pair: -float(joint[pair.first, pair.second]))


def pair_name(alignments: Alignments, pair: TaskPair) -> str:
    """Both names, ``python · java``."""
    names = (alignments.tasks[at].name for at in (pair.first, pair.second))
    return wording.visible(" · ".join(names))


def hint_data(alignments: Alignments, order: Int[np.ndarray, " tasks"]) -> str:
    """What the maps' hints show, as JSON that can stand in a script element.

    Tasks in the order of the maps. Of each quantity its value, interval and two standard errors in
    thousandths, null where there is none or where
    it is not determined, for the pairs (0, 1), (0, 2), … (1, 2), … of that order.
    """
    tasks = [alignments.tasks[at] for at in order]
    above = np.triu_indices(len(tasks), 1)
    kinds, grid = {}, np.ix_(order, order)
    for kind in KINDS:
        found = alignments.pairs(kind)
        if found is not None:
            bounds = FORMS[kind].possible or (-math.inf, math.inf)
            shown = {"value": possible(alignments, kind)}
            shown |= {end: np.clip(getattr(found, end), *bounds) for end in ("low", "high")}
            kinds[kind] = {
                "name": NAMES[kind],
                **{
                    field: _thousandths(shown.get(field, getattr(found, field))[grid][above])
                    for field in ("value", "low", "high", "sketch_se", "sampling_se")
                },
            }
    data = {
        "tasks": [
            {
                "name": wording.visible(task.name),
                "facts": _facts(task.samples, task.documents, alignments.unit),
                "status": "" if task.status == OK else wording.visible(task.status),
            }
            for task in tasks
        ],
        "kinds": kinds,
    }
    return as_script(data)


def _facts(samples: int, documents: int, unit: str) -> str:
    return f"{wording.counted(samples, unit)} of {wording.counted(documents, 'document')}"


def _thousandths(values: Iterable[float]) -> list[int | None]:
    return [round(1000 * float(x)) if math.isfinite(x) else None for x in values]
