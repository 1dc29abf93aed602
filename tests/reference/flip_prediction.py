"""Slow, obvious prediction of flips from other documents' changes: loops over positions."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

GROUPS, ENTROPY_GROUPS = 5, 4


@dataclass(frozen=True)
class Position:
    """One position: its document, entropy before, and the leading tokens' logits on both sides."""

    doc: int
    entropy: float
    before: tuple[tuple[int, float], ...]
    after: tuple[tuple[int, float], ...]

    @property
    def flipped(self) -> bool:
        return self.before[0][0] != self.after[0][0]


@dataclass(frozen=True)
class Prediction:
    """Chances by position; ``cells`` are the positions that each was predicted from."""

    scale: float
    noise: float
    chances: list[float]
    cells: list[list[int]]
    hits: list[list[bool]]


def leads(one: Position) -> tuple[list[float], list[float]]:
    """How far top-1 before leads each candidate, and the best of all others, before and after."""
    top, known = one.before[0], dict(one.after)
    last = one.after[-1][1]
    then = [top[1] - logit for _, logit in one.before[1:]]
    now = [known.get(top[0], last) - known.get(token, last) for token, _ in one.before[1:]]
    named = {token for token, _ in one.before}
    others = [logit for token, logit in one.after if token not in named]
    return [*then, then[-1]], [*now, known.get(top[0], last) - max(others, default=last)]


def edges(values: list[float], groups: int) -> list[float]:
    """The least values of all groups but the first."""
    ranked = sorted(values)
    found = {ranked[i * len(ranked) // groups] for i in range(1, groups)}
    return sorted(value for value in found if value > ranked[0])


def predict(positions: Sequence[Position], only: int | None = None) -> Prediction:
    """Predict each position, or those of one group, from the other groups of documents."""
    both = [leads(one) for one in positions]
    order = {doc: i for i, doc in enumerate(sorted({one.doc for one in positions}))}
    groups = min(GROUPS, len(order))
    group = [order[one.doc] % groups for one in positions]

    def fitted(some: list[int]) -> float:
        square = math.fsum(both[i][0][0] ** 2 for i in some)
        return math.fsum(both[i][0][0] * both[i][1][0] for i in some) / square if square else 1.0

    scale = fitted(list(range(len(positions))))
    rest = math.fsum((now[0] - scale * then[0]) ** 2 for then, now in both) / len(both)
    chances, cells, hits = ([None] * len(positions) for _ in range(3))
    for g in range(groups) if only is None else [only]:
        others = [i for i in range(len(positions)) if group[i] != g]
        own = fitted(others)
        number = math.isqrt(len(others)) // 2
        many = ENTROPY_GROUPS if number >= 4 * ENTROPY_GROUPS else 1
        by_margin = edges([both[i][0][0] for i in others], max(1, number // many))

        def margin_group(i: int, by_margin: list[float] = by_margin) -> int:
            return bisect_right(by_margin, both[i][0][0])

        for i in (i for i in range(len(positions)) if group[i] == g):
            like = [d for d in others if margin_group(d) == margin_group(i)]
            by_entropy = edges([positions[d].entropy for d in like], many)
            place = bisect_right(by_entropy, positions[i].entropy)
            like = [d for d in like if bisect_right(by_entropy, positions[d].entropy) == place]
            cells[i] = like
            hits[i] = [
                any(
                    own * gap + (now - own * then) < 0
                    for gap, then, now in zip(both[i][0], *both[d], strict=True)
                )
                for d in like
            ]
            chances[i] = sum(hits[i]) / len(like)
    return Prediction(scale, math.sqrt(rest), chances, cells, hits)
