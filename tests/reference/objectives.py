"""The penalties of one position, pair by pair."""

from __future__ import annotations

import torch
from torch import Tensor


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
