"""Alignments of made-up tasks in three clusters, for the tests of the page."""

from __future__ import annotations

import numpy as np

from unembed.signatures.alignment.records import Alignments, Pairs, TaskFacts

WORDS = (
    "python scripts",
    "sonnets",
    "algebra proofs",
    "java services",
    "folk tales",
    "calculus exercises",
    "shell one-liners",
    "newspaper fiction column",
    "geometry",
    "rust crates",
    "song lyrics",
    "number theory olympiad",
)
FEW = "too few samples: n = 40, participation ratio 310"


def example(
    tasks: int,
    *,
    missing: tuple[int, ...] = (),
    exact: bool = False,
    first_moment: bool = True,
    seed: int = 0,
) -> Alignments:
    """Tasks i, i + 3, i + 6, … are alike; ``missing`` ones could not be compared."""
    rng = np.random.default_rng(seed)
    cluster = np.arange(tasks) % 3
    same = cluster[:, None] == cluster
    hidden = cluster[:, None] + rng.normal(0, 0.35, (tasks, 4))
    near = np.exp(-((hidden[:, None] - hidden) ** 2).sum(-1) / 4)
    activation = _symmetric(np.where(same, 0.86, 0.62) * near**0.1, rng, 0.02)
    error = _symmetric(np.where(same, 0.78, 0.34) * near**0.06, rng, 0.03)
    coupling = _symmetric(np.where(same, 1.12, 0.9), rng, 0.07)
    proxy = activation * error
    joint = np.minimum(proxy * coupling, 0.995)
    sign = np.where(rng.random(tasks) < 0.15, -1, 1)
    moment = _symmetric(0.8 * joint * sign[:, None] * sign, rng, 0.05)
    one = np.eye(tasks, dtype=bool)
    for matrix in (activation, error, coupling, proxy, joint, moment):
        matrix[one] = 1.0

    def pairs(value: np.ndarray, scale: float) -> Pairs:
        value = value.copy()
        sketch = np.full_like(value, 0.0 if exact else 0.012 * scale)
        sampling = _symmetric(np.full_like(value, 0.02 * scale), rng, 0.005 * scale)
        for matrix in (sketch, sampling):
            matrix[one] = 0.0
        for at in missing:
            for matrix in (value, sketch, sampling):
                matrix[at, :] = matrix[:, at] = np.nan
        both = 1.96 * np.sqrt(sketch**2 + sampling**2)
        return Pairs(value, sketch, sampling, value - both, value + both)

    facts = tuple(
        TaskFacts(
            name=WORDS[at % len(WORDS)] + (f" {at // len(WORDS) + 1}" if at >= len(WORDS) else ""),
            samples=40 if at in missing else 2000 + 37 * at,
            documents=4 if at in missing else 120 + at,
            participation_ratio=None if at in missing else 80.0 + 11 * at,
            residual=None if at in missing else 0.2 + 0.5 * at / tasks,
            status=FEW if at in missing else "ok",
        )
        for at in range(tasks)
    )
    return Alignments(
        tasks=facts,
        joint=pairs(joint, 1.0),
        activation=pairs(activation, 0.5),
        error=pairs(error, 0.6),
        proxy=pairs(proxy, 0.8),
        coupling=pairs(coupling, 2.5),
        first_moment=pairs(moment, 1.5) if first_moment else None,
        method="exact" if exact else "complex_tensorsketch, m = 4,096",
        unit="token",
        fisher="empirical",
        debiased=True,
    )


def _symmetric(mean: np.ndarray, rng: np.random.Generator, spread: float) -> np.ndarray:
    noise = rng.normal(0, spread, mean.shape)
    return mean + (noise + noise.T) / 2
