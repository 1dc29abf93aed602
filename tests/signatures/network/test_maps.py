"""Random maps of a network's modules: what their features estimate, whatever is run."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from made_up.networks import exact_network
from reference import network
from unembed.signatures.network.modules import NetworkModule, seed_of
from unembed.signatures.sketches.constructions import sketch_of
from unembed.signatures.sketches.names import CONSTRUCTIONS

M = 64
TASK = 4
"""Windows of each task, whose mean feature is what is compared."""
SOME = (
    "model.layers.0.self_attn.q_proj",
    "model.layers.0.mlp.gate_proj",
    "model.layers.0.mlp.up_proj",
    "model.layers.1.mlp.up_proj",
    "model.layers.1.mlp.down_proj",
    network.HEAD,
)
ALIKE = ("model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj")


def estimates(
    gradients: list[network.Gradients], construction: str, seed: int, m: int = M
) -> dict[str, np.ndarray]:
    """By part, the products of two tasks' mean features: with themselves and each other."""
    xs, ys, found = [], [], {}
    for name in SOME:
        outputs, inputs = gradients[0][name].shape
        module = NetworkModule(name, int(outputs), int(inputs), None, "any")
        sketch = sketch_of(module.spec(construction, m, seed))
        x, y = network.projections(sketch, torch.stack([sample[name] for sample in gradients]))
        xs.append(x)
        ys.append(y)
        found[name] = x * y
    parts = {**found, "blocks": sum(found.values()), "full": sum(xs) * sum(ys)}
    products = {}
    for part, psi in parts.items():
        packed = sketch.pack(psi)
        means = torch.stack([packed[:TASK].mean(0), packed[TASK:].mean(0)])
        products[part] = (means @ means.T / m).numpy()
    return products


def some_windows() -> tuple[list[network.Gradients], dict[str, np.ndarray], network.Mean]:
    """The gradients of two tasks, their kernels by module, and which windows are whose.

    Every module counts as much as another, and two of one shape have the same gradients, so that
    maps that they shared would show.
    """
    made = exact_network("llama")
    chosen = made.gradients[:TASK] + made.gradients[-TASK:]
    gradients = [{name: sample[name] for name in SOME} for sample in chosen]
    for sample in gradients:
        sample[ALIKE[1]] = sample[ALIKE[0]]
    for name in SOME:
        size = torch.stack([sample[name].norm() for sample in gradients]).mean()
        for sample in gradients:
            sample[name] = sample[name] / size
    mean = network.Mean(np.repeat([0, 1], TASK), np.arange(2 * TASK))
    return gradients, network.kernels(gradients), mean


def kernels_of_parts(of: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    whole = {"blocks": network.blocks(of), "full": network.full(of)}
    return {name: kernel**2 for name, kernel in of.items()} | whole


def check(construction: str, seeds: int, errors: float) -> None:
    """Every mean over the seeds lies within so many standard errors, which are small."""
    gradients, of, mean = some_windows()
    runs = [estimates(gradients, construction, seed) for seed in range(seeds)]
    for part, kernel in kernels_of_parts(of).items():
        found = np.stack([run[part] for run in runs])
        for i, j in ((0, 0), (0, 1), (1, 1)):
            want = mean.product(kernel, i, j)
            size = math.sqrt(mean.product(kernel, i, i) * mean.product(kernel, j, j))
            error = found[:, i, j].std(ddof=1) / math.sqrt(seeds)
            assert error < 0.3 / math.sqrt(seeds / 20) * size, (part, i, j)
            assert abs(found[:, i, j].mean() - want) < errors * error, (part, i, j)


def test_features_of_every_part_estimate_their_kernels() -> None:
    """Over 20 seeds."""
    check("complex_tensorsketch", 20, 4.0)


@pytest.mark.slow
@pytest.mark.parametrize("construction", CONSTRUCTIONS)
def test_features_of_every_part_are_unbiased(construction: str) -> None:
    """Over 200 seeds."""
    check(construction, 200, 3.5)


def spread_over_normal(m: int, seeds: int) -> dict[str, float]:
    """By part, the RMSE of plug-in cosines over that of normal features of m numbers."""
    gradients, of, mean = some_windows()
    runs = [estimates(gradients, "complex_tensorsketch", seed, m) for seed in range(seeds)]
    ratios = {}
    for part, kernel in kernels_of_parts(of).items():
        true = mean.cosine(kernel)
        found = np.stack([run[part] for run in runs])
        ours = found[:, 0, 1] / np.sqrt(found[:, 0, 0] * found[:, 1, 1])
        normal = network.normal_estimates(of, mean, m, 400, part=part)
        squares = (np.square(cosines - true).mean() for cosines in (ours, normal))
        ratios[part] = math.sqrt(next(squares) / next(squares))
    return ratios


def test_cosines_spread_as_far_as_those_of_normal_features() -> None:
    """Over 60 seeds, whose RMSE has a standard error of 9 %."""
    ratios = spread_over_normal(256, 60)
    assert all(0.7 < ratio < 1.3 for ratio in ratios.values()), ratios


@pytest.mark.slow
def test_cosines_spread_as_far_as_those_of_normal_features_over_400_seeds() -> None:
    ratios = spread_over_normal(1024, 400)
    assert all(0.85 < ratio < 1.25 for ratio in ratios.values()), ratios


def test_seeds_of_modules_are_their_own() -> None:
    """63 bits of a digest of seed and name, the same everywhere."""
    assert seed_of(0, "model.layers.3.mlp.down_proj") == int.from_bytes(
        bytes.fromhex("e0f253fb868d8660"), "little"
    ) & ((1 << 63) - 1)
    found = {seed_of(seed, name) for seed in range(50) for name in SOME}
    assert len(found) == 50 * len(SOME)
    assert all(0 <= seed < 1 << 63 for seed in found)
