"""Blocks and tails of small models of many families, against transformers' own hidden states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from made_up.models import ARCHITECTURES, small_model
from made_up.shrunken import shrunken
from unembed.errors import HeadError, UnembedError
from unembed.head.head import final_hidden
from unembed.models.depths import Depths

IDS = torch.arange(3, 33).view(2, 15)


def theirs(model: Any, dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    """Transformers' states, without the last, which is after the norm, and the head's input."""
    model.to(dtype)
    with torch.no_grad():
        states = model(input_ids=IDS, use_cache=False, output_hidden_states=True).hidden_states
        return list(states[:-1]), final_hidden(model, IDS)


FLOAT32_ALONE = ("mixtral", "qwen3_next")
"""Torch multiplies by several experts at once in no float64."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_states_are_those_that_transformers_gives(name: str, dtype: torch.dtype) -> None:
    if name in FLOAT32_ALONE and dtype == torch.float64:
        pytest.skip(f"{name} runs in no {dtype}")
    model = small_model(name)
    depths = Depths.of(model)
    want, hidden = theirs(model, dtype)
    with torch.no_grad():
        final, states = depths.block_list.read(model, IDS, range(depths.blocks + 1))
        tail = depths.block_list.replay(model, IDS, states[depths.blocks])
    assert depths.blocks == len(want) == model.config.num_hidden_layers
    assert torch.equal(final, hidden)
    assert torch.equal(tail, hidden)
    for depth, state in enumerate(want, start=name == "mamba"):  # whose first is after a block
        assert torch.equal(states[depth], state)
        assert depths.widths[depth] == state.shape[-1]


def norm_of(path: str) -> Callable[[Any, Tensor], Tensor]:
    return lambda model, state: model.get_submodule(path)(state)


TAILS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "llama": norm_of("model.norm"),
    "gpt2": norm_of("transformer.ln_f"),
    "gemma2": norm_of("model.norm"),
    "gpt_neox": norm_of("gpt_neox.final_layer_norm"),
    "mamba": norm_of("backbone.norm_f"),
    "opt": lambda model, state: model.model.decoder.project_out(
        model.model.decoder.final_layer_norm(state)
    ),
}


@pytest.mark.parametrize("name", list(TAILS))
def test_a_tail_is_the_models_own_norm_of_that_state(name: str) -> None:
    model = small_model(name).double()
    depths = Depths.of(model)
    with torch.no_grad():
        _final, states = depths.block_list.read(model, IDS, range(depths.blocks + 1))
        for state in states.values():
            want = TAILS[name](model, state)
            assert torch.equal(depths.block_list.replay(model, IDS, state), want)
    assert all("forward" not in vars(module) for module in model.modules())


def test_a_depth_that_is_not_there() -> None:
    depths = Depths.of(small_model("llama"))
    with pytest.raises(UnembedError, match=r"depth 3 is not there: model\.layers has 2 blocks, so"):
        depths.check([0, 3])


def doubled(_module: Any, args: Any) -> Any:
    return (2 * args[0], *args[1:])


def with_a_step_between(model: Any) -> None:
    model.model.layers[1].register_forward_pre_hook(doubled)


def with_the_first_state_in_the_tail(model: Any) -> None:
    first: list[Tensor] = []
    model.model.layers[0].register_forward_pre_hook(lambda _m, args: first.append(args[0]))
    model.model.norm.register_forward_pre_hook(lambda _m, args: (args[0] + first[-1],))


def with_positions_that_meet(model: Any) -> None:
    model.model.norm.register_forward_hook(lambda _m, _args, output: output.cumsum(1))


def with_blocks_run_twice(model: Any) -> None:
    first, second = model.model.layers
    second.forward = lambda hidden, **how: first(hidden, **how)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (with_a_step_between, r"model\.layers \(2 modules\), block 1's output is not what block 2"),
        (with_the_first_state_in_the_tail, "the head's input depends on more than the last block"),
        (with_positions_that_meet, "positions still meet between the last block and the head"),
        (with_blocks_run_twice, "no list of its modules is run from its first to its last, each"),
    ],
)
def test_blocks_that_are_not_proved_are_refused(change: Callable[[Any], None], said: str) -> None:
    model = small_model("llama")
    change(model)
    with pytest.raises(HeadError, match=said) as refused:
        Depths.of(model)
    assert "\n" not in str(refused.value)


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
