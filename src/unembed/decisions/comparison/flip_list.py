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
    rows = quoting.highest(parts, _sureness, n)
    return Listing(Flip, tuple(_flip(row, quoting) for row in rows.to_pylist()))


def commonest_flips(parts: Iterable[pa.Table], quoting: Quoting, n: int) -> Listing[FlipPair]:
    """The n commonest pairs of tokens before and after; equal counts by the lower ids.

    It holds a part at a time, and the pairs.
    """
    if n < 1:
        raise UnembedError(f"{n} pairs are none: ask for 1 or more")
    pairs = np.zeros((0, 2), dtype=np.int64)
    counts = np.zeros((0, 3), dtype=np.int64)
    for part in parts:
        before, after, target = _top1(part)
        changed = before != after
        kinds = np.stack([after == target, before == target], axis=1)[changed]
        kinds = np.column_stack([kinds, ~kinds.any(axis=1)]).astype(np.int64)
        every = np.concatenate([pairs, np.stack([before, after], axis=1)[changed]])
        pairs, where = np.unique(every, axis=0, return_inverse=True)
        held, counts = np.concatenate([counts, kinds]), np.zeros((len(pairs), 3), dtype=np.int64)
        np.add.at(counts, where.reshape(-1), held)
    order = np.argsort(-counts.sum(axis=1), kind="stable")[:n]
    return Listing(FlipPair, tuple(_pair(pairs[i], counts[i], quoting) for i in order))


def _pair(
    tokens: Int[np.ndarray, " two"], kinds: Int[np.ndarray, " three"], quoting: Quoting
) -> FlipPair:
    before, after = map(quoting.word, tokens.tolist())
    gained, lost, moved = kinds.tolist()
    return FlipPair(before, after, gained + lost + moved, gained, lost, moved)


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
