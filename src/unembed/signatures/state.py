"""What is kept of a task's samples while they stream by: sums by fold and by block of documents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, UInt64
from torch import Tensor

from unembed.errors import UnembedError
from unembed.short_repr import ShortRepr
from unembed.signatures.documents import FOLDS
from unembed.signatures.sums import KEPT, Sums, lowest

DOCUMENT_BLOCKS = 32
SUMMED = ("joint", "activation", "error", "first")
"""The kinds of features that a state may hold sums of."""
WEIGHTS = ("weight", "weight_squared", "document_weight_squared", "block_weight")
"""What a state holds of its samples' weights, by fold or block."""


@dataclass(frozen=True)
class Features(ShortRepr):
    """Packed features of some samples: each row's m numbers, whose products carry 1/m (theory §9).

    ``joint`` sketches ``g gᵀ``, ``activation`` ``a aᵀ``, ``error`` ``e eᵀ``. ``first`` sketches g
    itself: its products estimate ``g·g'``. ``squared_norm`` is ``‖g‖²``, for the trace; where it is
    left out, the trace is taken from ``first``.
    """

    joint: Float[Tensor, "rows sketch"]
    activation: Float[Tensor, "rows sketch"]
    error: Float[Tensor, "rows sketch"]
    first: Float[Tensor, "rows sketch"] | None = None
    squared_norm: Float[Tensor, " rows"] | None = None


@dataclass(frozen=True)
class State(ShortRepr):
    """All that is kept of a task's samples: sums by fold and by block of documents.

    ``weight`` is ``Σ w`` of each fold and ``weight_squared`` ``Σ w²`` (both the number of samples,
    unless scaled), ``document_weight_squared`` ``Σ_d (Σ w)²`` over the samples of document d, and
    ``block_weight`` ``Σ w`` of each block. A sample's fold is the lowest bit of its
    document's hash and its block the next bits, so that tasks which share documents share both.
    ``trace`` is ``Σ w ‖g‖²``. ``documents`` counts them; ``hashes`` are the 64 smallest of theirs,
    which tell whether two tasks share inputs. A state read from a compact file has one fold, and
    may lack kinds. The sums of three kinds by fold take 192 KiB at m = 4096.
    Raises ValueError where shapes do not fit or numbers are not finite.
    """

    joint: Sums
    activation: Sums | None
    error: Sums | None
    first: Sums | None
    weight: Float[np.ndarray, " folds"]
    weight_squared: Float[np.ndarray, " folds"]
    document_weight_squared: Float[np.ndarray, " folds"]
    block_weight: Float[np.ndarray, " blocks"]
    trace: float | None
    documents: int
    hashes: UInt64[np.ndarray, " hashes"]

    def __post_init__(self) -> None:
        folds, m = self.joint.total.shape
        blocks = len(self.block_weight)
        for name, length in zip(WEIGHTS, (folds, folds, folds, blocks), strict=True):
            _check(getattr(self, name), length)
        for name in SUMMED:
            sums = self.sums(name)
            if sums is not None:
                _check(sums.total, folds, m)
                _check(sums.own, folds)
                _check(sums.blocks, blocks, min(KEPT, m))
        if self.trace is not None and not np.isfinite(self.trace):
            raise ValueError("the trace is not finite")

    def sums(self, name: str) -> Sums | None:
        """The sums of one kind, one of ``SUMMED``; None where it was not kept."""
        found: Sums | None = getattr(self, name)
        return found

    @property
    def samples(self) -> float:
        """The number of samples; of weighted ones the effective number ``(Σw)² / Σw²``."""
        squared = float(self.weight_squared.sum())
        return float(self.weight.sum()) ** 2 / squared if squared else 0.0

    def mean(self, name: str) -> Float[np.ndarray, " sketch"] | None:
        """The mean feature of one kind over both folds: the signature proper, 16 KiB of float32.

        None where the kind was not kept. Raises UnembedError where there are no samples.
        """
        sums = self.sums(name)
        if sums is None:
            return None
        if not self.weight.sum() > 0:
            raise UnembedError("0 samples have no mean: sketch a text, or subtract less of it")
        mean: Float[np.ndarray, " sketch"] = sums.total.sum(0) / self.weight.sum()
        return mean

    def __add__(self, other: State) -> State:
        """The state of the samples of both; what one of them lacks, the sum lacks.

        A document in both counts as two, the pairs between which are not left out of norms.
        """
        return State(
            **self._each(other, Sums.__add__),
            weight=self.weight + other.weight,
            weight_squared=self.weight_squared + other.weight_squared,
            document_weight_squared=self.document_weight_squared + other.document_weight_squared,
            block_weight=self.block_weight + other.block_weight,
            trace=None if self.trace is None or other.trace is None else self.trace + other.trace,
            documents=self.documents + other.documents,
            hashes=lowest(np.concatenate([self.hashes, other.hashes])),
        )

    def __sub__(self, other: State) -> State:
        """The state without the other's samples, whole documents, which must be among these.

        The hashes left are the smallest of the documents left, though fewer than 64 of them.
        Raises UnembedError where the other holds more.
        """
        documents = self.documents - other.documents
        # Weights of 1 leave whole numbers; others leave rounding, which is no sample.
        weights: dict[str, Any] = {}
        for name in WEIGHTS:
            ours, theirs = getattr(self, name), getattr(other, name)
            left = ours - theirs
            weights[name] = np.where(np.abs(left) <= 1e-9 * ours.sum(), 0.0, left)
        if documents < 0 or any((left < 0).any() for left in weights.values()):
            raise UnembedError(
                f"{other.samples:g} samples of {other.documents} documents cannot be taken from "
                f"{self.samples:g} of {self.documents}: subtract only what was merged before"
            )
        return State(
            **self._each(other, Sums.__sub__),
            **weights,
            trace=None if self.trace is None or other.trace is None else self.trace - other.trace,
            documents=documents,
            hashes=np.setdiff1d(self.hashes, other.hashes),
        )

    def scaled(self, weight: float) -> State:
        """The state with every sample's weight multiplied."""
        kinds: dict[str, Any] = {
            name: None if (sums := self.sums(name)) is None else sums.scaled(weight)
            for name in SUMMED
        }
        return replace(
            self,
            **kinds,
            weight=self.weight * weight,
            weight_squared=self.weight_squared * weight**2,
            document_weight_squared=self.document_weight_squared * weight**2,
            block_weight=self.block_weight * weight,
            trace=None if self.trace is None else self.trace * weight,
        )

    def _each(self, other: State, join: Callable[[Sums, Sums], Sums]) -> dict[str, Any]:
        """Both's sums joined, by kind; None where one lacks the kind."""
        pairs = {name: (self.sums(name), other.sums(name)) for name in SUMMED}
        return {
            name: None if a is None or b is None else join(a, b) for name, (a, b) in pairs.items()
        }


def empty(m: int, *, first: bool = False, blocks: int = DOCUMENT_BLOCKS) -> State:
    """The state of a task without samples; ``blocks`` 0 leaves sampling errors out.

    Raises UnembedError where ``blocks`` is no power of two.
    """
    if blocks < 0 or blocks & (blocks - 1):
        raise UnembedError(f"blocks is {blocks}: give a power of two, such as 32, or 0 for none")
    zero = Sums.zero(m, blocks)
    return State(
        joint=zero,
        activation=zero,
        error=zero,
        first=zero if first else None,
        weight=np.zeros(FOLDS),
        weight_squared=np.zeros(FOLDS),
        document_weight_squared=np.zeros(FOLDS),
        block_weight=np.zeros(blocks),
        trace=0.0,
        documents=0,
        hashes=np.zeros(0, dtype=np.uint64),
    )


def _check(array: Float[np.ndarray, "..."], *shape: int) -> None:
    if array.shape != shape:
        raise ValueError(f"sums of shape {array.shape}, not {shape}")
    if not np.isfinite(array).all():
        raise ValueError("a sum is not finite")
