"""Quantiles of every resample of the documents, many samples at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from unembed.stats.bootstrap import RESAMPLES, interval, resample_weights
from unembed.stats.estimate import Estimate
from unembed.stats.quantiles import COUNTS_ELEMENTS, interpolate

LADDER_STEPS = 24
"""Blocks in which to look for a quantile of a resample; changes time, never a result."""

LOOK_UP_ELEMENTS = 1 << 20
"""Weights gathered at a time, 8 MiB of float64; changes memory, never a result."""


@dataclass(frozen=True)
class Sample:
    """Values with the number of each one's document, and the levels of the quantiles asked for."""

    values: Float[np.ndarray, " n"]
    inverse: Int[np.ndarray, " n"]
    levels: tuple[float, ...]


def quantile_estimates(
    values: Float[np.ndarray, " positions"],
    inverse: Int[np.ndarray, " positions"],
    documents: int,
    levels: Sequence[float],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[Estimate, ...]:
    """Estimate quantiles, each with its document-bootstrap interval (theory §2, §4).

    ``np.quantile(values, levels)`` in float64, in the unit of the values, which must be finite.
    ``inverse`` numbers the documents from 0 as ``bootstrap.cluster`` does.
    """
    if values.size == 0:
        return tuple(Estimate(None, reason="no position to take a quantile of") for _ in levels)
    at = np.asarray(levels, dtype=np.float64)
    found = np.quantile(values.astype(np.float64), at)
    draws = np.full((0, len(at)), np.nan)
    if documents >= 2:
        sample = Sample(values, inverse, tuple(levels))
        [draws] = quantile_draws([sample], documents, resamples=resamples, seed=seed)
    return tuple(
        Estimate(
            float(found[i]),
            *interval(draws[:, i], documents),
            n=values.size,
            documents=documents,
        )
        for i in range(len(at))
    )


def quantile_draws(
    samples: Sequence[Sample], documents: int, *, resamples: int = RESAMPLES, seed: int = 0
) -> list[Float[np.ndarray, "resamples k"]]:
    """Quantiles of every resample of the documents, NaN where it holds no value.

    The draws of ``quantiles.resampled_quantiles`` on the resamples of ``resample_weights``, to the
    last bit, for many samples in one pass: values are counted by document in blocks that are narrow
    only where a quantile of a resample is likely to lie, and all the resamples of a chunk are
    looked up at once. A quantile outside of those blocks is found in a wider one.
    """
    ladders = [_ladder(sample, documents) for sample in samples]
    draws = [np.full((resamples, len(sample.levels)), np.nan) for sample in samples]
    start = 0
    for weights in resample_weights(documents, resamples=resamples, seed=seed):
        rows = np.arange(start, start + len(weights))
        start += len(weights)
        padded = np.concatenate([weights, np.zeros((len(weights), 1))], axis=1)
        single = weights.astype(np.float32)
        for sample, ladder, out in zip(samples, ladders, draws, strict=True):
            # Sums of whole numbers that the dtype holds: exact in any order of summation.
            drawn = (single if ladder.counts.dtype == np.float32 else weights) @ ladder.counts
            cumulative = np.zeros((len(weights), len(ladder.edges)))
            np.cumsum(drawn, axis=1, out=cumulative[:, 1:])
            some = np.flatnonzero(cumulative[:, -1] > 0)
            last = cumulative[some, -1] - 1
            for k, level in enumerate(sample.levels):
                position = last * level
                whole = np.floor(position)
                ends = ladder.at_ranks(padded, cumulative, some, whole, np.minimum(whole + 1, last))
                out[rows[some], k] = interpolate(*ends, position - whole)
    return draws


@dataclass(frozen=True)
class _Ladder:
    """Sorted values cut at ``edges``; ``counts[d, b]`` is how many of document d lie in block b.

    ``owners`` is the document of each sorted value, padded with the number ``documents``, which
    every resample weighs 0.
    """

    values: Float[np.ndarray, " n"]
    owners: Int[np.ndarray, " padded"]
    edges: Int[np.ndarray, " blocks_1"]
    counts: Float[np.ndarray, "documents blocks"]

    def at_ranks(
        self,
        weights: Float[np.ndarray, "resamples documents_1"],
        cumulative: Float[np.ndarray, "resamples blocks_1"],
        rows: Int[np.ndarray, " rows"],
        lower: Float[np.ndarray, " rows"],
        upper: Float[np.ndarray, " rows"],
    ) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
        """Two order statistics, a rank and the same or the next, of the resamples in ``rows``."""
        at = cumulative[rows]
        block = (at <= lower[:, None]).sum(axis=1) - 1
        before, ahead = (at[np.arange(len(rows)), block + step] for step in (0, 1))
        width = np.diff(self.edges)[block]
        found, following = np.empty(len(rows)), np.empty(len(rows))
        order = np.argsort(width, kind="stable")
        done = 0
        while done < len(order):
            cost = np.arange(1, len(order) - done + 1) * width[order[done:]]
            fits = max(1, int(np.searchsorted(cost, LOOK_UP_ELEMENTS, side="right")))
            some = order[done : done + fits]
            done += fits
            first = self.edges[block[some]]
            reach = first[:, None] + np.arange(width[some[-1]])
            inside = np.cumsum(weights[rows[some, None], self.owners[reach]], axis=1)
            for ranks, into in ((lower, found), (upper, following)):
                left = (ranks - before)[some]
                offset = np.minimum((inside <= left[:, None]).sum(axis=1), width[some] - 1)
                into[some] = self.values[first + offset]
        beyond = np.flatnonzero(upper >= ahead)
        if beyond.size:
            again = upper[beyond]
            following[beyond] = self.at_ranks(weights, cumulative, rows[beyond], again, again)[0]
        return found, following


def _ladder(sample: Sample, documents: int) -> _Ladder:
    n = sample.values.size
    order = np.argsort(sample.values, kind="stable")
    owners = sample.inverse[order]
    size = np.bincount(owners, minlength=documents)
    steps = int(np.clip(COUNTS_ELEMENTS // documents // (len(sample.levels) + 1), 1, LADDER_STEPS))
    edges = [np.linspace(0, n, steps // 4 + 2)]
    for level in sample.levels:
        middle = level * n
        below = np.bincount(owners[: int(middle)], minlength=documents)
        # Standard error of how many values of a resample lie below the quantile.
        error = math.sqrt(float(((below - level * size) ** 2).sum()))
        edges.append(middle + error * np.linspace(-3.5, 3.5, steps + 1))
    cut = np.unique(np.clip(np.rint(np.concatenate(edges)), 0, n).astype(np.intp))
    if cut.size == 1:
        cut = np.array([0, 0])
    width = np.diff(cut)
    cell = owners * len(width) + np.repeat(np.arange(len(width)), width)
    counts = np.bincount(cell, minlength=documents * len(width)).reshape(documents, len(width))
    exact = np.float32 if documents * int(size.max(initial=0)) < 1 << 24 else np.float64
    return _Ladder(
        values=sample.values[order].astype(np.float64),
        owners=np.concatenate([owners, np.full(int(width.max()), documents, dtype=np.intp)]),
        edges=cut,
        counts=counts.astype(exact),
    )
