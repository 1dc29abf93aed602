"""What a change taught, by plain loops over all probabilities of both models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def softmax(logits: Sequence[float]) -> np.ndarray:
    """Probabilities in float64."""
    raised = np.exp(np.array(logits, dtype=np.float64) - max(logits))
    return raised / raised.sum()


def moved(p: np.ndarray, q: np.ndarray) -> float:
    """How much probability went to other tokens."""
    return sum(max(0.0, after - before) for before, after in zip(p, q, strict=True))


def movers(p: np.ndarray, q: np.ndarray, k: int) -> list[tuple[int, float, float]]:
    """The k tokens that rose most, of equal ones the lower ids."""
    order = sorted(range(len(p)), key=lambda token: (p[token] - q[token], token))
    return [(token, float(p[token]), float(q[token])) for token in order[:k]]


def sums(p: Sequence[np.ndarray], group: Sequence[int]) -> dict[int, np.ndarray]:
    """Each group's sums of probabilities by token."""
    found: dict[int, np.ndarray] = {}
    for row, number in zip(p, group, strict=True):
        found[number] = found.get(number, np.zeros(len(row))) + row
    return found


def refused(u: Sequence[float], v: Sequence[float], ratio: float, reach: float) -> bool:
    """Whether units refuse that ``ratio`` is that of what their sums estimate."""
    rest = [a - ratio * b for a, b in zip(u, v, strict=True)]
    return abs(sum(rest)) > reach * sum(one * one for one in rest) ** 0.5
