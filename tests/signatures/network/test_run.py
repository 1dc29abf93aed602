"""The pass over a network: every part's sums are those of exact gradients, whatever the cut."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from made_up.networks import network_model
from reference import network
from unembed.models.checkpoint import Checkpoint, hushed
from unembed.models.model_pass import ModelPass
from unembed.signatures.file import as_bytes
from unembed.signatures.network.modules import HEAD, network_modules
from unembed.signatures.network.run import sketch_network
from unembed.signatures.network.signature import module_part
from unembed.signatures.network.sketcher import NetworkOptions
from unembed.signatures.reading.run import sketch
from unembed.signatures.reading.sketcher import SketchOptions
from unembed.signatures.sketches.constructions import sketch_of
from unembed.text.corpus import Corpus
from unembed.text.rows import PromptCompletion

OPTIONS = NetworkOptions(m=32, context=16, batch_tokens=48, part_positions=60, first_moment=True)
NAMES = ("llama", "gpt2", "gemma2", "cohere", "opt", "adapter")


@pytest.fixture(scope="module")
def text(small_tokenizer: Any, topics: list[str]) -> Corpus:
    return Corpus.from_texts([topic[:70] for topic in topics[:3]], small_tokenizer)


@pytest.fixture(scope="module")
def answers(small_tokenizer: Any, topics: list[str]) -> Corpus:
    pairs = [PromptCompletion(topic[:20], topic[20:70]) for topic in topics[:3]]
    return Corpus.from_pairs(pairs, small_tokenizer)


@cache
def model_of(name: str) -> Any:
    return network_model(name)


@pytest.fixture(scope="module")
def made(small_tokenizer: Any) -> Callable[[str], Checkpoint]:
    return lambda name: Checkpoint(name, model_of(name), small_tokenizer)


Expected = dict[str, dict[str, np.ndarray]]


def expected(
    checkpoint: Checkpoint, text: Corpus, options: NetworkOptions
) -> tuple[Expected, dict[str, float]]:
    """Sums of each part's features over all samples, and its trace, by exact gradients."""
    reading = ModelPass.of(checkpoint.model, text, options, "")
    with hushed():
        model = network.in_float64(checkpoint.model)
    valid = reading.head.valid
    valid = torch.ones(reading.head.vocab, dtype=torch.bool) if valid is None else valid
    modules = network_modules(checkpoint.model)
    sketches = {
        one.name: sketch_of(one.spec(options.construction, options.m, options.seed))
        for one in modules
    }
    features: dict[str, dict[str, list[torch.Tensor]]] = {}
    traces: dict[str, float] = {}

    def add(part: str, x: torch.Tensor, y: torch.Tensor) -> None:
        kinds = features.setdefault(part, {"joint": [], "first": []})
        kinds["joint"].append(x * y)
        kinds["first"].append(x)

    windows = network.windows_of(reading.windows)
    whole = network.window_gradients(model, windows, valid)
    for window, of_window in zip(windows, whole, strict=True):
        positions = network.window_positions(model, window, valid)
        samples = [of_window]
        if options.unit == "token":
            samples = network.position_gradients(positions, window)
        for sample in samples:
            sides = {
                name: network.projections(sketches[name], gradient)
                for name, gradient in sample.items()
            }
            full = [sum(side[i] for side in sides.values()) for i in (0, 1)]
            add("full", *full)  # type: ignore[arg-type]
            for one in modules:
                add(module_part(one), *sides[one.name])
                if one.depth is not None:
                    add(f"depth:{one.depth}", *sides[one.name])
                add("blocks", *sides[one.name])
                square = float(sample[one.name].square().sum())
                for part in ("full", "blocks", module_part(one), f"depth:{one.depth}"):
                    traces[part] = traces.get(part, 0.0) + square
        for one in modules:
            at = positions[one.name]
            if options.unit == "token" or one.name == HEAD:
                at = network.Positions(at.inputs[window.counted], at.errors[window.counted])
            marginals = network.marginals(sketches[one.name], at)
            for kind, feature in zip(("activation", "error"), marginals, strict=True):
                features[module_part(one)].setdefault(kind, []).append(feature)
    pack = next(iter(sketches.values())).pack
    return {
        part: {kind: pack(sum(rows)[None])[0].numpy() for kind, rows in kinds.items()}  # type: ignore[index, call-overload]
        for part, kinds in features.items()
    }, traces


@pytest.mark.parametrize("unit", ["token", "sequence"])
@pytest.mark.parametrize("name", NAMES)
def test_every_part_sums_the_features_of_exact_gradients(
    made: Callable[[str], Checkpoint], text: Corpus, answers: Corpus, name: str, unit: Any
) -> None:
    options = replace(OPTIONS, unit=unit)
    if name == "llama":
        text = answers  # after prompts that do not count, but that the loss reaches
    got = sketch_network(made(name), text, options)
    want, traces = expected(made(name), text, options)
    assert set(got.states) == set(want)
    for part, kinds in want.items():
        state, bent = got.states[part], part == HEAD and name in ("gemma2", "cohere")
        for kind, sums in kinds.items():
            if bent and kind != "activation":
                continue  # the head's own signature is of the errors before a cap or a scale
            found = state.sums(kind)
            assert found is not None
            off = np.abs(found.total.sum(0) - sums).max()
            assert off < 1e-5 * np.abs(sums).max(), (part, kind)
        if not bent:
            exact = unit == "token"
            assert state.trace == pytest.approx(traces[part], rel=1e-5 if exact else 1), part


@pytest.mark.parametrize("unit", ["token", "sequence"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_the_heads_part_is_bitwise_its_own_signature(
    made: Callable[[str], Checkpoint], text: Corpus, name: str, unit: Any
) -> None:
    options = replace(OPTIONS, unit=unit)
    got = sketch_network(made(name), text, options).part(HEAD)
    plain = {one: getattr(options, one) for one in SketchOptions.__dataclass_fields__}
    want = sketch(made(name), text, SketchOptions(**plain))
    assert got.identity == want.identity
    assert as_bytes(replace(got, facts={})) == as_bytes(replace(want, facts={}))


def test_gradients_that_were_required_are_so_again_and_no_hook_stays(
    made: Callable[[str], Checkpoint], text: Corpus
) -> None:
    checkpoint = Checkpoint("own", copy.deepcopy(model_of("llama")), made("llama").tokenizer)
    model = checkpoint.model.train()
    model.model.embed_tokens.weight.requires_grad_(False)
    before = {name: one.requires_grad for name, one in model.named_parameters()}
    sketch_network(checkpoint, text, OPTIONS)
    assert {name: one.requires_grad for name, one in model.named_parameters()} == before
    assert model.training
    assert all(one.grad is None for one in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
