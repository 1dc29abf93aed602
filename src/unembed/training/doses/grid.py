"""Which models a grid refines: objectives by doses by seeds, and how much of each is measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from unembed.errors import UnembedError
from unembed.short_repr import ShortRepr
from unembed.training.recipe.objectives import Objective
from unembed.training.recipe.recipe import Recipe
from unembed.training.robustness.read_outs import BODIES

CONTROL_OBJECTIVE = Objective("none")
PER_DOCUMENT = 1_000
"""Positions of each held-out document that an interval over documents needs: with any number more
it would be 7 % narrower, where decisions change rarely by more (docs/decisions/dose-positions.md).
"""
FEWEST = 100
"""Positions of each reading below which a budget is refused."""


@dataclass(frozen=True)
class Point(ShortRepr):
    """One refined model of a grid: an objective at a weight, or a share of the gradient; a seed."""

    objective: Objective
    seed: int
    weight: float = 0.0
    gradient_share: float | None = None

    @property
    def label(self) -> str:
        """The objective's label."""
        return label_of(self.objective)

    @property
    def name(self) -> str:
        """Its folder's name."""
        share = self.gradient_share
        dose = f"{self.weight:g}" if share is None else f"share{share:g}"
        return f"{self.label}-{dose}-seed{self.seed}"

    def recipe(self, shared: Recipe) -> Recipe:
        """How it is trained; of ``shared`` everything else is used."""
        return replace(
            shared,
            objective=self.objective,
            weight=self.weight,
            gradient_share=self.gradient_share,
            seed=self.seed,
        )


@dataclass(frozen=True)
class Grid(ShortRepr):
    """Objectives by weights, or shares of the loss's gradient, by seeds; the rest is ``recipe``'s.

    ``weights`` are those of every objective, or each one's by its label, as the effect of a weight
    differs between objectives more than tenfold. ``gradient_shares`` in their place serve them all:
    each is a ``Recipe.gradient_share``, which chooses the weight anew at every step. The control
    without a penalty, weight 0, belongs to all objectives; it is added where it is missing.

    Each model is audited at up to ``recipe.audit_positions`` of either text, from documents all
    over it, and at no more than ``PER_DOCUMENT`` for each held-out document. ``changes`` and
    ``noise`` are what ``read_outs`` disturbs it by, on as many held-out positions, and no more than
    ``read_out_positions``. A ``budget`` bounds what is read in all: the audits of the
    start, of every point and of every temperature on both texts, and the read-outs, whose disturbed
    bodies read each position again.
    """

    objectives: tuple[Objective, ...]
    weights: tuple[float, ...] | Mapping[str, tuple[float, ...]] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    recipe: Recipe = field(default_factory=Recipe)
    changes: tuple[str, ...] = ("int8", "int4", "bfloat16 head")
    noise: tuple[float, ...] = (0.5,)
    read_out_positions: int = 50_000
    gradient_shares: tuple[float, ...] = ()
    budget: int | None = None

    def __post_init__(self) -> None:
        labels = [label_of(one) for one in self.objectives]
        if bool(self.weights) == bool(self.gradient_shares):
            given = "both were" if self.weights else "neither was"
            raise UnembedError(
                f"a grid takes weights or gradient_shares, and {given} given: give one of them"
            )
        if isinstance(self.weights, Mapping):
            odd = sorted(self.weights.keys() ^ set(labels))
            if odd:
                raise UnembedError(
                    f"weights and objectives do not fit: {odd[0]!r} is in one of them alone "
                    f"(objectives: {', '.join(labels)})"
                )
        doses = [self.doses_of(one) for one in self.objectives]
        for values in (labels, self.seeds, *doses):
            if not values or len(set(values)) != len(values):
                raise UnembedError(
                    f"objectives, weights, shares and seeds must be given, each once, got {values}"
                )
        if any(not 0 <= dose < math.inf for some in doses for dose in some):
            what = "gradient_shares" if self.gradient_shares else "weights"
            raise UnembedError(f"{what} {getattr(self, what)} must be 0 or more")
        if any(one.name == "none" for one in self.objectives):
            raise UnembedError("objective none is the control, which every grid has: leave it out")
        if self.recipe.gradient_share is not None:
            raise UnembedError(
                f"recipe.gradient_share {self.recipe.gradient_share:g} is one dose: give a grid "
                "gradient_shares"
            )
        if self.read_out_positions < 1:
            raise UnembedError(f"read_out_positions is {self.read_out_positions}: give at least 1")
        if self.budget is not None and self.budget < FEWEST * self.readings:
            raise UnembedError(
                f"a budget of {self.budget:,} positions leaves {self.budget // self.readings:,} "
                f"for each of {self.readings:,} readings: give at least "
                f"{FEWEST * self.readings:,}, or fewer doses or seeds"
            )

    def doses_of(self, objective: Objective) -> tuple[float, ...]:
        """An objective's weights, or shares of the gradient, ascending."""
        given = self.gradient_shares or self.weights
        return tuple(sorted(given[label_of(objective)] if isinstance(given, Mapping) else given))

    def points(self) -> Iterator[Point]:
        """The control first, then dose by dose, seed by seed."""
        yield from (Point(CONTROL_OBJECTIVE, seed) for seed in self.seeds)
        doses = [[dose for dose in self.doses_of(one) if dose > 0] for one in self.objectives]
        for nth in range(max(map(len, doses))):
            for objective, some in zip(self.objectives, doses, strict=True):
                for dose in some[nth : nth + 1]:
                    how = (0.0, dose) if self.gradient_shares else (dose, None)
                    yield from (Point(objective, seed, *how) for seed in self.seeds)

    @property
    def bodies(self) -> int:
        """How many bodies read each position of a read-out."""
        return 1 + len(set(self.changes) & set(BODIES))

    @property
    def readings(self) -> int:
        """How often a position is read where all are measured alike: by audits and read-outs."""
        models = 1 + sum(1 for _ in self.points())
        temperatures = (models - 1) // len(self.seeds)
        return 2 * (models + temperatures) + models * self.bodies

    def positions(self, documents: int) -> tuple[int, int]:
        """Positions of each audit, and of each model's read-outs, of so many held-out documents."""
        audited = min(self.recipe.audit_positions, PER_DOCUMENT * documents)
        if self.budget is not None:
            audited = min(audited, self.budget // self.readings)
        return audited, min(audited, self.read_out_positions)


def label_of(objective: Objective) -> str:
    """The objective's name, with its direction where that is not the usual one."""
    return objective.name + ("-expand" if objective.direction == "expand" else "")
