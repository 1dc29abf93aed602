"""The pass over a network: every part's sums are those of exact gradients, whatever the cut."""

from __future__ import annotations

import copy
import gc
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from killing import killed_at
from made_up.networks import network_model
from reference import network
from threads_as_ranks import launch
from unembed.errors import NonFiniteError, UnembedError
from unembed.models import model_pass
from unembed.models.checkpoint import Checkpoint, hushed
from unembed.models.model_pass import ModelPass
from unembed.runs.store import RunFolder
from unembed.signatures.batch_sums import BatchSums
from unembed.signatures.file import as_bytes
from unembed.signatures.network.file import load_network, network_as_bytes
from unembed.signatures.network.modules import HEAD, network_modules
from unembed.signatures.network.part_sums import OpenDocument
from unembed.signatures.network.run import sketch_network
from unembed.signatures.network.signature import module_part
from unembed.signatures.network.sketcher import Gathering, NetworkOptions
from unembed.signatures.reading.run import UNFINISHED, sketch
from unembed.signatures.reading.sketcher import SketchOptions
from unembed.signatures.sketches.constructions import sketch_of
from unembed.signatures.sketches.sketch import Sketch
from unembed.signatures.state import SUMMED
from unembed.signatures.sums import Sums
from unembed.text.corpus import Corpus
from unembed.text.rows import PromptCompletion

OPTIONS = NetworkOptions(m=32, context=16, batch_tokens=48, part_positions=60, first_moment=True)
NAMES = ("llama", "gemma2", "opt", "mixtral", "qwen3_next")

TOLERANCE = {"qwen3_next": 1e-2}
"""Its own gradients in float32 are up to 1e-3 from those in float64."""


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
                name: network.projections(sketches[name], wide(gradient.flatten(0, -2), 0))
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
                counted = window.counted
                at = network.Positions(at.inputs[..., counted, :], at.errors[..., counted, :])
            if at.errors.ndim == 3:
                at = routed(at)
            at = network.Positions(at.inputs, wide(at.errors, 1))
            of_sides = marginals(sketches[one.name], at)
            for kind, feature in zip(("activation", "error"), of_sides, strict=True):
                features[module_part(one)].setdefault(kind, []).append(feature)
    pack = next(iter(sketches.values())).pack
    return {
        part: {kind: pack(sum(rows)[None])[0].numpy() for kind, rows in kinds.items()}  # type: ignore[index, call-overload]
        for part, kinds in features.items()
    }, traces


def marginals(sketch: Sketch, at: network.Positions) -> tuple[torch.Tensor, torch.Tensor]:
    """``Σ f(r a) f(s a)`` over positions, and the errors' ``Σ f(r δ) f(s δ)``."""
    r, s, a, b = network.dense_maps(sketch)
    x, d = at.inputs.to(r.dtype), at.errors.to(r.dtype)
    return ((x @ a) * (x @ b)).sum(0), ((d @ r) * (d @ s)).sum(0)


def wide(tensor: torch.Tensor, axis: int) -> torch.Tensor:
    """A module of one output has maps of two."""
    if tensor.shape[axis] > 1:
        return tensor
    return torch.cat([tensor, torch.zeros_like(tensor)], axis)


def routed(at: network.Positions) -> network.Positions:
    """Of experts one after the other, the rows that were routed to each."""
    experts, _rows, outputs = at.errors.shape
    inputs, errors = [], []
    for expert in range(experts):
        some = at.errors[expert].abs().sum(1) > 0
        inputs.append(at.inputs[expert][some])
        wide = at.errors.new_zeros(int(some.sum()), experts * outputs)
        wide[:, expert * outputs : (expert + 1) * outputs] = at.errors[expert][some]
        errors.append(wide)
    return network.Positions(torch.cat(inputs), torch.cat(errors))


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
            assert off < TOLERANCE.get(name, 1e-5) * np.abs(sums).max(), (part, kind)
        if not bent:
            close = TOLERANCE.get(name, 1e-5) if unit == "token" else 1
            assert state.trace == pytest.approx(traces[part], rel=close), part


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


@pytest.mark.parametrize("unit", ["token", "sequence"])
def test_the_bytes_are_the_same_at_any_number_of_threads_and_ranks_and_after_a_kill(
    made: Callable[[str], Checkpoint],
    text: Corpus,
    unit: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoint, options = made("llama"), replace(OPTIONS, unit=unit)

    def file(name: str, given: Checkpoint = checkpoint) -> Path:
        sketch_network(given, text, options, out=tmp_path / name, task="text")
        return tmp_path / name

    threads = torch.get_num_threads()
    whole = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            whole.append(file(f"{count}").read_bytes())
    finally:
        torch.set_num_threads(threads)
    assert whole[0] == whole[1]
    memory = sketch_network(checkpoint, text, options, task="text")
    kept = load_network(tmp_path / "1")
    assert network_as_bytes(replace(kept, facts={})) == network_as_bytes(replace(memory, facts={}))
    if unit == "token":
        return
    with killed_at(monkeypatch, RunFolder, "write_bytes", 2):
        file("killed")
    assert len(list((tmp_path / f"killed{UNFINISHED}" / "sketch").iterdir())) == 1
    assert file("killed").read_bytes() == whole[0]
    assert not list(tmp_path.glob(f"*{UNFINISHED}"))
    # Ranks that are threads must not listen to each other's models.
    apart = [
        Checkpoint("llama", copy.deepcopy(checkpoint.model), checkpoint.tokenizer) for _ in range(2)
    ]
    ended = launch(2, lambda ranks: file("ranks", apart[ranks.process]))
    assert ended == [tmp_path / "ranks"] * 2
    assert (tmp_path / "ranks").read_bytes() == whole[0]


def held_bytes() -> int:
    """What all tensors hold, all sums, and all documents in pieces."""
    arrays = dict[int, int]()
    for one in gc.get_objects():
        if issubclass(type(one), torch.Tensor):
            storage = one.untyped_storage()
            arrays[storage.data_ptr()] = storage.nbytes()
        elif type(one) in (Sums, BatchSums, OpenDocument):
            of = one.sums.values() if type(one) is OpenDocument else vars(one).values()
            arrays |= {id(each): each.nbytes for each in of if isinstance(each, np.ndarray)}
    return sum(arrays.values())


def test_what_is_held_does_not_grow_with_the_text(
    made: Callable[[str], Checkpoint],
    small_tokenizer: Any,
    topics: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Looked at in every part where most is held: its states are made, its batches are there."""
    text = Corpus.from_texts([topic[:70] for topic in topics[:16]], small_tokenizer)
    held, states = list[int](), Gathering.states

    def looked_at(gathering: Gathering) -> Any:
        found = states(gathering)
        gc.collect()
        held.append(held_bytes())
        return found

    monkeypatch.setattr(Gathering, "states", looked_at)
    monkeypatch.setattr(  # in order: how far it reads ahead is chance
        model_pass, "side_by_side", lambda models, work, items: (work(models[0], i) for i in items)
    )
    sketch_network(made("llama"), text, replace(OPTIONS, modules=("depth:0", "head")))
    assert len(held) >= 10
    assert max(held[3:]) < 1.3 * held[2], held  # parts differ by the documents that lie in pieces


def test_parts_of_the_text_and_batches_change_nothing(
    made: Callable[[str], Checkpoint], text: Corpus
) -> None:
    """Documents lie in several blocks, batches and parts of one run, and whole in another's."""
    checkpoint = made("gpt2")
    for unit in ("token", "sequence"):
        one, two = (
            sketch_network(
                checkpoint, text, replace(OPTIONS, unit=unit, part_positions=p, batch_tokens=b)
            )
            for p, b in ((10_000, 16), (10_000, 2048))
        )
        for part, state in one.states.items():
            for kind in SUMMED:
                ours, theirs = state.sums(kind), two.states[part].sums(kind)
                assert (ours is None) == (theirs is None)
                if ours is None or theirs is None:
                    continue
                for name in ("total", "own", "blocks"):
                    a, b = getattr(ours, name), getattr(theirs, name)
                    assert np.abs(a - b).max() < 1e-5 * np.abs(b).max(), (part, kind, name)


def test_chosen_modules_have_the_same_parts_as_beside_all_others(
    made: Callable[[str], Checkpoint], text: Corpus
) -> None:
    every = sketch_network(made("llama"), text, OPTIONS)
    some = sketch_network(made("llama"), text, replace(OPTIONS, modules=("depth:1",)))
    assert HEAD not in some.states
    assert "depth:0" not in some.states
    for part in some.states.keys() - {"full", "blocks"}:
        ours, theirs = some.states[part].joint.total, every.states[part].joint.total
        assert np.array_equal(ours, theirs), part
    assert np.array_equal(some.states["blocks"].joint.total, some.states["depth:1"].joint.total)


def test_a_module_that_runs_twice_adds_up(
    made: Callable[[str], Checkpoint], text: Corpus, small_tokenizer: Any
) -> None:
    shared = copy.deepcopy(model_of("llama"))
    shared.model.layers[0].mlp.up_proj = shared.model.layers[0].mlp.gate_proj
    checkpoint = Checkpoint("shared", shared, small_tokenizer)
    for unit in ("token", "sequence"):
        options = replace(OPTIONS, unit=unit)
        got = sketch_network(checkpoint, text, options)
        name = "model.layers.0.mlp.gate_proj"
        spec = next(one for one in got.modules if one.name == name).spec(
            options.construction, options.m, 0
        )
        apart = copy.deepcopy(model_of("llama"))
        apart.model.layers[0].mlp.up_proj.weight = apart.model.layers[0].mlp.gate_proj.weight
        windows = network.windows_of(ModelPass.of(shared, text, options, "").windows)
        with hushed():
            model = network.in_float64(apart)
        valid = torch.arange(300) < 290
        total: Any = 0
        for window in windows:
            at = network.window_positions(model, window, valid)
            both = [at[f"model.layers.0.mlp.{kind}"] for kind in ("gate_proj", "up_proj")]
            outer = sum(torch.einsum("to,ti->toi", one.errors, one.inputs) for one in both)
            samples = [outer.sum(0)]  # type: ignore[union-attr]
            if unit == "token":
                samples = list(outer[window.counted])  # type: ignore[index]
            for sample in samples:
                x, y = network.projections(sketch_of(spec), sample)
                total = total + x * y
        want = sketch_of(spec).pack(total[None])[0].numpy()
        found = got.states[f"module:{name}"].joint.total.sum(0)
        assert np.abs(found - want).max() < 1e-5 * np.abs(want).max()


def test_a_gradient_that_is_not_finite_names_module_and_document(
    made: Callable[[str], Checkpoint], text: Corpus, small_tokenizer: Any
) -> None:
    broken = copy.deepcopy(model_of("llama"))

    def bad(_module: Any, _given: Any, output: torch.Tensor) -> torch.Tensor:
        return output + 0 * (output.detach() * 0 + (output - output.detach()).abs().sqrt())

    broken.model.layers[1].mlp.down_proj.register_forward_hook(bad)
    with pytest.raises(NonFiniteError) as ended:
        sketch_network(Checkpoint("broken", broken, small_tokenizer), text, OPTIONS)
    said = r"not finite at model.layers.1.mlp.(up|gate)_proj in document 'text \d' \(doc \d\)"
    assert re.search(said, str(ended.value))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fisher": "true", "first_moment": False}, "fisher 'true' is of the head alone"),
        ({"modules": ("kind:c_attn",)}, "'kind:c_attn' matches no module"),
        (
            {"backward": "bfloat16"},
            "llama is in float32 and the backward pass is to be in",
        ),
        ({"max_positions": 10_000}, "positions and 10,000 were asked for"),
        ({"modules": ("",)}, "a pattern of modules is empty"),
        ({"modules": ("depth:3-1",)}, "'depth:3-1' ends before it begins: give depth:1-3"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    made: Callable[[str], Checkpoint], text: Corpus, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(UnembedError, match=said):
        sketch_network(made("llama"), text, replace(OPTIONS, **change))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("backward", "int8", "backward 'int8' is not one of float32, bfloat16, float16"),
        ("modules", "depth:1", "modules 'depth:1' is one word: give a tuple"),
    ],
)
def test_options_of_other_types_are_refused(name: str, value: str, said: str) -> None:
    options = replace(OPTIONS)
    # Outside of tests nothing else looks at the types.
    object.__setattr__(options, name, value)
    with pytest.raises(UnembedError, match=said):
        options.__post_init__()


def test_inference_mode_is_refused(made: Callable[[str], Checkpoint], text: Corpus) -> None:
    with (
        torch.inference_mode(),
        pytest.raises(UnembedError, match="inference mode keeps no gradients"),
    ):
        sketch_network(made("llama"), text, OPTIONS)


def test_a_bfloat16_model_is_refused_or_labelled(small_tokenizer: Any, text: Corpus) -> None:
    model = copy.deepcopy(model_of("llama")).bfloat16()
    checkpoint = Checkpoint("narrow", model, small_tokenizer)
    with pytest.raises(UnembedError, match=r"narrow is in bfloat16 \(a gradient in it can be"):
        sketch_network(checkpoint, text, OPTIONS)
    made = sketch_network(checkpoint, text, replace(OPTIONS, backward="bfloat16"))
    assert made.part("full").identity.backward == "bfloat16"
    assert made.part(HEAD).identity.backward == ""


def test_a_module_that_does_not_run_on_the_text_is_named(
    made: Callable[[str], Checkpoint], text: Corpus, small_tokenizer: Any
) -> None:
    model = copy.deepcopy(model_of("llama"))
    layer = model.model.layers[0].mlp

    def short(states: torch.Tensor) -> torch.Tensor:
        if states.shape[1] > 11:  # longer than a probe
            return states
        return layer.down_proj(layer.act_fn(layer.gate_proj(states)) * layer.up_proj(states))

    layer.forward = short
    with pytest.raises(UnembedError, match=r"model.layers.0.mlp.gate_proj, .* did not run"):
        sketch_network(Checkpoint("short", model, small_tokenizer), text, OPTIONS)


def test_another_networks_file_is_not_written_over(
    made: Callable[[str], Checkpoint], text: Corpus, tmp_path: Path
) -> None:
    out = tmp_path / "a.safetensors"
    options = replace(OPTIONS, modules=("head",))
    sketch_network(made("llama"), text, options, out=out)
    before = out.read_bytes()
    sketch_network(made("llama"), text, options, out=out)
    with pytest.raises(UnembedError, match=r"another signature of a network .a, 1 modules"):
        sketch_network(made("llama"), text, OPTIONS, out=out)
    assert out.read_bytes() == before
    with pytest.raises(UnembedError, match=r"takes 4.3 GiB, of 4 at most: give a smaller --size"):
        sketch_network(made("llama"), text, replace(OPTIONS, m=1 << 22), out=tmp_path / "b")


def test_experts_are_the_same_whatever_multiplies_them(
    made: Callable[[str], Checkpoint], text: Corpus, small_tokenizer: Any
) -> None:
    grouped = sketch_network(made("mixtral"), text, OPTIONS)
    model = copy.deepcopy(model_of("mixtral"))
    model.set_experts_implementation("eager")
    eager = sketch_network(Checkpoint("eager", model, small_tokenizer), text, OPTIONS)
    part = "module:model.layers.1.mlp.experts.down_proj"
    for kind in ("joint", "activation", "error", "first"):
        ours, theirs = (one.states[part].sums(kind) for one in (grouped, eager))
        assert ours is not None
        assert theirs is not None
        off = np.abs(ours.total - theirs.total).max()
        assert off < 1e-4 * np.abs(theirs.total).max(), kind
    assert "2 MixtralTopKRouter" in grouped.facts["left_out"]
    assert "Experts" not in grouped.facts["left_out"]


class Routed(torch.nn.Module):
    """Experts in a list, to which positions go by turns; no text reaches the last."""

    def __init__(self, width: int) -> None:
        super().__init__()
        linear = [torch.nn.Linear(width, width, bias=False) for _ in range(3)]
        self.experts = torch.nn.ModuleList(linear)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        flat = states.reshape(-1, states.shape[-1])
        out = torch.zeros_like(flat)
        for i in range(2):
            index = torch.arange(i, len(flat), 2)
            out = out.index_add(0, index, torch.tanh(self.experts[i](flat[index])))
        return out.view_as(states)


def test_experts_in_a_list_have_the_gradients_of_the_rows_routed_to_them(
    text: Corpus, small_tokenizer: Any
) -> None:
    torch.manual_seed(0)
    model = copy.deepcopy(model_of("llama"))
    model.model.layers[1].mlp = Routed(32)
    # Windows apart, as positions go to experts by where they stand in a block.
    options = replace(OPTIONS, unit="sequence", batch_tokens=1)
    checkpoint = Checkpoint("routed", model, small_tokenizer)
    got = sketch_network(checkpoint, text, options)
    valid, total = torch.arange(300) < 290, dict[str, Any]()
    for window in network.windows_of(ModelPass.of(model, text, options, "").windows):
        model.zero_grad()
        logits = model(input_ids=window.ids[None], use_cache=False).logits[0]
        network.summed_loss(logits, window.targets, window.counted, valid).backward()
        for one in got.modules:
            if "experts" in one.name:
                found = sketch_of(one.spec(options.construction, options.m, 0))
                weight = model.get_submodule(one.name).weight
                if weight.grad is not None:
                    x, y = network.projections(found, weight.grad)
                    total[one.name] = total.get(one.name, 0) + found.pack((x * y)[None])[0].numpy()
    assert len(total) == 2
    for name, want in total.items():
        sums = got.states[f"module:{name}"].joint.total.sum(0)
        assert np.abs(sums - want).max() < 1e-5 * np.abs(want).max()
    assert not got.states["module:model.layers.1.mlp.experts.2"].joint.total.any()
