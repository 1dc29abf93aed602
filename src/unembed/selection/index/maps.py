"""Signatures as points of a plane."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Map:
    """Where each signature of an index lies on the two axes that tell them best apart.

    ``points`` are principal components of the unit vectors: distances on the map are at most the
    distances ``√(2 - 2 cosine)`` between signatures. ``explained`` is the share of the squared
    distances that each axis holds. ``tags`` are the first tag of each, "" where it has none.
    """

    names: tuple[str, ...]
    tags: tuple[str, ...]
    samples: tuple[int, ...]
    points: Float[np.ndarray, "entries 2"]
    explained: tuple[float, float]
