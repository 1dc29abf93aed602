"""The identities between parts, on Fishers that are written out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from made_up.network_signatures import NetworkTask, modules, network_task
from unembed.signatures.network.identities import (
    alignment_of_blocks,
    block_weights,
    full_between,
    off_diagonal_share,
    profile_cosine,
)

NAMES = [module.name for module in modules()]


def fisher(task: NetworkTask) -> np.ndarray:
    """``E[g gᵀ]`` over all modules, entry by entry."""
    g = np.concatenate([task.gradient(name) for name in NAMES], 1)
    return g.T @ g / len(g)


def blocks(task: NetworkTask, whole: np.ndarray) -> list[np.ndarray]:
    found, start = [], 0
    for name in NAMES:
        width = task.gradient(name).shape[1]
        found.append(whole[start : start + width, start : start + width])
        start += width
    return found


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b)))


@pytest.mark.parametrize("tilt", [0.2, 1.0, 3.0])
def test_identities_hold_on_whole_fishers(tilt: float) -> None:
    tasks = [network_task(12, seed, tilt=tilt) for seed in (3, 4)]
    whole = [fisher(task) for task in tasks]
    parts = [blocks(task, one) for task, one in zip(tasks, whole, strict=True)]
    diagonal = []
    for one, some in zip(whole, parts, strict=True):
        start, made = 0, np.zeros_like(one)
        for block in some:
            span = slice(start, start + len(block))
            made[span, span] = block
            start = span.stop
        diagonal.append(made)
    each = np.array([cosine(a, b) for a, b in zip(*parts, strict=True)])
    v, w = ([np.linalg.norm(block) for block in some] for some in parts)
    v, w = np.array(v), np.array(w)
    of_blocks = cosine(*diagonal)
    assert alignment_of_blocks(each, v, w) == pytest.approx(of_blocks, abs=1e-12)
    assert profile_cosine(v, w) >= of_blocks
    assert block_weights(v, w).sum() == pytest.approx(1)
    shares = [
        off_diagonal_share(np.linalg.norm(d) ** 2, np.linalg.norm(f) ** 2)
        for d, f in zip(diagonal, whole, strict=True)
    ]
    for share, f, d in zip(shares, whole, diagonal, strict=True):
        assert share == pytest.approx(np.linalg.norm(f - d) / np.linalg.norm(f))
    low, high = full_between(of_blocks, *shares)
    assert low <= cosine(*whole) <= high
    # Depths are blocks of blocks, of which the same holds.
    pairs = [(0, 1), (2, 3), (4,)]
    u = [np.array([np.linalg.norm([n[at] for at in some]) for some in pairs]) for n in (v, w)]
    by_depth = []
    for some in pairs:
        product = sum((parts[0][at] * parts[1][at]).sum() for at in some)
        by_depth.append(product)
    coarse = np.array(by_depth) / (u[0] * u[1])
    assert alignment_of_blocks(coarse, *u) == pytest.approx(of_blocks, abs=1e-12)


def test_a_share_of_a_negative_rest_is_none() -> None:
    assert math.isnan(off_diagonal_share(2.0, 1.0))
    assert math.isnan(off_diagonal_share(2.0, -1.0))
    assert off_diagonal_share(1.0, 1.0) == 0
    assert full_between(0.5, 0.0, 0.0) == (0.5, 0.5)
