"""Slow, obvious verdicts: loops over seeds, targets and sources."""

from __future__ import annotations

import math

import numpy as np


def ranks(values: list[float]) -> list[float]:
    """From 0, ties averaged."""
    return [sum(w < v for w in values) + (sum(w == v for w in values) - 1) / 2 for v in values]


def correlation(x: list[float], y: list[float]) -> float:
    """Pearson's, 0 where one of the two is constant."""
    mx, my = sum(x) / len(x), sum(y) / len(y)
    xy = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True))
    xx, yy = sum((a - mx) ** 2 for a in x), sum((b - my) ** 2 for b in y)
    return xy / math.sqrt(xx * yy) if xx > 0 and yy > 0 else 0.0


def verdict(gains: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Top-1, share, regret and Spearman's rho; nothing but the target itself is left out."""
    hits, chosen, bests, rhos = [], [], [], []
    for s in range(len(gains)):
        for t in range(gains.shape[1]):
            others = [i for i in range(gains.shape[1]) if i != t]
            gain = [float(gains[s, i, t]) for i in others]
            score = [float(scores[s, i, t]) for i in others]
            score = [-math.inf if math.isnan(x) else x for x in score]
            first = [i for i, x in enumerate(score) if x == max(score)]
            hits.append(sum(gain[i] == max(gain) for i in first) / len(first))
            chosen.append(sum(gain[i] for i in first) / len(first))
            bests.append(max(gain))
            rhos.append(correlation(ranks(score), ranks(gain)))
    n = len(hits)
    return {
        "top1": sum(hits) / n,
        "share": sum(chosen) / sum(bests),
        "regret": (sum(bests) - sum(chosen)) / n,
        "spearman": sum(rhos) / n,
    }
