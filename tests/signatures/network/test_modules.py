"""Which modules of a model are sketched, and how patterns choose among them."""

from __future__ import annotations

import peft
import pytest
import torch
import transformers as tf

from made_up.models import small_model
from unembed.errors import UnembedError
from unembed.signatures.network.modules import HEAD, left_out, network_modules, seed_of


@pytest.fixture(scope="module")
def llama() -> torch.nn.Module:
    return small_model("llama")


def test_every_linear_module_is_there_with_its_sides_and_the_head_is_last(
    llama: torch.nn.Module,
) -> None:
    found = network_modules(llama)
    shapes = {
        name: tuple(module.weight.shape)
        for name, module in llama.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }
    assert {one.name: (one.outputs, one.inputs) for one in found[:-1]} == shapes
    assert [one.name for one in found[:-1]] == list(shapes)
    last = found[-1]
    assert (last.name, last.outputs, last.inputs, last.depth) == (HEAD, 300, 32, None)
    assert [one.depth for one in found[:-1]] == [0] * 7 + [1] * 7
    assert {one.kind for one in found} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", HEAD
    }  # fmt: skip


def test_a_transposed_module_has_its_sides_the_right_way_round() -> None:
    by_kind = {(one.kind, one.inputs): one.outputs for one in network_modules(small_model("gpt2"))}
    assert by_kind == {
        ("c_attn", 32): 96, ("c_proj", 32): 32, ("c_fc", 32): 128, ("c_proj", 128): 32,
        (HEAD, 32): 300,
    }  # fmt: skip


def test_projections_outside_of_the_blocks_have_no_depth() -> None:
    depths = {one.name: one.depth for one in network_modules(small_model("opt"))}
    assert depths["model.decoder.project_in"] is None
    assert depths["model.decoder.layers.1.fc1"] == 1


def test_experts_that_a_probe_does_not_reach_are_there() -> None:
    class Mixture(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = torch.nn.ModuleList(torch.nn.Linear(32, 32) for _ in range(3))

        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return self.experts[1](states)

    model = small_model("llama")
    model.model.layers[0].mlp = Mixture()
    model.unused = torch.nn.Linear(3, 3)
    names = {one.name for one in network_modules(model)}
    assert {f"model.layers.0.mlp.experts.{i}" for i in range(3)} <= names
    assert "unused" not in names


@pytest.mark.parametrize(
    ("patterns", "count"),
    [
        ((), 15),
        (("head",), 1),
        (("depth:1",), 7),
        (("depth:0-1",), 14),
        (("kind:q_proj", "head"), 3),
        (("kind:*_proj",), 14),
        (("*.mlp.*", "*.layers.0.*"), 10),
    ],
)
def test_patterns_choose_by_name_depth_and_kind(
    llama: torch.nn.Module, patterns: tuple[str, ...], count: int
) -> None:
    every = network_modules(llama)
    chosen = network_modules(llama, patterns)
    assert len(chosen) == count
    assert [one for one in every if one in chosen] == list(chosen)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("q_porj", "'q_porj' matches no module: give a name with \\* .* such as q_proj"),
        ("depth:9", "'depth:9' matches no module: its blocks are 0 to 1"),
        ("depth:one", "'depth:one' is no depth: give one, such as depth:3"),
        ("kind:c_attn", "'kind:c_attn' matches no module: its kinds are q_proj, k_proj"),
    ],
)
def test_a_pattern_that_matches_nothing_is_told_what_there_is(
    llama: torch.nn.Module, pattern: str, said: str
) -> None:
    with pytest.raises(UnembedError, match=said):
        network_modules(llama, [pattern])


def test_frozen_modules_are_left_out_and_said_so() -> None:
    model = small_model("llama")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("mlp" in name)
    chosen = network_modules(model)
    assert {one.kind for one in chosen} == {"gate_proj", "up_proj", "down_proj"}
    assert "9 frozen (model.layers.0.self_attn.q_proj" in str(left_out(model, chosen))
    assert "1 Embedding, 5 LlamaRMSNorm" in str(left_out(model, chosen))
    with pytest.raises(
        UnembedError, match=r"'kind:q_proj' names frozen modules alone .model.layers.0"
    ):
        network_modules(model, ["kind:q_proj"])
    with pytest.raises(UnembedError, match="all 15 linear modules are frozen"):
        network_modules(model.requires_grad_(False))


def test_weights_that_are_used_without_a_call_of_their_module_are_named() -> None:
    mamba = small_model("mamba")
    chosen = network_modules(mamba)
    assert "dt_proj" not in {one.kind for one in chosen}
    said = str(left_out(mamba, chosen))
    assert "2 linear but not called (backbone.layers.0.mixer.dt_proj" in said


def test_modules_that_were_not_asked_for_are_no_frozen_ones(llama: torch.nn.Module) -> None:
    said = str(left_out(llama, network_modules(llama, ["depth:0", "head"])))
    assert "7 not asked for (model.layers.1.self_attn.q_proj" in said
    assert "frozen" not in said


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")
def test_of_an_adapter_its_matrices_alone_train() -> None:
    adapted = peft.get_peft_model(
        small_model("llama"), peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"])
    )
    for frozen in (False, True):
        if frozen:
            adapted.requires_grad_(False)  # as transformers loads one
        found = network_modules(adapted)
        assert {(one.kind, one.outputs, one.inputs) for one in found} == {
            ("q_proj.lora_A", 4, 32),
            ("q_proj.lora_B", 32, 4),
            ("down_proj.lora_A", 4, 64),
            ("down_proj.lora_B", 32, 4),
        }
        assert [one.depth for one in found] == [0] * 4 + [1] * 4
    with pytest.raises(UnembedError, match=r"frozen modules alone .* an adapter is in place"):
        network_modules(adapted, ["kind:o_proj"])


def test_modules_of_one_shape_have_maps_of_their_own_and_the_head_those_of_its_signature() -> None:
    first, *_others, head = network_modules(tf.LlamaForCausalLM(tf.LlamaConfig(
        vocab_size=40, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, pad_token_id=0, bos_token_id=0, eos_token_id=0)))  # fmt: skip
    assert head.spec("dense", 64, 7).seed == 7
    assert first.spec("dense", 64, 7).seed == seed_of(7, "model.layers.0.self_attn.q_proj")
    assert len({seed_of(s, n) for s in (0, 1) for n in "ab"}) == 4
    assert 0 <= seed_of(7, "q") < 1 << 63
