"""How far a cloud bends: off its tangent planes, and from one of them to the next."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unembed.decisions.cloud.neighbours import Neighbours
from unembed.short_repr import ShortRepr
from unembed.stats.bootstrap import RESAMPLES, cluster, ratio_estimates, sums_by_document
from unembed.stats.estimate import Estimate

AROUND = 16
"""Neighbours that a tangent plane is laid through."""

MOST_TANGENT = AROUND // 2
"""Dimensions of a tangent plane at most: more of them would hold the neighbours' own scatter."""

NEGLIGIBLE = 1e-12
"""Part of the neighbours' variance below which that along an axis is rounding."""

MOST_PLANES = 1_000
"""Points whose planes are laid, evenly from all: their error is then some two in a hundred."""

BLOCK_ELEMENTS = 1 << 22
"""Coordinates of neighbours held at a time, 32 MiB of float64; changes memory, never a result."""


@dataclass(frozen=True)
class Curvature(ShortRepr):
    """Local principal axes of the 16 nearest neighbours of up to 1,000 points.

    ``tangent`` is how many of them span the plane. ``off_plane`` is the mean share of the
    neighbours' variance that lies off it. ``turning`` is the root mean square of the principal
    angles between the planes of neighbours, in radians, over the root mean square of their
    distance, in units of the cloud's radius ``sqrt(mean |x - mean|**2)``: 1 / sqrt(tangent) for a
    sphere of many points. Sixteen neighbours scatter, so that both are to be read beside the same
    figures of a Gaussian of like covariance, which does not bend.
    """

    tangent: int
    off_plane: Estimate
    turning: Estimate


def curvature(
    found: Neighbours,
    documents: Int[np.ndarray, " rows"] | None,
    dimension: float | None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Curvature:
    """The curvature of a cloud of this dimension, which is rounded, to 8 at most, for the planes.

    Pairs of planes are those of a point and of its sixteenth neighbour. Intervals resample
    documents, with every point's neighbours as they are.
    """
    tangent = max(1, min(MOST_TANGENT, round(dimension or 1), found.states.shape[1] - 1))
    n = found.points
    if n <= AROUND or dimension is None or found.states.shape[1] < 2:
        reason = f"tangent planes need {AROUND + 1} points that differ, got {n}"
        if n > AROUND:
            reason = "tangent planes need a dimension, and states of more than one coordinate"
        none = Estimate(None, n=n, reason=reason)
        return Curvature(tangent, none, none)
    chosen = np.arange(min(n, MOST_PLANES)) * n // min(n, MOST_PLANES)
    off, angles = _local(found, chosen, tangent)
    far = found.distance[chosen, AROUND - 1]
    largest = float(np.abs(found.states).max())  # the squares of tiny states underflow
    radius = largest * math.sqrt(float(((found.states / largest) ** 2).sum(axis=1).mean()))
    rows = found.kept[chosen]
    inverse, count = cluster(np.zeros_like(rows) if documents is None else documents[rows])
    sums = [
        sums_by_document(one, inverse, count)
        for one in (off, angles**2, np.ones(len(rows)), (far / radius) ** 2)
    ]
    share, turned = ratio_estimates(
        np.stack(sums[:2]), np.stack(sums[2:]), resamples=resamples, seed=seed
    )
    low, high = (
        None if end is None else math.sqrt(max(0.0, end)) for end in (turned.low, turned.high)
    )
    turning = Estimate(math.sqrt(float(turned)), low, high, turned.n, documents=share.documents)
    if documents is None:
        share, turning = (replace(one, documents=None) for one in (share, turning))
    return Curvature(tangent, share, replace(turning, n=share.n))


def _local(
    found: Neighbours, chosen: Int[np.ndarray, " chosen"], tangent: int
) -> tuple[Float[np.ndarray, " chosen"], Float[np.ndarray, " chosen"]]:
    """The share of the variance off each point's plane, and the angle to its neighbour's plane."""
    states, index = torch.from_numpy(found.states), torch.from_numpy(found.index[:, :AROUND])
    off, angles = [], []
    rows = max(1, BLOCK_ELEMENTS // (2 * AROUND * states.shape[1]))
    for points in torch.from_numpy(chosen).split(rows):
        around, share, basis = _plane(states[index[points]], tangent)
        off.append(share)
        other, _share, other_basis = _plane(states[index[index[points, AROUND - 1]]], tangent)
        cosines = torch.linalg.svdvals(basis.mT @ (around @ other.mT) @ other_basis)
        angles.append(torch.acos(cosines.clamp(max=1.0)).square().mean(dim=1).sqrt())
    return torch.cat(off).clamp(0.0, 1.0).numpy(), torch.cat(angles).numpy()


def _plane(
    around: Float[Tensor, "points around width"], tangent: int
) -> tuple[
    Float[Tensor, "points around width"],
    Float[Tensor, " points"],
    Float[Tensor, "points around tangent"],
]:
    """The neighbours less their mean, the share of their variance off the plane, and its basis.

    The neighbours are in units of their largest coordinate, the basis is that of unit vectors,
    ``around.mT @ basis``.
    """
    around = around - around.mean(dim=1, keepdim=True)
    around = around / around.abs().amax(dim=(1, 2), keepdim=True)
    values, vectors = torch.linalg.eigh(around @ around.mT)
    values = values.clamp_min(0.0)
    kept = values[:, -tangent:]
    total = values.sum(dim=1)
    # An axis without variance, where the neighbours span fewer, has no direction: its angle is 90°.
    there = kept > NEGLIGIBLE * total[:, None]
    basis = vectors[:, :, -tangent:] * torch.where(there, kept.rsqrt(), 0.0)[:, None]
    return around, 1 - kept.sum(dim=1) / total, basis
