"""A checkpoint's head and tail without its blocks: the same head, the same way to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from made_up.models import ARCHITECTURES, small_model
from unembed import load
from unembed.errors import UnembedError
from unembed.head.head import Head
from unembed.models.depths import Depths
from unembed.models.stored.head_and_tail import load_head_and_tail, one_block_digest

Save = Callable[..., Path]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_one_block_has_the_head_and_the_tail_of_all(
    name: str, checkpoint: Save, small_tokenizer: Any
) -> None:
    model = small_model(name)
    made, why = load_head_and_tail(str(checkpoint(model, small_tokenizer)))
    assert why is None
    assert sum(p.numel() for p in made.model.parameters()) < sum(
        p.numel() for p in model.parameters()
    )
    assert Head.of(made.model).digest == Head.of(model).digest
    ours, theirs = Depths.of(made.model), Depths.of(model)
    assert (ours.blocks, ours.tail.modules) == (1, theirs.tail.modules)
    ids = torch.arange(8)[None]
    with torch.no_grad():
        hidden, states = theirs.block_list.read(model, ids, [theirs.blocks])
        replayed = ours.block_list.replay(made.model, ids, states[theirs.blocks])
    assert torch.equal(replayed, hidden)


def test_the_digest_is_that_of_the_whole_model_and_sees_another_first_block(
    llama: Any, llama_folder: Path
) -> None:
    made, _why = load_head_and_tail(str(llama_folder))
    whole = load(llama_folder).model
    assert one_block_digest(made.model) == one_block_digest(whole)
    with torch.no_grad():
        whole.model.layers[1].mlp.up_proj.weight.add_(1)
    assert one_block_digest(made.model) == one_block_digest(whole)
    with torch.no_grad():
        whole.model.layers[0].mlp.up_proj.weight.add_(1)
    assert one_block_digest(made.model) != one_block_digest(whole)


def test_weights_that_no_block_has_are_refused_as_ever(
    llama: Any, checkpoint: Save, tokenizer: Any
) -> None:
    folder = checkpoint(llama, tokenizer)
    file = folder / "model.safetensors"
    save_file(load_file(file) | {"model.extra.weight": torch.ones(3)}, file, {"format": "pt"})
    with pytest.raises(UnembedError, match=r"would ignore \(first: model\.extra\.weight\)"):
        load_head_and_tail(str(folder))


def test_where_one_block_is_no_model_the_whole_is_read_and_the_reason_said(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unembed.models import checkpoint as checkpoints

    def unsaid(config: Any) -> Any:
        raise UnembedError(f"{type(config).__name__} does not say how many blocks there are")

    monkeypatch.setattr(checkpoints, "with_one_block", unsaid)
    made, why = load_head_and_tail(str(llama_folder))
    assert why is not None
    assert "LlamaConfig does not say how many blocks there are" in why
    assert len(made.model.model.layers) == 2
