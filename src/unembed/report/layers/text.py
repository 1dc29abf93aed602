"""The sample documents by settling depth, as compact JSON that is safe inside an HTML page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from unembed.decisions.layers.excerpt import SETTLED_TOKENS, SettledDocument
from unembed.report.parts.text import TextView, fit_and_encode, units


def settled_text_view(
    documents: Sequence[SettledDocument], budget: int = SETTLED_TOKENS
) -> TextView:
    """Choose whole documents in order until ``budget`` tokens are spent, and encode them."""
    return fit_and_encode(documents, budget, _columns)


def _columns(document: SettledDocument, index: Callable[[str], int]) -> dict[str, Any]:
    """One array per column; a path is depths and numbers of strings by turns."""
    tokens = document.tokens
    return {
        "name": document.name,
        "lead": document.lead,
        "text": [index(token.text) for token in tokens],
        "right": "".join("1" if token.right else "0" for token in tokens),
        "depth": [token.depth for token in tokens],
        "margin": [units(token.margin, 1e3) for token in tokens],
        "path": [
            [number for depth, text in token.path for number in (depth, index(text))]
            for token in tokens
        ],
    }
