"""How likely normal noise on every logit is to change the top token, from the largest logits."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

STEP, REACH = 0.3, 8.1
"""Spacing and ends of the trapezoidal rule over the noise of the top logit: its error is below
1e-8 with 64 candidates, where 32 Gauss-Hermite nodes are off by up to 7e-5 and 16 by 1e-3."""

ROUNDING = 1e-5
"""Relative error allowed for in a probability mass that is taken from float32 logits."""


@torch.no_grad()
def noise_flips(
    topk_logits: Float[Tensor, "positions k"],
    logsumexp: Float[Tensor, " positions"],
    deviation: float,
) -> tuple[Float[Tensor, " positions"], Float[Tensor, " positions"]]:
    """Chance that noise on the logits changes the argmax, and a bound on what it leaves out.

    Equivalent to, for many draws::

        (logits + deviation * randn(vocab)).argmax() != logits.argmax()

    which is ``1 - E_z[prod_j Phi(z + gap_j / deviation)]``, z standard normal, ``gap_j`` how far
    token j lies behind. The first result takes the product over the k largest logits, in descending
    order: never too large. Token j beyond them would overtake with chance ``Phi(-x_j)``, ``x_j = z
    + gap_j / deviation``, and ``Phi(-x_j) <= exp(-gap_j) max_x exp(gap(x)) Phi(-x)`` over the gaps
    that it may have; the sum of ``exp(-gap_j)`` is known from ``logsumexp``. The second result
    bounds the sum of what those tokens add; the two together are never too small. In logits and
    nats; float64. Without noise both are 0. Source: theory §6.
    """
    logits = topk_logits.double()
    gaps = logits[:, :1] - logits[:, 1:]
    stays_put = torch.zeros(len(logits), dtype=torch.float64, device=logits.device)
    if deviation == 0:
        return stays_put, stays_put.clone()
    whole = (logsumexp.double() - logits[:, 0]).exp()
    beyond = (whole * (1 + ROUNDING) - 1 - (-gaps).exp().sum(dim=1)).clamp_min(1e-300).log()
    chance, neglected, mass = stays_put, stays_put.clone(), 0.0
    steepest = _ratio_reaches(deviation)
    count = round(REACH / STEP)
    for step in range(-count, count + 1):
        z = step * STEP
        weight = math.exp(-z * z / 2)
        behind = z + gaps / deviation
        stays = torch.special.ndtr(behind).prod(dim=1)
        x = behind[:, -1].clamp_min(steepest)
        others = (beyond + deviation * (x - z) + torch.special.log_ndtr(-x)).clamp_max(0).exp()
        chance += weight * (1 - stays)
        neglected += weight * stays * others
        mass += weight
    return chance / mass, neglected / mass


def _ratio_reaches(deviation: float) -> float:
    """Where ``phi(x) / Phi(-x)`` equals ``deviation``: ``exp(deviation x) Phi(-x)`` is largest."""
    low, high = -40.0, deviation + 1
    for _ in range(80):
        middle = (low + high) / 2
        log_tail = float(torch.special.log_ndtr(torch.tensor(-middle, dtype=torch.float64)))
        ratio = math.exp(-middle * middle / 2 - log_tail) / math.sqrt(2 * math.pi)
        low, high = (middle, high) if ratio < deviation else (low, middle)
    return high
