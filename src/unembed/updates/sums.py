"""Sums of packed features over the samples of a task, which is all that is kept of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt64
from torch import Tensor

FOLDS = 2
KEPT = 256
HASHES = 64
ROWS = 64
WIDE_ROWS = 4096
"""Rows that are widened to float64 at a time on CPU, where they stay in the cache (a twentieth of
the time of 1,024), and elsewhere; changes memory, and rounding in the last digit."""


@dataclass(frozen=True)
class Sums:
    """Of one kind of feature: ``Σ w ψ`` of each fold, and what its errors are estimated from.

    ``own`` holds ``Σ w² ‖ψ‖² / m``, the pairs of a sample with itself. ``blocks`` holds ``Σ w ψ``
    of each block of documents, of a part of the m numbers (``kept``); it has no rows where none
    were asked for. Weights w are 1 unless a signature was scaled.
    """

    total: Float[np.ndarray, "folds sketch"]
    own: Float[np.ndarray, " folds"]
    blocks: Float[np.ndarray, "blocks kept"]

    @staticmethod
    def zero(m: int, blocks: int) -> Sums:
        """Of no samples."""
        kept = min(KEPT, m)
        return Sums(np.zeros((FOLDS, m)), np.zeros(FOLDS), np.zeros((blocks, kept)))

    @staticmethod
    def of(
        rows: Float[Tensor, "rows sketch"],
        folds: Int[Tensor, "rows"],
        blocks: Int[Tensor, "rows"],
        count: int,
    ) -> Sums:
        """Of some samples, given the fold and the block of each; ``count`` is that of blocks."""
        m = rows.shape[1]
        fold, block = _marks(folds, FOLDS), _marks(blocks, count)
        total, own = fold.new_zeros(FOLDS, m), fold.new_zeros(FOLDS)
        by_block = fold.new_zeros(count, min(KEPT, m))
        step = ROWS if rows.device.type == "cpu" else WIDE_ROWS
        for start in range(0, len(rows), step):
            span = slice(start, start + step)
            wide = rows[span].double()
            total += fold[:, span] @ wide
            own += fold[:, span] @ torch.linalg.vecdot(wide, wide)
            by_block += block[:, span] @ kept(wide)
        return Sums(*(x.cpu().numpy() for x in (total, own / m, by_block)))

    def __add__(self, other: Sums) -> Sums:
        """The sums over the samples of both."""
        return Sums(self.total + other.total, self.own + other.own, self.blocks + other.blocks)

    def __sub__(self, other: Sums) -> Sums:
        """The sums without the samples of the other."""
        return Sums(self.total - other.total, self.own - other.own, self.blocks - other.blocks)

    def scaled(self, weight: float) -> Sums:
        """The sums with every sample's weight multiplied."""
        return Sums(self.total * weight, self.own * weight**2, self.blocks * weight)


def kept(packed: Float[Tensor, "rows sketch"]) -> Float[Tensor, "rows kept"]:
    """The part of the m numbers that blocks are kept of: the first features, whole.

    Number j and number ``j + m / 2`` are parts of one feature, in every construction.
    """
    half, width = packed.shape[1] // 2, min(KEPT, packed.shape[1]) // 2
    return torch.cat([packed[:, :width], packed[:, half : half + width]], 1)


def lowest(hashes: UInt64[np.ndarray, " hashes"]) -> UInt64[np.ndarray, " lowest"]:
    """The 64 smallest of some hashes, each once, ascending: a MinHash of the set."""
    return np.unique(hashes)[:HASHES]


def _marks(ids: Int[Tensor, "rows"], count: int) -> Float[Tensor, "count rows"]:
    """1 where a row has an id, by id and row."""
    every = torch.arange(count, device=ids.device)
    return (every[:, None] == ids).double()
