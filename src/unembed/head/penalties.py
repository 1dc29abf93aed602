"""How far apart a position's leading rows lie, weighed by their probabilities."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

MIN_SQUARED_DISTANCE = 1e-8
"""Squared Fisher distances are raised to this before the root, whose slope has no bound at 0."""


def fisher_penalty(
    logits: Float[Tensor, "positions k"], cosines: Float[Tensor, "positions k k"]
) -> Float[Tensor, " positions"]:
    """``sum_{i != j} p_i p_j d_ij``, the mean Fisher distance of two tokens, p softmax(logits).

    ``d_ij^2 = Var_{m~p}(G_im - G_jm)`` with G the cosines, at least MIN_SQUARED_DISTANCE, taken as
    ``C_ii + C_jj - 2 C_ij`` from the covariance C of G's rows, in float64, so that nearly equal
    rows lose nothing. With two tokens ``4 (1 - cos) (p q)^(3/2)``. Source: theory §5.
    """
    p, g = logits.double().softmax(1), cosines.double()
    centred = g - (g * p[:, None, :]).sum(2, keepdim=True)
    covariance = (centred * p[:, None, :]) @ centred.mT
    variance = covariance.diagonal(dim1=1, dim2=2)
    square = variance[:, :, None] + variance[:, None, :] - 2 * covariance
    distance = square.clamp_min(MIN_SQUARED_DISTANCE).sqrt()
    return (_pairs(p) * distance).sum((1, 2)).to(logits.dtype)


def cosine_penalty(
    logits: Float[Tensor, "positions k"], cosines: Float[Tensor, "positions k k"]
) -> Float[Tensor, " positions"]:
    """``sum_{i != j} p_i p_j (1 - cos_ij)``, p softmax(logits). Source: theory §5."""
    p = logits.double().softmax(1)
    return (_pairs(p) * (1 - cosines.double())).sum((1, 2)).to(logits.dtype)


def _pairs(p: Float[Tensor, "positions k"]) -> Float[Tensor, "positions k k"]:
    """``p_i p_j``, 0 on the diagonal."""
    other = 1 - torch.eye(p.shape[1], dtype=p.dtype, device=p.device)
    return p[:, :, None] * p[:, None, :] * other
