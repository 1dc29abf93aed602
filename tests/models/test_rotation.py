"""A rotated model is the same function, and its weights round better; all else is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import unembed.models.rotation.rotate as module
from made_up.models import ARCHITECTURES, small_model
from unembed.errors import UnembedError
from unembed.head.head import Head
from unembed.models.checkpoint import Checkpoint, load
from unembed.models.quantization import quantized
from unembed.models.rotation.learn import (
    Matrices,
    learned_rotation,
    plain_maximum,
    random_rotation,
)
from unembed.models.rotation.norms import NormForm
from unembed.models.rotation.rotate import rotate, rotated

IDS = torch.arange(3 * 40).view(3, 40) * 7 % 300
REFUSED = {
    "gemma2": "post_feedforward_layernorm scales what is added to the residual stream",
    "gemma3": "post_feedforward_layernorm scales what is added to the residual stream",
    "mixtral": "writes to the residual stream after model.layers.1.post_attention_layernorm",
    "qwen3_next": "writes to the residual stream after model.layers.3.post_attention_layernorm",
    "opt": "has no norm before its head",
}
"""What the refusal says of an architecture that no rotation is known for."""
MEAN_TAKEN = ("cohere", "gpt2", "gpt_neox", "phi")


def lively(name: str, dtype: torch.dtype = torch.float32) -> Checkpoint:
    """A small model whose norms scale and whose biases are not zero."""
    model = small_model(name)
    draws = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += torch.randn(parameter.shape, generator=draws) * 0.3
    return Checkpoint(name, model.to(dtype), None)


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    said: Any = model(input_ids=IDS, use_cache=False)
    found: torch.Tensor = said.logits
    return found


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in REFUSED])
def test_a_rotated_model_is_the_same_function(name: str) -> None:
    before = lively(name)
    kept = copy.deepcopy(before.model.state_dict())
    found = rotate(before, seed=3, steps=2)
    want, got = logits(before.model), logits(found.checkpoint.model)
    assert float((got - want).abs().max()) < 1e-3 * float(want.std())
    assert found.difference < 1e-3
    assert found.fixes_ones == (name in MEAN_TAKEN)
    for key, tensor in before.model.state_dict().items():
        assert torch.equal(tensor, kept[key])
    changed = found.checkpoint.model.state_dict()
    moved = [key for key in kept if not torch.allclose(kept[key], changed[key], atol=1e-3)]
    assert len(moved) >= found.readers + found.writers


def test_gemma_whose_gains_and_embedding_differ() -> None:
    import transformers as tf

    torch.manual_seed(0)
    config = tf.GemmaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
    )
    model = tf.GemmaForCausalLM(config).eval()
    for layer in model.model.layers:
        nn.init.normal_(layer.input_layernorm.weight, std=0.5)
    found = rotate(Checkpoint("gemma", model, None), steps=2)
    assert found.unties
    assert torch.equal(found.checkpoint.model.model.norm.weight, torch.zeros(32))
    want, got = logits(model), logits(found.checkpoint.model)
    assert float((got - want).abs().max()) < 1e-3 * float(want.std())


def test_fused_projections_are_linear_layers_too() -> None:
    from made_up.models import longrope_model

    model = longrope_model()
    for layer in model.model.layers:
        nn.init.normal_(layer.input_layernorm.weight, mean=1, std=0.3)
    found = rotate(Checkpoint("phi3", model, None), steps=2)
    want, got = logits(model), logits(found.checkpoint.model)
    assert float((got - want).abs().max()) < 1e-3 * float(want.std())


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_rotation_passes_through_is_named(name: str) -> None:
    with pytest.raises(UnembedError, match=REFUSED[name]):
        rotate(lively(name), steps=2)


def test_bad_requests_are_refused_before_the_work() -> None:
    given = lively("llama")
    with pytest.raises(UnembedError, match="'int3' is not one of int8, int4"):
        rotate(given, "int3")
    with pytest.raises(UnembedError, match="--steps -1"):
        rotate(given, steps=-1)
    stored = Checkpoint("tiny", given.model, None, stored_as="gptq")
    with pytest.raises(UnembedError, match="rounded to gptq: rotate the model"):
        rotate(stored)


def test_a_rotation_that_changes_the_function_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    turn = module.turn

    def half(stream: Any, rotation: torch.Tensor) -> None:
        turn(stream, rotation)
        stream.writers[0].weight.mul_(1.01)

    monkeypatch.setattr(module, "turn", half)
    with pytest.raises(UnembedError, match="is not the same function: its logits move by"):
        rotate(lively("llama"), steps=0)


def test_a_weight_that_two_modules_share_is_refused() -> None:
    given = lively("llama")
    first, second = given.model.model.layers
    second.mlp.down_proj.weight = first.mlp.down_proj.weight
    with pytest.raises(UnembedError, match="share a weight"):
        rotate(given, steps=0)


def test_a_tied_head_is_saved_with_a_matrix_of_its_own(
    tmp_path: Path, small_tokenizer: Any
) -> None:
    given = Checkpoint("tiny", lively("qwen3").model, small_tokenizer)
    found = rotate(given, steps=2)
    assert found.unties
    found.checkpoint.model.save_pretrained(tmp_path)
    small_tokenizer.save_pretrained(tmp_path)
    back = load(tmp_path, device="cpu")
    assert torch.equal(logits(back.model), logits(found.checkpoint.model))
    assert not Head.of(back.model).tied
    assert not back.model.config.tie_word_embeddings


def test_weights_keep_their_precision_and_their_gradients() -> None:
    given = lively("llama", torch.bfloat16)
    found = rotate(given, steps=2)
    assert found.dtype == "bfloat16"
    want, got = logits(given.model).float(), logits(found.checkpoint.model).float()
    assert 0 < float((got - want).abs().max()) < 0.3 * float(want.std())
    for before, after in zip(
        given.model.parameters(), found.checkpoint.model.parameters(), strict=True
    ):
        assert (before.dtype, before.requires_grad) == (after.dtype, after.requires_grad)


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_outliers_are_spread_out_and_fewer_decisions_flip(scheme: str) -> None:
    pytest.importorskip("torchao", reason="the extra quant is not installed")
    given = lively("llama")
    for name, parameter in given.model.named_parameters():
        if name.endswith(("q_proj.weight", "k_proj.weight", "up_proj.weight", "gate_proj.weight")):
            parameter.data[:, 3] *= 12
    found = rotate(given, scheme, steps=100)
    assert found.after < found.before

    def moved(checkpoint: Checkpoint) -> float:
        plain, rounded = logits(checkpoint.model), logits(quantized(checkpoint, scheme).model)
        return float((plain - rounded).square().mean())

    assert moved(found.checkpoint) < 0.7 * moved(given)


@pytest.mark.parametrize("keeps_ones", [False, True])
def test_rotations_are_orthogonal_and_come_from_their_seed(keeps_ones: bool) -> None:
    matrices = Matrices(torch.randn(30, 8), (torch.randn(8, 20),), None)
    one, same, other = (
        learned_rotation(matrices, seed=seed, steps=5, keeps_ones=keeps_ones) for seed in (1, 1, 2)
    )
    drawn = random_rotation(8, torch.Generator().manual_seed(1), keeps_ones=keeps_ones)
    for found in (one, other, drawn):
        assert torch.allclose(found @ found.T, torch.eye(8, dtype=torch.float64), atol=1e-6)
        ones = torch.ones(8, dtype=torch.float64)
        assert torch.allclose(found @ ones, ones, atol=1e-6) == keeps_ones
    assert torch.equal(one, same)
    assert not torch.allclose(one, other, atol=1e-2)
    assert not torch.allclose(one, drawn, atol=1e-2)


@pytest.mark.parametrize("group", [None, 4])
def test_roughness_is_that_of_the_formula_and_falls_as_it_is_learned(group: int | None) -> None:
    torch.manual_seed(0)
    readers, writer = torch.randn(30, 8), torch.randn(8, 20)
    readers[:, 2] *= 9
    matrices = Matrices.of([readers[:10], readers[10:]], [writer], group)

    def slow(rows: torch.Tensor) -> float:
        squares = []
        for row in rows.tolist():
            rms = (sum(x * x for x in row) / len(row)) ** 0.5
            step = group or len(row)
            for start in range(0, len(row), step):
                squares.append((max(abs(x) for x in row[start : start + step]) / rms) ** 2)
        return sum(squares) / len(squares)

    turned = random_rotation(8, torch.Generator().manual_seed(4), keeps_ones=False).float()
    want = (slow(readers @ turned) + slow(turned.T @ writer)) / 2
    assert float(matrices.roughness(turned, plain_maximum)) == pytest.approx(want, rel=1e-5)
    learned = learned_rotation(matrices, seed=4, steps=60).float()
    assert float(matrices.roughness(learned, plain_maximum)) < 0.95 * want


def test_many_rows_are_sampled_over_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    import unembed.models.rotation.learn as learn

    monkeypatch.setattr(learn, "MOST_ROWS", 10)
    monkeypatch.setattr(learn, "ROWS_A_STEP", 6)
    rows = torch.arange(40.0).view(20, 2)
    matrices = Matrices.of([rows[:8], rows[8:]], [torch.ones(2, 4)] * 3, None)
    assert matrices.readers[:, 0].tolist() == list(range(0, 40, 4))
    some = matrices.drawn(torch.Generator().manual_seed(0))
    assert len(some.readers) == 6
    assert len(some.writers) == 2


def test_norms_are_known_by_what_they_compute() -> None:
    from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    rms, gemma, layer = LlamaRMSNorm(8), GemmaRMSNorm(8), nn.LayerNorm(8)
    for one in (rms, gemma, layer):
        nn.init.normal_(one.weight)
    nn.init.normal_(layer.bias)
    assert NormForm.of(rms) == NormForm(8, False, "weight", 0.0, None)
    assert NormForm.of(gemma) == NormForm(8, False, "weight", 1.0, None)
    assert NormForm.of(layer) == NormForm(8, True, "weight", 0.0, "bias")
    assert NormForm.of(nn.LayerNorm(8, bias=False)) == NormForm(8, True, "weight", 0.0, None)
    for other in (nn.GELU(), nn.PReLU(8), nn.BatchNorm1d(8), nn.Linear(8, 8)):
        assert NormForm.of(other) is None


def test_the_short_way_gives_the_checkpoint() -> None:
    given = lively("llama")
    one, whole = rotated(given, steps=2), rotate(given, steps=2)
    assert one.name == "llama rotated"
    assert torch.equal(logits(one.model), logits(whole.checkpoint.model))
