"""The samples of a block of windows: which positions are whose, and of which document."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt64
from torch import Tensor

from unembed.signatures.documents import Documents
from unembed.signatures.signature import Unit

Runs = list[tuple[int, int, int]]
"""Consecutive rows of one number: the number, the first row, the row after the last."""


@dataclass(frozen=True)
class BlockSamples:
    """Samples by position of a block: ``numbers`` are those of each position's, -1 for none.

    Of unit "token" they are the predictions that count, one a position, in order. Of "sequence" a
    sample is a window, and all its positions are part of it up to the last whose prediction counts:
    those that are context alone too, for the loss reaches them. ``document`` says of each sample
    which of ``documents`` it is of, by their order, and ``positions`` how many predictions that
    count each of these has here.
    """

    unit: Unit
    numbers: Int[Tensor, "batch seq"]
    count: int
    document: Int[np.ndarray, " samples"]
    documents: Documents
    positions: Int[np.ndarray, " documents"]

    @staticmethod
    def of(
        unit: Unit,
        real: Bool[Tensor, "batch seq"],
        hashes: UInt64[np.ndarray, " positions"],
        sizes: Int[np.ndarray, " positions"],
    ) -> BlockSamples:
        """Of a block, by the hash and the size of the document of each prediction that counts."""
        rows = real.nonzero()[:, 0]
        if unit == "token":
            numbers = torch.full(real.shape, -1)
            numbers[real] = torch.arange(len(rows))
            of_sample = hashes
        else:
            reached = real.flip(1).cumsum(1).flip(1) > 0
            numbers = torch.where(reached, torch.arange(len(real))[:, None], -1)
            first = np.searchsorted(rows.numpy(), np.arange(len(real)))
            of_sample = hashes[first]
        found, here = np.unique(hashes, return_counts=True)
        _, where = np.unique(hashes, return_index=True)
        whole = here == sizes[where]
        return BlockSamples(
            unit,
            numbers,
            len(of_sample),
            np.searchsorted(found, of_sample),
            Documents.of(found, whole),
            here,
        )

    @cached_property
    def document_runs(self) -> Runs:
        """Samples that follow each other in one document."""
        return runs_of(self.document)


def runs_of(numbers: Int[np.ndarray, " rows"]) -> Runs:
    """The runs of equal numbers."""
    if not len(numbers):
        return []
    ends = [*(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
    return [
        (int(numbers[first]), first, last)
        for first, last in zip([0, *ends[:-1]], ends, strict=True)
    ]


def within(runs: Runs, first: int, last: int) -> Runs:
    """The parts of runs between two rows, counted from the first of these."""
    return [
        (number, max(begin, first) - first, min(end, last) - first)
        for number, begin, end in runs
        if begin < last and end > first
    ]
