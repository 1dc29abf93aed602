"""Weights rounded to few bits: the formula, which layers, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from unembed.errors import UnembedError
from unembed.models.checkpoint import Checkpoint
from unembed.models.quantization import check_scheme, quantized

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


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnembedError, match=r"'int5' .*int8, int4"):
        check_scheme("int5")
    with pytest.raises(UnembedError, match="no linear layer besides its head"):
        quantized(Checkpoint("bare", Bare(), None), "int8", head=True)
    monkeypatch.setattr("unembed.models.quantization.torchao_is_there", lambda: False)
    with pytest.raises(UnembedError, match=r"pip install 'unembed\[quant\]'"):
        check_scheme("int8")
