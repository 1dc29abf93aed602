"""Slow, obvious twins of the kernels. The package never imports this file."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from unembed.head.head import Head


def logits(hidden: Tensor, head: Head) -> Tensor:
    """All logits in float64; minus infinity where a row is no token."""
    out = hidden.double() @ head.weight.double().T
    if head.bias is not None:
        out = out + head.bias.double()
    out = out * head.scale
    if head.softcap is not None:
        out = head.softcap * torch.tanh(out / head.softcap)
    if head.valid is not None:
        out[:, ~head.valid] = -torch.inf
    return out


def decisions(all_logits: Tensor, targets: Tensor, k: int) -> dict[str, list[Any]]:
    """Every statistic of a sweep, one position after the other."""
    found: dict[str, list[Any]] = {}
    for row, target in zip(all_logits.double().tolist(), targets.tolist(), strict=True):
        tokens = [v for v in range(len(row)) if row[v] > -math.inf]
        best = sorted(tokens, key=lambda v: (-row[v], v))[:k]
        top = row[best[0]]
        logsumexp = top + math.log(math.fsum(math.exp(row[v] - top) for v in tokens))
        p = {v: math.exp(row[v] - logsumexp) for v in tokens}
        entry = {
            "topk_ids": best,
            "topk_values": [row[v] for v in best],
            "margin": row[best[0]] - row[best[1]],
            "logsumexp": logsumexp,
            "entropy": -math.fsum(p[v] * (row[v] - logsumexp) for v in tokens),
            "sum_p2": math.fsum(p[v] ** 2 for v in tokens),
            "confidence": p[best[0]],
            "target_logit": row[target],
            "nll": logsumexp - row[target],
            "rank": 1 + sum(row[v] > row[target] for v in tokens),
        }
        for name, value in entry.items():
            found.setdefault(name, []).append(value)
    return found


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


def head_loss(hidden: Tensor, head: Head, targets: Tensor, topk_ids: Tensor) -> dict[str, Tensor]:
    """The differentiable statistics by plain autograd through all logits in float64."""
    all_logits = logits(hidden, head)
    tokens = all_logits if head.valid is None else all_logits[:, head.valid]
    log_p = tokens.log_softmax(-1)
    logsumexp = tokens.logsumexp(-1)
    rows = head.weight.double()[topk_ids]
    norms = rows.norm(dim=-1, keepdim=True)
    unit = rows / norms.masked_fill(norms == 0, torch.inf)
    return {
        "nll": logsumexp - all_logits.gather(1, targets[:, None])[:, 0],
        "topk_values": all_logits.gather(1, topk_ids),
        "entropy": -(log_p.exp() * log_p).sum(-1),
        "logsumexp": logsumexp,
        "topk_cosines": unit @ unit.mT,
    }


def penalty(name: str, logits: Tensor, rows: Tensor) -> float:
    """The fisher or cosine penalty of one position, pair by pair, from the rows themselves."""
    p = logits.double().softmax(0)
    unit = rows.double() / rows.double().norm(dim=1, keepdim=True)
    metric = torch.diag(p) - torch.outer(p, p)
    total = 0.0
    for i in range(len(p)):
        for j in range(len(p)):
            if i == j:
                continue
            distance = 1 - float(unit[i] @ unit[j])
            if name == "fisher":
                v = unit @ (unit[i] - unit[j])
                distance = max(float(v @ metric @ v), 1e-8) ** 0.5
            total += float(p[i] * p[j]) * distance
    return total
