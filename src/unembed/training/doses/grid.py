"""Which models a grid refines: objectives by weights by seeds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from unembed.errors import UnembedError
from unembed.short_repr import ShortRepr
from unembed.training.recipe.objectives import Objective
from unembed.training.recipe.recipe import Recipe

CONTROL_OBJECTIVE = Objective("none")


@dataclass(frozen=True)
class Grid(ShortRepr):
    """Objectives by weights by seeds; of ``recipe`` everything else is used.

    ``weights`` are those of every objective, or each one's by its label, as the effect of a weight
    differs between objectives more than tenfold. A weight of 0 is the control without a penalty,
    which all objectives share; it is added where it is missing. ``changes`` and ``noise`` are what
    ``read_outs`` disturbs each model by, on the first ``read_out_positions`` held-out positions.
    """

    objectives: tuple[Objective, ...]
    weights: tuple[float, ...] | Mapping[str, tuple[float, ...]]
    seeds: tuple[int, ...] = (0, 1, 2)
    recipe: Recipe = field(default_factory=Recipe)
    changes: tuple[str, ...] = ("int8", "int4", "bfloat16 head")
    noise: tuple[float, ...] = (0.5,)
    read_out_positions: int = 50_000

    def __post_init__(self) -> None:
        labels = [label_of(one) for one in self.objectives]
        if isinstance(self.weights, Mapping):
            odd = sorted(self.weights.keys() ^ set(labels))
            if odd:
                raise UnembedError(
                    f"weights and objectives do not fit: {odd[0]!r} is in one of them alone"
                )
        doses = [self.weights_of(one) for one in self.objectives]
        for values in (labels, self.seeds, *doses):
            if not values or len(set(values)) != len(values):
                raise UnembedError(
                    f"objectives, weights and seeds must be given, each once, got {values}"
                )
        if any(not 0 <= weight < math.inf for weights in doses for weight in weights):
            raise UnembedError(f"weights {self.weights} must be 0 or more")
        if any(one.name == "none" for one in self.objectives):
            raise UnembedError("objective none is the control, which every grid has: leave it out")

    def weights_of(self, objective: Objective) -> tuple[float, ...]:
        """An objective's weights, ascending."""
        given = self.weights
        return tuple(sorted(given[label_of(objective)] if isinstance(given, Mapping) else given))

    def points(self) -> Iterator[tuple[Objective, float, int]]:
        """The control first, then weight by weight, seed by seed."""
        yield from ((CONTROL_OBJECTIVE, 0.0, seed) for seed in self.seeds)
        doses = [[w for w in self.weights_of(one) if w > 0] for one in self.objectives]
        for nth in range(max(map(len, doses))):
            for objective, weights in zip(self.objectives, doses, strict=True):
                for weight in weights[nth : nth + 1]:
                    yield from ((objective, weight, seed) for seed in self.seeds)


def label_of(objective: Objective) -> str:
    """The objective's name, with its direction where that is not the usual one."""
    return objective.name + ("-expand" if objective.direction == "expand" else "")


def folder_name(objective: Objective, weight: float, seed: int) -> str:
    """A point's folder."""
    return f"{label_of(objective)}-{weight:g}-seed{seed}"
