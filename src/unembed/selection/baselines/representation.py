"""Likeness of two representations of the same inputs: one row an input, any number of columns.

Each takes matrices whose rows are paired, in float64, and is NaN where a representation is the same
for every input. ``centre=False`` leaves the column means in: for rows that are centred another way.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unembed.errors import UnembedError
from unembed.selection.baselines.cosine import cosine, ratio

HELD = 0.99
"""The share of the variance that SVCCA's principal subspaces hold."""


@torch.no_grad()
def linear_cka(
    a: Float[Tensor, "positions dim"], b: Float[Tensor, "positions other"], *, centre: bool = True
) -> float:
    """Linear CKA, plug-in (Kornblith et al. 2019), from 0 to 1::

        a, b = a - a.mean(0), b - b.mean(0)
        cka = (aᵀb).norm()² / ((aᵀa).norm() * (bᵀb).norm()) = cos(a aᵀ, b bᵀ)

    The same under rotation and scaling of either. Few positions against many columns raise it
    towards 1, whatever the representations: ``debiased_cka`` does not have that.
    Source: theory §11.
    """
    a, b = paired(a, b, centre)
    if len(a) <= min(a.shape[1], b.shape[1]):
        return cosine(a @ a.T, b @ b.T)
    product, left, right = (float((x.T @ y).square().sum()) for x, y in ((a, b), (a, a), (b, b)))
    return ratio(product, left, right)


@torch.no_grad()
def rsa(a: Float[Tensor, "positions dim"], b: Float[Tensor, "positions other"]) -> float:
    """Representational similarity analysis (Kriegeskorte et al. 2008), from -1 to 1::

        spearman(corrcoef(a)[above diagonal], corrcoef(b)[above diagonal])

    ``corrcoef`` correlates inputs over columns. Ranks, not values, are correlated, as published:
    nothing says that the likeness of two inputs should grow linearly in both. Ties have their mean
    rank. The same under a scale and a shift of each input. NaN with fewer than three inputs that
    vary over the columns of both, the others being left out, and where all likenesses are one.
    Source: theory §11.
    """
    a, b = (centred(x.T).T for x in paired(a, b, centre=False))
    varies = (a != 0).any(1) & (b != 0).any(1)
    inputs = int(varies.sum())
    if inputs < 3:
        return math.nan
    above = np.triu_indices(inputs, 1)
    ranks = []
    for x in (a[varies], b[varies]):
        unit = x / x.norm(dim=1, keepdim=True)
        # Equal correlations differ by rounding, which must not rank them.
        rank = _ranks((unit @ unit.T).cpu().numpy()[above].round(12))
        ranks.append(torch.from_numpy(rank - rank.mean()))
    return cosine(*ranks)


@torch.no_grad()
def svcca(
    a: Float[Tensor, "positions dim"], b: Float[Tensor, "positions other"], *, centre: bool = True
) -> float:
    """SVCCA (Raghu et al. 2017): the mean canonical correlation of principal subspaces, 0 to 1.

    With ``U_a`` the least number of left singular vectors of the centred ``a`` that hold 99 % of
    its variance, and ``U_b`` likewise, the mean of all singular values of ``U_aᵀ U_b``; there are
    as many as the smaller subspace has dimensions, so one that lies within the other scores 1. The
    same under rotation and scaling of either. Source: theory §11.
    """
    a, b = paired(a, b, centre)
    if not (bool(a.any()) and bool(b.any())):
        return math.nan
    return float(torch.linalg.svdvals(_principal(a).T @ _principal(b)).mean())


@torch.no_grad()
def procrustes(
    a: Float[Tensor, "positions dim"], b: Float[Tensor, "positions other"], *, centre: bool = True
) -> float:
    """Procrustes similarity (Schönemann 1966; Ding et al. 2021), from 0 to 1::

        a, b = a - a.mean(0), b - b.mean(0)
        procrustes = nuclear_norm(aᵀb) / (a.norm() * b.norm())

    The cosine of the two after the rotation that brings them nearest. The same under rotation and
    scaling of either. Source: theory §11.
    """
    a, b = paired(a, b, centre)
    nuclear = torch.linalg.svdvals(narrowed(a).T @ narrowed(b)).sum()
    return ratio(float(nuclear), float(a.square().sum()), float(b.square().sum()))


def paired(
    a: Float[Tensor, "positions dim"], b: Float[Tensor, "positions other"], centre: bool
) -> tuple[Float[Tensor, "positions dim"], Float[Tensor, "positions other"]]:
    """Both in float64, less their column means where ``centre`` is set.

    Raises UnembedError where their rows cannot be paired, or are not finite.
    """
    if len(a) != len(b):
        raise UnembedError(
            f"{len(a):,} rows cannot be paired with {len(b):,}: "
            "give two representations of the same positions"
        )
    if not len(a):
        raise UnembedError("no positions to compare: give one at least")
    for x in (a, b):
        bad = int((~torch.isfinite(x)).any(1).sum())
        if bad:
            raise UnembedError(f"{bad} of {len(x)} rows are not finite: leave them out of both")
    a, b = a.double(), b.double()
    return (centred(a), centred(b)) if centre else (a, b)


def centred(x: Float[Tensor, "positions dim"]) -> Float[Tensor, "positions dim"]:
    """Less the mean of each column, in float64; a column of one value becomes exactly 0."""
    x = x.double()
    x = x - x[0]
    return x - x.mean(0)


def narrowed(x: Float[Tensor, "inputs columns"]) -> Float[Tensor, "inputs columns2"]:
    """A matrix of no more columns than rows with the same ``x xᵀ``."""
    if x.shape[1] <= len(x):
        return x
    factor: Tensor = torch.linalg.qr(x.T, mode="r").R
    return factor.T


def held_directions(values: Float[Tensor, " k"]) -> int:
    """The least number of singular values, largest first, that hold 99 % of the variance."""
    share = values.square().cumsum(0) / values.square().sum()
    return int((share < HELD).sum()) + 1


def _principal(x: Float[Tensor, "inputs columns"]) -> Float[Tensor, "inputs k"]:
    vectors, values, _ = torch.linalg.svd(narrowed(x), full_matrices=False)
    kept: Tensor = vectors[:, : held_directions(values)]
    return kept


def _ranks(values: Float[np.ndarray, " pairs"]) -> Float[np.ndarray, " pairs"]:
    place: Int[np.ndarray, " pairs"]
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = count.cumsum()
    ranks: Float[np.ndarray, " pairs"] = (last - (count - 1) / 2)[place]
    return ranks
