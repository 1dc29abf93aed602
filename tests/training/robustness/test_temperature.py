"""The control: every logit times one factor, by the head or by the final norm, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from made_up.models import small_model
from unembed.errors import UnembedError
from unembed.head.head import Head, final_hidden
from unembed.head.sweep import Sweep, sweep
from unembed.training.robustness.temperature import temperature

NORMS = {
    "llama": "model.norm",
    "mistral": "model.norm",
    "qwen3": "model.norm",
    "gemma3": "model.norm",
    "cohere": "model.norm",
    "granite": "model.norm",
    "gpt2": "transformer.ln_f",
    "gpt_neox": "gpt_neox.final_layer_norm",
    "opt": "model.decoder.final_layer_norm",
    "mamba": "backbone.norm_f",
    "mixtral": "model.norm",
    "qwen3_next": "model.norm",
}
IDS = torch.randint(2, 300, (3, 11), generator=torch.Generator().manual_seed(1))


def perturbed(name: str, dtype: torch.dtype = torch.float32) -> Any:
    """A model whose norms have gains and biases of their own."""
    model = small_model(name, dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn(parameter.shape).to(dtype)
    return model


def parameters(model: Any) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def swept(head: Head, hidden: Tensor) -> Sweep:
    return sweep(hidden, head, torch.zeros(len(hidden), dtype=torch.long), k=5)


def some_head(**how: Any) -> tuple[Head, Tensor]:
    g = torch.Generator().manual_seed(0)
    weight, hidden = torch.randn(3000, 24, generator=g), torch.randn(700, 24, generator=g)
    bias = torch.randn(3000, generator=g) if how.pop("bias", False) else None
    weight[9] = weight[2000] = 3 * hidden[0]
    return Head.from_parts(weight, bias, valid=torch.arange(3000) != 17, **how), hidden


@pytest.mark.parametrize("factor", [0.5, 4.0, 1.3, 0.77])
@pytest.mark.parametrize("how", [{}, {"bias": True, "scale": 0.3}, {"softcap": 9.0, "bias": True}])
def test_a_sharpened_head_decides_as_before(how: dict[str, Any], factor: float) -> None:
    head, hidden = some_head(**how)
    hot = head.sharpened(factor)
    before, after = swept(head, hidden), swept(hot, hidden)
    assert torch.equal(before.topk_ids, after.topk_ids)
    assert torch.equal(before.rank, after.rank)
    if factor in (0.5, 4.0):
        assert torch.equal(factor * before.topk_values, after.topk_values)
        assert torch.equal(factor * before.margin, after.margin)
    assert torch.allclose(after.topk_values, factor * before.topk_values, rtol=1e-6)
    assert float(after.margin.median()) == pytest.approx(
        factor * float(before.margin.median()), rel=1e-5
    )
    assert not torch.allclose(before.nll, after.nll, rtol=0.01)
    assert hot.digest != head.digest
    assert hot.weight is head.weight
    assert bool((after.topk_ids != 17).all())


def test_sharpening_may_tie_neighbours_but_lets_none_pass() -> None:
    """Logits a rounding step apart: a power of two keeps all of them apart, 1.3 not all."""
    steps = torch.arange(1000, dtype=torch.float32)
    logits = 1.5 + steps * torch.finfo(torch.float32).eps
    head = Head.from_parts(logits[:, None].contiguous())
    hidden, targets = torch.ones(1, 1), torch.tensor([999])
    exact = sweep(hidden, head.sharpened(2.0), targets, k=1000)
    assert exact.topk_ids[0].tolist() == list(range(999, -1, -1))
    merged = sweep(hidden, head.sharpened(1.4), targets, k=1000)
    assert bool((merged.topk_values[0].diff() <= 0).all())
    assert 1 < len(merged.topk_values.unique()) < 1000
    groups = (1.4 * logits)[merged.topk_ids[0]]
    assert bool((groups.diff() <= 0).all())


@pytest.mark.parametrize("factor", [2.0, 1.3, 0.6])
@pytest.mark.parametrize("name", NORMS)
@torch.no_grad()
def test_the_final_norm_of_every_architecture_is_found(name: str, factor: float) -> None:
    model = perturbed(name)
    before, kept = final_hidden(model, IDS), parameters(model)
    theirs = model(input_ids=IDS).logits
    scaled = temperature(model, factor)
    assert (scaled.norm, scaled.factor) == (NORMS[name], factor)
    assert 0.0 <= scaled.error < 1e-5
    after = final_hidden(model, IDS)
    assert torch.allclose(after, factor * before, rtol=1e-5, atol=1e-5)
    own = model(input_ids=IDS).logits
    assert torch.allclose(own, factor * theirs, rtol=1e-4, atol=1e-4)
    moved = {path for path, p in parameters(model).items() if not torch.equal(p, kept[path])}
    assert moved <= {f"{NORMS[name]}.weight", f"{NORMS[name]}.bias"}
    if factor == 2.0 and name not in ("gemma3", "qwen3_next"):
        assert torch.equal(after, 2 * before)
        assert scaled.error == 0.0


def test_bfloat16_gains_round_and_say_how_much() -> None:
    for name in ("llama", "gemma3"):
        scaled = temperature(perturbed(name, torch.bfloat16), 1.3)
        assert 1e-4 < scaled.error < 0.02
    model = perturbed("gemma3", torch.bfloat16)
    gain = 1 + model.model.norm.weight.detach().double()
    temperature(model, 1.05)  # no more than the tolerance in bfloat16: twice the length decides
    assert torch.allclose(1 + model.model.norm.weight.detach().double(), 1.05 * gain, atol=2**-8)


@pytest.mark.parametrize(("name", "part"), [("gemma2", "soft-cap"), ("phi", "bias")])
def test_a_head_that_length_does_not_scale_is_refused_untouched(name: str, part: str) -> None:
    model = perturbed(name)
    kept = parameters(model)
    with pytest.raises(UnembedError, match=rf"has a {part}.*Head.sharpened\(1.3\)"):
        temperature(model, 1.3)
    assert all(torch.equal(p, kept[path]) for path, p in parameters(model).items())


def test_what_does_not_follow_its_norm_is_put_back() -> None:
    model = perturbed("llama")
    plain = model.model.norm.forward
    model.model.norm.forward = lambda hidden: torch.tanh(plain(hidden))
    kept = parameters(model)
    with pytest.raises(UnembedError, match=r"do not follow the gain of model\.norm"):
        temperature(model, 1.02)
    assert all(torch.equal(p, kept[path]) for path, p in parameters(model).items())
    assert not any(module._forward_hooks for module in model.modules())


def test_no_factor_but_a_positive_one() -> None:
    head, _ = some_head()
    for factor in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(UnembedError, match=f"factor {factor} scales no logits"):
            head.sharpened(factor)
        with pytest.raises(UnembedError, match=f"factor {factor} scales no logits"):
            temperature(torch.nn.Identity(), factor)
