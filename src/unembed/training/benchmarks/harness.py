"""One task of lm-evaluation-harness on one model, in a process of its own."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unembed.decisions.benchmarks.logs import read_task
from unembed.decisions.benchmarks.metrics import headline_of
from unembed.errors import UnembedError
from unembed.runs.progress import LINE_SECONDS

HARNESS_SEEDS = "0,1234,1234,1234"
"""Seeds of Python, numpy, torch and the few-shot examples: the harness's own."""
PYTHON = (sys.executable, "-P")
"""-P: a ``datasets.py`` in the current folder is not taken for the library."""
KEPT_LINES = 200
READ_VERSION = "0.4.13"

_NOT_TASKS = """
import json, sys
from lm_eval.tasks import TaskManager
known = TaskManager(include_path=sys.argv[1] or None)
wrong = [name for name in sys.argv[2:] if name not in known.all_subtasks]
print(json.dumps([[name, name in known.all_tasks] for name in wrong]))
"""
"""Prints the names that are no single task, each with whether it is a group or a tag of tasks."""


@dataclass(frozen=True)
class TaskScores:
    """One task's metrics, document by document.

    ``digests[i]`` is the SHA-256 of what document ``documents[i]`` asks: the harness's own hashes
    of document, prompt and target. ``values[metric][i]`` is its score; only metrics whose reported
    value is the mean over the documents are kept, so no perplexity. A metric of a filter other
    than "none" is called ``metric,filter``. ``version`` is the task's. Raises ``ValueError`` where
    columns differ in length or ``headline`` is none of the metrics.
    """

    name: str
    version: str
    headline: str
    documents: tuple[int, ...]
    digests: tuple[str, ...]
    values: dict[str, tuple[float, ...]]

    def __post_init__(self) -> None:
        n = len(self.documents)
        if self.headline not in self.values:
            raise ValueError(f"{self.name} has no metric {self.headline!r}")
        if len(self.digests) != n or any(len(column) != n for column in self.values.values()):
            raise ValueError(f"the columns of {self.name} differ in length")


def check_names(tasks: Sequence[str], include_path: str | Path | None) -> None:
    """Raise UnembedError for a name that is no single task, before hours go into the others."""
    call = [*PYTHON, "-c", _NOT_TASKS, str(include_path or ""), *tasks]
    found = subprocess.run(call, capture_output=True, text=True, errors="replace", check=False)
    if found.returncode:
        raise _failure("looking up its tasks", found.returncode, found.stderr.splitlines())
    wrong = json.loads(found.stdout.splitlines()[-1])
    if wrong:
        each = (f"{name!r} ({'several tasks' if group else 'unknown'})" for name, group in wrong)
        raise UnembedError(
            f"no single task: {', '.join(each)}; give names that "
            "`python -m lm_eval ls subtasks` lists, or the folder of your own tasks as include_path"
        )


def evaluate(task: str, arguments: list[str], progress: bool) -> TaskScores:
    """Run the harness on one task, and read what it wrote."""
    with tempfile.TemporaryDirectory() as written:
        call = [*PYTHON, "-m", "lm_eval", *arguments, "--tasks", task, "--output_path", written]
        _run(call, task, progress)
        try:
            (results,) = Path(written).rglob("results_*.json")
            (samples,) = Path(written).rglob("samples_*.jsonl")
            with samples.open(encoding="utf-8") as lines:
                return scores_of(task, json.loads(results.read_text(encoding="utf-8")), lines)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, UnembedError):
                raise
            raise UnembedError(
                f"what lm-eval wrote for task {task!r} is not read ({error!r}): install lm-eval "
                f"{READ_VERSION}, the version that this release was tested with"
            ) from error


def _run(call: list[str], task: str, progress: bool) -> None:
    terminal = sys.stderr.isatty()
    # tqdm's bars, where no terminal redraws them: a line now and then.
    calm = {} if terminal else {"TQDM_MININTERVAL": str(LINE_SECONDS)}
    tail: deque[str] = deque(maxlen=KEPT_LINES)
    with subprocess.Popen(
        call, env=os.environ | calm, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        try:
            # newline="": a bar that is redrawn ends each of its lines with a carriage return.
            output = io.TextIOWrapper(process.stdout, "utf-8", "replace", newline="")
            for line in output:
                tail.append(line)
                if progress and (terminal or line.strip()):
                    sys.stderr.write(line if terminal else line.rstrip() + "\n")
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise _failure(f"task {task!r}", process.returncode, tail)


def _failure(what: str, status: int, lines: Iterable[str]) -> UnembedError:
    """An error with the harness's last exception, or else with its last line."""
    said = [line.strip() for line in lines if line.strip()]
    raised = [line for line in said if re.match(r"[A-Za-z_][\w.]*(Error|Exception|Exit)\b", line)]
    last = (raised or said or ["it said nothing"])[-1]
    how = f"was killed by signal {-status}" if status < 0 else f"failed with status {status}"
    return UnembedError(f"lm-eval {how} at {what}: {last}; finished tasks are kept")


def scores_of(task: str, results: dict[str, Any], lines: Iterable[str]) -> TaskScores:
    """Read one task's results and samples (JSON lines), as ``lm_eval --log_samples`` writes them.

    Raises UnembedError where no metric of the task is the mean of its documents' values.
    """
    logged = read_task(task, results, lines)
    values = {
        name: tuple(map(float, metric.sums))
        for name, metric in logged.metrics.items()
        if metric.unit in ("share", "number")
    }
    if not values:
        raise UnembedError(
            f"task {task!r} reports no metric that is the mean over its documents (of "
            f"{', '.join((*logged.metrics, *logged.unread)) or 'none'}), so two runs cannot be "
            "paired: leave it out"
        )
    return TaskScores(
        name=task,
        version=str(results["versions"][task]),
        headline=headline_of(values),
        documents=tuple(one.id for one in logged.samples),
        digests=tuple(
            hashlib.sha256(f"{one.doc_hash}{one.prompt_hash}{one.target_hash}".encode()).hexdigest()
            for one in logged.samples
        ),
        values=values,
    )
