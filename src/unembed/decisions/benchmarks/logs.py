"""What lm-evaluation-harness wrote of one model: its results, and every sample's scores."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from unembed.decisions.benchmarks.metrics import Metric, metric_of
from unembed.errors import UnembedError
from unembed.runs.manifest import JOURNAL, MANIFEST

Read = TypeVar("Read")
LEVELS = 2
"""How many levels of folders are searched: the harness makes one for each model."""
SAMPLES = re.compile(
    r"samples_(?P<task>.+)_(?P<date>\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(\.\d+)?)\.jsonl"
)
"""How the harness names the samples of a task; the results of that date lie beside them."""
QUESTION, ANSWER = 160, 80
"""Letters that are kept of a prompt, its end, and of a target or an answer."""


@dataclass(frozen=True)
class Sample:
    """One sample of a task: which document it asks of, and how."""

    id: int
    doc_hash: str
    target_hash: str
    prompt_hash: str
    document: str | None
    question: str
    target: str


@dataclass(frozen=True)
class LoggedTask:
    """One task: its samples by their ids, its metrics, and why others cannot be paired."""

    name: str
    version: str
    shots: str
    repeats: int
    dataset: str | None
    subset: str | None
    samples: tuple[Sample, ...]
    metrics: dict[str, Metric]
    unread: dict[str, str]


@dataclass(frozen=True)
class LoggedGroup:
    """Tasks that the harness makes one number of; ``reported`` by metric, of numbers alone."""

    name: str
    parts: tuple[str, ...]
    reported: dict[str, float]


@dataclass(frozen=True)
class Logs:
    """One model's logs. ``files`` holds the SHA-256 of each file that was read, by its name.

    ``roots`` are the groups and tasks that belong to no group, in the order of the results.
    """

    place: str
    model: str
    harness: str
    tasks: dict[str, LoggedTask]
    groups: dict[str, LoggedGroup]
    roots: tuple[str, ...]
    files: dict[str, str]

    def tasks_of(self, name: str) -> tuple[str, ...]:
        """The tasks of a group, those of the groups in it too; of a task itself."""
        return tuple(_leaves(name, {one.name: one.parts for one in self.groups.values()}))

    def without(self, left: Collection[str]) -> Logs:
        """The same logs without some tasks; what else their groups hold stands alone."""
        tasks = {name: one for name, one in self.tasks.items() if name not in left}
        groups = {
            name: one
            for name, one in self.groups.items()
            if not set(left).intersection(self.tasks_of(name))
        }

        def kept(names: Iterable[str]) -> Iterator[str]:
            for name in names:
                if name in tasks or name in groups:
                    yield name
                elif name in self.groups:
                    yield from kept(self.groups[name].parts)

        roots = tuple(dict.fromkeys(kept(self.roots)))
        return replace(self, tasks=tasks, groups=groups, roots=roots)


def holds_logs(place: str | Path) -> bool:
    """Whether a path is the harness's: its results, or a folder with samples in it.

    Raises UnembedError for results without samples.
    """
    path = Path(place)
    if path.is_file():
        return path.suffix == ".json" and path.name.startswith("results_")
    if not path.is_dir() or (path / MANIFEST).exists() or (path / JOURNAL).exists():
        return False
    if next(_sample_files(path), None) is not None:
        return True
    results = next((one for one in _below(path) if re.match(r"results_.*\.json$", one.name)), None)
    if results is not None:
        raise UnembedError(
            f"{results} has no samples_*.jsonl beside it: run lm_eval again with --log_samples"
        )
    return False


def read_logs(place: str | Path, document: str | None = None) -> Logs:
    """Read the logs of one model: a folder that ``lm_eval --log_samples`` wrote, or its results.

    ``document`` names the field of a sample's document whose equal values belong together; a task
    without it has a document for each sample. Raises UnembedError where a task is there twice, the
    results of samples are missing, files are not what the harness writes, or no task has the field.
    """
    path = Path(place)
    found: dict[str, tuple[Path, str]] = {}
    only = path.stem.rpartition("_")[2] if path.is_file() else None
    for file in _sample_files(path.parent if only else path, levels=0 if only else LEVELS):
        match = SAMPLES.fullmatch(file.name)
        assert match is not None
        task, date = match["task"], match["date"]
        if only not in (None, date):
            continue
        if task in found:
            first, second = (one.relative_to(path) for one in (found[task][0], file))
            raise UnembedError(
                f"{place} holds task {task} twice, {first} and {second}: give the results_*.json "
                "of one run, or the folder of one model"
            )
        found[task] = file, date
    if not found:
        raise UnembedError(
            f"{place} has no samples_*.jsonl beside it: run lm_eval again with --log_samples"
        )
    files: dict[str, str] = {}
    read: dict[Path, dict[str, Any]] = {}
    tasks: dict[str, LoggedTask] = {}
    for task, (file, date) in sorted(found.items()):
        where = path if only else _results_of(file, date)
        if where not in read:
            read[where] = _results(where, files)
        reading = partial(read_task, task, read[where], _lines(file, files), document)
        tasks[task] = _checked(file, reading)
    if document is not None and all(one.samples[0].document is None for one in tasks.values()):
        raise UnembedError(
            f"no task of {place} has a field {document!r} in its documents: give one that a "
            "sample's doc holds, or leave --document out"
        )
    models = sorted({str(one.get("model_name") or path.name) for one in read.values()})
    if len(models) > 1:
        raise UnembedError(
            f"{place} holds the logs of {len(models)} models, {models[0]} and {models[1]}: give "
            "the folder of one"
        )
    groups: dict[str, LoggedGroup] = {}
    for results in read.values():
        groups |= _groups(results, tasks)
    inside = {part for group in groups.values() for part in group.parts}
    order = dict.fromkeys(name for one in read.values() for name in one["results"])
    roots = tuple(
        name
        for name in dict.fromkeys((*order, *groups, *tasks))
        if (name in tasks or name in groups) and name not in inside
    )
    harness = sorted({str(one.get("lm_eval_version", "unknown")) for one in read.values()})
    return Logs(str(place), models[0], ", ".join(harness), tasks, groups, roots, files)


def read_task(
    name: str, results: Mapping[str, Any], lines: Iterable[str], document: str | None = None
) -> LoggedTask:
    """One task from its results and its samples, as ``lm_eval --log_samples`` writes them.

    Raises KeyError, TypeError or ValueError for what it does not write.
    """
    samples: dict[int, Sample] = {}
    columns: dict[str, dict[int, Any]] = {}
    repeats = 1
    for line in lines:
        values = json.loads(line)
        at, used = int(values["doc_id"]), values["filter"]
        if at not in samples:
            samples[at] = _sample(at, values, document)
            answers = values.get("resps") or [[None]]
            repeats = max(repeats, len(answers[0]))
        for metric in values["metrics"]:
            column = columns.setdefault(metric if used == "none" else f"{metric},{used}", {})
            if at in column:
                raise ValueError(f"sample {at} of {name} is there twice")
            column[at] = values[metric]
    if not samples:
        raise ValueError(f"it has no sample of {name}")
    reported = results["results"][name]
    better = results.get("higher_is_better", {}).get(name, {})
    metrics: dict[str, Metric] = {}
    unread: dict[str, str] = {}
    for key, column in columns.items():
        if column.keys() != samples.keys():
            unread[key] = "not every sample has it"
            continue
        number = reported.get(key if "," in key else f"{key},none")
        values = [column[at] for at in sorted(samples)]
        found = metric_of(key, values, number, better.get(key.partition(",")[0], True) is not False)
        if isinstance(found, str):
            unread[key] = found
        else:
            metrics[key] = found
    version = str(results.get("versions", {}).get(name))
    shots = str(results.get("n-shot", {}).get(name))
    ordered = tuple(samples[at] for at in sorted(samples))
    asked: dict[str, Any] = results.get("configs", {}).get(name) or {}
    dataset, subset = (
        one if isinstance(one, str) else None
        for one in (asked.get("dataset_path"), asked.get("dataset_name"))
    )
    return LoggedTask(name, version, shots, repeats, dataset, subset, ordered, metrics, unread)


def _sample(at: int, values: Mapping[str, Any], document: str | None) -> Sample:
    doc = values.get("doc")
    held = doc.get(document) if document is not None and isinstance(doc, dict) else None
    requests: dict[str, Any] = values.get("arguments") or {}
    first: dict[str, Any] = next(iter(requests.values()), {})
    return Sample(
        at,
        values["doc_hash"],
        values["target_hash"],
        values["prompt_hash"],
        None if held is None else str(held),
        str(first.get("arg_0", ""))[-QUESTION:],
        str(values.get("target", ""))[:ANSWER],
    )


def _groups(results: Mapping[str, Any], tasks: Mapping[str, LoggedTask]) -> dict[str, LoggedGroup]:
    """The groups whose every task is there; a group of groups has all their tasks."""
    children = {name: parts for name, parts in results.get("group_subtasks", {}).items() if parts}
    found = {}
    for name, parts in children.items():
        if set(_leaves(name, children)) <= set(tasks):
            numbers = {
                key.removesuffix(",none"): value
                for key, value in results["results"].get(name, {}).items()
                if isinstance(value, int | float) and "," in key and "_stderr" not in key
            }
            found[name] = LoggedGroup(name, tuple(parts), numbers)
    return found


def _leaves(name: str, children: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """The tasks of a group, those of the groups in it too."""
    if name not in children:
        yield name
    for part in children.get(name, ()):
        yield from _leaves(part, children)


def _below(folder: Path, levels: int = LEVELS) -> Iterator[Path]:
    """The files of a folder and those of the folders in it, in the order of their names."""
    for path in sorted(folder.iterdir()):
        if path.is_file():
            yield path
        elif levels and path.is_dir() and not path.is_symlink():
            yield from _below(path, levels - 1)


def _sample_files(folder: Path, levels: int = LEVELS) -> Iterator[Path]:
    return (path for path in _below(folder, levels) if SAMPLES.fullmatch(path.name))


def _results_of(samples: Path, date: str) -> Path:
    """The results of the same run: ``results_DATE.json``, or what else --output_path named them."""
    beside = sorted(samples.parent.glob(f"*_{date}.json"))
    if len(beside) != 1:
        raise UnembedError(
            f"{samples} needs the results of its run beside it, and there are {len(beside)} files "
            f"*_{date}.json: keep what lm_eval wrote together"
        )
    return beside[0]


def _results(path: Path, files: dict[str, str]) -> dict[str, Any]:
    data = path.read_bytes()
    files[path.name] = hashlib.sha256(data).hexdigest()

    def read() -> dict[str, Any]:
        found = json.loads(data)
        if not isinstance(found.get("results"), dict):
            raise ValueError("it has no results")
        return dict(found)

    return _checked(path, read)


def _lines(path: Path, files: dict[str, str]) -> Iterator[str]:
    """The lines of a file that hold anything; its digest is known once all are read."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for line in stream:
            digest.update(line)
            if line.strip():
                yield line.decode()
    files[path.name] = digest.hexdigest()


def _checked(path: Path, read: Callable[[], Read]) -> Read:
    try:
        return read()
    except UnembedError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        missing = "it lacks " if isinstance(error, KeyError) else ""
        raise UnembedError(
            f"{path} is not what lm_eval --log_samples writes ({missing}{error}): run it again"
        ) from error
