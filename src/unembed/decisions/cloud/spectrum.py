"""How a cloud's variance is spread over directions, and where the cloud lies."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from unembed.short_repr import ShortRepr
from unembed.stats.bootstrap import RESAMPLES, bootstrap_sums, cluster, interval
from unembed.stats.estimate import Estimate, exponential

LEAST_VARIANCE = 1e-280
"""Of states whose largest coordinate is about 1: of less than that shares cannot be taken."""


@dataclass(frozen=True)
class Spectrum(ShortRepr):
    """The eigenvalues p of a cloud's covariance, as shares of its variance, in a few numbers.

    ``entropy_nats`` is von Neumann's ``-sum p ln p`` and ``effective_rank`` its exponential,
    ``participation_ratio`` is ``1 / sum p**2``, ``leading_share`` the largest p. ``mean_cosine`` is
    that of all pairs of states, ``mean_norm`` that of the states themselves, and ``mean_share`` is
    ``|mean|**2 / mean(|x|**2)``, the part of the squared norm that all states have in common.
    """

    n: int
    documents: int
    entropy_nats: Estimate
    effective_rank: Estimate
    participation_ratio: Estimate
    leading_share: Estimate
    mean_cosine: Estimate
    mean_norm: Estimate
    mean_share: Estimate


def spectrum(
    states: Float[np.ndarray, "points width"],
    documents: Int[np.ndarray, " points"],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[Spectrum, Float[np.ndarray, " axes"]]:
    """The spectrum of finite states, in float64, and the variance along each axis, largest first.

    Equivalent to::

        p = np.linalg.eigvalsh(np.cov(states.T, bias=True))
        p = p / p.sum()
        entropy = -(p * np.log(p)).sum()

    Intervals resample documents to first order, as those of a rank correlation: of a resample with
    document weights w the figure is ``value + sum(w I) / n``, I the figure's derivative in the
    weight of a position, and no eigenvalue is taken anew. They are about the figure of as many
    positions: the entropy of few is too low. Where the variance is alike in all directions, which
    then are those of the sample, the first three are too wide.
    """
    made, variances = figures_of(states)
    n = len(states)
    inverse, count = cluster(documents)
    sums = np.stack([np.bincount(inverse, one.influence, count) for one in made])
    sizes = np.bincount(inverse, minlength=count).astype(np.float64)
    draws = np.zeros((0, len(made)))
    if count > 1:
        moved = bootstrap_sums(np.vstack([sums, sizes]), resamples=resamples, seed=seed)
        draws = moved[:, :-1] / moved[:, -1:]
    found = [one.estimate(draws[:, at], n, count) for at, one in enumerate(made)]
    entropy, participation, leading, cosine, norm, share = found
    figures = Spectrum(
        n=n,
        documents=count,
        entropy_nats=entropy,
        effective_rank=exponential(entropy),
        participation_ratio=participation,
        leading_share=leading,
        mean_cosine=cosine,
        mean_norm=norm,
        mean_share=share,
    )
    return figures, variances


@dataclass(frozen=True)
class Figure:
    """A figure and n times its derivative in the weight of each of n positions.

    ``limits`` are what it can be.
    """

    value: float | None
    influence: Float[np.ndarray, " points"]
    limits: tuple[float, float] = (0.0, math.inf)
    reason: str | None = None

    def estimate(self, moved: Float[np.ndarray, " resamples"], n: int, documents: int) -> Estimate:
        """The figure with the interval of what each resample moves it by."""
        if self.value is None:
            return Estimate(None, n=n, documents=documents, reason=self.reason)
        ends: tuple[float | None, float | None] = (None, None)
        if len(moved):
            ends = interval(np.clip(self.value + moved, *self.limits), documents)
        return Estimate(self.value, *ends, n=n, documents=documents)


def figures_of(
    states: Float[np.ndarray, "points width"],
) -> tuple[list[Figure], Float[np.ndarray, " axes"]]:
    """Entropy, participation ratio, leading share, mean cosine, norm and share; the variances.

    All with their derivatives in the weight of a position, times the number of positions.
    """
    # In units of a power of two no square overflows or underflows, and no rounding is another.
    exponent = math.frexp(float(np.abs(states).max(initial=0.0)))[1]
    x = np.ldexp(states.astype(np.float64), -exponent)
    n, width = x.shape
    mean = x.mean(axis=0) if n else np.zeros(width)
    z = x - mean
    variances, squares = _axes(z)
    total = float(variances.sum())
    norms = np.sqrt((x * x).sum(axis=1))
    reason = None
    if n < 2:
        reason = f"a covariance needs 2 states, got {n}"
    elif not _varies(x):
        reason = "every state is the same"
    elif total < LEAST_VARIANCE:
        reason = "the states differ by so little that their variance underflows"
    spread = [Figure(None, np.zeros(n), reason=reason)] * 3
    if reason is None:
        spread = _of_variances(variances, squares, total)
    found = [
        *spread,
        _mean_cosine(x, norms),
        _mean_norm(norms, exponent),
        _mean_share(mean, z, norms),
    ]
    return found, np.ldexp(variances, 2 * exponent)


def _varies(x: Float[np.ndarray, "points width"]) -> bool:
    """Whether the rows differ: their mean is rounded, and so is their variance."""
    return bool((x != x[0]).any())


def _axes(
    z: Float[np.ndarray, "points width"],
) -> tuple[Float[np.ndarray, " axes"], Float[np.ndarray, "points axes"]]:
    """Variance along each principal axis, largest first, and the squares of what lies along it."""
    n, width = z.shape
    if n < width:
        # Of so few points the inner products are the smaller matrix, with the same eigenvalues.
        values, vectors = np.linalg.eigh(z @ z.T / max(1, n))
        values = np.maximum(values, 0.0)
        squares = vectors**2 * values * n
    else:
        values, vectors = np.linalg.eigh(z.T @ z / n)
        values = np.maximum(values, 0.0)
        squares = (z @ vectors) ** 2
    return values[::-1].copy(), squares[:, ::-1]


def _of_variances(
    variances: Float[np.ndarray, " axes"], squares: Float[np.ndarray, "points axes"], total: float
) -> list[Figure]:
    """Entropy, participation ratio and the leading share.

    A position moves the variance along axis i by its square there less the variance.
    """
    p = variances / total
    log_p = np.log(np.where(p > 0, p, 1.0))
    entropy = -float((p * log_p).sum())
    of_entropy = -(log_p + entropy) / total
    purity = float((p * p).sum())
    of_participation = 2 * (1 - p / purity) / (purity * total)
    of_leading = -np.full(len(p), p[0] / total)
    of_leading[0] += 1 / total
    axes = squares.shape[1]
    derivatives = np.stack([of_entropy, of_participation, of_leading], axis=1)
    # Summed by einsum, the rounding does not depend on how many threads there are.
    moved = np.einsum("na,af->nf", squares, derivatives) - variances @ derivatives
    return [
        Figure(entropy, moved[:, 0], (0.0, math.log(max(1, axes)))),
        Figure(1 / purity, moved[:, 1], (1.0, float(axes))),
        Figure(float(p[0]), moved[:, 2], (0.0, 1.0)),
    ]


def _mean_cosine(
    x: Float[np.ndarray, "points width"], norms: Float[np.ndarray, " points"]
) -> Figure:
    """Of all pairs of two; a state of norm 0 has no direction, and counts as none."""
    there = norms > 0
    n = int(there.sum())
    if n < 2:
        reason = f"a cosine needs 2 states that are not 0, got {n}"
        return Figure(None, np.zeros(len(x)), reason=reason)
    units = x / np.where(there, norms, 1.0)[:, None]
    whole = units.sum(axis=0)
    value = (float(whole @ whole) - n) / (n * (n - 1))
    to_others = (units @ whole - there) / (n - 1)
    # Of a mean over pairs the derivative is twice a position's own mean; n counts all positions.
    influence = np.where(there, 2 * (to_others - value), 0.0) * (len(x) / n)
    return Figure(float(np.clip(value, -1.0, 1.0)), influence, (-1.0, 1.0))


def _mean_norm(norms: Float[np.ndarray, " points"], exponent: int) -> Figure:
    if not len(norms):
        return Figure(None, norms, reason="there is no state")
    value = float(norms.mean())
    return Figure(math.ldexp(value, exponent), np.ldexp(norms - value, exponent))


def _mean_share(
    mean: Float[np.ndarray, " width"],
    z: Float[np.ndarray, "points width"],
    norms: Float[np.ndarray, " points"],
) -> Figure:
    squared = float((norms**2).mean()) if len(norms) else 0.0
    if squared == 0:
        return Figure(None, np.zeros(len(norms)), reason="every state is 0")
    value = float(mean @ mean) / squared
    influence = (2 * (z @ mean) - value * (norms**2 - squared)) / squared
    return Figure(min(1.0, value), influence, (0.0, 1.0))
