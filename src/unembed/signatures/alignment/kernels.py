"""Inner products of gradients, errors and states between all samples, some rows at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unembed.head.head import Head
from unembed.signatures.alignment.grams import (
    BlocksOf,
    TopkErrors,
    error_blocks,
    fisher_gram,
    gram,
    logsumexp,
    probability_blocks,
    topk_errors,
)
from unembed.signatures.samples import Pool
from unembed.signatures.signature import Fisher

BAND = 1 << 26


@dataclass(frozen=True)
class Errors:
    """Errors by blocks of columns (probabilities, for the true Fisher), and what goes with them.

    ``kept`` where they are truncated; ``spread`` is ``1 - Σ p²``, the trace of ``F(p)``.
    """

    blocks: BlocksOf
    kept: TopkErrors | None
    spread: Float[Tensor, " positions"] | None

    def gram(self, rows: slice) -> Float[Tensor, "rows positions"]:
        """Inner products of errors, or of the true Fishers of the logits."""
        return (gram if self.spread is None else fisher_gram)(self.blocks, rows)

    @staticmethod
    def of(pool: Pool, head: Head, fisher: Fisher, top_k: int | None, columns: int) -> Errors:
        """Those of pooled samples, so many columns at a time; ``top_k`` entries of each, or all."""
        if top_k is not None:
            kept = topk_errors(pool.hidden, pool.targets, head, top_k, columns)
            return Errors(partial(kept.blocks, columns), kept, None)
        total = logsumexp(pool.hidden, head, columns)
        if fisher == "empirical":
            whole = partial(error_blocks, pool.hidden, pool.targets, head, total, columns)
            return Errors(whole, None, None)
        drawn = partial(probability_blocks, pool.hidden, head, total, columns)
        spread = torch.ones_like(total)
        for p in drawn():
            spread -= p.square_().sum(1)
        return Errors(drawn, None, spread)


@dataclass(frozen=True)
class Kernels:
    """The kernels of some samples with all: values, slack, and each sample's own ``‖g‖²``."""

    values: Float[np.ndarray, "quantities rows samples"]
    slack: Float[np.ndarray, "quantities rows samples"] | None
    trace: Float[np.ndarray, " rows"]

    @staticmethod
    def of(
        hidden: Float[Tensor, "positions dim"],
        errors: Errors,
        e: Float[Tensor, "strip positions"],
        span: slice,
        first: Int[np.ndarray, " samples"],
    ) -> Kernels:
        """Of the samples in a span of positions, from its rows of the errors' Gram matrix.

        Each sample begins at its ``first`` position.
        """
        rows = slice(*np.searchsorted(first, [span.start, span.stop]))
        own = np.arange(rows.start, rows.stop)

        def summed(kernel: Tensor) -> Float[np.ndarray, "rows samples"]:
            values: np.ndarray = kernel.cpu().numpy()
            if len(first) == len(hidden):
                return values
            return run_sums(values, first[rows] - span.start, first)

        a = hidden[span] @ hidden.T
        if errors.spread is not None:
            joint, x, y = summed(a.square() * e), summed(a.square()), summed(e)
            each = (hidden[span].square().sum(1) * errors.spread[span]).cpu().numpy()
            trace = np.add.reduceat(each, first[rows] - span.start)
            return Kernels(np.stack([joint, x, y, np.zeros_like(x)]), None, trace)
        inner, x, y = summed(a * e), summed(a.square()), summed(e.square())
        values, trace = np.stack([np.square(inner), x, y, inner]), inner[own - rows.start, own]
        if errors.kept is None:
            return Kernels(values, None, trace)
        off = errors.kept.slack(span)
        first_off = summed(a.abs() * off)
        joint_off = 2 * np.abs(inner) * first_off + np.square(first_off)
        error_off = summed(2 * e.abs() * off + off.square())
        return Kernels(values, np.stack([joint_off, np.zeros_like(x), error_off, first_off]), trace)


@torch.no_grad()
def strips(
    pool: Pool, errors: Errors, first: Int[np.ndarray, " samples"], block: int
) -> Iterator[tuple[slice, Kernels]]:
    """The kernels of all samples, some rows at a time, and which samples the rows are.

    The Gram matrix of the errors is taken in bands, since each is a pass over the whole head.
    """
    hidden, n = pool.hidden.double(), len(pool.task)
    for band in _runs(pool, slice(0, n), BAND // n):
        e = errors.gram(band)
        for span in _runs(pool, band, block):
            here = e[span.start - band.start : span.stop - band.start]
            rows = slice(*np.searchsorted(first, [span.start, span.stop]).tolist())
            yield rows, Kernels.of(hidden, errors, here, span, first)


def run_sums(
    kernel: Float[np.ndarray, "rows samples"],
    rows: Int[np.ndarray, " row_groups"],
    columns: Int[np.ndarray, " column_groups"],
) -> Float[np.ndarray, "row_groups column_groups"]:
    """Sums over runs of rows and of columns, given where each run starts."""
    return np.asarray(np.add.reduceat(np.add.reduceat(kernel, columns, 1), rows, 0))


def run_starts(*keys: Int[np.ndarray, " samples"]) -> Int[np.ndarray, " runs"]:
    """Where a new run of equal keys begins."""
    new = np.ones(len(keys[0]), dtype=bool)
    new[1:] = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    return np.flatnonzero(new)


def _runs(pool: Pool, within: slice, positions: int) -> Iterator[slice]:
    """Runs of whole documents of so many positions at most, where none is longer.

    What is summed over a document, or over a sequence of it, is then of one run.
    """
    starts = run_starts(pool.task[within], pool.document[within]) + within.start
    begin = within.start
    for start, stop in itertools.pairwise([*starts.tolist(), within.stop]):
        if stop - begin > positions and start > begin:
            yield slice(begin, start)
            begin = start
    yield slice(begin, within.stop)
