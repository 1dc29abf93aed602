"""How many tokens a round of speculative decoding yields, walked along a text."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

MOST_RUN = 1 << 12
"""Positions that are walked at once; a longer window is walked in stretches of so many."""

HELD_POSITIONS = 1 << 14
"""Positions whose rounds are walked side by side, about; changes memory, never meaning."""


def walked_rounds(
    acceptance: Float[np.ndarray, "samplings positions"],
    begins: Int[np.ndarray, " runs"],
    most: int,
) -> tuple[Float[np.ndarray, "samplings drafts runs"], Float[np.ndarray, "samplings drafts runs"]]:
    """Tokens and rounds of each run of consecutive positions, for 1 to ``most`` drafted tokens.

    A round that begins at t and drafts g tokens yields, with ``a`` the chances of acceptance::

        1 + a[t] + a[t] a[t+1] + ... + a[t] ... a[t+g-1]

    tokens, and the next one begins behind them. The chance s that a round begins at a position is
    followed from each run's first one, where it is 1: one begins at t + 1 unless t was accepted
    inside a round, ::

        s[t+1] = 1 - a[t] (1 - s[t-g] a[t-g] ... a[t-1])

    the product being the chance that t comes free behind g accepted tokens. What is returned are
    the sums of s times the tokens, and of s, over the positions from which a whole round of g + 1
    tokens fits into the run. ``begins`` are the first positions of the runs, 0 among them.
    Source: theory §4.
    """
    n = acceptance.shape[1]
    groups = np.split(begins, np.flatnonzero(np.diff(begins // HELD_POSITIONS)) + 1)
    ends = [*(int(one[0]) for one in groups[1:]), n]
    pairs = [
        _walked(acceptance[:, one[0] : end], one - one[0], most)
        for one, end in zip(groups, ends, strict=True)
    ]
    tokens, rounds = zip(*pairs, strict=True)
    return np.concatenate(tokens, axis=2), np.concatenate(rounds, axis=2)


def _walked(
    acceptance: Float[np.ndarray, "samplings positions"],
    begins: Int[np.ndarray, " runs"],
    most: int,
) -> tuple[Float[np.ndarray, "samplings drafts runs"], Float[np.ndarray, "samplings drafts runs"]]:
    """``walked_rounds`` of runs that are held at once."""
    n, drafts = acceptance.shape[1], np.arange(1, most + 1)
    lengths = np.diff(np.append(begins, n))
    left = np.repeat(begins + lengths, lengths) - np.arange(n)
    accepted = np.zeros((len(acceptance), most + 1, n))
    accepted[:, 0] = 1.0
    for g in drafts:
        stop = max(0, n - g + 1)
        accepted[:, g, :stop] = accepted[:, g - 1, :stop] * acceptance[:, g - 1 :][:, :stop]
        accepted[:, g, left < g] = 0.0
    begun = np.zeros((len(acceptance), most, n))
    begun[:, :, begins] = 1.0
    for step in range(int(lengths.max()) - 1):
        at = begins[lengths > step + 1] + step
        some = drafts[: min(step, most)]
        past = at - some[:, None]
        free = np.zeros((len(acceptance), most, len(at)))
        free[:, : len(some)] = begun[:, some[:, None] - 1, past] * accepted[:, some[:, None], past]
        begun[:, :, at + 1] = 1 - acceptance[:, None, at] * (1 - free)
    begun[:, left <= drafts[:, None]] = 0.0
    tokens = begun * accepted.cumsum(axis=1)[:, 1:]
    return np.add.reduceat(tokens, begins, axis=2), np.add.reduceat(begun, begins, axis=2)


def runs_of(
    doc: Int[np.ndarray, " positions"],
    pos: Int[np.ndarray, " positions"],
    first_of_window: Bool[np.ndarray, " positions"],
) -> Int[np.ndarray, " runs"]:
    """Where runs of consecutive positions of a window begin, none longer than MOST_RUN."""
    if not len(doc):
        return np.zeros(0, dtype=np.intp)
    breaks = (np.diff(doc) != 0) | (np.diff(pos) != 1) | first_of_window[1:]
    begins = np.flatnonzero(np.append(True, breaks))
    lengths = np.diff(np.append(begins, len(doc)))
    cut = [np.arange(a, a + n, MOST_RUN) for a, n in zip(begins, lengths, strict=True)]
    return np.concatenate(cut)
