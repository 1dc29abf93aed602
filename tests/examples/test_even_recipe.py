from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from places import ROOT
from unembed.decisions.tokens import CLASSES, classes_of, frequency_buckets
from unembed.demo.story import bundled_model
from unembed.errors import UnembedError
from unembed.models.checkpoint import Checkpoint, load
from unembed.text.corpus import Corpus


def example() -> ModuleType:
    path = ROOT / "examples" / "even_recipe.py"
    spec = importlib.util.spec_from_file_location("even_recipe", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


even = example()
TEXTS = [
    f"Return the {i}th value of the List, or 10 where Python has none of {i} other names.\n" * 2
    for i in range(7)
]
SETUP = even.Setup(steps=2, context=32, positions=64, audited=400)
POINTS = [
    even.Point.of(name)
    for name in (
        "none",
        "fisher:4 ce-freq:0.5 kl:1 kl-words:1 kl-sure:1 anchor:1 ewc:1",
        "margin:1 words:3 freq:0.5 narrow:2 right lr:2 scope:head",
    )
]


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load(bundled_model())


def place(checkpoint: Checkpoint, setup: object = SETUP) -> object:
    return even.Place.of(checkpoint, Corpus.from_texts(TEXTS, checkpoint.tokenizer), setup)


def test_a_killed_run_goes_on_and_ends_in_the_same_decisions(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    runs = even.Runs(place(checkpoint), tmp_path)
    runs.check()
    runs.run(POINTS, [0])
    files = sorted(tmp_path.rglob("*.parquet"))
    assert len(files) == 5  # The start, three points, and the control of the third.
    whole = [pq.read_table(file) for file in files]
    assert len({str(one["nll"].to_pylist()) for one in whole}) == 5
    files[1].unlink()
    times = [file.stat().st_mtime_ns for file in files if file.exists()]
    runs.run(POINTS, [0])
    assert [f.stat().st_mtime_ns for i, f in enumerate(files) if i != 1] == times
    assert pq.read_table(files[1]) == whole[1]
    text = even.Text.of(runs.start(), runs.place.vocabulary)
    found = runs.results(POINTS, text)
    assert [one.over is None for one in found] == [True, False, False]


def test_a_folder_of_another_setup_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    even.Runs(place(checkpoint), tmp_path).check()
    with pytest.raises(UnembedError, match="holds another model, text or setup"):
        even.Runs(place(checkpoint, replace(SETUP, steps=3)), tmp_path).check()


@torch.no_grad()
def test_an_anchor_is_nothing_at_the_start(checkpoint: Checkpoint) -> None:
    here = place(checkpoint)
    examples = even.Examples.of(here.training, here.context - 1)
    batch = next(here.batches(examples, 1, 0))
    point = even.Point.of("none kl:3 kl-sure:3 kl-words:3 anchor:3")
    hook = even.HeadHook.of(checkpoint.model, list(range(1, 8192)))
    said = even.Said.of(hook, batch, point.objective, True)
    loss = even.Loss.of(here, point, examples)
    assert float(loss(said, said, batch.targets)) == pytest.approx(float(said.loss.nll.mean()))
    other = even.Said(said.loss, (said.log_p * 2).log_softmax(-1))
    p, q = said.log_p.exp(), other.log_p
    kl = (p * (said.log_p - q)).sum(-1)
    right = said.loss.topk_ids[:, 0] == batch.targets
    sure = right & (said.loss.topk_values[:, 0] - said.loss.topk_values[:, 1] >= 1)
    words = loss.words[batch.targets] > 0
    assert 0 < int(sure.sum()) < len(kl)
    assert 0 < int(words.sum()) < len(kl)
    wanted = said.loss.nll.mean() + 3 * (kl.mean() + kl[sure].mean() + kl[words].mean())
    assert float(loss(other, said, batch.targets)) == pytest.approx(float(wanted), rel=1e-4)


def test_weights_of_the_cross_entropy_are_one_on_average(checkpoint: Checkpoint) -> None:
    here = place(checkpoint)
    examples = even.Examples.of(here.training, here.context - 1)
    loss = even.Loss.of(here, even.Point.of("none ce-freq:0.5 ce-words:3"), examples)
    counts = examples.target_counts(len(loss.ce_weights))
    assert float((counts * loss.ce_weights).sum() / counts.sum()) == pytest.approx(1)
    assert float(loss.ce_weights[counts > 0].max()) > 2


def test_the_cells_are_those_of_a_comparison(checkpoint: Checkpoint, tmp_path: Path) -> None:
    here = place(checkpoint)
    start = even.Runs(here, tmp_path).start()
    text = even.Text.of(start, here.vocabulary)
    target = start["target"].to_numpy()
    classes = classes_of([here.vocabulary[t] for t in target.tolist()])
    buckets = frequency_buckets(target)
    for i, name in enumerate(CLASSES):
        assert (text.cells.get(name, np.zeros(len(target), bool)) == (classes == i)).all()
    for i, name in enumerate(even.BUCKETS):
        marked = text.cells.get(f"occurs {name}", np.zeros(len(target), bool))
        assert (marked == (buckets == i)).all()


def made_up(change: dict[str, float]) -> tuple[object, np.ndarray]:
    """A text of 40 documents, 20 positions a class in each, and a point with these nets."""
    doc = np.repeat(np.arange(40), 20 * len(CLASSES))
    which = np.tile(np.repeat(np.arange(len(CLASSES)), 20), 40)
    cells = {name: which == i for i, name in enumerate(CLASSES)}
    text = even.Text(doc, which, np.zeros(len(doc)), 1.0, cells)
    rng = np.random.default_rng(1)
    rate = np.array([change.get(name, 0.05) for name in CLASSES])[which]
    moved = np.sign(rate) * (rng.random((3, len(doc))) < abs(rate))
    return text, np.stack([text.sums(one) for one in moved])


def test_a_point_that_takes_from_a_class_is_not_even() -> None:
    text, sums = made_up({})
    good = even.Verdict.of(text, sums)
    assert good.total == pytest.approx(0.05, abs=0.005)
    assert good.by_chance < 0.2
    assert all((good.low <= good.net) & (good.net <= good.high))
    text, sums = made_up({"numeric": -0.05, "content": 0.1})
    bad = even.Verdict.of(text, sums)
    assert not bad.even
    assert not bad.unrefuted
    assert bad.lost == ("numeric*",)
    assert bad.worst(text) == ("numeric", pytest.approx(-0.05, abs=0.01))
    # Content and entity-like positions gain 3.5 times what the others do.
    assert bad.net[-1] == pytest.approx(0.075 - bad.total, abs=0.01)
    best = even.Verdict.of(text, np.abs(sums))
    assert best.unrefuted or not best.even


def test_equal_gain_is_between_the_two_points_about_it() -> None:
    _, sums = made_up({})
    one = even.Result("fisher:1", sums, sums, 0.04, 0.01, (0.1, 0.0))
    zero = even.Result("none", 0 * sums, None, 0.0, 0.0, (0.0, 0.0))
    other = replace(one, name="fisher:2", raw=3 * sums, over=3 * sums, gain=0.12, nll=0.05)
    [found] = even.at_gain([zero, one, other], 0.1)
    assert found.name == "fisher at +10%"
    assert found.nll == pytest.approx(0.04)
    assert found.over == pytest.approx(2.5 * sums)
    [found] = even.at_gain([zero, one, other], 0.02)
    assert found.over == pytest.approx(0.5 * sums)
    assert not list(even.at_gain([zero, one, other], 0.2))


@pytest.mark.parametrize("name", ["", "fisher", "fisher:x", "fisher:1 kl", "fisher:1 no:2", "f:1"])
def test_what_is_no_point_is_refused_in_a_line(name: str) -> None:
    with pytest.raises(UnembedError) as refused:
        even.Point.of(name)
    assert "\n" not in str(refused.value)


def test_the_command_says_which_points_are_even(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    (tmp_path / "text.txt").write_text("".join(TEXTS))
    command = ["even_recipe.py", str(tmp_path / "out"), "--text", str(tmp_path / "text.txt")]
    command += ["--steps", "2", "--positions", "64", "--audited", "300", "--seeds", "0", "1"]
    monkeypatch.setattr(sys, "argv", [*command, "--points", "fisher:8"])
    even.main()
    said = capsys.readouterr().out
    assert "fisher:8" in said
    assert "of 2 are even" in said
    note = json.loads((tmp_path / "out" / "verdict.json").read_text())
    assert {one["point"] for one in note["points"]} >= {"none", "fisher:8"}
    cells = pq.read_table(tmp_path / "out" / "cells.parquet")
    assert set(cells["against"].to_pylist()) == {"start", "control"}
