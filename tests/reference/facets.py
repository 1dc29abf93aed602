"""Distances to facets from every difference of rows."""

from __future__ import annotations

import torch
from torch import Tensor

from reference.sweep import logits
from unembed.head.head import Head


def facet_distance(hidden: Tensor, head: Head) -> tuple[list[int], list[float]]:
    """The nearest facet of each cell, from every difference of rows, without scale or soft-cap."""
    plain = Head.from_parts(head.weight, head.bias, 1.0, None, head.valid)
    rows = head.weight.double()
    tokens, distances = [], []
    for uncapped in logits(hidden, plain):
        top = int(uncapped.argmax())
        nearest, distance = -1, float("inf")
        walls = (rows[top] - rows).norm(dim=1).tolist()
        for v, wall in enumerate(walls):
            if v == top or wall == 0 or uncapped[v] == -torch.inf:
                continue
            if float(uncapped[top] - uncapped[v]) / wall < distance:
                nearest, distance = v, float(uncapped[top] - uncapped[v]) / wall
        tokens.append(nearest)
        distances.append(distance)
    return tokens, distances


def relative_distance(hidden: Tensor, head: Head, top1: Tensor, top2: Tensor) -> list[float]:
    """The runner-up's facet distance over the hidden norm."""
    found = []
    for h, t, r in zip(hidden.double(), top1.tolist(), top2.tolist(), strict=True):
        wall = head.weight[t].double() - head.weight[r].double()
        gap = float(wall @ h)
        if head.bias is not None:
            gap += float(head.bias[t].double() - head.bias[r].double())
        found.append(gap / float(wall.norm() * h.norm()) if gap else 0.0)
    return found
