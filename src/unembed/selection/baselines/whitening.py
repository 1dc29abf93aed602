"""How far two representations of the same positions are from a rotation of each other."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from unembed.errors import UnembedError
from unembed.selection.baselines.representation import held_directions, paired


@torch.no_grad()
def kappa(
    a: Float[Tensor, "positions dim"],
    b: Float[Tensor, "positions other"],
    *,
    rank: int | None = None,
    ridge: float = 1e-6,
    centre: bool = True,
) -> float:
    """The distance of the whitened cross-covariance from the nearest rotation, from 0 to 1.

    With the top r eigenvectors V and eigenvalues L of each centred covariance::

        C = (L_a + ridge)^-½ V_aᵀ cov(a, b) V_b (L_b + ridge)^-½
        kappa = min over orthogonal Q of ‖C - Q‖ / √r = √mean((1 - σ)²)

    with σ the singular values of C; the minimum is at the polar factor of C. 0 where one is a
    linear map of the other within those directions (but for the ridge, in units of squared
    entries), 1 where they are not correlated. ``rank`` is r; None takes as many
    directions as hold 99 % of the variance, of the one that needs fewer. The same under rotation
    of either. ``centre=False`` leaves the column means in.

    NaN where a representation is the same at all positions. Raises UnembedError for a rank that
    the matrices cannot have, a negative ridge, and rows that cannot be paired. Source: theory §11.
    """
    a, b = paired(a, b, centre)
    most = min(len(a), a.shape[1], b.shape[1])
    if rank is not None and not 1 <= rank <= most:
        raise UnembedError(f"rank is {rank}: these matrices have from 1 to {most} directions")
    if not 0 <= ridge < math.inf:
        raise UnembedError(f"ridge is {ridge}: give 0 or a small positive number")
    if not (bool(a.any()) and bool(b.any())):
        return math.nan
    sides = [torch.linalg.svd(x, full_matrices=False)[:2] for x in (a, b)]
    r = min(held_directions(s) for _, s in sides) if rank is None else rank
    whitened = []
    for vectors, values in sides:
        spread = (values[:r].square() / len(a) + ridge).sqrt()
        shrunk = values[:r] / math.sqrt(len(a)) / torch.where(spread > 0, spread, 1.0)
        whitened.append(vectors[:, :r] * shrunk)
    singular = torch.linalg.svdvals(whitened[0].T @ whitened[1])
    return float((1 - singular).square().mean().sqrt())
