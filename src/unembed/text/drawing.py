"""Which positions are read where a text has more than are asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt64

from unembed.stats.splitmix import STEP, mixed

DRAWN_DOCUMENTS = 64
"""Documents that a draw takes from at least, where there are as many: beyond it, each further one
costs the body a context for a handful of positions more."""


@dataclass(frozen=True)
class Draw:
    """How many positions of each window are taken, and the first of them, both among those that
    count."""

    first: Int[np.ndarray, " windows"]
    taken: Int[np.ndarray, " windows"]


def from_the_beginning(counts: Int[np.ndarray, " windows"], limit: int) -> Draw:
    """The first ``limit`` positions."""
    return _in_order(counts, np.arange(len(counts)), limit)


def from_all_over(
    counts: Int[np.ndarray, " windows"], document: Int[np.ndarray, " windows"], limit: int
) -> Draw:
    """``limit`` positions of documents from all over the text: documents first, then positions.

    Documents come in an order that looks random and is always the same: the first 64 of them, or as
    many as hold ``limit`` positions. Of 64 none gives more than is needed for all to give alike,
    and gives it from a place within a window that is as random, with the whole window before it.
    More than 64 are read whole. A larger ``limit`` takes the same positions and more.
    """
    where = np.unique(document[counts > 0])
    sizes = np.bincount(document, counts, int(document.max()) + 1).astype(np.int64)
    where = where[_scattered(where)]
    reached = np.cumsum(sizes[where])
    enough = 1 + int(np.searchsorted(reached, limit))
    share = np.zeros(len(sizes), dtype=np.int64)
    if enough > DRAWN_DOCUMENTS or len(where) == 1:
        before = reached - sizes[where]
        share[where] = np.clip(limit - before, 0, sizes[where])
    else:
        some = where[:DRAWN_DOCUMENTS]
        share[some] = _level(sizes[some], limit)
    order = np.lexsort((_hash(np.arange(len(counts))), document))
    ordered = counts[order]
    begins = np.concatenate([[0], np.cumsum(sizes)])
    within = np.cumsum(ordered) - ordered - begins[document[order]]
    taken = np.zeros(len(counts), dtype=np.int64)
    taken[order] = np.clip(share[document[order]] - within, 0, ordered)
    first = np.zeros(len(counts), dtype=np.int64)
    if enough <= DRAWN_DOCUMENTS and len(where) > 1:
        # Growing from an anchor, forwards and then backwards, keeps what was taken before.
        anchor = _hash(np.arange(len(counts)) + len(counts)) / 2.0**64 * counts
        first = np.minimum(anchor.astype(np.int64), counts - taken)
    return Draw(first, taken)


def whole_windows(
    counts: Int[np.ndarray, " windows"], document: Int[np.ndarray, " windows"], limit: int
) -> Draw:
    """``limit`` positions in whole windows, a window of every document before a second of any.

    The last window alone is cut.
    """
    drawn = _scattered(np.arange(len(counts)))
    by_document = drawn[np.argsort(document[drawn], kind="stable")]
    _, begins, sizes = np.unique(document[by_document], return_index=True, return_counts=True)
    turn = np.empty(len(counts), dtype=np.int64)
    turn[by_document] = np.arange(len(counts)) - np.repeat(begins, sizes)
    return _in_order(counts, drawn[np.argsort(turn[drawn], kind="stable")], limit)


def _in_order(
    counts: Int[np.ndarray, " windows"], order: Int[np.ndarray, " windows"], limit: int
) -> Draw:
    taken = np.zeros(len(counts), dtype=np.int64)
    before = np.cumsum(counts[order]) - counts[order]
    taken[order] = np.clip(limit - before, 0, counts[order])
    return Draw(np.zeros(len(counts), dtype=np.int64), taken)


def _level(sizes: Int[np.ndarray, " documents"], limit: int) -> Int[np.ndarray, " documents"]:
    """``min(size, level)`` of each, with one more of the first that have it, ``limit`` in all."""
    low, high = 0, int(sizes.max())
    while low < high:
        middle = (low + high) // 2
        low, high = (
            (low, middle) if np.minimum(sizes, middle).sum() >= limit else (middle + 1, high)
        )
    found: Int[np.ndarray, " documents"] = np.minimum(sizes, max(low - 1, 0))
    more = np.flatnonzero(sizes > found)[: max(0, limit - int(found.sum()))]
    found[more] += 1
    return found


def _hash(numbers: Int[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    found: UInt64[np.ndarray, " n"] = mixed((numbers.astype(np.uint64) + np.uint64(1)) * STEP)
    return found


def _scattered(numbers: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The order of some numbers by their hash."""
    order: Int[np.ndarray, " n"] = np.argsort(_hash(numbers), kind="stable")
    return order
