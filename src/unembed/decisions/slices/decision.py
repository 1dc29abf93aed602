"""Pictures of decisions of a text: which, behind which words, and the cells around each."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
from jaxtyping import Float
from torch import Tensor

from unembed.decisions.slices.slice import Slice, slices_of
from unembed.head.head import Head
from unembed.runs.record import record_from_json, record_to_json
from unembed.short_repr import ShortRepr

FILE = "slices.json"
"""Where an audit's run keeps its pictures."""
EXACT = 1e-4
"""Difference of two float32-exact margins at logits up to 50 (theory §1), and in their measure."""


@dataclass(frozen=True)
class DecisionSlice(ShortRepr):
    """The cells around one decision of a text.

    Behind ``context`` the text goes on with ``target_text``. ``margin`` is the audit's, in logits.
    ``slice`` is cut around the state behind it, of which it says where its margin is another.
    """

    doc: int
    position: int
    document: str
    context: str
    target: int
    target_text: str
    margin: float
    slice: Slice

    @property
    def right(self) -> bool:
        """Whether the text's own token was chosen."""
        return self.slice.marks[0].token == self.target

    def _phrases(self) -> Iterator[str]:
        yield f"{self.context[-24:]!r} goes on with {self.target_text!r}"
        yield from self.slice._phrases()


def decision_slices(
    rows: pa.Table,
    hidden: Float[Tensor, "positions dim"],
    head: Head,
    tokenizer: Any,
    *,
    half: float | None = None,
) -> tuple[DecisionSlice, ...]:
    """The pictures of an audit's rows, from the state of each.

    ``rows`` has ``document``, ``context`` and ``target_text`` besides the audit's columns.
    """
    cut = slices_of(hidden, head, tokenizer, half=half)
    return tuple(
        decision_of(row, one, head) for row, one in zip(rows.to_pylist(), cut, strict=True)
    )


def decision_of(row: dict[str, Any], one: Slice, head: Head) -> DecisionSlice:
    """The picture of a row, which says where its first state decides otherwise than the row."""
    unlike = unlike_row(one.marks[0].token, one.leading, head, row["top1"], row["margin"])
    return DecisionSlice(
        doc=row["doc"],
        position=row["pos"],
        document=row["document"],
        context=row["context"],
        target=row["target"],
        target_text=row["target_text"],
        margin=row["margin"],
        slice=replace(one, remarks=(*one.remarks, *unlike)),
    )


def unlike_row(
    token: int, leading: Sequence[float], head: Head, top1: int, margin: float
) -> Iterator[str]:
    """Where a state that was read again decides otherwise than its run's did, in a sentence.

    ``leading`` are its two largest logits before a soft-cap.
    """
    tops = list(leading)
    if head.softcap is not None:
        tops = [head.softcap * math.tanh(top / head.softcap) for top in tops]
    lead, size = tops[0] - tops[1], EXACT * max(1.0, abs(tops[0]) / 50)
    signed = lead if token == top1 else -lead
    if abs(signed - margin) > size:
        yield (
            f"The state was read again, and its margin here is {lead:.4g} where the run has "
            f"{margin:.4g}: another machine or another number of threads rounds otherwise."
        )
    elif token != top1:
        yield "Two tokens lead by less than float32 tells apart: the run has the other one first."


def slices_to_json(slices: Sequence[DecisionSlice]) -> bytes:
    """The file of an audit's pictures."""
    return json.dumps(record_to_json(slices), allow_nan=False).encode()


def slices_from_json(data: bytes) -> tuple[DecisionSlice, ...]:
    """Read back what ``slices_to_json`` wrote."""
    return tuple(record_from_json(DecisionSlice, one) for one in json.loads(data))
