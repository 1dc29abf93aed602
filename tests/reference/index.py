"""Slow, obvious oracles of the index, which the package never imports."""

from __future__ import annotations

import math

import numpy as np

from unembed.signatures.signature import Signature
from unembed.signatures.state import State

KINDS = {"joint": "joint", "activation": "activation", "error": "error", "gradient": "first"}


def debiased(state: State, kind: str) -> float:
    """The squared norm without the pairs of samples of one document."""
    sums = state.sums(KINDS[kind])
    assert sums is not None
    total = sums.total.sum(0)
    square = 0.0
    for number in total:
        square += float(number) ** 2
    square = square / len(total) - float(sums.own.sum())
    return square / (float(state.weight.sum()) ** 2 - float(state.document_weight_squared.sum()))


def cosine(a: State, b: State, kind: str = "joint") -> float:
    """``Σ_j a_j b_j / m`` of the means over the root of the debiased norms, number by number."""
    first, second = a.mean(KINDS[kind]), b.mean(KINDS[kind])
    assert first is not None
    assert second is not None
    product = 0.0
    for x, y in zip(first, second, strict=True):
        product += float(x) * float(y)
    return product / len(first) / math.sqrt(debiased(a, kind) * debiased(b, kind))


def plain(a: State, b: State, kind: str = "joint") -> float:
    """The cosine of the means themselves, number by number."""
    first, second = a.mean(KINDS[kind]), b.mean(KINDS[kind])
    assert first is not None
    assert second is not None
    product = own = other = 0.0
    for x, y in zip(first, second, strict=True):
        product, own, other = product + float(x * y), own + float(x * x), other + float(y * y)
    return product / math.sqrt(own * other)


def ranked(query: Signature, others: list[Signature], kind: str = "joint") -> list[str]:
    """Names by descending plain cosine."""
    found = [(-plain(query.state, one.state, kind), one.name) for one in others]
    return [name for _, name in sorted(found)]


def coordinates(x: np.ndarray) -> np.ndarray:
    """Principal coordinates by power iteration on the covariance, one axis after the other."""
    x = x - x.mean(0)
    points = []
    for start in range(2):
        axis = np.random.default_rng(start).normal(size=x.shape[1])
        for _ in range(3000):
            axis = x.T @ (x @ axis)
            axis /= np.linalg.norm(axis)
        points.append(x @ axis)
        x = x - np.outer(x @ axis, axis)
    found = np.stack(points, 1)
    return found * np.sign(found[np.abs(found).argmax(0), [0, 1]])
