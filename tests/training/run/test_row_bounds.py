"""Rows held within a bound: the nearest to the start's outputs, at every step, and in one line."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from made_up.models import small_model
from unembed.errors import UnembedError
from unembed.head.head import final_hidden
from unembed.models.checkpoint import Checkpoint
from unembed.models.quantization import is_linear
from unembed.runs.ranks import Ranks
from unembed.text.corpus import Corpus
from unembed.training.recipe.recipe import Recipe
from unembed.training.run import processes, row_bounds
from unembed.training.run.examples import Examples, split
from unembed.training.run.row_bounds import HoldRowsCallback, RowBounds, within
from unembed.training.run.train import train

SENTENCES = [
    f"{first} {then} {last}"
    for first in ("the cat", "a dog", "12 birds", "some Fish")
    for then in ("sat on", "ran from", "looked at")
    for last in ("the mat.", "a tree (2).")
]
QUICK = Recipe(
    steps=6,
    watch_every=2,
    batch_size=4,
    learning_rate=3e-3,
    context=16,
    watch_positions=60,
    row_bound=1.6,
)


@pytest.fixture(scope="module")
def corpus(small_tokenizer: Any) -> Corpus:
    return Corpus.from_texts(SENTENCES, small_tokenizer)


def checkpoint_of(name: str, tokenizer: Any) -> Checkpoint:
    return Checkpoint(name, small_model(name), tokenizer)


def rows_of(module: Any) -> torch.Tensor:
    weight = module.weight.detach()
    return weight.T if type(module).__name__ == "Conv1D" else weight


def spread(rows: torch.Tensor) -> torch.Tensor:
    return rows.square().mean(1, keepdim=True).sqrt()


def body_layers(model: Any) -> list[tuple[str, Any]]:
    head = model.get_output_embeddings()
    return [
        (name, one) for name, one in model.named_modules() if is_linear(one) and one is not head
    ]


def nearest(weight: np.ndarray, moments: np.ndarray, bound: float) -> np.ndarray:
    """One row, by projected gradient descent in float64."""
    found = np.clip(weight, -bound, bound)
    rate = 1 / np.linalg.eigvalsh(moments)[-1]
    for _ in range(20_000):
        found = np.clip(found - rate * moments @ (found - weight), -bound, bound)
    return found


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), times=st.sampled_from([1.05, 1.3, 2.0]))
def test_bounded_rows_are_those_of_projected_gradient_descent(seed: int, times: float) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((3, 5))
    inputs = rng.standard_normal((50, 5)) @ rng.standard_normal((5, 5))
    moments, bound = inputs.T @ inputs, times * np.sqrt((weight**2).mean(1))
    found = within(
        torch.from_numpy(weight), torch.from_numpy(moments), torch.from_numpy(bound)[:, None], 2_000
    ).numpy()
    ridge = moments + row_bounds.RIDGE * np.trace(moments) / 5 * np.eye(5)
    for row, was, edge in zip(found, weight, bound, strict=True):
        assert np.abs(row).max() <= edge
        if np.abs(was).max() <= edge:
            assert (row == was).all()
        truth = nearest(was, ridge, edge)
        lost = [(other - was) @ ridge @ (other - was) for other in (row, truth)]
        assert lost[0] <= lost[1] * (1 + 1e-3) + 1e-9


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_fit_is_nearer_to_the_outputs_than_cutting_weights_off(
    name: str, small_tokenizer: Any, corpus: Corpus
) -> None:
    model, cut, start = (small_model(name).eval() for _ in range(3))
    examples = Examples.of(corpus, 15)
    RowBounds.of(model, 1.6).fit(model, examples)
    RowBounds.of(cut, 1.6).hold()
    outside = 0
    for (_, ours), (_, clipped), (_, was) in zip(
        *map(body_layers, (model, cut, start)), strict=True
    ):
        bound = 1.6 * spread(rows_of(was))
        for one in (ours, clipped):
            assert bool((rows_of(one).abs() <= bound * (1 + 1e-6)).all())
        outside += int((rows_of(was).abs() > bound).sum())
    assert outside > 50
    # Layer by layer, for what a layer reads: its inputs in the starting model.
    read: dict[str, torch.Tensor] = {}

    def keep(path: str, _layer: Any, given: tuple[torch.Tensor, ...]) -> None:
        read[path] = given[0].detach().flatten(0, -2)

    for path, layer in body_layers(start):
        layer.register_forward_pre_hook(partial(keep, path))
    final_hidden(start, examples[0]["input_ids"][None])
    lost = {"fitted": 0.0, "cut": 0.0}
    for which, other in (("fitted", model), ("cut", cut)):
        for (path, one), (_, was) in zip(body_layers(other), body_layers(start), strict=True):
            change = (read[path] @ (rows_of(one) - rows_of(was)).T).square().mean()
            lost[which] += float(change / (read[path] @ rows_of(was).T).square().mean())
    assert lost["fitted"] < 0.7 * lost["cut"]
    other = [name for name, _ in body_layers(start)]
    for path, parameter in model.named_parameters():
        if path.removesuffix(".weight") not in other:
            assert torch.equal(parameter, start.get_parameter(path)), path


def test_several_passes_gather_what_one_does(
    small_tokenizer: Any, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = Examples.of(corpus, 15)
    model = small_model("llama").eval()
    bounds = RowBounds.of(model, 1.6)
    first = row_bounds._second_moments(model, list(bounds.layers), examples)
    monkeypatch.setattr(row_bounds, "MOMENT_BYTES", 1)
    groups = list(row_bounds._groups(bounds.layers))
    assert [len(group) for group in groups] == [1] * len(bounds.layers)
    found = row_bounds._second_moments(model, groups[3], examples)[0]
    torch.testing.assert_close(found, first[3])


def trained(
    checkpoint: Checkpoint, corpus: Corpus, recipe: Recipe, out: Path
) -> dict[str, torch.Tensor]:
    part = split(corpus, recipe.heldout)
    train(checkpoint, part.training, part.heldout, recipe, out)
    return safetensors.torch.load_file(out / "model" / "model.safetensors")


def test_rows_stay_within_their_bound_and_a_killed_run_goes_on(
    small_tokenizer: Any, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = checkpoint_of("llama", small_tokenizer)
    before = {name: p.clone() for name, p in start.model.named_parameters()}
    whole = trained(start, corpus, QUICK, tmp_path / "whole")
    assert all(torch.equal(p, before[name]) for name, p in start.model.named_parameters())
    at_bound = 0
    for path, layer in body_layers(start.model):
        bound = 1.6 * spread(rows_of(layer))
        now = whole[f"{path}.weight"]
        assert bool((now.abs() <= bound * (1 + 1e-6)).all()), path
        at_bound += int((now.abs() >= bound * (1 - 1e-6)).sum())
    assert at_bound > 50
    head = whole.get("lm_head.weight", whole["model.embed_tokens.weight"])
    was = start.model.get_output_embeddings().weight
    assert bool((head.abs() > 1.6 * spread(was)).any())

    held = HoldRowsCallback.on_optimizer_step
    steps = []

    def killed(self: Any, args: Any, state: Any, control: Any, **given: Any) -> None:
        steps.append(state.global_step)
        if len(steps) == 4:
            raise KeyboardInterrupt
        held(self, args, state, control, **given)

    monkeypatch.setattr(HoldRowsCallback, "on_optimizer_step", killed)
    with pytest.raises(KeyboardInterrupt):
        trained(start, corpus, QUICK, tmp_path / "killed")
    monkeypatch.undo()
    again = trained(start, corpus, QUICK, tmp_path / "killed")
    assert whole.keys() == again.keys()
    assert all(torch.equal(weight, again[name]) for name, weight in whole.items())


def test_only_what_moves_is_bounded(small_tokenizer: Any, corpus: Corpus, tmp_path: Path) -> None:
    start = checkpoint_of("llama", small_tokenizer)
    recipe = replace(QUICK, scope="last-1-blocks", steps=1, watch_every=1)
    found = trained(start, corpus, recipe, tmp_path)
    for path, layer in body_layers(start.model):
        assert torch.equal(found[f"{path}.weight"], layer.weight) == ("layers.0." in path), path


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"row_bound": 1.0}, "row_bound 1.0 is no bound .* above 1 such as 2.5"),
        ({"row_bound": float("nan")}, "row_bound nan"),
        ({"row_bound": float("inf")}, "row_bound inf"),
        ({"row_bound": 2.5, "scope": "head"}, "scope 'head' does not move: .* last-N-blocks"),
        ({"row_bound": 2.5, "scope": "lora"}, "scope 'lora' does not move"),
    ],
)
def test_bounds_that_no_row_can_have(how: dict[str, Any], words: str) -> None:
    with pytest.raises(UnembedError, match=words) as caught:
        Recipe(**how)
    assert "\n" not in str(caught.value)


def test_a_recipe_without_a_bound_has_the_key_it_had() -> None:
    assert "row_bound" not in Recipe().to_json()
    assert Recipe(row_bound=2.5).to_json()["row_bound"] == 2.5


def test_a_model_of_no_linear_layer_that_moves_is_refused() -> None:
    model = small_model("llama").requires_grad_(False)
    with pytest.raises(UnembedError, match=r"row_bound 2.5 finds no linear layer .* leave it out"):
        RowBounds.of(model, 2.5)


def test_rows_that_are_cut_over_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(processes, "current_ranks", lambda: Ranks(0, 2))
    with pytest.raises(UnembedError, match=r"row_bound 2.5 needs whole rows, which FSDP cuts"):
        processes.check_processes(Recipe(row_bound=2.5))
