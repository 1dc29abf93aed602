"""The head's differentiable statistics by plain autograd."""

from __future__ import annotations

import torch
from torch import Tensor

from reference.sweep import logits
from unembed.head.head import Head


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
