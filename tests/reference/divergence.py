"""The divergence of two heads from all of their logits."""

from __future__ import annotations

from torch import Tensor

import reference.sweep
from unembed.head.head import Head


def full_divergence(hidden: Tensor, head: Head, other_hidden: Tensor, other: Head) -> Tensor:
    """The divergence by plain autograd through all logits of the tokens."""
    rows = [reference.sweep.logits(h, own) for h, own in ((other_hidden, other), (hidden, head))]
    kept = rows if head.valid is None else [row[:, head.valid] for row in rows]
    log_p, log_q = (row.log_softmax(-1) for row in kept)
    return (log_p.exp() * (log_p - log_q)).sum(-1)
