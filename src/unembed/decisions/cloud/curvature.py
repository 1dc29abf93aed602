"""How far a cloud bends: off its tangent planes, and from one of them to the next."""

from __future__ import annotations

import math
from dataclasses import dataclass

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

BLOCK_ELEMENTS = 1 << 22
"""Coordinates of neighbours held at a time, 32 MiB of float64; changes memory, never a result."""


@dataclass(frozen=True)
class Curvature(ShortRepr):
    """Local principal axes of every point's 16 nearest neighbours.

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
    off, angles = _local(found, tangent)
    far = found.distance[:, AROUND - 1]
    radius = math.sqrt(float((found.states**2).sum(axis=1).mean()))
    keys = np.zeros(n, dtype=np.intp) if documents is None else documents[found.kept]
    inverse, count = cluster(keys)
    sums = [
        sums_by_document(one, inverse, count)
        for one in (off, angles**2, np.ones(n), (far / radius) ** 2)
    ]
    share, turned = ratio_estimates(
        np.stack(sums[:2]), np.stack(sums[2:]), resamples=resamples, seed=seed
    )
    low, high = (
        None if end is None else math.sqrt(max(0.0, end)) for end in (turned.low, turned.high)
    )
    turning = Estimate(math.sqrt(float(turned)), low, high, n, documents=count)
    return Curvature(tangent, share, turning)


def _local(
    found: Neighbours, tangent: int
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """The share of the variance off each point's plane, and the angle to its neighbour's plane."""
    states = torch.from_numpy(found.states)
    index = torch.from_numpy(found.index[:, :AROUND].copy())
    n, width = states.shape
    rows = max(1, BLOCK_ELEMENTS // (2 * AROUND * width))
    off, bases = torch.empty(n, dtype=torch.float64), torch.empty(n, AROUND, tangent).double()
    for here in torch.arange(n).split(rows):
        around = _around(states, index[here])
        values, vectors = torch.linalg.eigh(around @ around.mT)
        values = values.clamp_min(0.0)
        kept = values[:, -tangent:]
        off[here] = 1 - kept.sum(dim=1) / values.sum(dim=1)
        # Columns that turn coordinates among the neighbours into unit vectors of the plane.
        bases[here] = vectors[:, :, -tangent:] / kept.sqrt().clamp_min(_tiny(values))[:, None]
    angles = torch.empty(n, dtype=torch.float64)
    for here in torch.arange(n).split(rows):
        other = index[here, AROUND - 1]
        between = _around(states, index[here]) @ _around(states, index[other]).mT
        cosines = torch.linalg.svdvals(bases[here].mT @ between @ bases[other])
        angles[here] = torch.acos(cosines.clamp(max=1.0)).square().mean(dim=1).sqrt()
    return off.clamp(0.0, 1.0).numpy(), angles.numpy()


def _around(
    states: Float[Tensor, "points width"], index: Int[Tensor, "rows around"]
) -> Float[Tensor, "rows around width"]:
    """The neighbours of points, less their mean."""
    found = states[index]
    return found - found.mean(dim=1, keepdim=True)


def _tiny(values: Float[Tensor, "rows around"]) -> Float[Tensor, "rows 1"]:
    """A length below which an axis is rounding."""
    return 1e-8 * values[:, -1:].sqrt().clamp_min(torch.finfo(torch.float64).tiny)
