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


def share_weight(
    share: float, hidden: Tensor, rows: Tensor, targets: Tensor, name: str, k: int = 5
) -> tuple[float, float, float]:
    """lambda of a gradient share and the lengths of CE' and P', each part by autograd of its own.

    In plain float64 operations over all logits of ``hidden @ rows.T``, means over the positions.
    """
    parts = []
    for part in ("nll", name):
        h = hidden.detach().double().requires_grad_()
        logits = h @ rows.detach().double().T
        top = logits.topk(k)
        p = top.values.softmax(1)
        unit = torch.nn.functional.normalize(rows.detach().double(), dim=1)[top.indices]
        cosines = unit @ unit.mT
        margin = top.values[:, 0] - top.values[:, 1]
        pairs = p[:, :, None] * p[:, None, :] * (1 - torch.eye(k, dtype=p.dtype))
        if part == "nll":
            loss = torch.nn.functional.cross_entropy(logits, targets)
        elif part == "entropy":
            loss = torch.distributions.Categorical(logits=logits).entropy().mean()
        elif part == "margin":
            loss = -margin[margin < 1.0].sum() / max(1, int((margin < 1.0).sum()))
        elif part == "cosine":
            loss = (pairs * (1 - cosines)).sum((1, 2)).mean()
        else:
            between = cosines[:, :, None, :] - cosines[:, None, :, :]  # [n, i, j, m]
            mean = (between * p[:, None, None, :]).sum(3, keepdim=True)
            square = ((between - mean) ** 2 * p[:, None, None, :]).sum(3)
            loss = (pairs * square.clamp_min(1e-8).sqrt()).sum((1, 2)).mean()
        [gradient] = torch.autograd.grad(loss, h)
        parts.append(float(gradient.norm()))
    by_entropy, by_penalty = parts
    return (share * by_entropy / by_penalty if by_penalty else 0.0), by_entropy, by_penalty
