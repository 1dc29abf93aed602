"""States of a text's positions at every depth, in the very batches of an audit."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
import torch
from torch import Tensor
from tqdm import tqdm

from made_up.corpora import TEXTS
from made_up.models import small_model
from unembed import Corpus
from unembed.errors import UnembedError
from unembed.head.product import float32_products
from unembed.models.depths import Depths
from unembed.models.model_pass import ModelPass, ReadingOptions
from unembed.models.streams import Streams
from unembed.runs.phases import Phases
from unembed.text.batches import Batch

OPTIONS = ReadingOptions(context=24, batch_tokens=128)


def pass_over(model: Any, tokenizer: Any) -> ModelPass:
    return ModelPass.of(model, Corpus.from_texts(TEXTS, tokenizer), OPTIONS, "a model")


def read(
    reading: ModelPass, depths: Depths, wanted: Collection[int]
) -> list[tuple[Batch, Streams, Tensor]]:
    """Every batch with its streams and an audit's hidden states."""

    def both(team: tuple[Any, ...], batch: Batch, phases: Phases) -> tuple[Batch, Streams, Tensor]:
        streams = reading.streams(team[0], batch, phases, depths, wanted)
        return batch, streams, reading.hidden(team[0], batch, phases)

    with tqdm(disable=True) as bar:
        return [one for _part, some in reading.results(both, bar, Phases()) for one in some]


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "mamba", "gemma2"])
def test_streams_are_the_states_of_a_batchs_predictions(name: str, small_tokenizer: Any) -> None:
    model = small_model(name)
    reading, depths = pass_over(model, small_tokenizer), Depths.of(model)
    found = read(reading, depths, range(3))
    assert len(found) > 1
    for batch, streams, hidden in found:
        assert torch.equal(streams.hidden, hidden)
        assert streams.replayed[2] is streams.hidden
        assert {depth: len(rows) for depth, rows in streams.states.items()} == dict.fromkeys(
            range(3), len(batch.doc)
        )
        for depth in range(3):
            want = []
            for block in batch.blocks:
                with torch.no_grad(), float32_products(reading.body_route):
                    _final, states = depths.block_list.read(model, block.input_ids, [depth])
                want.append(states[depth][block.real])
            assert torch.equal(streams.states[depth], torch.cat(want))
            assert streams.replayed[depth].shape == hidden.shape


def test_only_the_depths_wanted_are_kept(small_tokenizer: Any) -> None:
    model = small_model("llama")
    reading, depths = pass_over(model, small_tokenizer), Depths.of(model)
    for batch, streams, hidden in read(reading, depths, [1]):
        assert torch.equal(streams.hidden, hidden)
        assert [*streams.states] == [*streams.replayed] == [1]
        with torch.no_grad():
            norm = model.model.norm(streams.states[1])
        assert torch.equal(streams.replayed[1], norm)
        assert len(norm) == len(batch.targets)


def test_a_depth_that_the_model_lacks_is_refused(small_tokenizer: Any) -> None:
    model = small_model("llama")
    reading, depths = pass_over(model, small_tokenizer), Depths.of(model)
    with pytest.raises(UnembedError, match="depth 3 is not there"):
        read(reading, depths, [3])
