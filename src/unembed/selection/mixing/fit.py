"""The weights of sources nearest to a target, and how far chance may have moved them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from unembed.selection.mixing.groups import FreeDirections
from unembed.selection.mixing.inner_products import InnerProducts
from unembed.selection.mixing.nonnegative import nonnegative, nonnegative_each

DRAWS = 1_000
FLOOR = 1e-6
"""The least eigenvalue that a Gram matrix of unit diagonal is given: smaller ones are noise."""


@dataclass(frozen=True)
class Fit:
    """Weights w ≥ 0 of sources, the first task being the target, with draws of their estimate.

    ``draws`` are weights of repeated draws; ``least`` and ``most`` the shares of all weight that
    each source has in them at least and at most, which differ only where sources replace each
    other (``free``); NaN in a draw without any source. ``residual`` estimates
    ``‖x_t - Σ w_s x_s‖² / ‖x_t‖²`` at the true w, with ``residual_se`` its standard error.
    ``cosines`` are those of sources with each other, before ``lowest``, their least eigenvalue, was
    raised to the floor.
    """

    weights: Float[np.ndarray, " sources"]
    draws: Float[np.ndarray, "draws sources"]
    least: Float[np.ndarray, "draws sources"]
    most: Float[np.ndarray, "draws sources"]
    free: FreeDirections
    residual: float
    residual_se: float
    cosines: Float[np.ndarray, "sources sources"]
    lowest: float

    @staticmethod
    def of(products: InnerProducts, *, draws: int = DRAWS, seed: int = 0) -> Fit:
        """Non-negative least squares of the first task's mean on the others' (theory §13).

        Errors move ``G w = c`` by ``dc - dG w`` at the weights found: that is drawn from a normal
        distribution of its estimated covariance, with the same errors for all of one draw, and each
        draw is solved anew, so that a weight may stay at 0 or leave it. The least residual is below
        the true one, since the weights fit the noise too, by what the draws say: that is added.
        Squared norms must be positive. An indefinite Gram matrix, which few samples give, becomes
        the nearest one that is positive definite, in units of the sources' norms.
        """
        value = products.value
        size = np.sqrt(np.diag(value))
        unit = value / np.outer(size, size)
        eigenvalues, vectors = np.linalg.eigh(unit[1:, 1:])
        gram = (vectors * np.maximum(eigenvalues, FLOOR)) @ vectors.T
        product = unit[1:, 0]
        found = nonnegative(gram, product)
        along = np.concatenate([[1.0], -found]) / size
        covariance = products.shares(along).covariance()
        scale = np.concatenate([1 / size[1:], [1, 1 / size[0] ** 2]])
        covariance = covariance[1:, 1:] * np.outer(scale, scale)
        count = len(found)
        values, directions = np.linalg.eigh(covariance[:count, :count])
        root = directions * np.sqrt(np.maximum(values, 0))
        normal = np.random.default_rng(seed).standard_normal((draws, count))
        drawn = nonnegative_each(gram, product + normal @ root.T)
        least = float(1 - 2 * product @ found + found @ unit[1:, 1:] @ found)
        off = drawn - found
        residual = least + float(np.einsum("di,ij,dj->d", off, gram, off, optimize=True).mean())
        slope = np.array([1.0, -residual])
        variance = float(slope @ covariance[count:, count:] @ slope)
        back = size[0] / size[1:]
        free = FreeDirections.of(products, eigenvalues, vectors)
        least_shares = _shares(drawn * back)
        most_shares = least_shares.copy()
        for source in np.flatnonzero(free.taking_part).tolist():
            low, high = free.extremes(drawn, source)
            least_shares[:, source] = _shares(low * back)[:, source]
            most_shares[:, source] = _shares(high * back)[:, source]
        return Fit(
            found * back,
            drawn * back,
            least_shares,
            most_shares,
            free,
            residual,
            float(np.sqrt(max(variance, 0.0))),
            unit[1:, 1:],
            float(eigenvalues[0]),
        )


def _shares(weights: Float[np.ndarray, "draws sources"]) -> Float[np.ndarray, "draws sources"]:
    """Each row made to sum to 1; NaN where it has nothing."""
    sums = weights.sum(1, keepdims=True)
    return np.asarray(weights / np.where(sums > 0, sums, np.nan))
