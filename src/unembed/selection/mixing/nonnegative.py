"""Least squares with weights that are not negative, from a Gram matrix alone."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

TOLERANCE = 1e-12
"""Of the largest product: a slope below that is rounding."""


def nonnegative(
    gram: Float[np.ndarray, "sources sources"], product: Float[np.ndarray, " sources"]
) -> Float[np.ndarray, " sources"]:
    """The w ≥ 0 of least ``w @ gram @ w - 2 * product @ w``, exactly, by an active set.

    Of ``‖x - Σ w_s x_s‖²`` these are the Gram matrix of the x_s and their products with x. Sources
    enter one at a time, that of the steepest descent first; those whose weight would pass 0 leave
    (Lawson and Hanson, 1974). Sources that are left out have 0 itself. ``gram`` must be positive
    definite. Raises ValueError where a number is not finite, or the matrix is singular.
    Source: theory §13.
    """
    count = len(product)
    if not (np.isfinite(gram).all() and np.isfinite(product).all()):
        raise ValueError("a product is not finite")
    least = TOLERANCE * float(np.abs(product).max(initial=0))
    weights = np.zeros(count)
    used, barred = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
    while True:
        slope = np.where(used | barred, -np.inf, product - gram @ weights)
        entering = int(slope.argmax()) if count else 0
        if not count or slope[entering] <= least:
            return weights
        used[entering] = True
        before = weights
        weights = _on_face(gram, product, weights, used)
        if used[entering]:
            barred[:] = False
        else:
            # A slope that is rounding alone: entering would lead round in circles.
            weights, barred[entering] = before, True


def nonnegative_each(
    gram: Float[np.ndarray, "sources sources"], products: Float[np.ndarray, "draws sources"]
) -> Float[np.ndarray, "draws sources"]:
    """``nonnegative`` of one Gram matrix and each row of products.

    The sources that one row uses are tried on all rows that are left: weights on them that are
    positive, where no other source would better the fit, are the best.
    """
    weights = np.zeros_like(products)
    left = np.arange(len(products))
    while len(left):
        first, rest = left[0], left[1:]
        weights[first] = nonnegative(gram, products[first])
        used = weights[first] > 0
        tried = np.zeros((len(rest), len(gram)))
        tried[:, used] = np.linalg.solve(gram[np.ix_(used, used)], products[rest][:, used].T).T
        slope = products[rest] - tried @ gram
        slope[:, used] = 0
        least = TOLERANCE * np.abs(products[rest]).max(1, keepdims=True)
        best = (tried[:, used] > 0).all(1) & (slope <= least).all(1)
        weights[rest[best]] = tried[best]
        left = rest[~best]
    return weights


def _on_face(
    gram: Float[np.ndarray, "sources sources"],
    product: Float[np.ndarray, " sources"],
    weights: Float[np.ndarray, " sources"],
    used: Bool[np.ndarray, " sources"],
) -> Float[np.ndarray, " sources"]:
    """The best weights of the sources used, from which those that reach 0 are taken."""
    while used.any():
        solved = np.zeros(len(product))
        try:
            solved[used] = np.linalg.solve(gram[np.ix_(used, used)], product[used])
        except np.linalg.LinAlgError:
            raise ValueError("the Gram matrix is singular") from None
        falling = used & (solved <= 0)
        if not falling.any():
            return solved
        gap = weights[falling] - solved[falling]
        steps = np.divide(weights[falling], gap, out=np.zeros_like(gap), where=gap > 0)
        weights = weights + float(steps.min()) * (solved - weights)
        used[np.flatnonzero(falling)[steps == steps.min()]] = False
        weights[~used] = 0
    return weights
