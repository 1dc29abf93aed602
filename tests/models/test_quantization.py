"""Weights rounded to few bits: the formula, which layers, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from made_up.wrappers import WRAPPERS
from unembed.errors import UnembedError
from unembed.models.checkpoint import Checkpoint
from unembed.models.quantization import check_scheme, quantized, rounded_shares

pytest.importorskip("torchao", reason="the extra quant is not installed")


def llama(tied: bool = True, dim: int = 64) -> Checkpoint:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=dim,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=tied,
    )
    return Checkpoint("tiny", LlamaForCausalLM(config).eval(), None)


class Bare(nn.Module):
    """A model of a head alone."""

    def __init__(self) -> None:
        super().__init__()
        self.lm_head = nn.Linear(4, 9)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head


def agree(ours: torch.Tensor, weight: torch.Tensor, bits: int, group: int) -> bool:
    """Whether ``ours`` is the weight rounded, row by row and group by group, in float64.

    What lies half-way between two steps, as each group's largest weight does, may go to either.
    """
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    for mine, row in zip(ours.double(), weight.double(), strict=True):
        for start in range(0, len(row), group):
            part, made = (x[start : start + group] for x in (row, mine))
            steps = part / (float(part.abs().max()) / ((high - low) / 2))
            wanted = steps.round().clamp(low, high)
            got = made / (float(part.abs().max()) / ((high - low) / 2))
            halfway = (steps - steps.floor() - 0.5).abs() < 1e-3
            if not bool(((got - wanted).abs() < 1e-3 + 1.0 * halfway).all()):
                return False
    return True


@pytest.mark.parametrize(("scheme", "bits", "group"), [("int8", 8, 64), ("int4", 4, 32)])
def test_weights_are_rounded_by_the_formula(scheme: str, bits: int, group: int) -> None:
    before = llama()
    after = quantized(before, scheme).model
    name = "model.layers.0.self_attn.q_proj"
    weight = before.model.get_submodule(name).weight.detach()
    ours = after.get_submodule(name).weight
    assert agree(ours, weight, bits, group)
    assert not agree(weight, weight, bits, group)


def test_the_head_only_on_request_and_the_original_stays() -> None:
    before = llama()
    kept = {name: p.clone() for name, p in before.model.named_parameters()}
    plain, whole = quantized(before, "int8"), quantized(before, "int8", head=True)
    for name, parameter in before.model.named_parameters():
        assert torch.equal(parameter, kept[name])
    head = before.model.get_output_embeddings().weight
    assert torch.equal(plain.model.get_output_embeddings().weight, head)
    assert not torch.equal(whole.model.get_output_embeddings().weight, head)
    assert torch.equal(whole.model.get_input_embeddings().weight, head)
    assert plain.name.startswith("tiny in int8 (torchao ")
    assert whole.name.startswith("tiny in int8 with its head (torchao ")


def test_a_row_that_no_group_divides_has_one_scale() -> None:
    weight = llama(dim=36).model.get_submodule("model.layers.0.self_attn.q_proj").weight.detach()
    ours = quantized(llama(dim=36), "int4").model.get_submodule("model.layers.0.self_attn.q_proj")
    assert agree(ours.weight, weight, 4, 36)


def test_gpt2_whose_weights_lie_transposed() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=32, n_layer=1, n_head=2)).eval()
    after = quantized(Checkpoint("tiny", model, None), "int8").model
    weight = model.transformer.h[0].mlp.c_fc.weight.detach()
    ours = after.get_submodule("transformer.h.0.mlp.c_fc").weight
    assert agree(ours.T, weight.T, 8, 32)


def mixture_of(dense: Any, experts: int) -> Checkpoint:
    """A Mistral's layers, its feed-forward network copied into identical experts of a Mixtral."""
    from transformers import MixtralConfig, MixtralForCausalLM

    kept = {k: v for k, v in dense.config.to_dict().items() if k in MixtralConfig().to_dict()}
    kept = {k: v for k, v in kept.items() if k not in ("architectures", "model_type")}
    made = MixtralForCausalLM(
        MixtralConfig(**kept, num_local_experts=experts, num_experts_per_tok=2)
    )
    weights = dense.state_dict()
    mixed = {}
    for name, tensor in made.state_dict().items():
        start = name.split("mlp.")[0]
        if name.endswith("experts.gate_up_proj"):
            parts = (weights[f"{start}mlp.{part}_proj.weight"] for part in ("gate", "up"))
            mixed[name] = torch.cat(tuple(parts)).repeat(experts, 1, 1)
        elif name.endswith("experts.down_proj"):
            mixed[name] = weights[f"{start}mlp.down_proj.weight"].repeat(experts, 1, 1)
        else:
            mixed[name] = weights.get(name, tensor)
    made.load_state_dict(mixed)
    return Checkpoint("mixture", made.eval(), None)


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_identical_experts_are_rounded_as_the_dense_network_is(scheme: str) -> None:
    from made_up.models import small_model

    dense = Checkpoint("dense", small_model("mistral"), None)
    mixture = mixture_of(dense.model, 4)
    ids = torch.arange(4 * 60).view(4, 60) * 7 % 300
    with torch.no_grad():
        before = dense.model(ids).logits
        assert float((mixture.model(ids).logits - before).abs().max()) < 1e-3
        after, mixed = (quantized(one, scheme).model(ids).logits for one in (dense, mixture))
    assert float((mixed - after).abs().max()) < 1e-3
    flips = before.argmax(-1) != after.argmax(-1)
    assert torch.equal(flips, before.argmax(-1) != mixed.argmax(-1))
    assert scheme == "int8" or bool(flips.any())


def test_experts_whose_inputs_come_first() -> None:
    from transformers import GptOssConfig, GptOssForCausalLM

    torch.manual_seed(0)
    config = GptOssConfig(
        vocab_size=97, hidden_size=64, intermediate_size=96, num_hidden_layers=1, head_dim=16,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=2, num_experts_per_tok=1,
    )  # fmt: skip
    before = GptOssForCausalLM(config).eval()
    after = quantized(Checkpoint("tiny", before, None), "int8").model
    for name, width in (("gate_up_proj", 64), ("down_proj", 96)):
        path = f"model.layers.0.mlp.experts.{name}"
        ours, weight = (one.get_parameter(path).detach() for one in (after, before))
        for mine, matrix in zip(ours, weight, strict=True):
            assert agree(mine.T, matrix.T, 8, width)


def test_the_share_of_weights_that_is_rounded() -> None:
    from made_up.models import small_model

    model = small_model("mixtral")
    shares = {one.kind: one for one in rounded_shares(model)}
    assert shares["experts"].rounded == shares["experts"].weights == 2 * 4 * 3 * 32 * 64
    assert shares["linear layers"].rounded == shares["linear layers"].weights
    assert shares["embeddings"].rounded == shares["head"].rounded == 0
    assert shares["all weights"].weights == sum(one.numel() for one in model.parameters())
    assert str(shares["experts"]) == "experts 100.0% of 49,152"
    whole = {one.kind: one for one in rounded_shares(model, head=True)}
    assert whole["head"].rounded == 300 * 32
    tied = llama().model
    assert rounded_shares(tied)[0].weights == sum(one.numel() for one in tied.parameters())


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnembedError, match=r"'int5' .*int8, int4"):
        check_scheme("int5")
    with pytest.raises(UnembedError, match="no linear layer besides its head"):
        quantized(Checkpoint("bare", Bare(), None), "int8", head=True)
    monkeypatch.setattr("unembed.models.quantization.torchao_is_there", lambda: False)
    with pytest.raises(UnembedError, match=r"pip install 'unembed\[quant\]'"):
        check_scheme("int8")


def test_towers_that_no_text_reaches_stay_and_are_counted_apart() -> None:
    before = WRAPPERS["llava"]().eval()
    after = quantized(Checkpoint("wrapper", before, None), "int8").model
    towers = ("model.vision_tower", "model.multi_modal_projector")
    for path, weight in before.named_parameters():
        rounded = not torch.equal(after.get_parameter(path), weight)
        assert rounded == (path.startswith("model.language_model.layers.") and weight.ndim == 2)
    shares = {one.kind: one for one in rounded_shares(before)}
    for tower in towers:
        share = shares[f"{tower}, unused on text,"]
        assert share.rounded == 0
        assert share.weights == sum(p.numel() for p in before.get_submodule(tower).parameters())
    assert str(share) == f"model.multi_modal_projector, unused on text, 0.0% of {share.weights:,}"
    assert shares["linear layers"].rounded == shares["linear layers"].weights
    assert shares["all weights"].weights == sum(p.numel() for p in before.parameters())
