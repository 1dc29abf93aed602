from __future__ import annotations

import copy
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear
from transformers import LlamaConfig, LlamaForCausalLM

from places import ROOT
from unembed.demo.story import bundled_model
from unembed.head.head import final_hidden
from unembed.models.checkpoint import Checkpoint, load
from unembed.models.quantization import quantized
from unembed.text.corpus import Corpus


def example() -> ModuleType:
    path = ROOT / "examples" / "withstand_rounding.py"
    spec = importlib.util.spec_from_file_location("withstand_rounding", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


rounding = example()


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    """A small Llama of random weights, with norms that are no ones."""
    torch.manual_seed(0)
    bundled = load(bundled_model())
    config = LlamaConfig(
        vocab_size=bundled.model.config.vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                assert "norm" in name
                parameter.uniform_(0.5, 1.5)
    return replace(bundled, model=model, name="small")


@pytest.fixture(scope="module")
def text(checkpoint: Checkpoint) -> object:
    heldout = Corpus.from_texts(
        [f"def function_{i}(value):\n    return value * {i}\n" * 3 for i in range(4)],
        checkpoint.tokenizer,
    )
    generator = torch.Generator().manual_seed(0)
    return rounding.Text(torch.randint(5, 500, (2_000,), generator=generator), heldout)


def spread(weight: Tensor) -> Tensor:
    return weight.square().mean(1, keepdim=True).sqrt()


def batch_of(text: object) -> Tensor:
    return next(text.windows(0))[:, :33]


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_rounding_while_training_is_that_of_the_measurement(
    checkpoint: Checkpoint, scheme: str
) -> None:
    layers = rounding.linear_layers(checkpoint.model)
    other = rounding.linear_layers(quantized(checkpoint, scheme).model)
    assert len(layers) == 14
    for ours, theirs in zip(layers, other, strict=True):
        assert torch.equal(rounding.rounded(ours.weight, scheme), theirs.weight)
        assert not torch.equal(ours.weight, theirs.weight)


def test_a_pass_with_rounded_weights_has_the_rounded_models_gradients(
    checkpoint: Checkpoint, text: object
) -> None:
    ids = batch_of(text)
    model = copy.deepcopy(checkpoint.model).requires_grad_(True)
    by_hand = quantized(checkpoint, "int4").model.requires_grad_(True)
    names = [name for name, _ in model.named_parameters()]
    found = rounding.hidden_states(model, ids, "straight int4")
    truth = final_hidden(by_hand, ids).flatten(0, 1)
    # W + (Q(W) - W) is Q(W) up to the rounding of a sum.
    torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-4)
    for hidden in (found, truth):
        hidden.square().mean().backward()
    assert [name for name, _ in model.named_parameters()] == names
    moved = 0
    for (name, ours), theirs in zip(model.named_parameters(), by_hand.parameters(), strict=True):
        if ours.grad is None:
            assert name.startswith("lm_head")
            continue
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5)
        moved += bool(ours.grad.any())
    assert moved >= 18
    plain = final_hidden(model, ids).flatten(0, 1)
    assert torch.equal(plain, final_hidden(checkpoint.model, ids).flatten(0, 1))


def test_noise_has_the_size_of_the_rounding() -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 256)
    for scheme, half in (("int8", 127.5), ("int4", 7.5)):
        groups = weight.view(64, -1, 256 if scheme == "int8" else 32)
        step = groups.abs().amax(-1, keepdim=True) / half
        noise = (rounding.noisy(weight, scheme) - weight).view_as(groups) / step
        assert float(noise.abs().max()) <= 0.5 + 1e-3
        assert float(noise.var()) == pytest.approx(1 / 12, rel=0.03)


def test_moving_scales_leaves_the_outputs(
    checkpoint: Checkpoint, text: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounding, "SLOPE_BATCHES", 1)
    monkeypatch.setattr(rounding, "CONTEXT", 32)
    model = copy.deepcopy(checkpoint.model)
    rounding.even(model, text)
    ids = batch_of(text)
    torch.testing.assert_close(
        final_hidden(model, ids), final_hidden(checkpoint.model, ids), rtol=1e-3, atol=1e-4
    )
    for ours, was in zip(*map(rounding.linear_layers, (model, checkpoint.model)), strict=True):
        assert not torch.equal(ours.weight, was.weight)


def test_the_best_scale_undoes_an_uneven_one() -> None:
    torch.manual_seed(0)
    even, uneven = torch.sign(torch.randn(8, 16)), torch.randn(16).exp()
    found = rounding.best_scale([(even * uneven, (uneven**-2).expand(8, 16))])
    scaled = found * uneven
    torch.testing.assert_close(scaled / scaled.mean(), torch.ones(16), rtol=0.05, atol=0.05)


def test_squared_slopes_are_those_of_each_margin(checkpoint: Checkpoint) -> None:
    """Random signs have the sum of the squares as their mean: one position has it exactly."""
    model = copy.deepcopy(checkpoint.model)
    ids = torch.tensor([[7, 9]])
    layer = rounding.linear_layers(model)[-1]

    class OnePosition:
        def windows(self, seed: int) -> object:
            yield ids

    found = rounding.squared_slopes(model, OnePosition())[layer]
    logits = (final_hidden(model, ids[:, :-1]) @ model.lm_head.weight.T)[0, 0]
    top = logits.topk(2).values
    assert (top[0] - top[1]).item() < 1
    slope = torch.autograd.grad(top[0] - top[1], layer.weight)[0]
    torch.testing.assert_close(found, slope.square())


def test_bounded_rows_are_the_nearest_within_the_bound() -> None:
    torch.manual_seed(1)
    weight, inputs = torch.randn(3, 6), torch.randn(40, 6) @ torch.randn(6, 6)
    moments = inputs.T @ inputs
    bound = 1.2 * spread(weight)
    found = rounding.within(weight, moments.clone(), bound, sweeps=400)
    assert bool((found.abs() <= bound + 1e-6).all())
    ridge = moments + 1e-3 * moments.diagonal().mean() * torch.eye(6)
    # The gradient is 0 inside the bound, and would take a weight at the bound further out.
    gradient = (found - weight) @ ridge
    scale = float(gradient.abs().max())
    inside = found.abs() < bound - 1e-5
    assert bool(inside.any())
    assert not bool(inside.all())
    assert float(gradient[inside].abs().max()) < 1e-3 * scale
    assert bool((gradient * found.sign())[~inside].lt(1e-3 * scale).all())
    clipped = weight.clamp(-bound, bound)
    lost = [linear(inputs, other - weight).square().sum() for other in (found, clipped)]
    assert lost[0] < lost[1]


def test_weights_stay_within_their_bound(
    checkpoint: Checkpoint, text: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounding, "STEPS", 1)
    monkeypatch.setattr(rounding, "CONTEXT", 32)
    monkeypatch.setattr(rounding, "MOMENT_BATCHES", 1)
    made = rounding.refined(checkpoint, text, replace(rounding.WAYS["bound 2.2"], bound=1.5), 0)
    for layer, was in zip(
        *map(rounding.linear_layers, (made.model, checkpoint.model)), strict=True
    ):
        bound = 1.5 * spread(was.weight)
        assert bool((layer.weight.abs() <= bound + 1e-6).all())
        assert bool((was.weight.abs() > bound).any())


def test_a_run_goes_on_where_it_was(
    checkpoint: Checkpoint, text: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is there is neither trained nor measured again; the table compares with the control."""
    trained = []

    def refined(start: Checkpoint, _text: object, way: object, seed: int) -> Checkpoint:
        trained.append((way, seed))
        return replace(start, name=f"{seed}{way}")

    def measured(model: Checkpoint, _heldout: Corpus) -> dict[str, np.ndarray]:
        flips = (np.arange(200) % (40 if "fisher" in model.name else 20) == 0).astype(int)
        found = {f"{name} nll": np.ones(200) for name in ("plain", "int8", "int4", "noise")}
        found |= {f"{name} top1": flips for name in ("int8", "int4", "noise")}
        alike = {"doc": np.arange(200) // 40, "margin": np.ones(200)}
        return found | alike | {"plain top1": np.zeros(200, int), "relative_distance": np.ones(200)}

    monkeypatch.setattr(rounding, "refined", refined)
    monkeypatch.setattr(rounding, "measured", measured)
    rounding.run(checkpoint, text, tmp_path, [("control", 0)])
    rounding.run(checkpoint, text, tmp_path, [("control", 0), ("fisher 2", 0)])
    assert trained == [(rounding.WAYS["control"], 0), (rounding.WAYS["fisher 2"], 0)]
    start, _, _, _, control, fisher = rounding.table(tmp_path)
    assert start == "200 positions; the start: loss 1.000, flips int8 5.00%, int4 5.00%"
    assert control.startswith("| control | 1 | +0.00 [+0.00, +0.00] | 1.00 [1.00, 1.00] |")
    assert fisher.startswith("| fisher 2 | 1 | +0.00 [+0.00, +0.00] | 0.50 [0.50, 0.50] |")


def test_a_measurement_counts_what_the_rounded_models_decide(
    checkpoint: Checkpoint, text: object
) -> None:
    found = rounding.measured(checkpoint, text.heldout)
    ids = torch.from_numpy(text.heldout.ids[: text.heldout.starts[1]].astype(np.int64))[None]
    for name in ("plain", "int8", "int4"):
        model = (checkpoint if name == "plain" else quantized(checkpoint, name)).model
        truth = model(ids).logits[0, :-1].argmax(-1).numpy()
        assert (found[f"{name} top1"][found["doc"] == 0] == truth).all()
    assert (found["int4 top1"] != found["plain top1"]).any()


def test_an_interval_holds_documents_and_seeds() -> None:
    start = {"doc": np.repeat(np.arange(20), 50), "plain top1": np.zeros(1000, int)}

    def run(seed: int, share: float) -> object:
        found = {f"{name} nll": np.ones(1000) for name in ("plain", "int8", "int4", "noise")}
        drawn = np.random.default_rng(seed).random(1000) < share
        found |= {f"{name} top1": drawn.astype(int) for name in ("int8", "int4", "noise")}
        return rounding.Sums.of(found | {"plain top1": np.zeros(1000, int)}, start)

    ours, theirs = [run(i, 0.1) for i in range(3)], [run(i + 10, 0.2) for i in range(3)]
    value, low, high = rounding.ratio(ours, theirs, "int8")
    flips = [sum(one.columns["int8"][0] for one in side) for side in (ours, theirs)]
    assert value == pytest.approx(flips[0] / flips[1])
    assert low < value < high
    _, alone_low, alone_high = rounding.ratio(ours[:1], theirs[:1], "int8")
    assert alone_low < 0.5 < alone_high or value == pytest.approx(0.5, abs=0.2)
    assert rounding.ratio(ours, ours, "int8") == (1.0, 1.0, 1.0)
