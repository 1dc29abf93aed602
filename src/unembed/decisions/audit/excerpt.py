"""Sample documents of an audit, token by token, for the report's text view."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from unembed.decisions.audit.audit import Audit
from unembed.runs.arrays import number_array, numbers_of
from unembed.text.vocabulary import Vocabulary

EXCERPT_TOKENS = 20_000
SPREAD = 400


@dataclass(frozen=True)
class TokenView:
    """One predicted token: its text, and the decision that the head made there.

    ``candidates`` are the highest-scoring tokens (text, probability), best first. A position whose
    row was not finite has ``margin`` None. ``picture`` is the number in ``audit.slices`` of the one
    around this decision.
    """

    text: str
    candidates: tuple[tuple[str, float], ...]
    margin: float | None
    relative_distance: float | None
    entropy_nats: float | None
    nll_nats: float | None
    rank: int | None
    right: bool
    picture: int | None = None


@dataclass(frozen=True)
class DocumentView:
    """A document of the sample.

    ``lead`` is the text of the first token, which nothing predicts; ``tokens`` are the predicted
    ones after it, in order.
    """

    name: str
    lead: str
    tokens: tuple[TokenView, ...]


def excerpts(audit: Audit, tokens: int = EXCERPT_TOKENS) -> list[DocumentView]:
    """Whole documents spread evenly over the audit, up to about ``tokens`` tokens.

    At most SPREAD documents; the first is always among them, cut to ``tokens`` if it is longer, and
    those of the audit's pictures come next.
    An audit without ``top_k`` shows its two best tokens as candidates.
    """
    pictures = {(one.doc, one.position): at for at, one in enumerate(audit.slices)}
    first = [doc for doc, _pos in pictures]
    chosen = spread_documents(numbers_of(audit.documents["positions"]), tokens, first)
    rows = audit.of_documents(chosen)
    return [_view(audit, rows, doc, tokens, pictures) for doc in chosen]


def spread_documents(
    sizes: Int[np.ndarray, " documents"], tokens: int, wanted: Sequence[int] = ()
) -> list[int]:
    """The numbers of documents of these sizes, spread evenly, up to about so many tokens.

    In order; at most SPREAD, and the first that has any is among them however long it is; those
    ``wanted`` come before others.
    """
    filled = np.flatnonzero(sizes)
    step = max(1, -(-len(filled) // SPREAD))
    spread = [
        *filled[::step],
        *(filled[k] for j in range(1, step) for k in range(j, len(filled), step)),
    ]
    chosen: list[int] = []
    left = tokens
    spread = list(dict.fromkeys([*spread[:1], *wanted, *spread]))
    for doc in spread:
        if chosen and sizes[doc] > left:
            continue
        chosen.append(int(doc))
        left -= int(sizes[doc])
        if left <= 0 or len(chosen) == SPREAD:
            break
    return sorted(chosen)


def _view(
    audit: Audit,
    positions: pa.Table,
    doc: int,
    tokens: int,
    pictures: Mapping[tuple[int, int], int],
) -> DocumentView:
    about = audit.documents.slice(doc, 1).to_pylist()[0]
    rows = (
        positions.filter(number_array(numbers_of(positions["doc"]) == doc))
        .slice(0, tokens)
        .to_pylist()
    )
    words = audit.vocabulary
    views = (_token(row, words, pictures.get((doc, row["pos"]))) for row in rows)
    return DocumentView(about["name"], words[about["first_token"]], tuple(views))


def _token(row: dict[str, Any], words: Vocabulary, picture: int | None) -> TokenView:
    if row["margin"] is None:
        return TokenView(words[row["target"]], (), None, None, None, None, None, False)
    return TokenView(
        text=words[row["target"]],
        candidates=tuple((words[i], p) for i, p in _candidates(row)),
        margin=row["margin"],
        relative_distance=row["relative_distance"],
        entropy_nats=row["entropy"],
        nll_nats=row["nll"],
        rank=row["rank"],
        right=row["target"] == row["top1"],
        picture=picture,
    )


def _candidates(row: dict[str, Any]) -> Iterator[tuple[int, float]]:
    if "topk_ids" in row:
        for token, logit in zip(row["topk_ids"], row["topk_logits"], strict=True):
            yield token, math.exp(logit - row["logsumexp"])
    else:
        yield row["top1"], row["confidence"]
        yield row["top2"], row["confidence"] * math.exp(-row["margin"])
