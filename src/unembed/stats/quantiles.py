"""Quantiles and shares-below of resampled documents, from values sorted once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from unembed.stats.bootstrap import RESAMPLES, resample_weights

COUNTS_ELEMENTS = 4 << 20
"""Largest table of per-document block counts, 32 MiB of float64."""


@dataclass(frozen=True)
class SortedSample:
    """Values in ascending order, cut into blocks of equal width, with each position's document.

    ``blocks[k, i]`` is the document of sorted position ``k * width + i``; the last block is padded
    with the number ``documents``, which every resample weighs 0. ``counts[d, k]`` is how many
    positions of document d lie in block k; a last column counts those above all values, if some
    were left out.
    """

    values: Float[np.ndarray, " positions"]
    blocks: Int[np.ndarray, "blocks width"]
    counts: Float[np.ndarray, "documents counted"]

    @property
    def documents(self) -> int:
        """Number of documents."""
        return len(self.counts)


@dataclass(frozen=True)
class Resample:
    """One resample of the documents of a ``SortedSample``.

    ``weights`` is how often each document was drawn, with a final 0 for the padding;
    ``cumulative[k]`` is how many resampled positions lie before block k, and its last entry is how
    many there are.
    """

    weights: Float[np.ndarray, " documents_1"]
    cumulative: Float[np.ndarray, " counted_1"]


def sort_sample(
    values: Float[np.ndarray, " positions"],
    inverse: Int[np.ndarray, " positions"],
    documents: int,
    *,
    blocks: int | None = None,
    above: Float[np.ndarray, " documents"] | None = None,
) -> SortedSample:
    """Sort finite values once, so that each resample costs a fraction of a pass over them.

    ``inverse`` numbers the documents from 0 as ``bootstrap.cluster`` does. More ``blocks`` make a
    look-up shorter and the table of counts wider; the default balances the two. They never change
    a result. ``above`` counts by document what lies above the values and is not looked for.
    """
    n = values.size
    order = np.argsort(values, kind="stable")
    if blocks is None:
        # A resample costs documents * blocks multiply-adds and some 40 look-ups of n / blocks.
        balanced = math.sqrt(800 * n / documents)
        blocks = int(max(1, min(balanced, COUNTS_ELEMENTS / documents, n)))
    width = -(-n // blocks)
    blocks = -(-n // width)
    owners = np.full(blocks * width, documents, dtype=np.int32)
    owners[:n] = inverse[order]
    counts = np.zeros((documents, blocks + (above is not None)))
    if above is not None:
        counts[:, -1] = above
    for k in range(blocks):
        inside = owners[k * width : min((k + 1) * width, n)]
        counts[:, k] = np.bincount(inside, minlength=documents)
    return SortedSample(values[order].astype(np.float64), owners.reshape(blocks, width), counts)


def resample(
    sample: SortedSample, *, resamples: int = RESAMPLES, seed: int = 0
) -> Iterator[Resample]:
    """Yield the resamples of a sorted sample, the same ones as ``bootstrap.resample_weights``."""
    documents, blocks = sample.counts.shape
    for weights in resample_weights(documents, resamples=resamples, seed=seed):
        # Sums of whole numbers below 2**53: the product is exact in any order of summation.
        totals = weights @ sample.counts
        cumulative = np.zeros((len(weights), blocks + 1))
        np.cumsum(totals, axis=1, out=cumulative[:, 1:])
        padded = np.zeros((len(weights), documents + 1))
        padded[:, :documents] = weights
        for row in range(len(weights)):
            yield Resample(padded[row], cumulative[row])


def value_at_rank(
    sample: SortedSample, drawn: Resample, ranks: Float[np.ndarray, " k"]
) -> Float[np.ndarray, " k"]:
    """Order statistics of one resample; rank 0 is its smallest value.

    Naive equivalent: ``np.repeat(values, weights[document])[ranks]``, values sorted.
    Ranks must lie in ``[0, drawn.cumulative[-1])``.
    """
    block = np.searchsorted(drawn.cumulative, ranks, side="right") - 1
    inside = np.cumsum(drawn.weights[sample.blocks[block]], axis=1)
    offset = (inside <= (ranks - drawn.cumulative[block])[:, None]).sum(axis=1)
    found: Float[np.ndarray, " k"] = sample.values[block * sample.blocks.shape[1] + offset]
    return found


def weight_before(
    sample: SortedSample, drawn: Resample, index: Int[np.ndarray, " k"]
) -> Float[np.ndarray, " k"]:
    """How many positions of one resample come before each sorted ``index`` of the sample.

    Naive equivalent: ``weights[document][:index].sum()``, documents in order of their values. With
    ``index = np.searchsorted(values, epsilon)`` it counts resampled values below epsilon.
    """
    width = sample.blocks.shape[1]
    block = np.minimum(index // width, len(sample.blocks) - 1)
    inside = np.cumsum(drawn.weights[sample.blocks[block]], axis=1)
    last = index - block * width - 1
    partial = np.take_along_axis(inside, np.maximum(last, 0)[:, None], axis=1)[:, 0]
    before: Float[np.ndarray, " k"] = drawn.cumulative[block] + np.where(last < 0, 0.0, partial)
    return before


def interpolate(
    lower: Float[np.ndarray, " k"], upper: Float[np.ndarray, " k"], t: Float[np.ndarray, " k"]
) -> Float[np.ndarray, " k"]:
    """Linear interpolation as ``np.quantile`` rounds it, from whichever end is nearer."""
    step = upper - lower
    between: Float[np.ndarray, " k"] = np.where(t < 0.5, lower + step * t, upper - step * (1 - t))
    return between


def resampled_quantiles(
    sample: SortedSample,
    drawn: Resample,
    levels: Float[np.ndarray, " k"],
    skip: Float[np.ndarray, " k"] | float = 0.0,
) -> Float[np.ndarray, " k"]:
    """Quantiles of one resample, ``np.quantile``'s default linear interpolation.

    ``skip`` leaves out that many of the smallest resampled values before each quantile is taken
    (the zeros, for a quantile of the positive values). A resample that is skipped whole gives NaN.
    """
    total = drawn.cumulative[-1]
    size = np.broadcast_to(total - skip, levels.shape)
    position = np.maximum(size - 1, 0) * levels
    whole = np.floor(position)
    first = np.minimum(skip + whole, total - 1)
    second = np.minimum(first + 1, total - 1)
    found = value_at_rank(sample, drawn, np.concatenate([first, second]))
    k = len(levels)
    return np.where(size > 0, interpolate(found[:k], found[k:], position - whole), np.nan)
