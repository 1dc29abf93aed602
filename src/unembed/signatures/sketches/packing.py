"""Sketches of four maps, and how their real or complex features become m real numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from unembed.short_repr import ShortRepr
from unembed.signatures.sketches.sketch import LinearMap, SketchSpec


@dataclass(frozen=True)
class FourMaps(ShortRepr):
    """The maps of a ``Sketch``: r and s of the error and of the activation, and the error's r s."""

    spec: SketchSpec
    error: tuple[LinearMap, LinearMap]
    error_squared: LinearMap
    activation: tuple[LinearMap, LinearMap]


class RealSketch(FourMaps):
    """A sketch whose features are the m numbers that a map gives."""

    def factor(self, raw: Float[Tensor, "rows width"]) -> Float[Tensor, "rows features"]:
        """The numbers themselves."""
        return raw

    def pack(self, features: Float[Tensor, "rows features"]) -> Float[Tensor, "rows sketch"]:
        """The features themselves."""
        return features

    def unpack(self, packed: Float[Tensor, "rows sketch"]) -> Float[Tensor, "rows features"]:
        """The features themselves."""
        return packed


class ComplexSketch(FourMaps):
    """A sketch of m / 2 complex features."""

    def factor(self, raw: Float[Tensor, "rows width"]) -> Complex[Tensor, "rows features"]:
        """Complex numbers of real parts, the first half of a row, and imaginary ones."""
        return planar(raw)

    def pack(self, features: Complex[Tensor, "rows features"]) -> Float[Tensor, "rows sketch"]:
        """√2 times real parts, then imaginary ones: m real numbers of m / 2 complex ones.

        The √2 makes the mean over m real products that over m / 2 complex ones.
        """
        return torch.cat([features.real, features.imag], 1) * math.sqrt(2)

    def unpack(self, packed: Float[Tensor, "rows sketch"]) -> Complex[Tensor, "rows features"]:
        """The inverse of ``pack``."""
        return planar(packed / math.sqrt(2))


def planar(raw: Float[Tensor, "rows width"]) -> Complex[Tensor, "rows features"]:
    """Complex numbers of their real parts, the first half of a row, and imaginary ones."""
    half = raw.shape[1] // 2
    return torch.complex(raw[:, :half], raw[:, half:])
