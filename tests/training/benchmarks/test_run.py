"""lm-evaluation-harness before and after: the real one on a task of our own, and its arithmetic."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest
import torch

from made_up.benchmarks import run_of, scores
from unembed import demo
from unembed.errors import UnembedError
from unembed.runs.record import record_from_json, record_to_json
from unembed.training.benchmarks import harness
from unembed.training.benchmarks import run as benchmarks
from unembed.training.benchmarks.harness import TaskScores, scores_of
from unembed.training.benchmarks.run import (
    TASKS,
    BenchmarkComparison,
    BenchmarkRun,
    benchmark,
    compare_benchmarks,
    read_benchmark,
)

MODEL = Path(demo.__file__).parent / "model"
DOCUMENTS, LIMIT = 45, 40
NAMES = ("Lily", "Tom", "the little dog", "a very old bird", "Mum")

TASK = """
task: tiny_choice
dataset_path: json
dataset_kwargs:
  data_files:
    validation: {data}
output_type: multiple_choice
validation_split: validation
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: label
metric_list:
  - metric: acc
  - metric: acc_norm
metadata:
  version: 3.0
"""


def questions() -> list[dict[str, Any]]:
    made = []
    for i in range(DOCUMENTS):
        names = [NAMES[(i + j) % len(NAMES)] for j in (0, 1, 1 + i % 4)]
        question = f"There were {i} trees in the park. One day, the friend of {NAMES[i % 5]} saw"
        choices = [names[1], f"{names[0]} and {names[1]}", f"nothing but {i} trees"]
        made.append({"question": question, "choices": choices, "label": (i * i + i // 3) % 3})
    return made


# The real harness


@dataclass(frozen=True)
class Real:
    """What the real harness gave, and where."""

    before: BenchmarkRun
    after: BenchmarkRun
    folder: Path
    tasks: Path
    changed: Path
    refusal: str


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Real:
    pytest.importorskip("lm_eval")
    pytest.importorskip("accelerate")
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("benchmarks")
    tasks, changed = folder / "tasks", folder / "a, changed [model]"
    tasks.mkdir()
    data = tasks / "tiny.jsonl"
    data.write_text("".join(json.dumps(question) + "\n" for question in questions()))
    (tasks / "tiny.yaml").write_text(TASK.format(data=data))

    shutil.copytree(MODEL, changed)
    model = AutoModelForCausalLM.from_pretrained(MODEL)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.7 * weight.std())
    model.save_pretrained(changed)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        for name, value in (("HF_HOME", str(folder / "cache")), ("OMP_NUM_THREADS", "1")):
            patch.setenv(name, value)
        patch.setenv("HF_HUB_OFFLINE", "1")

        def run(model: Path, out: str, *others: str) -> BenchmarkRun:
            names = ["tiny_choice", *others]
            return benchmark(
                model, folder / out, names, limit=LIMIT, device="cpu", include_path=tasks
            )

        with pytest.raises(UnembedError) as refused:
            run(MODEL, "wrong", "mmlu", "none")
        # Looked up once: it takes seconds, and the refusal does not name tiny_choice.
        patch.setattr(benchmarks, "check_names", lambda *_: None)
        runs = [pool.submit(run, MODEL, "before"), pool.submit(run, changed, "after")]
        before, after = (future.result() for future in runs)
    return Real(before, after, folder, tasks, changed, str(refused.value))


@cache
def direct_scores(model: Path) -> tuple[list[float], list[float]]:
    """acc and acc_norm of each question, from the logits of one full sequence at a time."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    network = AutoModelForCausalLM.from_pretrained(model).double().eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    acc, acc_norm = [], []
    for asked in questions()[:LIMIT]:
        start = len(tokenizer(asked["question"])["input_ids"])
        sums = []
        for choice in asked["choices"]:
            ids = tokenizer(f"{asked['question']} {choice}", return_tensors="pt")["input_ids"][0]
            with torch.no_grad():
                log_p = network(ids[None]).logits[0].log_softmax(dim=-1)
            sums.append(sum(log_p[i - 1, ids[i]].item() for i in range(start, len(ids))))
        per_character = [s / len(c) for s, c in zip(sums, asked["choices"], strict=True)]
        acc.append(float(sums.index(max(sums)) == asked["label"]))
        acc_norm.append(float(per_character.index(max(per_character)) == asked["label"]))
    return acc, acc_norm


def test_real_harness_gives_every_documents_score(real: Real) -> None:
    for run, model in ((real.before, MODEL), (real.after, real.changed)):
        (scores,) = run.tasks
        acc, acc_norm = direct_scores(model)
        assert (scores.name, scores.version, scores.headline) == ("tiny_choice", "3.0", "acc_norm")
        assert scores.documents == tuple(range(LIMIT))
        assert scores.values == {"acc": tuple(acc), "acc_norm": tuple(acc_norm)}
        assert acc != acc_norm
        assert (run.model, run.limit) == (str(model), LIMIT)
        assert run.versions["lm_eval"] == metadata.version("lm_eval")
    assert real.before.model_digest != real.after.model_digest


def test_real_difference_between_two_models(real: Real) -> None:
    found = compare_benchmarks(real.before, real.after)
    (task,) = found.tasks
    old, new = direct_scores(MODEL)[1], direct_scores(real.changed)[1]
    assert old != new
    assert task.difference.value == pytest.approx((sum(new) - sum(old)) / LIMIT)
    assert task.wrong_to_right == sum(a < b for a, b in zip(old, new, strict=True))
    assert task.right_to_wrong == sum(a > b for a, b in zip(old, new, strict=True))
    assert (found.model_before, found.model_after) == (str(MODEL), str(real.changed))


def test_finished_run_is_read_not_repeated(real: Real, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks, "evaluate", None)
    monkeypatch.setattr(benchmarks, "check_names", None)
    again = benchmark(
        MODEL,
        real.folder / "before",
        ["tiny_choice"],
        limit=LIMIT,
        device="cpu",
        include_path=real.tasks,
    )
    assert again == real.before == read_benchmark(real.folder / "before")


def test_real_harness_writes_no_pickles(real: Real) -> None:
    assert not list(real.folder.rglob("*.pickle")) + list(real.folder.rglob("*.db"))
    installed = importlib.util.find_spec("lm_eval")
    assert installed is not None
    assert installed.origin is not None
    assert not list((Path(installed.origin).parent / "caching").rglob("*.pickle"))


def test_names_that_are_no_single_task_are_refused_before_any_runs(real: Real) -> None:
    assert real.refusal.startswith("no single task: 'mmlu' (several tasks), 'none' (unknown); ")
    assert "python -m lm_eval ls" in real.refusal
    assert not (real.folder / "wrong").exists()


# What the harness writes


def results(**metrics: float) -> dict[str, Any]:
    return {"results": {"t": {"alias": "t", **metrics}}, "versions": {"t": 1.0}}


def sample(document: int, used: str = "none", /, **values: Any) -> str:
    hashes = {f"{what}_hash": f"{what}{document}" for what in ("doc", "prompt", "target")}
    return json.dumps(
        {"doc_id": document, "filter": used, "metrics": list(values)} | hashes | values
    )


def test_documents_are_sorted_and_metrics_that_are_no_mean_dropped() -> None:
    lines = [
        sample(2, perplexity=-1.5, acc=1, pair=[-1, 2]),
        sample(0, perplexity=-0.5, acc=0, pair=[-1, 2]),
    ]
    reported = results(**{"perplexity,none": math.e, "acc,none": 0.5, "pair,none": 0.5})
    found = scores_of("t", reported, lines)
    assert (found.documents, found.values, found.headline) == ((0, 2), {"acc": (0, 1)}, "acc")
    assert len(set(found.digests)) == 2


def test_each_filter_is_a_metric_of_its_own_and_the_first_is_the_headline() -> None:
    lines = [
        sample(i, used, em=float(i == at)) for at, used in ((0, "b"), (5, "a")) for i in (0, 1)
    ]
    found = scores_of("t", results(**{"em,b": 0.5, "em,a": 0.0}), lines)
    assert found.values == {"em,b": (1, 0), "em,a": (0, 0)}
    assert found.headline == "em,b"


@pytest.mark.parametrize("what", ["doc", "prompt", "target"])
def test_digest_covers_document_prompt_and_target(what: str) -> None:
    line = sample(0, acc=1.0)
    other = line.replace(f'"{what}0"', '"another"')
    first, second = (scores_of("t", results(**{"acc,none": 1.0}), [x]) for x in (line, other))
    assert first.digests != second.digests


def test_task_without_a_mean_is_refused() -> None:
    with pytest.raises(UnembedError, match=r"'t' .*metric .* \(of bleu\)"):
        scores_of("t", results(**{"bleu,none": 12.0}), [sample(0, bleu=1.0), sample(1, bleu=2.0)])
    with pytest.raises(UnembedError, match="no metric"):
        scores_of("t", results(**{"acc,none": math.nan}), [sample(0, acc=math.nan)])


# Running it


def test_output_goes_to_stderr_and_the_last_exception_into_the_error(
    capfd: pytest.CaptureFixture[str],
) -> None:
    code = "import atexit\natexit.register(print, 'bye')\nprint('10%\\r20%\\r', flush=True)\n"
    code += "try: {}['a']\nfinally: raise OSError('no é here')"
    with pytest.raises(UnembedError) as caught:
        harness._run([sys.executable, "-X", "utf8", "-c", code], "t", True)
    assert "failed with status 1 at task 't': OSError: no é here;" in str(caught.value)
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("10%\n20%\nTraceback")


def test_a_killed_harness_and_a_silent_one(capfd: pytest.CaptureFixture[str]) -> None:
    code = "import os; print('at 7', flush=True); os.kill(os.getpid(), 9)"
    with pytest.raises(UnembedError, match=f"killed by signal {signal.SIGKILL} .*: at 7;"):
        harness._run([sys.executable, "-c", code], "t", False)
    with pytest.raises(UnembedError, match="status 3 at task 't': it said nothing;"):
        harness._run([sys.executable, "-c", "raise SystemExit(3)"], "t", False)
    assert capfd.readouterr() == ("", "")


def test_what_is_not_read_names_a_version_that_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(call: list[str], task: str, progress: bool) -> None:
        (Path(call[-1]) / "results_1.json").write_text('{"results": {}}')
        (Path(call[-1]) / "samples_t_1.jsonl").write_text("")

    monkeypatch.setattr(harness, "_run", write)
    with pytest.raises(UnembedError, match=rf"'t' is not read .*{harness.READ_VERSION}"):
        harness.evaluate("t", [], False)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the harness were installed, whether or not it is."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(metadata, "version", lambda package: "1")


@pytest.mark.usefixtures("installed")
def test_killed_run_repeats_only_its_unfinished_tasks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []

    def evaluate(task: str, arguments: list[str], progress: bool) -> TaskScores:
        asked.append(task)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return scores(task, [0.0, 1.0])

    monkeypatch.setattr(benchmarks, "evaluate", evaluate)
    with pytest.raises(KeyboardInterrupt):
        benchmark("some/model", tmp_path / "run")
    with pytest.raises(UnembedError, match="unfinished"):
        read_benchmark(tmp_path / "run")
    with pytest.raises(UnembedError, match="its limit is null, this one's is 5"):
        benchmark("some/model", tmp_path / "run", limit=5)
    run = benchmark("some/model", tmp_path / "run")
    assert asked == [*TASKS[:3], *TASKS[2:]]
    assert run.tasks == tuple(scores(task, [0.0, 1.0]) for task in TASKS)
    assert run.model_digest is None


@pytest.mark.usefixtures("installed")
def test_another_model_in_the_same_folder_is_another_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(benchmarks, "evaluate", lambda task, *_: scores(task, [1.0]))
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").write_bytes(b"1")
    benchmark(model, tmp_path / "run", ["piqa"])
    (model / "weights").write_bytes(b"2")
    with pytest.raises(UnembedError, match="its model_digest is"):
        benchmark(model, tmp_path / "run", ["piqa"])


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"tasks": []}, "got None"),
        ({"tasks": ["piqa", "piqa"]}, "got piqa, piqa"),
        ({"limit": 0}, "limit .*got 0"),
        ({"batch_size": -2}, "batch_size .*got -2"),
        ({"include_path": "nowhere"}, "include_path 'nowhere'"),
    ],
)
def test_arguments_out_of_range_are_refused(
    wrong: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UnembedError, match=said):
        benchmark("m", tmp_path / "run", **wrong)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("missing", ["lm_eval", "accelerate"])
def test_missing_harness_names_the_extra(
    missing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else name)
    with pytest.raises(UnembedError, match=r"pip install 'unembed\[eval\]'"):
        benchmark("m", tmp_path / "run")


# Comparing


@pytest.fixture
def pair() -> tuple[BenchmarkRun, BenchmarkRun]:
    """Two runs of two tasks, one scored 0 or 1, one scored between."""
    draw = torch.Generator().manual_seed(1)
    old, new = torch.randint(0, 2, (2, 37), generator=draw).double().tolist()
    soft_old, soft_new = torch.rand(2, 12, dtype=torch.float64, generator=draw).tolist()
    return (
        run_of(scores("hard", old), scores("soft", soft_old, "f1")),
        run_of(scores("soft", soft_new, "f1"), scores("hard", new)),
    )


def test_paired_differences_by_plain_loops(pair: tuple[BenchmarkRun, BenchmarkRun]) -> None:
    before, after = pair
    found = compare_benchmarks(before, after)
    assert [(task.task, task.metric, task.n) for task in found.tasks] == [
        ("hard", "acc", 37),
        ("soft", "f1", 12),
    ]
    pairs = [(before.tasks[0], after.tasks[1]), (before.tasks[1], after.tasks[0])]
    totals = {"before": [0.0, 0.0], "after": [0.0, 0.0], "difference": [0.0, 0.0]}
    for task, (old, new) in zip(found.tasks, pairs, strict=True):
        columns = {"before": old.values[task.metric], "after": new.values[task.metric]}
        columns["difference"] = tuple(
            b - a for a, b in zip(columns["before"], columns["after"], strict=True)
        )
        for name, column in columns.items():
            mean, error = sum(column) / len(column), stdev(column) / math.sqrt(len(column))
            estimate = getattr(task, name)
            assert estimate.value == pytest.approx(mean, abs=1e-15)
            assert estimate.low == pytest.approx(mean - 1.959964 * error, abs=1e-7)
            assert estimate.high == pytest.approx(mean + 1.959964 * error, abs=1e-7)
            assert estimate.n == len(column)
            totals[name][0] += mean / 2
            totals[name][1] += error**2 / 4
        assert task.standard_error == pytest.approx(
            stdev(columns["difference"]) / math.sqrt(task.n), rel=1e-12
        )
    for name, (mean, squared) in totals.items():
        estimate = getattr(found, f"mean_{name}")
        assert estimate.value == pytest.approx(mean, abs=1e-15)
        assert estimate.high == pytest.approx(mean + 1.959964 * math.sqrt(squared), abs=1e-7)
        assert estimate.n == 49
    assert found.mean_standard_error == pytest.approx(math.sqrt(totals["difference"][1]), rel=1e-12)


def test_mcnemar_only_where_scores_are_zero_or_one(
    pair: tuple[BenchmarkRun, BenchmarkRun],
) -> None:
    hard, soft = compare_benchmarks(*pair).tasks
    gained = lost = 0
    columns = (pair[0].tasks[0].values["acc"], pair[1].tasks[1].values["acc"])
    for old, new in zip(*columns, strict=True):
        gained, lost = gained + (new > old), lost + (new < old)
    n = gained + lost
    tail = sum(math.comb(n, k) for k in range(min(gained, lost) + 1)) / 2**n
    assert gained != lost
    assert (hard.wrong_to_right, hard.right_to_wrong) == (gained, lost)
    assert hard.mcnemar_p == pytest.approx(min(1.0, 2 * tail), rel=1e-11)
    assert (soft.wrong_to_right, soft.right_to_wrong, soft.mcnemar_p) == (None, None, None)


def test_a_run_differs_from_itself_by_exactly_zero(
    pair: tuple[BenchmarkRun, BenchmarkRun],
) -> None:
    found = compare_benchmarks(pair[0], pair[0])
    for estimate in (*(task.difference for task in found.tasks), found.mean_difference):
        assert (estimate.value, estimate.low, estimate.high) == (0, 0, 0)
    assert (found.tasks[0].mcnemar_p, found.mean_standard_error) == (1.0, 0.0)


def test_one_document_has_no_interval() -> None:
    found = compare_benchmarks(run_of(scores("t", [0.0])), run_of(scores("t", [1.0])))
    (task,) = found.tasks
    assert (task.difference.value, task.difference.low, task.standard_error) == (1.0, None, None)
    assert (found.mean_difference.high, found.mean_standard_error) == (None, None)


def test_records_survive_json(pair: tuple[BenchmarkRun, BenchmarkRun]) -> None:
    found = compare_benchmarks(*pair)
    plain = json.loads(json.dumps(record_to_json(found), allow_nan=False))
    assert record_from_json(BenchmarkComparison, plain) == found
    plain = json.loads(json.dumps(record_to_json(pair[0]), allow_nan=False))
    assert record_from_json(BenchmarkRun, plain) == pair[0]


def changed_task(run: BenchmarkRun, **changes: Any) -> BenchmarkRun:
    return replace(run, tasks=(replace(run.tasks[0], **changes), *run.tasks[1:]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda run: replace(run, versions={"lm_eval": "0.5"}), "version: 0.4.13 before, 0.5"),
        (lambda run: replace(run, limit=9), "limit: None before, 9 after"),
        (lambda run: replace(run, tasks=run.tasks[:1]), "tasks: hard, soft before, hard after"),
        (lambda run: changed_task(run, version="2"), "version of task hard is 1.0 .* 2"),
        (lambda run: changed_task(run, documents=(*range(36), 40)), "document 36 before, 40 after"),
        (
            lambda run: changed_task(run, digests=("hard0", *["x"] * 36)),
            "document 1 of task hard",
        ),
        (lambda run: replace(run, tasks=(scores("hard", [1.0]), run.tasks[1])), "number of"),
        (
            lambda run: replace(run, tasks=(scores("hard", [1.0] * 37, "f1"), run.tasks[1])),
            "metric of task hard is acc .*f1",
        ),
    ],
)
def test_runs_that_do_not_match_are_refused(
    change: Callable[[BenchmarkRun], BenchmarkRun],
    said: str,
    pair: tuple[BenchmarkRun, BenchmarkRun],
) -> None:
    with pytest.raises(UnembedError, match=said):
        compare_benchmarks(pair[0], change(pair[0]))


def test_another_kind_of_run_is_no_benchmark(tmp_path: Path) -> None:
    from unembed.runs.store import RunFolder

    with RunFolder.open(tmp_path / "run", {"kind": "audit"}) as folder:
        folder.finish("")
    with pytest.raises(UnembedError, match=r"'audit'.*'benchmark'"):
        read_benchmark(tmp_path / "run")


def test_columns_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        replace(scores("t", [0.0, 1.0]), digests=("a",))
    with pytest.raises(ValueError, match="no metric 'f1'"):
        replace(scores("t", [0.0]), headline="f1")
