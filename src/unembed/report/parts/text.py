"""The sample documents as compact JSON that is safe inside an HTML page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
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
    return fit_and_encode(documents, budget, _columns)


def fit_and_encode(
    documents: Sequence[Any],
    budget: int,
    columns: Callable[[Any, Callable[[str], int]], dict[str, Any]],
) -> TextView:
    """``text_view`` for any documents with a name and tokens.

    ``columns`` gives the columns of one document, in which a string is its number in the page's
    table: what its second argument says of it.
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
    counts: Counter[str] = Counter()

    def count(string: str) -> int:
        counts[string] += 1
        return 0

    for document in chosen:
        columns(document, count)
    table = sorted(counts, key=lambda string: (-counts[string], string))
    number = {string: at for at, string in enumerate(table)}.__getitem__
    data = {"strings": table, "documents": [columns(document, number) for document in chosen]}
    return TextView(
        json=as_script(data),
        names=tuple(document.name for document in chosen),
        tokens=sum(len(document.tokens) for document in chosen),
        shown=len(chosen),
        shortened=shortened,
    )


def _columns(document: DocumentView, index: Callable[[str], int]) -> dict[str, Any]:
    """One array per column; fractions as integers in the units that ``page.js`` divides by."""
    tokens = document.tokens
    return {
        "name": document.name,
        "lead": document.lead,
        "text": [index(token.text) for token in tokens],
        "right": "".join("1" if token.right else "0" for token in tokens),
        "rank": [token.rank for token in tokens],
        "margin": [units(token.margin, 1e3) for token in tokens],
        "relative": [units(token.relative_distance, 1e5) for token in tokens],
        "entropy": [units(token.entropy_nats, 1e3) for token in tokens],
        "nll": [units(token.nll_nats, 1e3) for token in tokens],
        "candidates": [_candidates(token, index) for token in tokens],
    } | _pictures(tokens)


def _pictures(tokens: Sequence[TokenView]) -> dict[str, Any]:
    """Where there are any: the number of the picture of a token, by the token's place."""
    found = {str(at): token.picture for at, token in enumerate(tokens) if token.picture is not None}
    return {"pictures": found} if found else {}


def _candidates(token: TokenView, index: Callable[[str], int]) -> list[int]:
    """Pairs of string number and probability in thousandths, flattened."""
    pairs = token.candidates[:MOST_CANDIDATES]
    return [number for text, p in pairs for number in (index(text), round(1000 * p))]


def units(value: float | None, per: float) -> int | None:
    """A fraction as a whole number of units, ``per`` of which make one."""
    return None if value is None else round(value * per)
