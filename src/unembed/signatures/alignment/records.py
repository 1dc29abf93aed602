"""How alike the updates of several tasks are: matrices of cosines, each with its errors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from unembed.runs.frames import Figures, figure, figures
from unembed.runs.record import record_from_json
from unembed.runs.run_record import RunRecord
from unembed.short_repr import ShortRepr, html_table
from unembed.signatures.alignment.kinds import KINDS
from unembed.stats.estimate import Estimate
from unembed.stats.forms import cosine, full


@dataclass(frozen=True)
class Pairs(ShortRepr):
    """One quantity for every pair of tasks; NaN where it could not be estimated.

    ``sketch_se`` and ``sampling_se`` are standard errors, 0 where there is none (an exact value has
    no sketch error), NaN where one is not known. ``low`` and ``high`` bound the 95 % interval of
    both together.
    """

    value: Float[np.ndarray, "tasks tasks"]
    sketch_se: Float[np.ndarray, "tasks tasks"]
    sampling_se: Float[np.ndarray, "tasks tasks"]
    low: Float[np.ndarray, "tasks tasks"]
    high: Float[np.ndarray, "tasks tasks"]

    def estimate(self, i: int, j: int) -> Estimate:
        """The quantity for tasks i and j with its interval."""
        value, low, high = (float(x[i, j]) for x in (self.value, self.low, self.high))
        if np.isnan(value):
            return Estimate(None, reason="cannot be estimated")
        bounded = i != j and not np.isnan(low)
        return Estimate(value, low if bounded else None, high if bounded else None)


@dataclass(frozen=True)
class TaskFacts(ShortRepr):
    """What is known of one task: its samples, how spread they are, and whether they suffice.

    ``participation_ratio`` is ``tr(F)² / ‖F‖²``, the effective number of directions of its Fisher;
    ``residual`` is δ, the share of F that ``M ⊗ Γ`` leaves (None where it is not known).
    ``status`` is "ok", or a reason such as "too few samples: n = 40, participation ratio 310".
    """

    name: str
    samples: int
    documents: int
    participation_ratio: float | None
    residual: float | None
    status: str


@dataclass(frozen=True)
class Alignments(RunRecord, Figures):
    """Every pair of several tasks, by each quantity (theory §7, §10).

    ``joint`` is the cosine of head Fishers; ``activation`` and ``error`` those of its marginals;
    ``proxy`` their product; ``coupling`` ``joint / proxy``; ``first_moment`` the signed cosine of
    mean gradients, None where it was not kept. ``method`` is "exact" or the construction's name.
    Of networks ``part`` is the one that was compared, "" of the head.
    """

    KIND: ClassVar[str] = "alignment"

    tasks: tuple[TaskFacts, ...]
    joint: Pairs
    activation: Pairs | None
    error: Pairs | None
    proxy: Pairs | None
    coupling: Pairs | None
    first_moment: Pairs | None
    method: str
    unit: str
    fisher: str
    debiased: bool
    part: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks' names, in order of the matrices."""
        return tuple(task.name for task in self.tasks)

    def pairs(self, kind: str) -> Pairs | None:
        """A quantity by its name, one of ``KINDS``."""
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is not one of {', '.join(KINDS)}")
        found: Pairs | None = getattr(self, kind)
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain values; NaN becomes None."""
        plain: dict[str, Any] = {
            "method": self.method,
            "unit": self.unit,
            "fisher": self.fisher,
            "debiased": self.debiased,
            "tasks": [vars(task) for task in self.tasks],
        }
        if self.part:
            plain["part"] = self.part
        for kind in KINDS:
            pairs = self.pairs(kind)
            plain[kind] = None if pairs is None else {k: _plain(v) for k, v in vars(pairs).items()}
        return plain

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Alignments:
        """Read back what ``to_json`` wrote."""
        given = dict(values)
        given["tasks"] = tuple(record_from_json(TaskFacts, task) for task in given["tasks"])
        square = (len(given["tasks"]),) * 2
        for kind in KINDS:
            if given[kind] is not None:
                given[kind] = Pairs(**{k: np.array(v, float) for k, v in given[kind].items()})
                shapes = {name: matrix.shape for name, matrix in vars(given[kind]).items()}
                for name, shape in shapes.items():
                    if shape != square:
                        raise ValueError(f"{kind} has {name} of shape {shape}, not {square}")
        return cls(**given)

    def _figures(self) -> Iterator[dict[str, Any]]:
        """Every quantity of every two tasks, ``joint.reviews.manuals``; then those of each task."""
        for kind in KINDS:
            pairs = self.pairs(kind)
            if pairs is not None:
                for i, j in zip(*np.triu_indices(len(self.tasks), 1), strict=True):
                    name = f"{kind}.{self.names[i]}.{self.names[j]}"
                    yield figure(name, pairs.estimate(int(i), int(j)))
        yield from figures(self)

    def _phrases(self) -> Iterator[str]:
        from unembed.signatures.alignment.tables import most_alike_first

        yield f"{len(self.tasks):,} tasks"
        yield self.method
        yield f"by {self.unit}"
        first = next(iter(most_alike_first(self)), None)
        if first is not None:
            j, i = first
            words = full(self.joint.estimate(i, j), cosine)
            yield f"highest joint {self.names[i]} and {self.names[j]}: {words}"

    def _repr_html_(self) -> str:
        from unembed.signatures.alignment.tables import alignment_rows

        header, *rows = alignment_rows(self)
        return html_table(rows, header)

    def __str__(self) -> str:
        from unembed.signatures.alignment.tables import alignments_text

        return alignments_text(self)


def _plain(matrix: Float[np.ndarray, "tasks tasks"]) -> list[list[float | None]]:
    return [[None if np.isnan(x) else float(x) for x in row] for row in matrix]
