"""The verdict on what a change taught: which tokens, or nothing in particular."""

from __future__ import annotations

from unembed.decisions.comparison.mining import LEAST_FACTOR, MinedSummary, MinedToken
from unembed.report.parts.wording import count, counted, decimal, fine_share, token
from unembed.stats.forms import bounded, point


def mined_sentence(mined: MinedSummary) -> str:
    """What the change taught, no more than the intervals of all tokens together allow."""
    if not mined.moved.value:
        return "It taught nothing: no probability moved."
    if not mined.n_determined:
        return "What it taught cannot be told: the documents are too few to tell tokens apart."
    if not mined.n_rose + mined.n_fell:
        return (
            f"It taught nothing in particular: none of {counted(mined.n_determined, 'token')} is "
            f"expected surely {LEAST_FACTOR:g} times as often as before, or as rarely, though "
            f"{point(mined.moved, fine_share)} of the probability moved."
        )
    parts = [
        f"{count(n)} {words}, most surely {_named(tokens[0])}"
        for n, words, tokens in (
            (mined.n_rose, "more often", mined.rose),
            (mined.n_fell, "less often", mined.fell),
        )
        if n
    ]
    return (
        f"It taught which tokens to expect, {LEAST_FACTOR:g} times or more: {'; '.join(parts)}; "
        f"of {counted(mined.n_determined, 'token')}."
    )


def mined_trust(mined: MinedSummary) -> str:
    """What would be listed if nothing had been taught."""
    if not mined.n_determined:
        return ""
    chance = decimal(mined.n_by_chance) if mined.n_by_chance else "none"
    return f"With both models swapped in random documents, {chance} would be listed as taught."


def _named(one: MinedToken) -> str:
    return f"“{token(one.text)}” ({bounded(one.factor, decimal)} times)"
