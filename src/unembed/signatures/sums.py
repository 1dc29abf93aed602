"""Sums of packed features over the samples of a task, which is all that is kept of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt64
from torch import Tensor

from unembed.short_repr import ShortRepr
from unembed.signatures.documents import FOLDS, Documents

KEPT = 256
HASHES = 64
ROWS = 64
WIDE_ROWS = 1024
"""Rows that are widened to float64 at a time on CPU, where they stay in the cache, and elsewhere;
changes memory, and rounding in the last digit."""


@dataclass(frozen=True)
class Sums(ShortRepr):
    """Of one kind of feature: ``Σ w ψ`` of each fold, and what its errors are estimated from.

    ``own`` holds ``Σ_d ‖Ψ_d‖² / m`` with ``Ψ_d = Σ w ψ`` over the samples of document d: the pairs
    of samples of one document, those of a sample with itself among them. ``blocks`` holds ``Σ w ψ``
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
        rows: Float[Tensor, "rows sketch"], documents: Documents, blocks: int
    ) -> tuple[Sums, Float[np.ndarray, "open sketch"]]:
        """Of some samples, and ``Ψ_d`` of the documents that are open, which ``own`` lacks."""
        m, device = rows.shape[1], rows.device
        total, own, by_block, held = (
            torch.zeros(shape, dtype=torch.float64, device=device)
            for shape in (
                (FOLDS, m),
                (FOLDS,),
                (blocks, min(KEPT, m)),
                (int(documents.open.sum()), m),
            )
        )
        begun: Float[Tensor, " sketch"] | None = None
        step = ROWS if device.type == "cpu" else WIDE_ROWS
        filled = 0
        for start in range(0, len(rows), step):
            number = documents.number[start : start + step]
            order = torch.from_numpy(documents.order[start : start + step])
            wide = rows[order.to(device)].double()
            first, last = int(number[0]), int(number[-1])
            if last - first + 1 < len(number):
                wide = _marks(number - first, last - first + 1, device) @ wide
            if begun is not None:
                wide[0] += begun
            begun = None
            if documents.goes_on(start + step):
                wide, begun, last = wide[:-1], wide[-1], last - 1
            span = slice(first, last + 1)
            fold = _marks(documents.folds[span], FOLDS, device)
            open_here = np.flatnonzero(documents.open[span])
            closed = torch.from_numpy(~documents.open[span]).to(device)
            total += fold @ wide
            own += fold @ (torch.linalg.vecdot(wide, wide) * closed)
            by_block += _marks(documents.blocks(blocks)[span], blocks, device) @ kept(wide)
            held[filled : filled + len(open_here)] = wide[torch.from_numpy(open_here).to(device)]
            filled += len(open_here)
        sums = Sums(*(x.cpu().numpy() for x in (total, own / m, by_block)))
        return sums, held.cpu().numpy()

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


def _marks(
    ids: Int[np.ndarray, " rows"], count: int, device: torch.device
) -> Float[Tensor, "count rows"]:
    """1 where a row has an id, by id and row."""
    every = torch.arange(count, device=device)
    return (every[:, None] == torch.from_numpy(ids).to(device)).double()
