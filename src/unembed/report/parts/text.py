"""The sample documents as compact JSON that is safe inside an HTML page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from unembed.decisions.audit.excerpt import DocumentView, TokenView
from unembed.report.parts.page import as_script

TOKEN_BUDGET = 50_000
"""Tokens that one page holds at most: with five candidates each they take less than 4 MB."""

MOST_CANDIDATES = 5
"""Candidates kept for each token."""


@dataclass(frozen=True)
class TextView:
    """The documents that a page shows.

    ``json`` may stand inside ``<script type="application/json">``: it is ASCII and contains
    neither ``<`` nor ``>`` nor ``&``. ``shown`` documents are in it, ``shortened``
    of which lack their end.
    """

    json: str
    names: tuple[str, ...]
    tokens: int
    shown: int
    shortened: int


def text_view(documents: Sequence[DocumentView], budget: int = TOKEN_BUDGET) -> TextView:
    """Choose whole documents in order until ``budget`` tokens are spent, and encode them.

    A document that does not fit is left out. Only if not even one fits is the first shown in part.
    """
    return fit_and_encode(documents, budget, _strings, _columns)


def fit_and_encode(
    documents: Sequence[Any],
    budget: int,
    strings: Callable[[Any], Iterator[str]],
    columns: Callable[[Any, dict[str, int]], dict[str, Any]],
) -> TextView:
    """``text_view`` for any documents with a name and tokens.

    ``strings`` gives the strings of one document, ``columns`` its columns, in which a string is its
    number in the given table.
    """
    chosen: list[Any] = []
    left = budget
    for document in documents:
        if len(document.tokens) <= left:
            chosen.append(document)
            left -= len(document.tokens)
    shortened = 0
    if documents and not any(document.tokens for document in chosen):
        chosen = [replace(documents[0], tokens=documents[0].tokens[:budget])]
        shortened = int(len(documents[0].tokens) > budget)
    # The commonest strings come first, so that they get the shortest numbers.
    counts = Counter(string for document in chosen for string in strings(document))
    table = sorted(counts, key=lambda string: (-counts[string], string))
    index = {string: number for number, string in enumerate(table)}
    data = {"strings": table, "documents": [columns(document, index) for document in chosen]}
    return TextView(
        json=as_script(data),
        names=tuple(document.name for document in chosen),
        tokens=sum(len(document.tokens) for document in chosen),
        shown=len(chosen),
        shortened=shortened,
    )


def _strings(document: DocumentView) -> Iterator[str]:
    for token in document.tokens:
        yield token.text
        for text, _ in token.candidates[:MOST_CANDIDATES]:
            yield text


def _columns(document: DocumentView, index: dict[str, int]) -> dict[str, Any]:
    """One array per column; fractions as integers in the units that ``page.js`` divides by."""
    tokens = document.tokens
    return {
        "name": document.name,
        "lead": document.lead,
        "text": [index[token.text] for token in tokens],
        "right": "".join("1" if token.right else "0" for token in tokens),
        "rank": [token.rank for token in tokens],
        "margin": [units(token.margin, 1e3) for token in tokens],
        "relative": [units(token.relative_distance, 1e5) for token in tokens],
        "entropy": [units(token.entropy_nats, 1e3) for token in tokens],
        "nll": [units(token.nll_nats, 1e3) for token in tokens],
        "candidates": [_candidates(token, index) for token in tokens],
    }


def _candidates(token: TokenView, index: dict[str, int]) -> list[int]:
    """Pairs of string number and probability in thousandths, flattened."""
    pairs = token.candidates[:MOST_CANDIDATES]
    return [number for text, p in pairs for number in (index[text], round(1000 * p))]


def units(value: float | None, per: float) -> int | None:
    """A fraction as a whole number of units, ``per`` of which make one."""
    return None if value is None else round(value * per)
