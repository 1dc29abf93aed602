"""Signatures of whole networks are what exact gradients, sample by sample, say that they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from made_up.networks import NETWORKS, network_model
from reference import network
from unembed import Corpus
from unembed.head.head import Head
from unembed.models.checkpoint import Checkpoint, hushed, token_ids
from unembed.models.model_pass import ModelPass
from unembed.runs.store import RunFolder
from unembed.signatures.file import as_bytes
from unembed.signatures.network.file import network_as_bytes
from unembed.signatures.network.merging import merge, subtract
from unembed.signatures.network.run import NetworkOptions, sketch_network
from unembed.signatures.network.signature import NetworkSignature
from unembed.signatures.reading.run import sketch
from unembed.signatures.reading.sketcher import SketchOptions
from unembed.signatures.sketches.constructions import sketch_of
from unembed.signatures.state import SUMMED
from unembed.text.rows import PromptCompletion

OPTIONS = NetworkOptions(
    m=128, context=24, batch_tokens=200, part_positions=90, first_moment=True, blocks=4
)
CLOSE = 1e-5
"""Of the largest number of a kind of features: float32 passes against float64 ones."""


@cache
def checkpoint_of(name: str, tokenizer: Any) -> Checkpoint:
    with hushed():
        return Checkpoint(name, network_model(name), tokenizer)


@cache
def exact_of(name: str, tokenizer: Any) -> Any:
    with hushed():
        return network.in_float64(checkpoint_of(name, tokenizer).model)


@pytest.fixture(scope="module")
def text(small_tokenizer: Any, topics: list[str]) -> Corpus:
    """Five documents, of one to four windows."""
    lengths = (60, 200, 90, 40, 120)
    return Corpus.from_texts(
        [topic[:n] for topic, n in zip(topics[2:], lengths, strict=False)], small_tokenizer
    )


@pytest.fixture(scope="module")
def one_window_each(small_tokenizer: Any, topics: list[str]) -> Corpus:
    """Two documents of one window, one in each fold."""
    texts = [topic[:40] for topic in topics[2:12]]
    hashes = Corpus.from_texts(texts, small_tokenizer).document_hashes()
    even, odd = (next(i for i, one in enumerate(hashes) if one % 2 == bit) for bit in (0, 1))
    return Corpus.from_texts([texts[even], texts[odd]], small_tokenizer)


def expected(
    name: str, text: Corpus, options: NetworkOptions, signature: NetworkSignature
) -> tuple[dict[str, dict[str, np.ndarray]], list[float]]:
    """By part and kind, the sums of packed features over the samples of each fold; their number."""
    checkpoint, model = checkpoint_of(name, text.tokenizer), exact_of(name, text.tokenizer)
    reading = ModelPass.of(checkpoint.model, text, options, name)
    valid = Head.of(checkpoint.model, token_ids(text.tokenizer)).valid
    sketches = {
        one.name: sketch_of(one.spec(options.construction, options.m, options.seed))
        for one in signature.modules
    }
    maps = {name: network.dense_maps(made) for name, made in sketches.items()}
    pack = next(iter(sketches.values())).pack
    found: dict[str, dict[str, np.ndarray]] = {}
    weights = [0.0, 0.0]
    for window in network.windows_of(reading.windows):
        at = network.window_positions(model, window, valid)
        error = network.head_errors(model, window, valid)
        for features in sample_features(at, error, window, maps, options.unit):
            weights[window.document & 1] += 1
            for part, kinds in features.items():
                for kind, feature in kinds.items():
                    sums = found.setdefault(part, {}).setdefault(kind, np.zeros((2, options.m)))
                    sums[window.document & 1] += pack(feature[None])[0].numpy()
    return found, weights


def sample_features(
    at: Mapping[str, network.Positions],
    head_error: torch.Tensor,
    window: network.Window,
    maps: Mapping[str, list[torch.Tensor]],
    unit: str,
) -> list[dict[str, dict[str, torch.Tensor]]]:
    """Of each sample of a window: the features of every part, of every kind.

    The part of the head is made of softmax less onehot at predictions that count, the whole of
    true gradients: they differ where a scale or a soft-cap follows the head.
    """
    names = [name for name in at if name in maps]
    if unit == "sequence":
        samples = [slice(None)]
    else:
        samples = [slice(t, t + 1) for t in torch.nonzero(window.counted)[:, 0].tolist()]
    found = []
    for sample in samples:
        x, y, parts = {}, {}, {}
        for name in names:
            r, s, a, b = maps[name]
            if at[name].inputs.ndim == 3:
                r, s = (side.unflatten(0, (len(at[name].inputs), -1)) for side in (r, s))
            inputs = at[name].inputs[..., sample, :].to(r.dtype)
            errors = at[name].errors[..., sample, :].to(r.dtype)
            rows = tuple(range(errors.ndim - 1))
            x[name] = ((errors @ r) * (inputs @ a)).sum(rows)
            y[name] = ((errors @ s) * (inputs @ b)).sum(rows)
            part = "head" if name == network.HEAD else f"module:{name}"
            if name == network.HEAD:
                errors = head_error[sample].to(r.dtype)
                inputs = inputs * window.counted[sample, None]
            own_x, own_y = (
                ((errors @ left) * (inputs @ right)).sum(rows) for left, right in ((r, a), (s, b))
            )
            parts[part] = {
                "joint": own_x * own_y,
                "first": own_x,
                "activation": ((inputs @ a) * (inputs @ b)).sum(rows),
                "error": ((errors @ r) * (errors @ s)).sum(rows),
            }
        parts["full"] = {"joint": sum(x.values()) * sum(y.values()), "first": sum(x.values())}
        parts["blocks"] = {
            "joint": sum(x[n] * y[n] for n in names),
            "first": sum(x.values()),
        }
        for depth in {depth_of(n) for n in names} - {None}:
            own = [n for n in names if depth_of(n) == depth]
            parts[f"depth:{depth}"] = {
                "joint": sum(x[n] * y[n] for n in own),
                "first": sum(x[n] for n in own),
            }
        found.append(parts)
    return found


def depth_of(name: str) -> int | None:
    found = re.search(r"\.(\d+)\.", name)
    return int(found[1]) if found else None


def check(got: NetworkSignature, want: dict[str, dict[str, np.ndarray]], close: float) -> None:
    assert set(got.states) == set(want)
    for part, kinds in want.items():
        for kind, total in kinds.items():
            sums = got.states[part].sums(kind)
            if sums is None:
                assert kind in ("activation", "error")
                assert part in ("full", "blocks") or part.startswith("depth:")
                continue
            size = np.abs(total).max()
            assert size > 0
            assert np.abs(sums.total - total).max() < close * size, (part, kind)


def check_text(name: str, text: Corpus, options: NetworkOptions) -> NetworkSignature:
    got = sketch_network(checkpoint_of(name, text.tokenizer), text, options)
    want, weights = expected(name, text, options, got)
    check(got, want, CLOSE)
    for state in got.states.values():
        assert state.weight.tolist() == weights
        assert state.documents == len(text.names)
    return got


@pytest.mark.parametrize(
    ("name", "unit"),
    [(name, "sequence") for name in NETWORKS]
    + [(name, "token") for name in ("llama", "gpt2", "gemma2", "mixtral", "adapter")],
)
def test_every_part_is_the_sum_of_exact_features(name: str, unit: Any, text: Corpus) -> None:
    """Of every module that training would move, whatever its architecture stores."""
    got = check_text(name, text, replace(OPTIONS, unit=unit))
    model = checkpoint_of(name, text.tokenizer).model
    assert [one.name for one in got.modules] == list(network.linear_weights(model))


@pytest.mark.parametrize("name", NETWORKS)
def test_one_window_has_the_projections_of_its_gradient(name: str, one_window_each: Corpus) -> None:
    """Of one sample in each fold: ``x`` of every module against ``r·G`` by vmap of grad."""
    text, options = one_window_each, replace(OPTIONS, unit="sequence", context=48)
    checkpoint, model = checkpoint_of(name, text.tokenizer), exact_of(name, text.tokenizer)
    got = sketch_network(checkpoint, text, options)
    windows = network.windows_of(ModelPass.of(checkpoint.model, text, options, name).windows)
    valid = Head.of(checkpoint.model, token_ids(text.tokenizer)).valid
    gradients = network.window_gradients(model, windows, valid)
    assert sorted(window.document & 1 for window in windows) == [0, 1]
    for window, gradient in zip(windows, gradients, strict=True):
        whole = 0.0
        for module in got.modules:
            sketch = sketch_of(module.spec(options.construction, options.m, options.seed))
            x, y = network.projections(sketch, gradient[module.name])
            whole = whole + x
            if module.name == network.HEAD:
                continue
            state = got.states[f"module:{module.name}"]
            for kind, feature in (("first", x), ("joint", x * y)):
                want = sketch.pack(feature[None])[0].numpy()
                sums = state.sums(kind)
                assert sums is not None
                off = np.abs(sums.total[window.document & 1] - want).max()
                assert off < CLOSE * np.abs(want).max(), (module.name, kind)
        full = got.states["full"].first
        assert full is not None
        want = sketch.pack(whole[None])[0].numpy()
        off = np.abs(full.total[window.document & 1] - want).max()
        assert off < CLOSE * np.abs(want).max()


@pytest.mark.parametrize("unit", ["sequence", "token"])
def test_pairs_within_documents_blocks_and_traces_are_exact(
    unit: Any, topics: list[str], small_tokenizer: Any
) -> None:
    """Of documents of several windows, in several batches of one part, in blocks of several."""
    text = Corpus.from_texts([topic[:90] for topic in topics[2:6]], small_tokenizer)
    options = replace(OPTIONS, unit=unit, part_positions=10_000, batch_tokens=100)
    checkpoint, model = checkpoint_of("llama", text.tokenizer), exact_of("llama", text.tokenizer)
    got = sketch_network(checkpoint, text, options)
    reading = ModelPass.of(checkpoint.model, text, options, "llama")
    valid = Head.of(checkpoint.model, token_ids(text.tokenizer)).valid
    maps = {
        one.name: network.dense_maps(sketch_of(one.spec(options.construction, 128, 0)))
        for one in got.modules
    }
    pack = sketch_of(got.head).pack
    of_document: dict[str, dict[int, np.ndarray]] = {part: {} for part in got.states}
    traces = dict.fromkeys(got.states, 0.0)
    for window in network.windows_of(reading.windows):
        at = network.window_positions(model, window, valid)
        error = network.head_errors(model, window, valid)
        samples = sample_features(at, error, window, maps, unit)
        for features in samples:
            for part, kinds in features.items():
                sums = of_document[part].setdefault(window.document, np.zeros(128))
                sums += pack(kinds["joint"][None])[0].numpy()
        gradients = network.position_gradients(at, window)
        if unit == "sequence":
            gradients = network.window_gradients(model, [window], valid)
        for sample in gradients:
            for name, g in sample.items():
                square = float(g.square().sum())
                part = "head" if name == network.HEAD else f"module:{name}"
                for each in ("full", "blocks", part, f"depth:{depth_of(name)}"):
                    if each in traces:
                        traces[each] += square
    for part, documents in of_document.items():
        state = got.states[part]
        assert state.joint.blocks.shape == (4, 128)
        own, blocks = np.zeros(2), np.zeros((4, 128))
        for document, sums in documents.items():
            own[document & 1] += sums @ sums / 128
            blocks[document >> 1 & 3] += sums
        np.testing.assert_allclose(state.joint.own, own, rtol=2e-5)
        assert np.abs(state.joint.blocks - blocks).max() < CLOSE * np.abs(blocks).max()
        close = 1e-5 if unit == "token" else 0.35
        assert state.trace == pytest.approx(traces[part], rel=close), part


@pytest.mark.parametrize("unit", ["sequence", "token"])
def test_context_alone_is_no_token_but_a_part_of_its_window(
    unit: Any, small_tokenizer: Any
) -> None:
    """Prompts, whose own predictions do not count."""
    pairs = [
        PromptCompletion("The lambda keyword creates", " an anonymous function."),
        PromptCompletion("with open(name) as stream:", " return stream"),
        PromptCompletion("if x < y", ": pass"),
    ]
    text = Corpus.from_pairs(pairs, small_tokenizer)
    got = check_text("llama", text, replace(OPTIONS, unit=unit))
    if unit == "sequence":
        assert got.states["full"].samples == 3
    else:
        assert got.states["full"].samples < text.tokens - 12


@pytest.mark.parametrize("construction", ["tensorsketch", "srht", "complex_srht"])
def test_other_constructions_are_sums_of_exact_features(construction: str, text: Corpus) -> None:
    check_text("llama", text, replace(OPTIONS, construction=construction, unit="sequence"))


def test_chosen_modules_are_those_of_the_whole_pass(text: Corpus) -> None:
    """Each bitwise what it is among all; the whole and the blocks are of those chosen alone."""
    options = replace(OPTIONS, unit="sequence")
    checkpoint = checkpoint_of("llama", text.tokenizer)
    every = sketch_network(checkpoint, text, options)
    some = check_text("llama", text, replace(options, modules=("depth:1", "kind:q_proj")))
    assert {one.name.rsplit(".", 1)[1] for one in some.modules if one.depth == 0} == {"q_proj"}
    assert "head" not in some.states
    for module in some.modules:
        ours, theirs = (x.states[f"module:{module.name}"] for x in (some, every))
        for kind in SUMMED:
            assert np.array_equal(ours.sums(kind).total, theirs.sums(kind).total)  # type: ignore[union-attr]
    assert not np.array_equal(some.states["full"].joint.total, every.states["full"].joint.total)


@pytest.mark.parametrize("unit", ["sequence", "token"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "cohere"])
def test_the_part_of_the_head_is_the_signature_of_the_head(
    name: str, unit: Any, text: Corpus
) -> None:
    options = replace(OPTIONS, unit=unit)
    checkpoint = checkpoint_of(name, text.tokenizer)
    got = sketch_network(checkpoint, text, options, task="text").part("head")
    names = SketchOptions.__dataclass_fields__
    plain = SketchOptions(**{field: getattr(options, field) for field in names})
    want = sketch(checkpoint, text, plain, task="text")
    assert got.identity == want.identity
    assert as_bytes(replace(got, facts={})) == as_bytes(replace(want, facts={}))


@pytest.mark.parametrize("unit", ["sequence", "token"])
def test_bytes_are_the_same_with_one_thread_and_two(unit: Any, text: Corpus) -> None:
    """Of a pass of its own each, with as many models side by side as threads."""
    options, found = replace(OPTIONS, unit=unit, batch_tokens=40), []
    checkpoint, threads = checkpoint_of("llama", text.tokenizer), torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(network_as_bytes(sketch_network(checkpoint, text, options)))
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1]


def test_two_halves_merge_to_the_whole(text: Corpus, topics: list[str]) -> None:
    """Where a part of the whole's run ends with the first half, so that batches are the same."""
    tokenizer = text.tokenizer
    first, second = (
        Corpus.from_texts([topic[:150] for topic in some], tokenizer)
        for some in (topics[2:5], topics[5:9])
    )
    both = Corpus.from_texts([topic[:150] for topic in topics[2:9]], tokenizer)
    checkpoint = checkpoint_of("llama", tokenizer)
    positions = first.tokens - first.rows
    options = replace(OPTIONS, unit="sequence", part_positions=positions)
    a, b, whole = (sketch_network(checkpoint, one, options) for one in (first, second, both))
    merged = merge(a, b)
    for part, state in whole.states.items():
        ours = merged.states[part]
        assert ours.documents == state.documents == 7
        for kind in SUMMED:
            mine, theirs = ours.sums(kind), state.sums(kind)
            if theirs is None:
                assert mine is None
                continue
            assert mine is not None
            for field in ("total", "own", "blocks"):
                want = getattr(theirs, field)
                off = np.abs(getattr(mine, field) - want).max()
                assert off <= 1e-12 * np.abs(want).max(), (part, kind, field)
    left = subtract(merged, b)
    for part, state in a.states.items():
        off = np.abs(left.states[part].joint.total - state.joint.total).max()
        assert off <= 1e-9 * np.abs(state.joint.total).max()


def test_a_killed_run_goes_on_to_the_same_bytes(
    text: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, checkpoint = replace(OPTIONS, unit="sequence"), checkpoint_of("llama", text.tokenizer)
    whole, out = tmp_path / "whole.safetensors", tmp_path / "killed.safetensors"
    sketch_network(checkpoint, text, options, out=whole, task="t")
    write, written = RunFolder.write_bytes, []

    def killed(self: RunFolder, path: str, content: bytes) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        write(self, path, content)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_bytes", killed)
        with pytest.raises(KeyboardInterrupt):
            sketch_network(checkpoint, text, options, out=out, task="t")
    assert not out.exists()
    assert len(written) == 2
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_bytes", lambda *x: (written.append(x[1]), write(*x))[1])
        sketch_network(checkpoint, text, options, out=out, task="t")
    assert len(written) == len(set(written)) > 2
    assert out.read_bytes() == whole.read_bytes()
    assert [one.name for one in tmp_path.iterdir() if "whole" not in one.name] == [out.name]
