"""How alike several tasks are along a network: every part's alignments, and where they differ."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from unembed.runs.frames import Figures, figure
from unembed.runs.record import record_from_json
from unembed.runs.run_record import RunRecord
from unembed.short_repr import ShortRepr, html_table
from unembed.signatures.alignment.records import Pairs, TaskFacts
from unembed.signatures.network.identities import (
    Vector,
    block_weights,
    full_between,
    profile_cosine,
)
from unembed.signatures.network.modules import NetworkModule
from unembed.signatures.network.names import BLOCKS, FULL
from unembed.stats.estimate import Estimate
from unembed.stats.forms import cosine, full

UNKNOWN = "cannot be estimated"


@dataclass(frozen=True)
class PartAlignments(ShortRepr):
    """One part of the network: its alignments of every two tasks, and its size in each.

    ``joint`` is the cosine of the part's Fishers and ``first_moment`` that of its mean gradients;
    either is None where it was not kept. ``mean`` is the joint's mean over all pairs.
    ``squared_norm`` is ``‖F‖²`` of each task, and ``halves`` the cosine of the Fishers of two
    halves of each task's documents, which noise alone keeps from 1; NaN where not known.
    """

    part: str
    joint: Pairs | None
    first_moment: Pairs | None
    mean: Estimate
    squared_norm: Float[np.ndarray, " tasks"]
    halves: Float[np.ndarray, " tasks"]


@dataclass(frozen=True)
class Extremes(ShortRepr):
    """The places where two tasks, or all pairs on average (``tasks`` None), are most, least alike.

    Each holds every place that cannot be told from the one of largest or least joint, of all
    differences of two places at once with 95 %. Empty where no joint is known.
    """

    tasks: tuple[int, int] | None
    most: tuple[str, ...]
    least: tuple[str, ...]


@dataclass(frozen=True)
class NetworkAlignments(RunRecord, Figures):
    """Every two of several tasks, part by part along the network (theory §7, §12).

    ``places`` are the parts that follow one another along it: its depths, then what is outside of
    them, the head last. ``off_diagonal`` is η of each task, how much of its Fisher lies between
    modules. ``precision`` is the dtype of the backward pass.
    """

    KIND: ClassVar[str] = "network"

    tasks: tuple[TaskFacts, ...]
    places: tuple[str, ...]
    parts: tuple[PartAlignments, ...]
    extremes: tuple[Extremes, ...]
    off_diagonal: tuple[Estimate, ...]
    modules: tuple[NetworkModule, ...]
    method: str
    unit: str
    precision: str
    debiased: bool

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks' names, in order of the matrices."""
        return tuple(task.name for task in self.tasks)

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Every two tasks by their numbers, the first below the second."""
        return tuple(combinations(range(len(self.tasks)), 2))

    @cached_property
    def _by_name(self) -> dict[str, PartAlignments]:
        return {one.part: one for one in self.parts}

    def of(self, part: str) -> PartAlignments:
        """A part by its name. Raises ValueError for one that there is not."""
        if part not in self._by_name:
            raise ValueError(f"{part!r} is not one of {', '.join(self._by_name)}")
        return self._by_name[part]

    def has(self, part: str) -> bool:
        """Whether there is such a part."""
        return part in self._by_name

    def estimate(self, part: str, tasks: tuple[int, int] | None = None) -> Estimate:
        """The joint of two tasks in a part, or its mean over all pairs, with its 95 % interval."""
        found = self.of(part)
        if tasks is None:
            return found.mean
        if found.joint is None:
            return Estimate(None, reason="not kept of so many tasks")
        return found.joint.estimate(*tasks)

    def extremes_of(self, tasks: tuple[int, int] | None) -> Extremes:
        """Where two tasks, or all pairs on average, are most and least alike."""
        return next(one for one in self.extremes if one.tasks == tasks)

    def profile(self, task: int) -> Vector:
        """``v = ‖F^pp‖`` of one task at each place; NaN where the squared norm is not positive."""
        squares = np.array([self.of(place).squared_norm[task] for place in self.places])
        return np.sqrt(np.where(squares > 0, squares, np.nan))

    def profile_cosine(self, i: int, j: int) -> float:
        """How alike two tasks spread over the places; NaN where a norm is not known."""
        return profile_cosine(self.profile(i), self.profile(j))

    def weights(self, i: int, j: int) -> Vector:
        """How much each place counts in the two tasks' alignment of all blocks; sum 1."""
        return block_weights(self.profile(i), self.profile(j))

    def full_between(self, i: int, j: int) -> tuple[float, float] | None:
        """Between what the alignment of the whole network lies, by that of its blocks.

        None where a share between modules, or the blocks' alignment, is not known.
        """
        shares = [self.off_diagonal[task].value for task in (i, j)]
        blocks = self.estimate(BLOCKS, (i, j)).value
        if blocks is None or shares[0] is None or shares[1] is None:
            return None
        return full_between(blocks, shares[0], shares[1])

    def to_json(self) -> dict[str, Any]:
        """Plain values; NaN becomes None."""
        return {
            "method": self.method,
            "unit": self.unit,
            "precision": self.precision,
            "debiased": self.debiased,
            "modules": [list(vars(module).values()) for module in self.modules],
            "tasks": [vars(task) for task in self.tasks],
            "places": list(self.places),
            "parts": [_part_to_json(one) for one in self.parts],
            "extremes": [vars(one) for one in self.extremes],
            "off_diagonal": [vars(one) for one in self.off_diagonal],
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> NetworkAlignments:
        """Read back what ``to_json`` wrote."""
        given = dict(values)
        given["tasks"] = tuple(record_from_json(TaskFacts, task) for task in given["tasks"])
        given["places"] = tuple(given["places"])
        given["modules"] = tuple(NetworkModule(*module) for module in given["modules"])
        given["parts"] = tuple(_part_from_json(one, len(given["tasks"])) for one in given["parts"])
        given["extremes"] = tuple(
            Extremes(
                None if one["tasks"] is None else (int(one["tasks"][0]), int(one["tasks"][1])),
                tuple(one["most"]),
                tuple(one["least"]),
            )
            for one in given["extremes"]
        )
        given["off_diagonal"] = tuple(Estimate(**one) for one in given["off_diagonal"])
        found = cls(**given)
        for part in (*found.places, FULL, BLOCKS):
            found.of(part)
        return found

    def _figures(self) -> Iterator[dict[str, Any]]:
        """The joint of every two tasks by part, ``depth:3.reviews.manuals``, and its mean."""
        for one in self.parts:
            for i, j in self.pairs if one.joint is not None else ():
                name = f"{one.part}.{self.names[i]}.{self.names[j]}"
                yield figure(name, self.estimate(one.part, (i, j)))
            yield figure(f"{one.part}.mean", one.mean)
        for name, share in zip(self.names, self.off_diagonal, strict=True):
            yield figure(f"off_diagonal.{name}", share)

    def _phrases(self) -> Iterator[str]:
        yield f"{len(self.tasks):,} tasks"
        yield f"{len(self.modules):,} modules"
        yield f"{len(self.places):,} places"
        yield self.method
        yield f"by {self.unit}"
        yield f"mean of blocks {full(self.of(BLOCKS).mean, cosine)}"

    def _repr_html_(self) -> str:
        from unembed.signatures.network.tables import network_rows

        header, *rows = network_rows(self)
        return html_table(rows, header)

    def __str__(self) -> str:
        from unembed.signatures.network.tables import network_text

        return network_text(self)


def _part_to_json(one: PartAlignments) -> dict[str, Any]:
    return {
        "part": one.part,
        "mean": vars(one.mean),
        "squared_norm": _plain(one.squared_norm),
        "halves": _plain(one.halves),
        **{name: _pairs_to_json(getattr(one, name)) for name in ("joint", "first_moment")},
    }


def _part_from_json(values: dict[str, Any], tasks: int) -> PartAlignments:
    vectors = {name: np.array(values[name], float) for name in ("squared_norm", "halves")}
    pairs = {
        name: None
        if values[name] is None
        else Pairs(**{key: np.array(rows, float) for key, rows in values[name].items()})
        for name in ("joint", "first_moment")
    }
    for name, vector in vectors.items():
        if vector.shape != (tasks,):
            raise ValueError(f"{name} of shape {vector.shape}, not {(tasks,)}")
    for found in pairs.values():
        for name, matrix in {} if found is None else vars(found).items():
            if matrix.shape != (tasks, tasks):
                raise ValueError(f"{name} of shape {matrix.shape}, not {(tasks, tasks)}")
    return PartAlignments(
        part=values["part"],
        joint=pairs["joint"],
        first_moment=pairs["first_moment"],
        mean=Estimate(**values["mean"]),
        **vectors,
    )


def _pairs_to_json(pairs: Pairs | None) -> dict[str, Any] | None:
    return None if pairs is None else {name: _plain(rows) for name, rows in vars(pairs).items()}


def _plain(numbers: Float[np.ndarray, "..."]) -> Any:
    """As lists, with None for NaN."""
    if numbers.ndim > 1:
        return [_plain(row) for row in numbers]
    return [None if math.isnan(x) else x for x in numbers.tolist()]


def joint_of(found: NetworkAlignments, parts: Sequence[str], tasks: tuple[int, int]) -> Vector:
    """The joint of two tasks in several parts; NaN where it is not known."""
    values = [found.estimate(part, tasks).value for part in parts]
    return np.array([math.nan if one is None else one for one in values])
