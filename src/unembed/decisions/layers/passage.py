"""A passage of the text with what every depth would have said there: the logit-lens table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from unembed.short_repr import ShortRepr
from unembed.text.vocabulary import Vocabulary


@dataclass(frozen=True)
class Cell(ShortRepr):
    """What one depth would have predicted at one position.

    ``candidates`` are the leading tokens (text, probability), best first. ``final`` says that the
    first of them is the model's own decision, ``right`` that it is what the text goes on with;
    ``rank`` is that of the model's own decision. At a position that is not finite there are no
    candidates, and ``margin`` is None.
    """

    text: str
    margin: float | None
    candidates: tuple[tuple[str, float], ...]
    rank: int | None
    final: bool
    right: bool


@dataclass(frozen=True)
class Passage(ShortRepr):
    """Some positions of one document under one lens, at every depth that was measured.

    ``before`` is the text before the first predicted token, ``tokens`` the predicted ones at
    ``positions``; ``cells`` has a row for each of ``depths``, and in it a cell for each token.
    """

    document: str
    lens: str
    before: str
    positions: tuple[int, ...]
    tokens: tuple[str, ...]
    depths: tuple[int, ...]
    cells: tuple[tuple[Cell, ...], ...]


def cells_of(rows: pa.Table, decided: Sequence[int | None], words: Vocabulary) -> tuple[Cell, ...]:
    """The cells of one depth's rows, at which the model itself ``decided`` for these tokens."""
    return tuple(
        Cell("", None, (), None, False, False) if own is None else _cell(row, own, words)
        for row, own in zip(rows.to_pylist(), decided, strict=True)
    )


def _cell(row: dict[str, Any], decided: int, words: Vocabulary) -> Cell:
    candidates = tuple(
        (words[token], math.exp(logit - row["logsumexp"]))
        for token, logit in zip(row["topk_ids"], row["topk_logits"], strict=True)
    )
    return Cell(
        text=words[row["top1"]],
        margin=row["margin"],
        candidates=candidates,
        rank=row["final_rank"],
        final=row["top1"] == decided,
        right=row["target"] == row["top1"],
    )
