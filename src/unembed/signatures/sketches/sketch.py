"""A linear sketch of head Fishers: what every construction offers, and what it is identified by.

A sample's gradient of the head is ``g = e ⊗ a``, error by activation. Two random linear maps r and
s with ``E[(r·g)(r·g')] = g·g'`` give the features ``ψ_j = (r_j·g)(s_j·g)``, whose inner products
estimate ``(g·g')²``, so that the mean of ψ over a task is a sketch of its Fisher (theory §9).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int, Shaped
from torch import Tensor

from unembed.errors import UnembedError
from unembed.short_repr import ShortRepr
from unembed.signatures.sketches.names import CONSTRUCTIONS, DEFAULT

SIDES = ("error r", "error s", "activation r", "activation s")
"""The names of a sketch's four independent streams of random numbers."""
LEAST_M = 16


@dataclass(frozen=True)
class SketchSpec(ShortRepr):
    """What decides every number of a sketch but the data: two that differ here do not compare.

    ``m`` real numbers a vector, a power of two (4,096 of float32 are 16 KiB).
    """

    vocab: int
    dim: int
    construction: str = DEFAULT
    m: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        if self.construction not in CONSTRUCTIONS:
            raise UnembedError(
                f"construction {self.construction!r} is not one of {', '.join(CONSTRUCTIONS)}"
            )
        if self.m < LEAST_M or self.m & (self.m - 1):
            raise UnembedError(
                f"a sketch of {self.m} numbers (--size, m in Python): give a power of two from "
                f"{LEAST_M} up, such as 4096"
            )
        if not 0 <= self.seed < 1 << 63:
            raise UnembedError(f"seed {self.seed} must be a whole number from 0 to 2^63 - 1")
        if self.vocab < 2 or self.dim < 1:
            raise UnembedError(f"a head of {self.vocab} rows and width {self.dim} has no sketch")


@runtime_checkable
class LinearMap(Protocol):
    """A fixed random linear map, ``x -> S x``, taken block by block of the columns of S.

    A complex result holds real and imaginary parts in whatever order the construction likes, which
    its ``factor`` undoes.
    """

    @property
    def width(self) -> int:
        """Float32 numbers a row that come out."""
        ...

    def add(
        self, block: Float[Tensor, "rows columns"], start: int, into: Float[Tensor, "rows width"]
    ) -> None:
        """``into += block @ S[:, start : start + columns].T``, in place.

        Blocks begin at multiples of 512 and may reach past the last column of S, where they are 0.
        """
        ...

    def columns(self, ids: Int[Tensor, " rows"]) -> Float[Tensor, "rows width"]:
        """``S[:, ids].T``: what a unit vector at each id is mapped to."""
        ...


@runtime_checkable
class Sketch(Protocol):
    """One construction for one head, its random numbers drawn: a function of the spec alone."""

    @property
    def spec(self) -> SketchSpec:
        """What decides all of its numbers."""
        ...

    @property
    def error(self) -> tuple[LinearMap, LinearMap]:
        """The maps r and s on the vocabulary."""
        ...

    @property
    def error_squared(self) -> LinearMap:
        """The map with columns ``r_k s_k`` in the sense of ``factor``: for the one-hot vector of k,
        ``factor(error_squared.columns(k)) == factor(r.columns(k)) * factor(s.columns(k))``.
        """
        ...

    @property
    def activation(self) -> tuple[LinearMap, LinearMap]:
        """The maps r and s on the hidden state."""
        ...

    def factor(self, raw: Float[Tensor, "rows width"]) -> Shaped[Tensor, "rows features"]:
        """Features (real or complex) of what a map gave, to be multiplied with other factors.

        ``ψ = factor(r e) factor(s e) factor(r' a) factor(s' a)``, feature by feature.
        """
        ...

    def pack(self, features: Shaped[Tensor, "rows features"]) -> Float[Tensor, "rows sketch"]:
        """Features as ``m`` real numbers, such that ``pack(ψ) · pack(ψ') / m`` is the estimate."""
        ...

    def unpack(self, packed: Float[Tensor, "rows sketch"]) -> Shaped[Tensor, "rows features"]:
        """What was packed, so that packed vectors can be multiplied feature by feature."""
        ...
