"""All logits in float64, and every statistic of a sweep one position after the other."""

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
