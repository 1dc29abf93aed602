"""Likeness of two texts from their next tokens alone."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unembed.head.head import Head
from unembed.selection.baselines.cosine import cosine
from unembed.signatures.samples import Samples

ALPHA = 0.1
"""What is added to each token's count: with some thousand positions and ten thousands of tokens,
about as much in all as there are counts."""


def unigram(target: Samples, source: Samples, head: Head) -> float:
    """The cosine of the counts of next tokens, from 0 to 1 (label-unigram cosine; theory §11)."""
    return cosine(_counts(target.targets, head), _counts(source.targets, head))


def unigram_loss(target: Samples, source: Samples, head: Head, *, alpha: float = ALPHA) -> float:
    """Minus the cross-entropy of the target's next tokens under the source's unigram, in nats::

        mean over t of log((count_s[y_t] + alpha) / (n_s + alpha * tokens))

    with additive (Lidstone) smoothing over the head's tokens. Not symmetric. Source: theory §11.
    """
    counts = _counts(source.targets, head)
    smoothed = (counts + alpha) / (counts.sum() + alpha * head.tokens)
    return float(smoothed.log()[target.targets.cpu().long()].mean())


def _counts(targets: Int[Tensor, " positions"], head: Head) -> Float[Tensor, " vocab"]:
    return torch.bincount(targets.cpu().long(), minlength=head.vocab).double()
