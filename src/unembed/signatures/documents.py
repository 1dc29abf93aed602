"""Which samples belong to which document, and the fold and the block of each document."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, UInt64

FOLDS = 2


@dataclass(frozen=True)
class Documents:
    """Samples in the order of their documents, each document's one after the other.

    Sample ``order[i]`` belongs to document ``number[i]``, counted by ascending ``hashes``. Of a
    document that is ``open`` more samples are to come.
    """

    hashes: UInt64[np.ndarray, " documents"]
    order: Int[np.ndarray, " rows"]
    number: Int[np.ndarray, " rows"]
    open: Bool[np.ndarray, " documents"]

    @staticmethod
    def of(
        document: Int[np.ndarray, " rows"] | UInt64[np.ndarray, " rows"],
        whole: Bool[np.ndarray, " rows"] | None = None,
    ) -> Documents:
        """By a hash of each sample's document; those with a sample that is not whole are open."""
        hashes, number = np.unique(document.astype(np.uint64), return_inverse=True)
        order = np.argsort(number, kind="stable")
        opened = np.zeros(len(hashes), dtype=bool)
        if whole is not None:
            opened[number[~whole]] = True
        return Documents(hashes, order, number[order], opened)

    @property
    def samples(self) -> Int[np.ndarray, " documents"]:
        """How many samples each document has here."""
        return np.bincount(self.number, minlength=len(self.hashes))

    @property
    def folds(self) -> Int[np.ndarray, " documents"]:
        """The lowest bit of each hash."""
        return folds_of(self.hashes)

    def blocks(self, count: int) -> Int[np.ndarray, " documents"]:
        """The next bits of each hash; ``count`` is a power of two, or 0 for none."""
        bits = self.hashes >> np.uint64(1) & np.uint64(max(count, 1) - 1)
        return bits.astype(np.int64)

    def goes_on(self, at: int) -> bool:
        """Whether sample ``at`` of this order is of the same document as the one before."""
        return at < len(self.number) and bool(self.number[at] == self.number[at - 1])


def folds_of(hashes: UInt64[np.ndarray, " documents"]) -> Int[np.ndarray, " documents"]:
    """The fold of each document: documents lie in one whole."""
    return (hashes & np.uint64(1)).astype(np.int64)
