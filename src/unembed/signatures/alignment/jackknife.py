"""Cosines from sums of kernels over blocks of documents, and their errors by deleting blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

QUANTITIES = ("joint", "activation", "error", "first_moment")
"""The kernels that are summed; proxy and coupling follow from their cosines."""


@dataclass(frozen=True)
class BlockPairs:
    """Sums of kernels over the pairs of samples of two blocks, each block one of a task's.

    ``sums[q, t, b, u, c]`` is the sum of quantity q over the pairs of block b of task t with block
    c of task u, ``pairs`` their number, ``slack`` how far each sum may be from that of whole
    errors (0 but for truncated ones), ``samples`` the samples of each block.
    """

    sums: Float[np.ndarray, "quantities tasks blocks tasks blocks"]
    slack: Float[np.ndarray, "quantities tasks blocks tasks blocks"] | None
    pairs: Float[np.ndarray, "tasks blocks tasks blocks"]
    samples: Int[np.ndarray, "tasks blocks"]

    @property
    def means(self) -> Float[np.ndarray, "quantities tasks tasks"]:
        """The mean of each kernel over the pairs of two tasks, NaN where there are none."""
        return quotient(self.sums.sum((2, 4)), self.pairs.sum((1, 3)))

    @property
    def mean_slack(self) -> Float[np.ndarray, "quantities tasks tasks"] | None:
        """How far the means may be from those of whole errors."""
        if self.slack is None:
            return None
        return quotient(self.slack.sum((2, 4)), self.pairs.sum((1, 3)))


def cosines(
    products: Float[np.ndarray, "quantities *batch tasks tasks"],
    rows: Float[np.ndarray, "quantities *batch tasks"],
    columns: Float[np.ndarray, "quantities *batch tasks"],
) -> Float[np.ndarray, "kinds *batch tasks tasks"]:
    """Every kind of alignment, in the order of ``alignments.KINDS``, from means of kernels.

    ``product / sqrt(row's squared norm * column's squared norm)``; proxy is activation times error,
    coupling joint over proxy. NaN where a squared norm is not positive: nothing is clipped.
    """
    row, column = (np.sqrt(np.where(x > 0, x, np.nan)) for x in (rows, columns))
    joint, activation, error, first = products / (row[..., :, None] * column[..., None, :])
    proxy = activation * error
    return np.stack([joint, activation, error, proxy, quotient(joint, proxy), first])


def standard_errors(
    cells: BlockPairs, kin: Bool[np.ndarray, "tasks tasks"]
) -> Float[np.ndarray, "kinds tasks tasks"]:
    """Delete-one-block jackknife standard errors of ``cosines``, over G blocks of documents.

    ``SE² = (G - 1)/G Σ_b (θ_b - mean θ)²``, θ_b without block b. Tasks that are kin (they share
    documents) lose a block together; of others, each loses its own, and the two variances add.
    Blocks with no samples are not counted. NaN where G < 2, or where a deletion leaves nothing to
    measure. The cost is that of the cells alone, whatever the number of samples.
    Source: theory §10.
    """
    sums = np.concatenate([cells.sums, cells.pairs[None]])
    total = sums.sum((2, 4))[:, None]
    lost = sums.sum(4).transpose(0, 2, 1, 3)
    inner = np.einsum("qtbub->qbtu", sums)
    without = _mean(total - lost - lost.swapaxes(2, 3) + inner)
    less, whole = _norms(without), _norms(_mean(total))
    held = cells.samples.T > 0
    both = held[:, :, None] | held[:, None, :]
    together = _variance(cosines(without, less, less), both)
    apart = cosines(_mean(total - lost), less, np.broadcast_to(whole, less.shape))
    own = _variance(apart, np.broadcast_to(held[:, :, None], both.shape))
    return np.asarray(np.sqrt(np.where(kin, together, own + own.swapaxes(1, 2))))


def _variance(
    deleted: Float[np.ndarray, "kinds blocks tasks tasks"],
    counted: Bool[np.ndarray, "blocks tasks tasks"],
) -> Float[np.ndarray, "kinds tasks tasks"]:
    groups = counted.sum(0).astype(float)
    center = quotient(np.where(counted, deleted, 0.0).sum(1), groups)
    off = np.where(counted, deleted - center[:, None], 0.0)
    scale = np.where(groups > 1, (groups - 1) / np.maximum(groups, 1), np.nan)
    return np.asarray(scale * np.square(off).sum(1))


def _mean(
    sums: Float[np.ndarray, "quantities_and_pairs *batch tasks tasks"],
) -> Float[np.ndarray, "quantities *batch tasks tasks"]:
    return quotient(sums[:-1], sums[-1])


def _norms(
    means: Float[np.ndarray, "quantities *batch tasks tasks"],
) -> Float[np.ndarray, "quantities *batch tasks"]:
    return np.asarray(np.einsum("...tt->...t", means))


def quotient(
    over: Float[np.ndarray, "*shape"], under: Float[np.ndarray, "*lower"]
) -> Float[np.ndarray, "*shape"]:
    """A quotient, NaN where the denominator is 0."""
    return np.asarray(over / np.where(under == 0, np.nan, under))
