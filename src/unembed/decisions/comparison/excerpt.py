"""Sample documents of a comparison, flip by flip, for the report's text view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Int

from unembed.decisions.audit.excerpt import EXCERPT_TOKENS, SPREAD
from unembed.decisions.comparison.compare import Comparison
from unembed.decisions.comparison.flips import (
    KEPT_RIGHT,
    KEPT_WRONG,
    RIGHT_TO_WRONG,
    WRONG_TO_RIGHT,
    WRONG_TO_WRONG,
)
from unembed.runs.arrays import number_array, numbers_of
from unembed.text.vocabulary import Vocabulary

SHORT = 50
"""Documents of fewer positions come after the others: one flip is much of so little text."""


@dataclass(frozen=True)
class SideView:
    """One audit's decision at a position: the two best tokens, margin in logits, loss in nats."""

    top1: str
    top2: str
    margin: float
    nll_nats: float


@dataclass(frozen=True)
class FlipView:
    """One predicted token and both decisions there; ``kind`` is one of ``flips.KINDS``.

    ``after_gap``: the text before it is not shown, for a token there was predicted by nothing or
    its position was not compared.
    """

    text: str
    kind: int
    before: SideView
    after: SideView
    after_gap: bool


@dataclass(frozen=True)
class FlipDocument:
    """A document of the sample; ``lead`` is the text of its first token, None where not shown."""

    name: str
    lead: str | None
    tokens: tuple[FlipView, ...]


def flip_excerpts(
    comparison: Comparison,
    vocabulary: Vocabulary,
    names: Sequence[str],
    first_tokens: Sequence[int],
    tokens: int = EXCERPT_TOKENS,
) -> list[FlipDocument]:
    """The documents with the largest share of changed top-1, in order of the text.

    Documents of SHORT positions or more come first. They are taken whole, from the largest share
    down, while they fit into about ``tokens`` tokens, at most SPREAD of them; the first is cut to
    ``tokens`` if it is longer. ``names`` and ``first_tokens`` belong to the documents by number,
    and ``vocabulary`` spells the tokens of both audits. With several seeds they are of the first
    run of each side.
    """
    sizes, changed = np.zeros(len(names), dtype=np.intp), np.zeros(len(names))
    for part in comparison.first_pair(["doc", "before_top1", "after_top1"]):
        doc, before, after = (numbers_of(column) for column in part.columns[:3])
        sizes += np.bincount(doc, minlength=len(names))
        changed += np.bincount(doc, weights=before != after, minlength=len(names))
    chosen = sorted(_chosen(sizes, changed, tokens))
    wanted = number_array(np.asarray(chosen, dtype=np.int32))
    parts = comparison.first_pair(None)
    table = pa.concat_tables(part.filter(pc.is_in(part["doc"], wanted)) for part in parts)
    doc = numbers_of(table["doc"])
    return [
        _document(
            table.slice(int(np.searchsorted(doc, number)), min(int(sizes[number]), tokens)),
            vocabulary,
            names[number],
            first_tokens[number],
        )
        for number in chosen
    ]


def _chosen(
    sizes: Int[np.ndarray, " documents"], changed: Float[np.ndarray, " documents"], tokens: int
) -> list[int]:
    share = changed / np.maximum(sizes, 1)
    chosen: list[int] = []
    left = tokens
    for number in np.lexsort((-share, sizes < SHORT)).tolist():
        if sizes[number] == 0 or (chosen and sizes[number] > left):
            continue
        chosen.append(number)
        left -= int(sizes[number])
        if left <= 0 or len(chosen) == SPREAD:
            break
    return chosen


def _document(rows: pa.Table, words: Vocabulary, name: str, first_token: int) -> FlipDocument:
    listed = rows.to_pylist()
    positions = [-1, *(row["pos"] for row in listed)]
    whole = bool(listed) and listed[0]["pos"] == 0
    return FlipDocument(
        name,
        words[first_token] if whole else None,
        tuple(
            _token(row, words, after_gap=row["pos"] != previous + 1)
            for row, previous in zip(listed, positions, strict=False)
        ),
    )


def _token(row: dict[str, Any], words: Vocabulary, *, after_gap: bool) -> FlipView:
    return FlipView(
        text=words[row["target"]],
        kind=_kind(row["target"], row["before_top1"], row["after_top1"]),
        before=_side(row, "before", words),
        after=_side(row, "after", words),
        after_gap=after_gap,
    )


def _side(row: dict[str, Any], side: str, words: Vocabulary) -> SideView:
    return SideView(
        top1=words[row[f"{side}_top1"]],
        top2=words[row[f"{side}_top2"]],
        margin=row[f"{side}_margin"],
        nll_nats=row[f"{side}_nll"],
    )


def _kind(target: int, before: int, after: int) -> int:
    if before == after:
        return KEPT_RIGHT if before == target else KEPT_WRONG
    if after == target:
        return WRONG_TO_RIGHT
    return RIGHT_TO_WRONG if before == target else WRONG_TO_WRONG
