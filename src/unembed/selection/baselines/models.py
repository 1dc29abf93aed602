"""How well a source's model serves a target, from the target's text as that model reads it.

``source`` is the target's text with the hidden states of the source's model, ``head`` that model's
head. There is one text, and its next tokens are the classes, so nothing is read of ``target``. None
of these is symmetric.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unembed.head.blocks import apply_recipe
from unembed.head.head import Head
from unembed.selection.baselines.representation import centred
from unembed.signatures.alignment.grams import logsumexp, probability_blocks
from unembed.signatures.samples import Samples

BLOCK = 1024
ROUNDING = 1e-12
"""A share of the largest singular value that cannot be told from 0."""


@torch.no_grad()
def loss(target: Samples, source: Samples, head: Head) -> float:
    """Minus the mean cross-entropy in nats, ``mean log softmax(logits)[y]``: target perplexity.

    The perplexity is ``exp(-loss)``. Source: theory §11.
    """
    hidden, targets = (
        source.hidden.to(head.weight.device),
        source.targets.to(head.weight.device).long(),
    )
    chosen = (hidden.double() * head.weight[targets].double()).sum(1)
    apply_recipe(chosen[None], head, None if head.bias is None else head.bias[targets].double())
    return float((chosen - logsumexp(hidden, head, BLOCK)).mean())


@torch.no_grad()
def leep(target: Samples, source: Samples, head: Head) -> float:
    """LEEP, the log expected empirical prediction (Nguyen et al. 2020), at most 0::

        P(y, z) = mean over i of [y_i = y] p_i[z]            # p_i = softmax(logits_i)
        leep = mean over i of log Σ_z P(y_i, z) / P(z) p_i[z]

    The source's labels z are the tokens of its head. Exact for all of them: a block of tokens adds
    to each position its part of the sum over z, from the sums of p over the positions of its class,
    and ``P(z)`` from the sum over all. A class of one position sees itself alone, which flatters
    rare tokens alike whatever the model. Source: theory §11.
    """
    device = head.weight.device
    hidden = source.hidden.to(device).double()
    classes, member = source.targets.to(device).unique(return_inverse=True)
    found = hidden.new_zeros(len(hidden))
    normaliser = logsumexp(hidden, head, BLOCK)
    for p in probability_blocks(hidden, head, normaliser, BLOCK):
        total = p.sum(0)
        by_class = p.new_zeros(len(classes), p.shape[1]).index_add_(0, member, p)
        by_class /= torch.where(total > 0, total, 1.0)
        found += p.mul_(by_class[member]).sum(1)
    return float(found.log().mean())


@torch.no_grad()
def h_score(target: Samples, source: Samples, head: Head) -> float:
    """The regularised H-score (Bao et al. 2019; Ibrahim et al. 2022): larger where classes part::

        S = (1 - δ) cov(a) + δ mean_variance I               # Ledoit and Wolf's δ
        h_score = (1 - δ) trace(S⁻¹ cov(E[a | y]))

    ``δ = min(1, Σ_i ‖a_i a_iᵀ - C‖² / n² / ‖C - mean_variance I‖²)`` for centred states a with
    covariance C (Ledoit and Wolf 2004, who take positions as independent), and 0 where C is a
    multiple of the identity. Directions in which the
    states do not vary add nothing. The same under rotation, scale and shift of the states. NaN
    where all states are the same. Source: theory §11.
    """
    a = centred(source.hidden)
    n, dim = a.shape
    if not bool(a.any()):
        return math.nan
    vectors, values, _ = torch.linalg.svd(a, full_matrices=False)
    kept = values > ROUNDING * values[0]
    vectors, spread = vectors[:, kept], values[kept].square() / n
    mean = float(spread.sum()) / dim
    shrunk = _shrinkage(float((a.square().sum(1)).square().sum()), spread, n, dim)
    sums, count = class_sums(vectors, source.targets.to(a.device))
    # The states are vectors * values: the variance between classes along each direction.
    between = (sums.square() / count[:, None]).sum(0) * spread
    return float((1 - shrunk) * (between / ((1 - shrunk) * spread + shrunk * mean)).sum())


def class_sums(
    rows: Float[Tensor, "positions k"], targets: Int[Tensor, " positions"]
) -> tuple[Float[Tensor, "classes k"], Float[Tensor, " classes"]]:
    """The sum of the rows of each token that occurs, and how many there are."""
    classes, member, count = targets.unique(return_inverse=True, return_counts=True)
    sums = rows.new_zeros(len(classes), rows.shape[1]).index_add_(0, member, rows)
    return sums, count.to(rows.dtype)


def _shrinkage(fourth: float, spread: Float[Tensor, " k"], n: int, dim: int) -> float:
    """Ledoit and Wolf's weight of the identity, from ``Σ ‖a‖⁴`` and the eigenvalues."""
    trace, squared = float(spread.sum()), float(spread.square().sum())
    off = squared - trace**2 / dim
    noise = (fourth / n - squared) / n
    if off <= ROUNDING * squared:
        # All variances are one already: there is nothing to shrink.
        return 0.0
    return min(max(noise, 0.0) / off, 1.0)
