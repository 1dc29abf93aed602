"""Points of known dimension: balls, spheres and flat tori, turned into a wider space."""

from __future__ import annotations

import numpy as np

KINDS = ("ball", "sphere", "torus")
WIDTH = 64


def manifold(
    kind: str, dimension: int, points: int, generator: np.random.Generator, width: int = WIDTH
) -> np.ndarray:
    """Uniform points of a manifold of this dimension, turned and moved in a space of ``width``.

    The torus is flat: a product of circles of radius 1.
    """
    if kind == "torus":
        angles = generator.uniform(0, 2 * np.pi, (points, dimension))
        found = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    else:
        found = generator.standard_normal((points, dimension + (kind == "sphere")))
        found /= np.linalg.norm(found, axis=1, keepdims=True)
        if kind == "ball":
            found *= generator.uniform(size=(points, 1)) ** (1 / dimension)
    axes, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((width, width)))
    turned: np.ndarray = found @ axes[: found.shape[1]] + 3.0
    return turned
