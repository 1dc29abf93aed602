"""Two models' logs, sample by sample: compare_logs(before, after) -> ComparedBenchmarks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from unembed.decisions.benchmarks.logs import LoggedTask, Logs, read_logs
from unembed.decisions.benchmarks.metrics import Metric, headline_of
from unembed.decisions.benchmarks.record import (
    SAMPLES_FILE,
    ChangedSample,
    ComparedBenchmarks,
    TaskChange,
    TaskMean,
)
from unembed.decisions.comparison.flips import clustered_mcnemar_p, mcnemar_p
from unembed.errors import UnembedError
from unembed.runs.store import RunFolder
from unembed.stats.bootstrap import RESAMPLES
from unembed.stats.paired_shares import clustered_paired_share_interval, paired_share_interval
from unembed.stats.several import holm, mean_estimate, p_of
from unembed.stats.studentised import mean_estimates

MOST_CHANGED = 20
"""Samples that are kept with their questions, of those that became right and of those wrong."""


@dataclass(frozen=True)
class PairedMetric:
    """One metric of the same samples on both sides, and the number of each sample's document."""

    before: Metric
    after: Metric
    document: Int[np.ndarray, " samples"]


def compare_logs(
    before: str | Path,
    after: str | Path,
    *,
    document: str | None = None,
    out: str | Path | None = None,
    command: str = "",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> ComparedBenchmarks:
    """Compare two folders that ``lm_eval --log_samples`` wrote, sample by sample.

    A task's difference is ``mean(after_i - before_i)``. Where samples are right or wrong its
    interval is Tango's and its test McNemar's exact one, or, where documents have several samples,
    Tango's of the effective number and ``clustered_mcnemar_p``. Of other scores the interval is the
    studentised bootstrap of documents and the test Student's t. Tests are corrected for their
    number by Holm. ``document`` is a field of the samples' documents whose equal values
    belong together. A group is weighted as the harness weighted it, which is found by making its
    number again. With ``out`` the run is kept there. Raises UnembedError where either is no such
    folder, or where tasks, versions or samples differ, naming the first. Source: theory §4.
    """
    old, new = read_logs(before, document), read_logs(after, document)
    _refuse_others(old, new)
    found = _compared(*_paired(old, new), document, resamples, seed)
    if out is None:
        return found
    key = {
        "before": {"model": old.model, "files": old.files},
        "after": {"model": new.model, "files": new.files},
        "document": document,
        "resamples": resamples,
        "seed": seed,
    }
    facts = (
        ("Before", f"{old.model}, logs in {old.place}"),
        ("After", f"{new.model}, logs in {new.place}"),
        ("Harness", found.harness),
        ("A document is", document or "a sample"),
    )

    def written(folder: RunFolder) -> dict[str, object]:
        folder.write_table(SAMPLES_FILE, found.table)
        return found.to_json()

    return ComparedBenchmarks.keep(out, key, written, facts=facts, command=command)


def _refuse_others(old: Logs, new: Logs) -> None:
    """Raise UnembedError where the two are not of the same tasks and samples."""
    for name in sorted(old.tasks.keys() ^ new.tasks.keys()):
        has, lacks = (old, new) if name in old.tasks else (new, old)
        raise UnembedError(
            f"task {name} is logged in {has.place} and not in {lacks.place}: run lm_eval on both "
            "with the same --tasks"
        )
    for name, one in old.tasks.items():
        other = new.tasks[name]
        if one.version != other.version:
            raise UnembedError(
                f"task {name} is version {one.version} in {old.place} and {other.version} in "
                f"{new.place}: run both with one lm_eval"
            )
        ids, others = ({sample.id for sample in task.samples} for task in (one, other))
        for at in sorted(ids ^ others):
            has, lacks = (old, new) if at in ids else (new, old)
            raise UnembedError(
                f"sample doc_id {at} of {name} is in {has.place} and not in {lacks.place}: run "
                "both with the same --limit and --samples"
            )
        for first, second in zip(one.samples, other.samples, strict=True):
            for what in ("doc_hash", "target_hash"):
                hashes = getattr(first, what), getattr(second, what)
                if hashes[0] != hashes[1]:
                    raise UnembedError(
                        f"sample doc_id {first.id} of {name} has {what} {hashes[0][:12]}… in "
                        f"{old.place} and {hashes[1][:12]}… in {new.place}, another question: run "
                        "both on the same data"
                    )


def _paired(old: Logs, new: Logs) -> tuple[Logs, Logs, tuple[str, ...]]:
    """Both without the tasks that have no metric to pair, and why those are left out.

    Raises UnembedError where no task is left.
    """
    left: dict[str, str] = {}
    for name, one in old.tasks.items():
        other = new.tasks[name]
        if next(_pairs(one, other), None) is None:
            why = "; ".join(f"{of}: {what}" for of, what in {**other.unread, **one.unread}.items())
            left[name] = (
                "no metric that both logged and that is the mean over its samples"
                f"{f' ({why})' if why else ''}"
            )
    if len(left) == len(old.tasks):
        name, why = next(iter(left.items()))
        raise UnembedError(f"task {name} has {why}: give logs of a task with one, as accuracy is")
    notes = tuple(f"{name} is left out: it has {why}" for name, why in left.items())
    return old.without(left), new.without(left), notes


def _compared(
    old: Logs, new: Logs, left_out: Sequence[str], document: str | None, resamples: int, seed: int
) -> ComparedBenchmarks:
    pairs = {name: dict(_pairs(one, new.tasks[name])) for name, one in old.tasks.items()}
    heads = {name: headline_of(pairs[name]) for name in pairs}
    names = list(_entries(old, new, pairs))
    groups = {name: _metric_of_group(name, old, new, pairs) for name in names if name not in pairs}
    heads |= {
        part: metric for name, metric in groups.items() if metric for part in old.tasks_of(name)
    }

    def change(name: str, metric: str) -> TaskChange:
        found = change_of(name, metric, pairs[name][metric], resamples=resamples, seed=seed)
        task = old.tasks[name]
        return replace(found, dataset=task.dataset, subset=task.subset)

    heading = {name: change(name, heads[name]) for name in pairs}
    entries = [
        heading[name]
        if name in pairs
        else _group(name, groups[name] or "", old.tasks_of(name), old, new, pairs, resamples, seed)
        for name in names
    ]
    inside = [heading[part] for name in groups for part in old.tasks_of(name)]
    rest = [
        change(name, metric) for name in pairs for metric in pairs[name] if metric != heads[name]
    ]
    shares = [one for one in entries if one.unit == "share"]
    mean = None
    if len(shares) > 1:
        mean = TaskMean(
            tuple(one.name for one in shares),
            mean_estimate([one.before for one in shares]),
            mean_estimate([one.after for one in shares]),
            mean_estimate([one.difference for one in shares]),
        )
    harness = " and ".join(dict.fromkeys((old.harness, new.harness)))
    return ComparedBenchmarks(
        *_names(old, new),
        f"lm-evaluation-harness {harness}",
        document,
        sum(len(one.samples) for one in old.tasks.values()),
        sum(int(_documents(one).max()) + 1 for one in old.tasks.values()),
        corrected(entries),
        corrected(inside),
        corrected(rest),
        mean,
        tuple(_changed(old, pairs, heads)),
        (*left_out, *_notes(old, new, pairs, document)),
        _table(old, pairs),
    )


def change_of(
    name: str,
    metric: str,
    paired: PairedMetric,
    parts: tuple[str, ...] = (),
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> TaskChange:
    """One metric before and after, with its intervals and tests; see ``compare_logs``."""
    old, new, doc = paired.before, paired.after, paired.document
    documents, n = int(doc.max()) + 1, len(doc)
    columns = (old.sums, new.sums, new.sums - old.sums)
    sums = np.stack([np.bincount(doc, one, documents) for one in columns])
    sizes = np.bincount(doc, old.sizes, documents)
    least, most = (0.0, 1.0) if old.unit == "share" else (-math.inf, math.inf)
    limits = ((least, most), (least, most), (least - most, most - least))
    found = mean_estimates(sums, sizes, limits, resamples=resamples, seed=seed)
    before, after, difference = (replace(one, n=n) for one in found)
    gained = lost = exact = None
    if old.binary and new.binary:
        gained, lost = int((columns[2] > 0).sum()), int((columns[2] < 0).sum())
        exact = mcnemar_p(gained, lost)
    if gained is not None and lost is not None and documents > 1:
        if documents == n:
            low, high = paired_share_interval(gained, lost, n)
        else:
            low, high = clustered_paired_share_interval(sums[2], sizes, gained, lost)
        difference = replace(difference, low=low, high=high)
    elif old.unit == "share" and difference.low is not None and not columns[2].any():
        low, high = clustered_paired_share_interval(sums[2], sizes, 0, 0)
        difference = replace(difference, low=low, high=high)
    if exact is None or gained is None:
        p = p_of(difference, documents - 1)
    elif documents == n:
        p = exact
    else:
        p = clustered_mcnemar_p(sums[2]).value
    return TaskChange(
        name=name,
        metric=metric,
        unit=old.unit,
        higher_is_better=old.higher_is_better,
        parts=parts,
        n=n,
        before=before,
        after=after,
        difference=difference,
        wrong_to_right=gained,
        right_to_wrong=lost,
        mcnemar_p=exact,
        p=p,
    )


def corrected(family: Sequence[TaskChange]) -> tuple[TaskChange, ...]:
    """The same with Holm's correction for how many there are; a missing p counts as 1."""
    ps = holm([1.0 if one.p is None else one.p for one in family])
    return tuple(
        one if one.p is None else replace(one, corrected_p=p)
        for one, p in zip(family, ps, strict=True)
    )


def _pairs(one: LoggedTask, other: LoggedTask) -> Iterator[tuple[str, PairedMetric]]:
    """The metrics that both have, in the order of the first."""
    document = _documents(one)
    for name, metric in one.metrics.items():
        theirs = other.metrics.get(name)
        if theirs is None:
            continue
        if metric.unit != theirs.unit and {metric.unit, theirs.unit} <= {"share", "number"}:
            metric, theirs = (replace(side, unit="number") for side in (metric, theirs))
        if metric.unit == theirs.unit and np.array_equal(metric.sizes, theirs.sizes):
            yield name, PairedMetric(metric, theirs, document)


def _documents(task: LoggedTask) -> Int[np.ndarray, " samples"]:
    """Each sample's document by number; a sample without the field is one of its own."""
    names = [(one.document, -1 if one.document is not None else one.id) for one in task.samples]
    order = {name: at for at, name in enumerate(dict.fromkeys(names))}
    return np.array([order[name] for name in names])


def _entries(
    old: Logs, new: Logs, pairs: Mapping[str, Mapping[str, PairedMetric]]
) -> Iterator[str]:
    """Groups whose number can be made again, and the tasks of no such group, each once."""
    seen: set[str] = set()

    def walk(names: Sequence[str]) -> Iterator[str]:
        for name in names:
            if name in pairs:
                if name not in seen:
                    seen.add(name)
                    yield name
            elif _metric_of_group(name, old, new, pairs) is not None:
                seen.update(old.tasks_of(name))
                yield name
            else:
                yield from walk(old.groups[name].parts)

    return walk(old.roots)


def _metric_of_group(
    name: str, old: Logs, new: Logs, pairs: Mapping[str, Mapping[str, PairedMetric]]
) -> str | None:
    """The headline metric of a group on both sides, where its number can be made again."""
    if name not in new.groups or old.tasks_of(name) != new.tasks_of(name):
        return None
    parts = old.tasks_of(name)
    known = {
        metric: None
        for metric in old.groups[name].reported
        if all(metric in pairs[part] for part in parts)
        and _weights(name, metric, parts, old, new, pairs) is not None
    }
    return headline_of(known) if known else None


def _weights(
    name: str,
    metric: str,
    parts: Sequence[str],
    old: Logs,
    new: Logs,
    pairs: Mapping[str, Mapping[str, PairedMetric]],
) -> Float[np.ndarray, " parts"] | None:
    """By samples or equal, whichever gives the numbers that both results report for a group."""
    chosen = [pairs[part][metric] for part in parts]
    for weights in (
        np.array([one.before.sizes.sum() for one in chosen]),
        np.ones(len(parts)),
    ):
        made = [
            np.average([one.sums.sum() / one.sizes.sum() for one in side], weights=weights)
            for side in ([one.before for one in chosen], [one.after for one in chosen])
        ]
        told = [side.groups[name].reported.get(metric, math.nan) for side in (old, new)]
        if np.allclose(made, told, rtol=1e-9, atol=1e-12):
            return weights
    return None


def _group(
    name: str,
    metric: str,
    parts: tuple[str, ...],
    old: Logs,
    new: Logs,
    pairs: Mapping[str, Mapping[str, PairedMetric]],
    resamples: int,
    seed: int,
) -> TaskChange:
    """A group: its samples as one task's where they weigh the same, else the mean of its tasks."""
    chosen = [pairs[part][metric] for part in parts]
    weights = _weights(name, metric, parts, old, new, pairs)
    assert weights is not None
    if np.array_equal(weights, [one.before.sizes.sum() for one in chosen]):
        starts = np.cumsum([0, *(one.document.max() + 1 for one in chosen)])
        doc = np.concatenate([one.document + at for one, at in zip(chosen, starts, strict=False)])
        before, after = (
            _stacked([getattr(m, side) for m in chosen]) for side in ("before", "after")
        )
        pooled = PairedMetric(before, after, doc)
        return change_of(name, metric, pooled, parts, resamples=resamples, seed=seed)
    changes = [
        change_of(part, metric, one, resamples=resamples, seed=seed)
        for part, one in zip(parts, chosen, strict=True)
    ]
    difference = mean_estimate([one.difference for one in changes])
    counted = all(one.wrong_to_right is not None for one in changes)
    return TaskChange(
        name=name,
        metric=metric,
        unit=changes[0].unit,
        higher_is_better=changes[0].higher_is_better,
        parts=parts,
        n=sum(one.n for one in changes),
        before=mean_estimate([one.before for one in changes]),
        after=mean_estimate([one.after for one in changes]),
        difference=difference,
        wrong_to_right=sum(one.wrong_to_right or 0 for one in changes) if counted else None,
        right_to_wrong=sum(one.right_to_wrong or 0 for one in changes) if counted else None,
        mcnemar_p=None,
        p=p_of(difference, min(one.difference.documents or 0 for one in changes) - 1),
    )


def _stacked(metrics: Sequence[Metric]) -> Metric:
    sums, sizes = (
        np.concatenate([getattr(m, side) for m in metrics]) for side in ("sums", "sizes")
    )
    return replace(metrics[0], sums=sums, sizes=sizes)


def _names(old: Logs, new: Logs) -> tuple[str, str]:
    """The models' names; of one model twice, those of the folders."""
    if old.model != new.model:
        return old.model, new.model
    return old.place, new.place


def _changed(
    old: Logs, pairs: Mapping[str, Mapping[str, PairedMetric]], heads: Mapping[str, str]
) -> Iterator[ChangedSample]:
    """The first samples that became wrong and the first that became right, tasks in turn."""
    for gained in (False, True):
        by_task = []
        for name, task in old.tasks.items():
            paired = pairs[name][heads[name]]
            if paired.before.binary and paired.after.binary:
                moved = paired.after.sums - paired.before.sums == (1 if gained else -1)
                by_task.append([(name, task.samples[at]) for at in np.flatnonzero(moved)])
        turns = [each[at] for at in range(MOST_CHANGED) for each in by_task if at < len(each)]
        for name, sample in turns[:MOST_CHANGED]:
            yield ChangedSample(name, sample.id, gained, sample.question, sample.target)


def _notes(
    old: Logs, new: Logs, pairs: Mapping[str, Mapping[str, PairedMetric]], document: str | None
) -> Iterator[str]:
    """What differs besides the model, what is left out, and what was made one."""
    if old.harness != new.harness:
        yield f"lm-evaluation-harness {old.harness} before, {new.harness} after"
    for name, one in old.tasks.items():
        other = new.tasks[name]
        if one.shots != other.shots:
            yield f"{name} was asked with {one.shots} examples before and {other.shots} after"
        asked = sum(
            a.prompt_hash != b.prompt_hash for a, b in zip(one.samples, other.samples, strict=True)
        )
        if asked:
            yield (
                f"{asked:,} of {len(one.samples):,} prompts of {name} are worded otherwise in the "
                "two, as by a chat template: the difference holds that too"
            )
        repeats = max(one.repeats, other.repeats)
        if repeats > 1:
            yield f"{name} has {repeats} answers a sample, of which its filter makes one score"
        left = {**other.unread, **one.unread}
        left |= {
            metric: "the two logged it otherwise"
            for metric in (one.metrics.keys() | other.metrics.keys()) - pairs[name].keys()
            if metric not in left
        }
        for metric, why in sorted(left.items()):
            yield f"{metric} of {name} is left out: {why}"
        if document is not None and one.samples[0].document is None:
            yield f"{name} has no field {document}: each of its samples is a document"
    unmade = [name for name in old.groups if _metric_of_group(name, old, new, pairs) is None]
    reported = [name for name in unmade if old.groups[name].reported]
    if reported:
        yield (
            f"the number of {', '.join(reported)} could not be made from its tasks, which stand "
            "alone"
        )


def _table(old: Logs, pairs: Mapping[str, Mapping[str, PairedMetric]]) -> pa.Table:
    """A row for each sample and metric."""
    rows: dict[str, list[object]] = {
        name: []
        for name in (
            *("task", "metric", "doc_id", "document", "before", "after"),
            *("question", "target"),
        )
    }
    for name, metrics in pairs.items():
        samples = old.tasks[name].samples
        for metric, paired in metrics.items():
            n = len(samples)
            rows["task"] += [name] * n
            rows["metric"] += [metric] * n
            rows["doc_id"] += [one.id for one in samples]
            rows["document"] += [one.document or str(one.id) for one in samples]
            rows["before"] += list(paired.before.sums / paired.before.sizes)
            rows["after"] += list(paired.after.sums / paired.after.sizes)
            rows["question"] += [one.question for one in samples]
            rows["target"] += [one.target for one in samples]
    return pa.table(rows)
