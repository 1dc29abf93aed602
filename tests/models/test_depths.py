"""Blocks and tails of small models of many families, against transformers itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor, nn

from made_up.models import ARCHITECTURES, SMALL, small_model
from made_up.shrunken import shrunken
from made_up.wrappers import TEXT, TOWER, WRAPPERS
from unembed.errors import HeadError, UnembedError
from unembed.head.head import final_hidden
from unembed.models.depths import Depths
from unembed.models.replicas import replicas_of, side_by_side

IDS = torch.arange(3, 33).view(2, 15)


def post_norm_opt() -> Any:
    """As OPT-350m: norms within the blocks, and a projection at each end."""
    return tf.OPTForCausalLM(
        tf.OPTConfig(vocab_size=300, hidden_size=32, word_embed_proj_dim=16, ffn_dim=64,
                     num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=64,
                     do_layer_norm_before=False, bos_token_id=0, eos_token_id=0, pad_token_id=1)
    ).eval()  # fmt: skip


def rwkv() -> Any:
    """Seven blocks, after the sixth of which the state is halved."""
    return tf.RwkvForCausalLM(
        tf.RwkvConfig(vocab_size=300, hidden_size=32, num_hidden_layers=7, attention_hidden_size=32,
                      intermediate_size=64, bos_token_id=0, eos_token_id=0)
    ).eval()  # fmt: skip


def mllama() -> Any:
    """Blocks 2 and 4 attend to an image, and do not run on text."""
    sizes = {**SMALL, "num_hidden_layers": 5, "cross_attention_layers": [1, 3], "pad_token_id": 0}
    return tf.MllamaForCausalLM(tf.MllamaTextConfig(**sizes)).eval()


MODELS: dict[str, Callable[[], Any]] = {
    **{name: lambda name=name: small_model(name) for name in ARCHITECTURES},
    **{name: lambda name=name: shrunken(name) for name in
       ("jamba", "zamba2", "bamba", "falcon_h1", "lfm2", "minicpm3", "olmo2", "roberta", "zaya")},
    **{name: lambda make=make: make().eval() for name, make in WRAPPERS.items()},
    "opt-350m": post_norm_opt,
    "rwkv": rwkv,
    "mllama": mllama,
}  # fmt: skip

FIRST_IS_AFTER_A_BLOCK = ("mamba", "rwkv")
"""Whose hidden states in transformers begin with depth 1, and do not have what enters a block."""

FLOAT32_ALONE = ("mixtral", "qwen3_next", "jamba", "zaya")
"""Torch multiplies by several experts at once in no float64."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", list(MODELS))
def test_states_are_those_that_transformers_gives(name: str, dtype: torch.dtype) -> None:
    """To the bit; its last is left out, since it is after the norm."""
    if name in FLOAT32_ALONE and dtype == torch.float64:
        pytest.skip(f"{name} does not run in {dtype}")
    model = MODELS[name]().to(dtype)
    depths = Depths.of(model)
    with torch.no_grad():
        theirs = model(input_ids=IDS, use_cache=False, output_hidden_states=True).hidden_states
        final, states = depths.block_list.read(model, IDS, range(depths.blocks + 1))
        assert torch.equal(final, final_hidden(model, IDS))
        assert torch.equal(depths.block_list.replay(model, IDS, states[depths.blocks]), final)
    want = dict(enumerate(theirs[:-1], start=name in FIRST_IS_AFTER_A_BLOCK))
    assert len(want) == depths.blocks
    for depth, state in want.items():
        halved = name == "rwkv" and depth == 6
        assert torch.equal(states[depth] / (2 if halved else 1), state)
        assert depths.widths[depth] == state.shape[-1]


@pytest.mark.parametrize("name", sorted({*MODELS} - {"mllama", "rwkv"}))
def test_a_replayed_tail_is_the_model_without_the_later_blocks(name: str) -> None:
    """Transformers runs a shorter list of blocks: the tail of what the last of them returned."""
    model = MODELS[name]()
    depths = Depths.of(model)
    outer, _, leaf = depths.path.rpartition(".")
    blocks = list(model.get_submodule(depths.path))
    with torch.no_grad():
        _final, states = depths.block_list.read(model, IDS, range(depths.blocks + 1))
        got = [depths.block_list.replay(model, IDS, states[at]) for at in range(depths.blocks + 1)]
        for at, replayed in enumerate(got):
            setattr(model.get_submodule(outer), leaf, nn.ModuleList(blocks[:at]))
            want = final_hidden(model, IDS)
            assert torch.equal(replayed, want)


def test_a_projection_after_the_blocks_has_another_width() -> None:
    depths = Depths.of(post_norm_opt())
    assert depths.widths == (32,) * 4
    assert depths.tail.modules == ("model.decoder.project_out (Linear)",)


def test_blocks_that_do_not_run_on_text_are_no_depths() -> None:
    depths = Depths.of(mllama())
    assert (depths.path, depths.blocks, depths.block_list.numbers) == ("model.layers", 3, (0, 2, 4))


def test_copies_are_read_side_by_side() -> None:
    """What stands in for a copy's blocks is that copy's alone, and gone afterwards."""
    model = small_model("llama")
    depths = Depths.of(model)
    copies = replicas_of(model, 2)
    rows = [IDS.roll(shift, 1) for shift in range(12)]

    def early(one: Any, ids: Tensor) -> Tensor:
        with torch.no_grad():
            _final, states = depths.block_list.read(one, ids, [1])
            return depths.block_list.replay(one, ids, states[1])

    want = [early(model, ids) for ids in rows]
    for got, alone in zip(side_by_side(copies, early, rows), want, strict=True):
        assert torch.equal(got, alone)
    for one in copies:
        assert not any("forward" in vars(m) or m._forward_hooks for m in one.modules())
        assert not any(m._forward_pre_hooks for m in one.modules())


def test_a_model_is_left_as_it_was() -> None:
    model = small_model("gpt2").train()
    model.transformer.h[1].eval()
    before = [(module.training, [*vars(module)]) for module in model.modules()]
    Depths.of(model)
    assert [(module.training, [*vars(module)]) for module in model.modules()] == before
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_depth_that_is_not_there() -> None:
    depths = Depths.of(small_model("llama"))
    with pytest.raises(UnembedError, match=r"depth 3 is not there: model\.layers has 2 blocks, so"):
        depths.check([0, 3])


def with_a_step_between(model: Any) -> None:
    model.model.layers[1].register_forward_pre_hook(lambda _m, args: (3 * args[0], *args[1:]))


def with_the_first_state_in_the_tail(model: Any) -> None:
    first: list[Tensor] = []
    model.model.layers[0].register_forward_pre_hook(lambda _m, args: first.append(args[0]))
    model.model.norm.register_forward_pre_hook(lambda _m, args: (args[0] + first[-1],))


def with_an_inner_state_in_the_tail(model: Any) -> None:
    first: list[Tensor] = []
    model.model.layers[0].mlp.register_forward_hook(lambda _m, _a, output: first.append(output))
    model.model.norm.register_forward_pre_hook(lambda _m, args: (args[0] + first.pop(),))


def with_positions_that_meet(model: Any) -> None:
    model.model.norm.register_forward_hook(lambda _m, _args, output: output.cumsum(1))


def with_blocks_run_twice(model: Any) -> None:
    first, second = model.model.layers
    second.forward = lambda hidden, **how: first(hidden, **how)


def with_states_that_are_not_finite(model: Any) -> None:
    nn.init.constant_(model.model.layers[0].mlp.down_proj.weight, float("nan"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (with_a_step_between, "block 1's output is not what block 2 reads"),
        (with_the_first_state_in_the_tail, "the head's input depends on more than the last block"),
        (with_an_inner_state_in_the_tail, r"the model cannot be run without them \(IndexError"),
        (with_positions_that_meet, "positions still meet between the last block and the head"),
        (with_blocks_run_twice, "modules run as 1, 2, 1: not each once and in order"),
        (with_states_that_are_not_finite, "block 1 returns numbers that are not finite"),
    ],
)
def test_blocks_that_are_not_proved_are_refused(change: Callable[[Any], None], said: str) -> None:
    model = small_model("llama")
    change(model)
    before = [vars(module).get("forward") for module in model.modules()]
    with pytest.raises(HeadError, match=said) as refused:
        Depths.of(model)
    assert "the blocks of LlamaForCausalLM are not proved: of model.layers (2 modul" in str(refused)
    assert "\n" not in str(refused.value)
    assert [vars(module).get("forward") for module in model.modules()] == before


@pytest.mark.parametrize("name", ["blt", "hrm_text", "inkling2_text", "xlm"])
def test_families_that_are_no_chain_of_blocks_are_refused(name: str) -> None:
    with pytest.raises(HeadError, match="are not proved: of "):
        Depths.of(shrunken(name))


def test_of_several_lists_the_blocks_are_those_that_are_proved() -> None:
    """Modules that run before the blocks, of the same number: after them, positions still meet."""
    model = small_model("llama")
    layers = model.model.layers
    model.model.others = nn.ModuleList([nn.Identity(), nn.Identity()])
    forward = layers[0].forward

    def also(hidden: Any, *args: Any, **kwargs: Any) -> Any:
        for other in model.model.others:
            hidden = other(hidden)
        return forward(hidden, *args, **kwargs)

    layers[0].forward = also
    assert Depths.of(model).path == "model.layers"
    assert layers[0].forward is also


class Wrapped(nn.Module):
    """Takes what a block takes, and runs containers of its own before it."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.first = nn.ModuleList([nn.Identity() for _ in range(6)])
        self.block = block

    def forward(self, hidden: Tensor, **how: Any) -> Any:
        for inner in self.first:
            hidden = inner(hidden)
        return self.block(hidden, **how)


def test_blocks_may_lie_in_another_container() -> None:
    model = small_model("llama")
    model.model.layers = nn.Sequential(*map(Wrapped, model.model.layers))
    model.model.norm = nn.Sequential(nn.Identity(), model.model.norm)
    depths = Depths.of(model)
    assert (depths.path, depths.block_list.numbers) == ("model.layers", (0, 1))


def test_a_model_of_one_block() -> None:
    model = tf.LlamaForCausalLM(tf.LlamaConfig(**{**SMALL, "num_hidden_layers": 1})).eval()
    assert (Depths.of(model).path, Depths.of(model).blocks) == ("model.layers", 1)


def test_a_state_of_several_streams_is_their_numbers_in_a_row() -> None:
    model = shrunken("gemma3n_text")
    depths = Depths.of(model)
    assert depths.widths == (128,) * 3
    with torch.no_grad():
        final, states = depths.block_list.read(model, IDS, [1])
    assert states[1].shape == (4, 2, 15, 32)
    rows = depths.block_list.by_position(states[1])
    assert torch.equal(rows[17], states[1][:, 1, 2].flatten())
    assert len(rows) == final[..., 0].numel()


def test_the_text_part_of_a_wrapper_has_the_depths() -> None:
    sizes = {**TEXT, "num_hidden_layers": 3}
    llava = tf.LlavaForConditionalGeneration(
        tf.LlavaConfig(text_config=tf.LlamaConfig(**sizes), image_token_index=470,
                       vision_config=tf.CLIPVisionConfig(**{**TOWER, "num_hidden_layers": 4}))
    ).eval()  # fmt: skip
    depths = Depths.of(llava)
    assert (depths.path, depths.blocks) == ("model.language_model.layers", 3)
