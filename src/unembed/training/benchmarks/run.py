"""lm-evaluation-harness before and after a change, document by document."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from urllib.parse import quote

import numpy as np
from jaxtyping import Float

from unembed.decisions.comparison.flips import mcnemar_p
from unembed.errors import UnembedError
from unembed.runs.manifest import verified_run
from unembed.runs.record import record_from_json, record_to_json
from unembed.runs.store import RunFolder, holds_finished_run
from unembed.short_repr import ShortRepr
from unembed.stats.estimate import Estimate
from unembed.stats.student import NORMAL_975
from unembed.training.benchmarks.harness import HARNESS_SEEDS, TaskScores, check_names, evaluate

TASKS = (
    "arc_challenge",
    "hellaswag",
    "winogrande",
    "piqa",
    "lambada_openai",
    "truthfulqa_mc1",
)
"""The benchmarks of theory §6. Their data come from the hub unless they are cached."""

KIND, SCHEMA = "benchmark", 1
PACKAGES = ("lm_eval", "datasets", "torch", "transformers")


@dataclass(frozen=True)
class BenchmarkRun:
    """One model on some tasks: what was run, and every document's scores.

    ``model_digest`` is the SHA-256 of a local folder's files, None for a model of the hub.
    """

    model: str
    model_digest: str | None
    limit: int | None
    versions: dict[str, str]
    tasks: tuple[TaskScores, ...]


@dataclass(frozen=True)
class TaskDifference(ShortRepr):
    """One task before and after, on the same ``n`` documents; ``difference`` is after - before.

    ``standard_error`` is that of the difference, ``sd(after_i - before_i) / sqrt(n)``, None for a
    single document. The counts of flips and McNemar's exact p exist where every score is 0 or 1.
    """

    task: str
    metric: str
    n: int
    before: Estimate
    after: Estimate
    difference: Estimate
    standard_error: float | None
    wrong_to_right: int | None
    right_to_wrong: int | None
    mcnemar_p: float | None


@dataclass(frozen=True)
class BenchmarkComparison(ShortRepr):
    """Two runs of the same tasks: each task's difference, and the unweighted means over tasks.

    The means' standard error is ``sqrt(sum of the tasks' squared ones) / tasks``: that of other
    documents of these same tasks, not of other tasks. Their ``n`` counts the documents.
    """

    model_before: str
    model_after: str
    limit: int | None
    tasks: tuple[TaskDifference, ...]
    mean_before: Estimate
    mean_after: Estimate
    mean_difference: Estimate
    mean_standard_error: float | None


def benchmark(
    model: str | Path,
    out: str | Path,
    tasks: Sequence[str] = TASKS,
    *,
    limit: int | None = None,
    batch_size: int = 1,
    device: str | None = None,
    include_path: str | Path | None = None,
    command: str = "",
    progress: bool = False,
) -> BenchmarkRun:
    """Run ``python -m lm_eval --model hf --model_args pretrained=MODEL --tasks ...`` (theory §6).

    A process per task, so that a killed run repeats only its unfinished tasks and a task's batches
    do not depend on the others. Neither of the harness's caches is used: both would unpickle.
    ``model`` is a folder or a hub id, loaded in the checkpoint's dtype; ``limit`` takes the first
    documents of each task; ``include_path`` is a folder with tasks of one's own. ``device`` None
    leaves the choice to the harness. ``progress`` passes its output to stderr. Raises UnembedError
    where it is not installed, does not know a task, or fails.
    """
    check_tasks(tasks, limit, batch_size, include_path)
    arguments = ["--batch_size", str(batch_size), "--seed", HARNESS_SEEDS, "--log_samples"]
    for flag, value in (("limit", limit), ("device", device), ("include_path", include_path)):
        arguments += [] if value is None else [f"--{flag}", str(value)]
    # As JSON: in the key=value form a comma or a bracket in the path would end it.
    arguments += ["--model", "hf", "--model_args", json.dumps({"pretrained": str(model)})]
    key = {
        "kind": KIND,
        "schema": SCHEMA,
        "model": str(model),
        "model_digest": _folder_digest(Path(model)),
        "tasks": list(tasks),
        "limit": limit,
        "batch_size": batch_size,
        "device": device,
        "include_path": None if include_path is None else str(include_path),
        "versions": {package: metadata.version(package) for package in PACKAGES},
    }
    if not set(tasks) <= set(TASKS) and not holds_finished_run(out):
        check_names(tasks, include_path)
    with RunFolder.open(out, key) as folder:
        left = [task for task in tasks if _part(task) not in folder.done]
        for i, task in enumerate(left, start=1):
            if progress:
                sys.stderr.write(f"benchmark {task} ({i} of {len(left)})\n")
            scores = evaluate(task, arguments, progress)
            data = json.dumps(record_to_json(scores)).encode()
            folder.write_bytes(_part(task), data, rows=len(scores.documents))
        if not folder.finished:
            folder.finish(command)
    return read_benchmark(out)


def read_benchmark(folder: str | Path) -> BenchmarkRun:
    """A finished run as ``benchmark`` wrote it.

    Raises UnembedError where the folder holds none, or a damaged one.
    """
    key = verified_run(folder, KIND, SCHEMA).key
    parts = [json.loads((Path(folder) / _part(task)).read_bytes()) for task in key["tasks"]]
    scores = tuple(record_from_json(TaskScores, part) for part in parts)
    return BenchmarkRun(
        key["model"], key["model_digest"], key["limit"], dict(key["versions"]), scores
    )


def compare_benchmarks(before: BenchmarkRun, after: BenchmarkRun) -> BenchmarkComparison:
    """Compare two runs on the same documents, headline metric by headline metric.

    With ``d_i = after_i - before_i`` the difference is ``mean(d)``, its standard error
    ``sd(d) / sqrt(n)`` and its interval 1.96 of them either way. Equal runs differ by exactly
    zero. Raises UnembedError where the runs differ in harness, limit, tasks, versions or documents,
    naming the first. Source: theory §6.
    """
    harness = (before.versions["lm_eval"], after.versions["lm_eval"])
    for what, (old, new) in {
        "lm-eval version": harness,
        "limit": (before.limit, after.limit),
        "tasks": tuple(", ".join(sorted(t.name for t in run.tasks)) for run in (before, after)),
    }.items():
        if old != new:
            raise UnembedError(
                f"the runs differ in their {what}: {old} before, {new} after; repeat one like the "
                "other"
            )
    others = {scores.name: scores for scores in after.tasks}
    pairs = [_pair(scores, others[scores.name]) for scores in before.tasks]
    difference, standard_error = _mean([new - old for old, new in pairs])
    return BenchmarkComparison(
        before.model,
        after.model,
        before.limit,
        tuple(_difference(t, *pair) for t, pair in zip(before.tasks, pairs, strict=True)),
        _mean([old for old, _new in pairs])[0],
        _mean([new for _old, new in pairs])[0],
        difference,
        standard_error,
    )


def _pair(
    before: TaskScores, after: TaskScores
) -> tuple[Float[np.ndarray, " documents"], Float[np.ndarray, " documents"]]:
    """Both headline columns, once they are known to answer the same questions."""
    name = before.name
    for what, old, new in (
        ("version", before.version, after.version),
        ("headline metric", before.headline, after.headline),
        ("number of documents", len(before.documents), len(after.documents)),
    ):
        if old != new:
            raise UnembedError(
                f"the {what} of task {name} is {old} before and {new} after; repeat one run like "
                "the other"
            )
    rows = zip(before.documents, before.digests, after.documents, after.digests, strict=True)
    for old_id, old_digest, new_id, new_digest in rows:
        if (old_id, old_digest) != (new_id, new_digest):
            which = f"{old_id}" if old_id == new_id else f"{old_id} before, {new_id} after"
            raise UnembedError(
                f"document {which} of task {name} is another one, or asked otherwise, in the two "
                "runs; repeat one with the other's data and task definition"
            )
    return _headline(before), _headline(after)


def _headline(scores: TaskScores) -> Float[np.ndarray, " documents"]:
    return np.array(scores.values[scores.headline], dtype=np.float64)


def _difference(
    scores: TaskScores,
    before: Float[np.ndarray, " documents"],
    after: Float[np.ndarray, " documents"],
) -> TaskDifference:
    gained = lost = p = None
    if np.isin(np.concatenate([before, after]), (0.0, 1.0)).all():
        gained, lost = int((after > before).sum()), int((after < before).sum())
        p = mcnemar_p(gained, lost)
    difference, standard_error = _mean([after - before])
    return TaskDifference(
        scores.name,
        scores.headline,
        len(before),
        _mean([before])[0],
        _mean([after])[0],
        difference,
        standard_error,
        gained,
        lost,
        p,
    )


def _mean(columns: list[Float[np.ndarray, " _"]]) -> tuple[Estimate, float | None]:
    """The mean of the columns' means, and its standard error for independent columns."""
    value, n = float(np.mean([column.mean() for column in columns])), sum(map(len, columns))
    if min(map(len, columns)) < 2:
        return Estimate(value, n=n), None
    squares = sum(float(column.var(ddof=1)) / len(column) for column in columns)
    error = math.sqrt(squares) / len(columns)
    return Estimate(value, value - NORMAL_975 * error, value + NORMAL_975 * error, n), error


def check_tasks(
    tasks: Sequence[str], limit: int | None, batch_size: int, include_path: str | Path | None
) -> None:
    """Raise UnembedError without lm-eval, and for settings that no run can have."""
    if any(importlib.util.find_spec(module) is None for module in ("lm_eval", "accelerate")):
        raise UnembedError(
            "benchmarks run lm-evaluation-harness, which is not installed with its Hugging Face "
            "models: pip install 'unembed[eval]'"
        )
    if not tasks or len(set(tasks)) < len(tasks):
        raise UnembedError(f"tasks must be one or more, each once, got {', '.join(tasks) or None}")
    for name, value in (("limit", limit), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise UnembedError(f"{name} must be at least 1, got {value}")
    if include_path is not None and not Path(include_path).is_dir():
        raise UnembedError(f"include_path {str(include_path)!r} is no folder: give one of tasks")


def _part(task: str) -> str:
    return f"tasks/{quote(task, safe='')}.json"


def _folder_digest(folder: Path) -> str | None:
    """SHA-256 over the names and bytes of a folder's files; None where it is none."""
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file():
            digest.update(path.name.encode() + b"\0")
            with path.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
