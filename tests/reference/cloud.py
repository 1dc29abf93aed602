"""Spectra, dimensions and curvature of a cloud, a point and a pair after the other."""

from __future__ import annotations

import math

import numpy as np


def distances(states: np.ndarray) -> list[list[float]]:
    """Of every point the distances to the others, in ascending order."""
    found = []
    for i, x in enumerate(states):
        others = [math.dist(x, y) for j, y in enumerate(states) if j != i]
        found.append(sorted(others))
    return found


def two_nn(ratios: list[float]) -> float:
    """The slope through the origin, of all but the largest tenth."""
    n = len(ratios)
    pairs = [
        (math.log(mu), -math.log(1 - i / n))
        for i, mu in enumerate(sorted(ratios), start=1)
        if i < n
    ]
    pairs = pairs[: int(0.9 * n)]
    return sum(x * y for x, y in pairs) / sum(x * x for x, _ in pairs)


def levina_bickel(every: list[list[float]]) -> float:
    """1 / mean inside each k, then the mean over k."""
    found = []
    for k in range(5, 13):
        inverses = [sum(math.log(r[k - 1] / r[j]) for j in range(k - 1)) / (k - 1) for r in every]
        found.append(1 / (sum(inverses) / len(inverses)))
    return sum(found) / len(found)


def gride_score(ratios: list[float], k: int, d: float) -> float:
    """Derivative of the log-likelihood in d, with one point less in its first term."""
    n1, n2 = k, 2 * k
    total = (len(ratios) - 1) / d
    for mu in ratios:
        x = math.log(mu)
        total += (n2 - n1 - 1) * x / (1 - mu**-d) - (n2 - 1) * x
    return total


def entropy(states: np.ndarray) -> float:
    """Von Neumann's, from singular values."""
    values = np.linalg.svd(states - states.mean(axis=0), compute_uv=False) ** 2
    return -sum(p * math.log(p) for p in values / values.sum() if p > 1e-15)


def mean_cosine(states: np.ndarray) -> float:
    """Over all pairs."""
    n, total = len(states), 0.0
    for i in range(n):
        for j in range(n):
            if i != j:
                norms = np.linalg.norm(states[i]) * np.linalg.norm(states[j])
                total += float(states[i] @ states[j]) / float(norms)
    return total / (n * (n - 1))


def local_planes(states: np.ndarray, around: int, tangent: int) -> tuple[float, float]:
    """Mean share of variance off the local planes, and how fast these turn, in units of the radius.

    A plane is that of the point's nearest neighbours, a pair that of a point and its last one.
    """
    planes, off, lasts = [], [], []
    for x in states:
        apart = np.linalg.norm(states - x, axis=1)
        near = np.argsort(apart)[1 : around + 1]
        here = states[near] - states[near].mean(axis=0)
        _, values, axes = np.linalg.svd(here, full_matrices=False)
        off.append(1 - (values[:tangent] ** 2).sum() / (values**2).sum())
        planes.append(axes[:tangent])
        lasts.append((int(near[-1]), float(apart[near[-1]])))
    angles, apart_squared = [], []
    for plane, (other, distance) in zip(planes, lasts, strict=True):
        cosines = np.linalg.svd(plane @ planes[other].T, compute_uv=False)
        angles.append(np.mean(np.arccos(np.minimum(1, cosines)) ** 2))
        apart_squared.append(distance**2)
    radius = np.sqrt(((states - states.mean(axis=0)) ** 2).sum(axis=1).mean())
    turning = np.sqrt(np.mean(angles)) / (np.sqrt(np.mean(apart_squared)) / radius)
    return float(np.mean(off)), float(turning)
