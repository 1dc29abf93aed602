"""The benchmarks of a refinement: what is asked, refused before a training, and run on both."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from command_line import Run
from made_up.benchmarks import scores
from unembed.cli.dose import dose_command
from unembed.cli.refine import _benchmarks as asked_for
from unembed.errors import UnembedError
from unembed.models.checkpoint import Checkpoint, load
from unembed.text.corpus import Corpus
from unembed.training.benchmarks import pair as benchmark_pair
from unembed.training.benchmarks import run as benchmarks
from unembed.training.benchmarks.harness import TaskScores
from unembed.training.benchmarks.pair import Benchmarks
from unembed.training.benchmarks.run import TASKS, compare_benchmarks, read_benchmark
from unembed.training.run import refinement as refining
from unembed.training.run.refinement import Refinement, refine

QUICK = (
    *("--steps", "2", "--batch-size", "2", "--context", "32", "--learning-rate", "1e-2"),
    *("--watch-every", "2", "--heldout", "0.4", "--quiet", "--device", "cpu"),
)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory, topics: list[str]) -> Path:
    file = tmp_path_factory.mktemp("corpus") / "short.txt"
    file.write_text("\n".join(topic[:80].replace("\n", " ") for topic in topics[:14]))
    return file


@pytest.fixture
def harness() -> None:
    pytest.importorskip("lm_eval")
    pytest.importorskip("accelerate")


@pytest.mark.usefixtures("harness")
def test_what_is_asked_for() -> None:
    assert asked_for((), None, None) is None
    assert asked_for(("paper",), None, None) == Benchmarks() == Benchmarks(TASKS, None, 1, None)
    here = Path(__file__).parent
    mine = Benchmarks(("mine", *TASKS), 9, include_path=str(here))
    assert asked_for(("mine", "paper"), 9, here) == mine


@pytest.mark.usefixtures("harness")
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (((), 5, None), "--benchmark-limit 5 .*--benchmark"),
        (((), None, Path("tasks")), "--benchmark-path tasks "),
        ((("paper", "piqa"), None, None), "each once"),
        ((("piqa",), 0, None), "limit .*got 0"),
        ((("piqa",), None, Path("nowhere")), "include_path 'nowhere'"),
    ],
)
def test_what_cannot_be_asked(wrong: Any, said: str) -> None:
    with pytest.raises(UnembedError, match=said):
        asked_for(*wrong)


def test_a_missing_harness_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UnembedError, match=r"pip install 'unembed\[eval\]'"):
        asked_for(("paper",), None, None)


def test_a_grid_takes_no_benchmarks() -> None:
    assert not [one.name for one in dose_command.params if "benchmark" in str(one.name)]


@pytest.mark.usefixtures("harness")
@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("taught", None, "model on disk, .*'taught'"),
        ("", None, "model on disk, .*empty'"),
        (None, lambda model: model.lm_head.weight.mul_(1.5), "holds other weights"),
        (None, lambda model: model.double(), "another precision"),
    ],
)
def test_a_model_that_the_harness_cannot_load_is_not_trained(
    name: str | None,
    change: Callable[[Any], Any] | None,
    said: str,
    llama_folder: Path,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(refining, "train", None)
    (tmp_path / "empty").mkdir()
    found = load(llama_folder, device="cpu")
    if change is not None:
        with torch.no_grad():
            change(found.model)
    named = {None: found.name, "": str(tmp_path / "empty")}.get(name, name)
    given = Checkpoint(str(named), found.model, found.tokenizer)
    corpus = Corpus.read(text, found.tokenizer)
    with pytest.raises(UnembedError, match=said):
        refine(given, corpus, out=tmp_path / "run", benchmarks=Benchmarks(("piqa",)))
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("harness")
def test_an_unknown_task_is_refused_before_the_model_is_read_again(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(tasks: tuple[str, ...], include_path: str | None) -> None:
        raise UnembedError(f"{tasks} {include_path}")

    given = load(llama_folder, device="cpu")
    monkeypatch.setattr(benchmark_pair, "check_names", refuse)
    with pytest.raises(UnembedError, match=r"\('piqa', 'mine'\) None"):
        Benchmarks(("piqa", "mine")).check(given)
    Benchmarks(("piqa",)).check(given)


@pytest.mark.usefixtures("harness")
def test_both_models_are_scored_once_and_a_killed_run_goes_on(
    run: Run,
    llama_folder: Path,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, calls = tmp_path / "run", []
    columns = {str(llama_folder): [0.0, 1.0, 1.0, 0.0], str(out / "model"): [1.0, 1.0, 1.0, 0.0]}

    def evaluate(task: str, arguments: list[str], progress: bool) -> TaskScores:
        model = json.loads(arguments[-1])["pretrained"]
        told = [arguments[arguments.index(flag) + 1] for flag in ("--limit", "--batch_size")]
        calls.append((task, model, *told))
        if len(calls) == 4:
            raise UnembedError("killed")
        return scores(task, columns[model])

    monkeypatch.setattr(benchmarks, "evaluate", evaluate)
    asked = ("refine", llama_folder, text, "-o", out, *QUICK)
    tasks = ("--benchmark", "piqa", "--benchmark", "winogrande", "--benchmark-limit", "4")
    assert run(*asked, *tasks).line == "killed"
    trained = (out / "model" / "model.safetensors").stat().st_mtime_ns
    ended = run(*asked, *tasks)
    assert ended.code == 0, ended.err
    assert (out / "model" / "model.safetensors").stat().st_mtime_ns == trained
    old, new = columns
    assert [(task, model) for task, model, *_ in calls] == [
        *(("piqa", old), ("winogrande", old), ("piqa", new)),
        *(("winogrande", new), ("winogrande", new)),
    ]
    assert {(limit, size) for *_, limit, size in calls} == {("4", "1")}
    sides = [read_benchmark(out / "benchmarks" / side) for side in ("before", "after")]
    assert [side.model for side in sides] == [old, new]
    assert Refinement.load(out).summary.benchmarks == compare_benchmarks(*sides)
    assert "0.5000 → 0.7500, +0.2500" in ended.out
    assert "McNemar" in (out / "report.html").read_text()

    assert run(*asked, *tasks).code == 0
    assert len(calls) == 5
    for others in ((), tasks[:-2], tasks[2:], (*tasks[:-1], "3")):
        assert "its benchmarks" in run(*asked, *others).line
