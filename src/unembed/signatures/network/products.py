"""Projections of whole gradients, entry by entry: the cheaper way where modules are narrow.

A count-sketch of a product is one of its entries: entry (i, j) of ``G = Σ δ aᵀ`` goes to the sum of
its two buckets, with the product of their signs. So one transform a sample takes the place of four
a position, for a product of matrices and ``outputs x inputs`` additions a map.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from unembed.signatures.sketches.sketch import LinearMap, Sketch
from unembed.signatures.sketches.tensorsketch import (
    ComplexTensorSketch,
    CountSketch,
    TensorSketch,
)

MOST_ENTRIES = 1 << 21
"""Entries of all matrices of a module whose buckets are held: 8 bytes each and map."""
POSITION_NS, ENTRY_NS, MULTIPLY_NS = 6.0, 1.5, 0.02
"""Measured on one core: a position's factors, each of their m numbers; an entry's addition; a
multiplication and an addition of a product of matrices."""


@dataclass(frozen=True)
class EntrySums:
    """Of one module, whose maps are count-sketches: its samples' features from matrices of sums."""

    sketch: ComplexTensorSketch | TensorSketch

    @staticmethod
    def of(sketch: Sketch) -> EntrySums | None:
        """None for maps of another kind, and for modules too wide."""
        if not isinstance(sketch, ComplexTensorSketch | TensorSketch):
            return None
        found = EntrySums(sketch)
        return found if found.entries <= MOST_ENTRIES else None

    @property
    def entries(self) -> int:
        """How many entries are added up for a sample: two maps of G, one of each marginal."""
        spec = self.sketch.spec
        return 2 * spec.vocab * spec.dim + spec.vocab**2 + spec.dim**2

    def pays(self, rows: int) -> bool:
        """Whether a sample of so many positions is cheaper so; a choice by the shapes alone."""
        spec = self.sketch.spec
        products = rows * (self.entries - spec.vocab * spec.dim)
        return ENTRY_NS * self.entries + MULTIPLY_NS * products < POSITION_NS * rows * spec.m

    def features(
        self, errors: Float[Tensor, "rows outputs"], inputs: Float[Tensor, "rows inputs"]
    ) -> tuple[Shaped[Tensor, " features"], ...]:
        """x, y, and the features of the inputs and of the errors, of a sample's positions."""
        errors, inputs = errors.float(), inputs.float()
        missing = self.sketch.spec.vocab - errors.shape[1]
        if missing:
            errors = torch.nn.functional.pad(errors, (0, missing))
        gradient = errors.T @ inputs
        matrices = (gradient, gradient, inputs.T @ inputs, errors.T @ errors)
        found = []
        for matrix, each in zip(matrices, self._maps, strict=True):
            into = torch.zeros(1, each.width, dtype=torch.float32, device=matrix.device)
            each.add(matrix.reshape(1, -1), 0, into)
            found.append(self.sketch.factor(into)[0])
        return tuple(found)

    @cached_property
    def _maps(self) -> tuple[CountSketch, ...]:
        """Of entries of G by r and by s, of ``Σ a aᵀ``, and of ``Σ δ δᵀ``."""
        (r, s), (a, b) = self.sketch.error, self.sketch.activation
        pairs = ((r, a), (s, b), (a, b), (r, s))
        phases = isinstance(self.sketch, ComplexTensorSketch)
        return tuple(_entry_map(one, other, phases) for one, other in pairs)


def _entry_map(one: LinearMap, other: LinearMap, phases: bool) -> CountSketch:
    """The count-sketch of ``one x other``, by row and column of a matrix."""
    assert isinstance(one, CountSketch)
    assert isinstance(other, CountSketch)
    buckets = one.width // 2 if phases else one.width
    bucket = (one.index[:, None] % buckets + other.index % buckets) % buckets
    sign = one.sign[:, None] * other.sign
    if phases:
        turned = one.index[:, None] // buckets + other.index // buckets
        bucket = bucket + buckets * (turned % 2)
        sign = torch.where(turned == 2, -sign, sign)  # i times i
    return CountSketch(bucket.flatten().int(), sign.flatten(), one.width)
