"""Cells on a plane from every logit at every point, and half-planes that meet, by brute force."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from unembed.head.head import Head


def logits_at(points: np.ndarray, origin: Tensor, axes: Tensor, head: Head) -> np.ndarray:
    """Logits before scale and soft-cap at ``origin + x axes[0] + y axes[1]``, in float64."""
    states = origin.double() + torch.from_numpy(points) @ axes.double()
    found = (states @ head.weight.double().T).numpy()
    if head.bias is not None:
        found += head.bias.double().numpy()
    if head.valid is not None:
        found[:, ~head.valid.numpy()] = -np.inf
    return found


def inside(polygon: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Whether each point lies in a polygon whose corners go counter-clockwise, edges included."""
    held = np.ones(len(points), dtype=bool)
    for (x, y), (to_x, to_y) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        held &= (to_x - x) * (points[:, 1] - y) - (to_y - y) * (points[:, 0] - x) >= -1e-9
    return held


def area_where_largest(logits: np.ndarray, token: int, half: float) -> float:
    """Area of the points of a square where ``c + a x + b y`` of one token is the largest.

    The corners are those meetings of two lines, of walls or of the square's sides, that no other
    half-plane leaves out; ordered by their angle.
    """
    c, a, b = logits
    lines = [(half, 1.0, 0.0), (half, -1.0, 0.0), (half, 0.0, 1.0), (half, 0.0, -1.0)]
    lines += [
        (c[token] - c[v], a[token] - a[v], b[token] - b[v]) for v in range(len(c)) if v != token
    ]
    corners = []
    for (p, q, r), (s, t, u) in combinations(lines, 2):
        turn = q * u - r * t
        if abs(turn) > 1e-12:
            x, y = (r * s - u * p) / turn, (t * p - q * s) / turn
            if all(k + m * x + n * y >= -1e-9 for k, m, n in lines):
                corners.append((x, y))
    if len(corners) < 3:
        return 0.0
    points = np.unique(np.round(corners, 9), axis=0)
    middle = points.mean(axis=0)
    order = np.argsort(np.arctan2(*(points - middle).T[::-1]))
    x, y = points[order].T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)
