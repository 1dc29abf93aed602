"""The chance of each of several scores to be the largest, given how their errors correlate."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from unembed.signatures.alignment.estimators import Cosine

DRAWS = 40_000
AT_A_TIME = 1 << 21
"""Numbers that are drawn at once; changes memory, never a result."""
TIE = 1e-6
"""Scores within this part of the largest standard error are one score, but for rounding."""
NEGLIGIBLE = 1e-13
"""Eigenvalues within this part of the largest are 0, but for rounding."""


def covariance(
    cosine: Cosine, ratio: float, shared: Bool[np.ndarray, "tasks tasks"]
) -> Float[np.ndarray, "tasks tasks"]:
    """How the errors of one target's scores go together, NaN where a sampling error is unknown.

    ``cosine`` has one row, the target's, which is task 0. The sketch is common to all scores:
    ``Σ share_j share_k`` over its groups of features. Of the documents, those of the target are
    common to all, and those of two other tasks where these have ``shared`` inputs. ``ratio`` is the
    share of the features that blocks are kept of: products of the shares of a block in two separate
    halves of them are without noise, and of that noise so much is added as all features would
    leave. With ``shared`` the identity, the diagonal are the squared standard errors of ``align``.
    Source: theory §10.
    """
    sketch = cosine.sketch[:, 0]
    tasks = sketch.shape[1]
    if cosine.sampling is None:
        return np.full((tasks, tasks), np.nan)
    halves = cosine.sampling[:, :, 0]
    first, second = halves
    free = (together(first, second, shared) + together(second, first, shared)) / 2
    noisy = together(halves.mean(0), halves.mean(0), shared)
    found = free + (noisy - free) * ratio
    below = np.diag(found) < 0
    found = np.where(below[:, None] | below, noisy, found)
    return np.asarray(sketch.T @ sketch + found)


def together(
    a: Float[np.ndarray, "blocks tasks"],
    b: Float[np.ndarray, "blocks tasks"],
    shared: Bool[np.ndarray, "tasks tasks"],
) -> Float[np.ndarray, "tasks tasks"]:
    """``Σ_b a_bj b_bk`` over the documents that two scores both rest on; task 0 is the target.

    The first half of the blocks are the target's, or those of both where target and task lost them
    together, and the second half each other task's own.
    """
    (target, own), (target_b, own_b) = np.split(a, 2), np.split(b, 2)
    with_target = shared[0]
    return np.asarray(
        target.T @ target_b
        + np.where(with_target, target.T @ own_b, 0)
        + np.where(with_target[:, None], own.T @ target_b, 0)
        + np.where(shared, own.T @ own_b, 0)
    )


def probabilities(
    value: Float[np.ndarray, " sources"],
    covariance: Float[np.ndarray, "sources sources"],
    *,
    seed: int = 0,
) -> Float[np.ndarray, " sources"]:
    """The probability of each score to be the largest, if its errors are normal; they sum to 1.

    Of draws ``value + error``, the share in which it is the largest, and of a tie its part. A
    covariance that is none, for noise, becomes one of the same variances. Before the data, every
    order counts as likely: of many that differ by less than their errors, the first is so by luck
    too, and its chance is then too high. Raises ValueError where a number is not finite.
    Source: theory §10.
    """
    if not (np.isfinite(value).all() and np.isfinite(covariance).all()):
        raise ValueError("a score or its error is not known")
    root = _root(covariance)
    near = TIE * max(float(np.sqrt(np.diag(covariance).max(initial=0))), TIE)
    drawn = np.random.default_rng(seed)
    best = np.zeros(len(value))
    step = max(1, AT_A_TIME // len(value))
    for first in range(0, DRAWS, step):
        normal = drawn.standard_normal((min(step, DRAWS - first), len(value)))
        scores = value + normal @ root.T
        wins = scores >= scores.max(1, keepdims=True) - near
        best += (wins / wins.sum(1, keepdims=True)).sum(0)
    return best / DRAWS


def _root(covariance: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """R of which ``R Rᵀ`` is the covariance, once what is negative in it is left out."""
    weights, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    root = vectors * np.sqrt(np.where(weights > NEGLIGIBLE * weights.max(), weights, 0))
    variance, left = np.diag(covariance).clip(0), np.square(root).sum(1)
    scale = np.sqrt(np.divide(variance, left, out=np.zeros_like(left), where=left > 0))
    return np.asarray(root * scale[:, None])
