"""The decisions of an audit that were closest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from unembed.decisions.quoting import Quoting
from unembed.runs.arrays import numbers_of
from unembed.runs.listing import Listing
from unembed.short_repr import ShortRepr

CLOSEST_COLUMNS = ["doc", "pos", "target", "top1", "top2", "margin"]


@dataclass(frozen=True)
class ClosestCall(ShortRepr):
    """One decision, in the text.

    ``chosen`` won over ``runner_up`` by ``margin`` logits, behind ``context``; ``target`` is the
    text's own token, and ``right`` says whether it is the one chosen.
    """

    document: str
    position: int
    context: str
    chosen: str
    runner_up: str
    margin: float
    target: str
    right: bool


def closest_calls(parts: Iterable[pa.Table], quoting: Quoting, n: int) -> Listing[ClosestCall]:
    """The n positions with the smallest margin, the smallest first."""
    rows = closest_rows(parts, quoting, n)
    return Listing(ClosestCall, tuple(_call(row, quoting) for row in rows.to_pylist()))


def closest_rows(parts: Iterable[pa.Table], quoting: Quoting, n: int) -> pa.Table:
    """Their rows of ``CLOSEST_COLUMNS``, with ``document`` and ``context``."""
    return quoting.highest(parts, _nearness, n)


def _nearness(rows: pa.Table) -> Float[np.ndarray, " positions"]:
    margin: Float[np.ndarray, " positions"] = -numbers_of(rows["margin"])
    return margin


def _call(row: dict[str, Any], quoting: Quoting) -> ClosestCall:
    return ClosestCall(
        document=row["document"],
        position=row["pos"],
        context=row["context"],
        chosen=quoting.word(row["top1"]),
        runner_up=quoting.word(row["top2"]),
        margin=row["margin"],
        target=quoting.word(row["target"]),
        right=row["top1"] == row["target"],
    )
