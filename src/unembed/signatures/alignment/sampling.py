"""What each block of documents adds to products and norms: the jackknife, by matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from unembed.signatures.alignment.jackknife import quotient
from unembed.signatures.sums import Sums

LEAST_BLOCKS = 2


@dataclass(frozen=True)
class Deleted:
    """How products and squared norms change where a block is left out, as shares of a variance.

    ``row`` is a product's change where the row's task loses a block, ``column`` where the column's
    does, and ``both`` where both lose the same one, pairs within a block being left out throughout;
    ``row_norms`` and ``column_norms`` are those of squared norms. Sums of squares over the blocks
    are variances. The first axis are two separate halves of the features.
    """

    row: Float[np.ndarray, "halves blocks rows tasks"]
    column: Float[np.ndarray, "halves blocks rows tasks"]
    both: Float[np.ndarray, "halves blocks rows tasks"]
    row_norms: Float[np.ndarray, "halves blocks rows one"]
    column_norms: Float[np.ndarray, "halves blocks one tasks"]


@dataclass(frozen=True)
class BlockSums:
    """Sums by task and block of documents, of two separate halves of the features kept.

    ``sums[h, t, b]`` carries ``1/√width``, so that products are means over features. ``weight`` is
    the samples' of each block; a task with fewer than two blocks that hold any has NaN.
    """

    sums: Float[np.ndarray, "halves tasks blocks width"]
    weight: Float[np.ndarray, "tasks blocks"]

    @staticmethod
    def of(sums: Sequence[Sums], weights: Sequence[Float[np.ndarray, "..."]]) -> BlockSums | None:
        """Of one kind of several tasks; None where a task keeps no blocks, or others."""
        if len({one.blocks.shape for one in sums}) > 1 or not len(weights[0]):
            return None
        stacked = np.stack([one.blocks for one in sums])
        tasks, blocks, kept = stacked.shape
        parts = stacked.reshape(tasks, blocks, 2, 2, kept // 4).transpose(3, 0, 1, 2, 4)
        weight = np.stack(weights)
        few = (weight > 0).sum(1) < LEAST_BLOCKS
        return BlockSums(
            parts.reshape(2, tasks, blocks, -1) / np.sqrt(kept // 2),
            np.where(few[:, None], np.nan, weight),
        )

    def deleted(self, rows: slice) -> Deleted:
        """The changes for some tasks with all, from one set of matrix products.

        A task that loses block b loses ``θ - θ_b``, times ``(1 - w_b / w) √(G / (G - 1))`` for the
        variance of θ with G blocks of unequal weight; where blocks are equal the sum of squares is
        the jackknife's ``(G - 1) / G Σ (θ_b - θ)²``. Source: theory §10.
        """
        x, w = self.sums, self.weight
        total, whole = x.sum(2), w.sum(1)
        share = w / whole[:, None]
        count = (w > 0).sum(1)
        factor = (1 - share) * np.sqrt(count / np.maximum(count - 1, 1))[:, None]
        mine, theirs = factor[rows].T[:, :, None], factor.T[:, None, :]

        products = total[:, rows] @ total.transpose(0, 2, 1)
        pairs = whole[rows, None] * whole
        per_row = np.einsum("hibf,hjf->hbij", x[:, rows], total, optimize=True)
        per_column = np.einsum("hif,hjbf->hbij", total[:, rows], x, optimize=True)
        same = np.einsum("hibf,hjbf->hbij", x[:, rows], x, optimize=True)
        pairs_row = w[rows].T[:, :, None] * whole
        pairs_column = whole[rows, None] * w.T[:, None]
        pairs_same = w[rows].T[:, :, None] * w.T[:, None]

        plain = (products / pairs)[:, None]
        apart = (products - same.sum(1)) / (pairs - pairs_same.sum(0))
        less = products[:, None] - same.sum(1)[:, None] - per_row - per_column + 2 * same
        left = pairs - pairs_same.sum(0) - pairs_row - pairs_column + 2 * pairs_same
        norm = self._norms(factor)
        return Deleted(
            row=(quotient(products[:, None] - per_row, pairs - pairs_row) - plain) * mine,
            column=(quotient(products[:, None] - per_column, pairs - pairs_column) - plain)
            * theirs,
            both=(quotient(less, left) - apart[:, None]) * (mine + theirs) / 2,
            row_norms=norm[:, :, rows, None],
            column_norms=norm[:, :, None, :],
        )

    def _norms(
        self, factor: Float[np.ndarray, "tasks blocks"]
    ) -> Float[np.ndarray, "halves blocks tasks"]:
        """The changes of each task's squared norm, over pairs of different blocks."""
        x, w = self.sums, self.weight
        total, whole = x.sum(2), w.sum(1)
        same = np.square(x).sum(3)
        squares = np.square(total).sum(2) - same.sum(2)
        pairs = whole**2 - np.square(w).sum(1)
        each = np.einsum("htbf,htf->htb", x, total)
        less = squares[:, :, None] - 2 * each + 2 * same
        left = pairs[:, None] - 2 * w * whole[:, None] + 2 * np.square(w)
        changed = (quotient(less, left) - (squares / pairs)[:, :, None]) * factor
        return np.asarray(changed.transpose(0, 2, 1))
