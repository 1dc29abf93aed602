"""What network signatures are tested against is right itself."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from made_up.networks import NETWORKS, exact_network
from reference import network


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_by_vmap_are_sums_of_error_times_input(name: str) -> None:
    """Two ways that share no code: of the weights, and of zeros added to outputs."""
    made = exact_network(name)
    assert len(made.gradients[0]) > 7
    for i in (0, 5):
        at = network.window_positions(made.model, made.windows[i], made.valid)
        every = torch.ones_like(made.windows[i].counted)
        summed = network.position_gradients(at, replace(made.windows[i], counted=every))
        for module, g in made.gradients[i].items():
            total = sum(sample[module] for sample in summed)
            assert float((total - g).abs().max()) < 1e-6 * float(g.abs().max()), module


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_the_slopes_of_the_loss(name: str) -> None:
    """Central differences along a direction that is half random, module by module."""
    made = exact_network(name)
    window, drawn = made.windows[3], torch.Generator().manual_seed(0)
    weights = network.linear_weights(made.model)
    every = dict(made.model.named_parameters(remove_duplicate=False))
    for module, g in made.gradients[3].items():
        parameter = weights[module].parameter
        noise = torch.randn(g.shape, generator=drawn, dtype=torch.float64)
        direction = g / g.norm() + noise / noise.norm()
        step = 1e-3 * (direction.T if weights[module].transposed else direction)

        def loss(weight: torch.Tensor, parameter: str = parameter) -> float:
            logits = torch.func.functional_call(
                made.model, {parameter: weight}, (window.ids[None],), {"use_cache": False},
                tie_weights=False,
            ).logits[0]  # fmt: skip
            return float(network.summed_loss(logits, window.targets, window.counted, made.valid))

        with torch.no_grad():
            slope = (loss(every[parameter] + step) - loss(every[parameter] - step)) / 2
        want = 1e-3 * float((g * direction).sum())
        # The step is long, as models compute their norms in float32.
        assert slope == pytest.approx(want, rel=5e-3), module


@pytest.mark.parametrize("name", ["llama", "gpt2", "cohere", "gemma2"])
def test_the_error_of_the_head_is_softmax_less_onehot_but_for_what_follows_it(name: str) -> None:
    """A scale multiplies it, a soft-cap its slope; a tied weight's gradient is the head's alone."""
    made = exact_network(name)
    window = made.windows[0]
    at = network.window_positions(made.model, window, made.valid)[network.HEAD]
    plain = network.head_errors(made.model, window, made.valid)
    with torch.no_grad():
        logits = made.model(input_ids=window.ids[None], use_cache=False).logits[0]
    after = {"cohere": 0.0625, "gemma2": 1 - (logits / 30) ** 2}.get(name, 1.0)
    assert torch.allclose(at.errors, plain * after, rtol=1e-9, atol=1e-12)
    outer = torch.einsum("to,ti->oi", at.errors, at.inputs)
    g = made.gradients[0][network.HEAD]
    assert float((outer - g).abs().max()) < 1e-9 * float(g.abs().max())
    assert not plain[~window.counted].any()


@pytest.mark.parametrize("name", ["llama", "mixtral", "adapter"])
def test_the_whole_is_made_of_blocks_as_theory_says(name: str) -> None:
    """Profile cosine, off-diagonal shares and the bound of §12, of two tasks' windows."""
    made = exact_network(name)
    of, mean = network.kernels(made.gradients), made.mean
    whole, diagonal = network.full(of), network.blocks(of)
    products = [[network.block_products(of, mean, i, j) for j in (0, 1)] for i in (0, 1)]
    for i, j in ((0, 0), (0, 1), (1, 1)):
        assert products[i][j].sum() == pytest.approx(mean.product(whole, i, j), rel=1e-9)
        assert np.trace(products[i][j]) == pytest.approx(mean.product(diagonal, i, j), rel=1e-9)
    a_full, a_blocks = mean.cosine(whole), mean.cosine(diagonal)
    share = [network.off_diagonal_share(of, mean, i) for i in (0, 1)]
    kept = math.sqrt((1 - share[0] ** 2) * (1 - share[1] ** 2))
    assert abs(a_full - kept * a_blocks) <= share[0] * share[1] + 1e-12
    assert all(0 < one < 1 for one in share)
    # A_full = cos(v_i, v_j) Σ w A^{ℓℓ'}, with w in proportion to v_i v_j.
    v = [np.sqrt(products[i][i]) for i in (0, 1)]
    cosines = products[0][1] / (v[0] * v[1])
    w = v[0] * v[1] / (v[0] * v[1]).sum()
    profile = (v[0] * v[1]).sum() / math.sqrt((v[0] ** 2).sum() * (v[1] ** 2).sum())
    assert profile * (w * cosines).sum() == pytest.approx(a_full, rel=1e-9)


def test_normal_features_spread_as_their_formula_says() -> None:
    """Of two samples at cosine c: variance ``((1 + c²)² + 2 c⁴) / m`` of a product of norms 1."""
    rng, c, m, runs = np.random.default_rng(0), 0.6, 64, 4000
    gram = np.array([[1, c], [c, 1]])
    values, vectors = np.linalg.eigh(gram)
    root = vectors * np.sqrt(values)
    x, y = (root @ network._complex_normal(rng, 2, m // 2 * runs) for _ in range(2))
    psi = (x * y).reshape(2, runs, -1)
    found = (psi[0] * psi[1].conj()).real.mean(1)
    want = ((1 + c**2) ** 2 + 2 * c**4) / m
    assert found.mean() == pytest.approx(c**2, abs=4 * math.sqrt(want / runs))
    assert found.var() == pytest.approx(want, rel=0.1)
    cosines = network.normal_estimates(
        {"one": gram}, network.Mean(np.arange(2), np.arange(2)), 4096, 40, part="one"
    )
    assert cosines.mean() == pytest.approx(c**2, abs=4 * cosines.std() / math.sqrt(40))
