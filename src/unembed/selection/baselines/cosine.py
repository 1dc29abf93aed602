"""The cosine of two vectors or matrices."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor


def cosine(a: Float[Tensor, "*shape"], b: Float[Tensor, "*shape"]) -> float:
    """``⟨a, b⟩ / (‖a‖ ‖b‖)``; NaN where either is 0."""
    return ratio(float((a * b).sum()), float(a.square().sum()), float(b.square().sum()))


def ratio(product: float, left: float, right: float) -> float:
    """``product / √(left right)`` of squared norms; NaN where one is not positive."""
    if not (left > 0 and right > 0):
        return math.nan
    return product / (math.sqrt(left) * math.sqrt(right))
