"""Flips quoted from the text: the surest decisions that changed, and the commonest changes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from unembed.decisions.quoting import Quoting
from unembed.errors import UnembedError
from unembed.runs.arrays import numbers_of
from unembed.runs.listing import Listing
from unembed.short_repr import ShortRepr

FLIP_COLUMNS = [
    "doc",
    "pos",
    "target",
    "before_top1",
    "before_margin",
    "after_top1",
    "after_margin",
]
FLIP_KINDS = ("surest", "commonest")

GAINED, LOST, MOVED = np.arange(3, dtype=np.uint64)
"""What a flip did: wrong to right, right to wrong, wrong to wrong."""


@dataclass(frozen=True)
class Flip(ShortRepr):
    """One decision that changed, in the text.

    Behind ``context`` the model before chose ``before``, by ``margin_before`` logits, and the one
    after ``after``, by ``margin_after``; ``target`` is the text's own token.
    """

    document: str
    position: int
    context: str
    before: str
    after: str
    target: str
    margin_before: float
    margin_after: float
    right_before: bool
    right_after: bool

    @property
    def kind(self) -> str:
        """``right to wrong``, ``wrong to right`` or ``wrong to wrong``."""
        return " to ".join("right" if r else "wrong" for r in (self.right_before, self.right_after))


@dataclass(frozen=True)
class FlipPair(ShortRepr):
    """A token that was chosen before, the one chosen instead, and at how many positions."""

    before: str
    after: str
    count: int
    wrong_to_right: int
    right_to_wrong: int
    wrong_to_wrong: int


def surest_flips(parts: Iterable[pa.Table], quoting: Quoting, n: int) -> Listing[Flip]:
    """The n flips with the largest margin before, the largest first."""
    rows = surest_rows(parts, quoting, n)
    return Listing(Flip, tuple(_flip(row, quoting) for row in rows.to_pylist()))


def surest_rows(parts: Iterable[pa.Table], quoting: Quoting, n: int) -> pa.Table:
    """Their rows of ``FLIP_COLUMNS``, with ``document`` and ``context``."""
    return quoting.highest(parts, _sureness, n)


def commonest_flips(parts: Iterable[pa.Table], quoting: Quoting, n: int) -> Listing[FlipPair]:
    """The n commonest pairs of tokens before and after; equal counts by the lower ids.

    It holds a part at a time, and 8 bytes a flip.
    """
    if n < 1:
        raise UnembedError(f"{n} pairs are none: ask for 1 or more")
    keys = [np.zeros(0, dtype=np.uint64)]
    for part in parts:
        before, after, target = (tokens.astype(np.uint64) for tokens in _top1(part))
        kind = np.where(after == target, GAINED, np.where(before == target, LOST, MOVED))
        # Ids are below 2^31, so that a flip is one number, in order of its two tokens.
        keys.append((before << 33 | after << 2 | kind)[before != after])
    cells, counts = np.unique(np.concatenate(keys), return_counts=True)
    pairs, first = np.unique(cells >> 2, return_index=True)
    total = np.add.reduceat(counts, first) if first.size else counts
    order = np.argsort(-total, kind="stable")[:n]
    found = []
    for token_pair in pairs[order].tolist():
        at = np.searchsorted(cells, np.array([token_pair << 2, token_pair + 1 << 2], np.uint64))
        held = slice(*at.tolist())
        kinds = np.zeros(3, dtype=np.int64)
        kinds[(cells[held] & 3).astype(np.intp)] = counts[held]
        gained, lost, moved = kinds.tolist()
        words = quoting.word(token_pair >> 31), quoting.word(token_pair & (1 << 31) - 1)
        found.append(FlipPair(*words, gained + lost + moved, gained, lost, moved))
    return Listing(FlipPair, tuple(found))


def _top1(rows: pa.Table) -> list[Int[np.ndarray, " positions"]]:
    """Top-1 before and after, and the target."""
    names = ("before_top1", "after_top1", "target")
    return [numbers_of(rows[name]).astype(np.int64) for name in names]


def _sureness(rows: pa.Table) -> Float[np.ndarray, " positions"]:
    before, after, _ = _top1(rows)
    return np.where(before != after, numbers_of(rows["before_margin"]), np.nan)


def _flip(row: dict[str, Any], quoting: Quoting) -> Flip:
    before, after, target = row["before_top1"], row["after_top1"], row["target"]
    return Flip(
        document=row["document"],
        position=row["pos"],
        context=row["context"],
        before=quoting.word(before),
        after=quoting.word(after),
        target=quoting.word(target),
        margin_before=row["before_margin"],
        margin_after=row["after_margin"],
        right_before=before == target,
        right_after=after == target,
    )
