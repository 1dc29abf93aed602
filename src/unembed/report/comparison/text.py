"""The sample documents of a comparison as compact JSON that is safe inside an HTML page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from unembed.decisions.comparison.excerpt import FlipDocument, SideView
from unembed.report.parts.text import TOKEN_BUDGET, TextView, fit_and_encode, units


def flip_text_view(documents: Sequence[FlipDocument], budget: int = TOKEN_BUDGET) -> TextView:
    """Choose whole documents in order until ``budget`` tokens are spent, and encode them."""
    return fit_and_encode(documents, budget, _columns)


def _columns(document: FlipDocument, index: Callable[[str], int]) -> dict[str, Any]:
    """One array per column; margins and losses in thousandths, as ``comparison.js`` divides."""
    tokens = document.tokens
    return {
        "name": document.name,
        "lead": document.lead,
        "text": [index(token.text) for token in tokens],
        "kind": "".join(str(token.kind) for token in tokens),
        "gaps": [i for i, token in enumerate(tokens) if token.after_gap],
        "before": _side([token.before for token in tokens], index),
        "after": _side([token.after for token in tokens], index),
    }


def _side(sides: Sequence[SideView], index: Callable[[str], int]) -> dict[str, Any]:
    return {
        "top1": [index(side.top1) for side in sides],
        "top2": [index(side.top2) for side in sides],
        "margin": [units(side.margin, 1e3) for side in sides],
        "nll": [units(side.nll_nats, 1e3) for side in sides],
    }
