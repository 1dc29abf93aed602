"""Which tasks share documents, straight or by way of others, and the blocks that these lose."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int, UInt64

Hashes = Int[np.ndarray, " _"] | UInt64[np.ndarray, " _"]


def sharing(documents: Sequence[Hashes]) -> Bool[np.ndarray, "tasks tasks"]:
    """Whether two tasks have a document in common: naively ``bool(set(a) & set(b))``."""
    _, number = np.unique(np.concatenate(documents), return_inverse=True)
    held = np.zeros((len(documents), int(number.max(initial=-1)) + 1), dtype=np.float32)
    held[np.repeat(np.arange(len(documents)), [len(some) for some in documents]), number] = 1
    return np.asarray(held @ held.T > 0)


def connected(shared: Bool[np.ndarray, "tasks tasks"]) -> Bool[np.ndarray, "tasks tasks"]:
    """Whether a chain of tasks that share leads from one to another."""
    kin = shared
    while not np.array_equal(wider := kin.astype(np.float32) @ kin > 0, kin):
        kin = wider
    return kin


def dealt(
    documents: Sequence[Hashes], kin: Bool[np.ndarray, "tasks tasks"], blocks: int
) -> list[Int[np.ndarray, " _"]]:
    """The block of each position: documents are dealt out in the order of their hashes.

    A document has one block in all tasks that are kin, whose documents are dealt out as of one.
    """
    found = []
    for row, own in zip(kin, documents, strict=True):
        family = [other for other, related in zip(documents, row, strict=True) if related]
        found.append(np.searchsorted(np.unique(np.concatenate(family)), own) % blocks)
    return found
