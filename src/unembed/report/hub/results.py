"""A run's figures as evaluation results of a model: what the Hub reads from a card's metadata."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unembed.decisions.audit.audit import Audit
from unembed.decisions.benchmarks.record import ComparedBenchmarks, TaskChange
from unembed.decisions.comparison.compare import Comparison
from unembed.decisions.comparison.summary import ComparisonSummary
from unembed.report.parts.wording import bounded, count, decimal, determined, points, share, signed
from unembed.runs.run_record import Drawn
from unembed.stats.estimate import Estimate
from unembed.stats.forms import Form
from unembed.training.run.refinement import Refinement

TASK = "text-generation"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
"""A data set of the Hub, as an id."""


@dataclass(frozen=True)
class Result:
    """One figure of a model on a data set. ``kind`` is the metric's name for machines."""

    dataset: str
    kind: str
    name: str
    estimate: Estimate
    form: Form
    unit: str = ""

    def as_eval_result(self) -> Any:
        """The same for ``model-index``: a plain number, its interval and n in the name."""
        from huggingface_hub import EvalResult

        words = _in_words(self.estimate, self.form, self.unit)
        return EvalResult(
            task_type=TASK,
            dataset_type=_as_id(self.dataset),
            dataset_name=self.dataset,
            metric_type=self.kind,
            metric_value=float(f"{float(self.estimate):.6g}"),
            metric_name=f"{self.name}: {words}, n = {count(self.estimate.n)}".replace(
                "\u00a0", " "
            ),
        )


@dataclass(frozen=True)
class HubResult:
    """A score on a data set of the Hub; ``task`` is its task there."""

    dataset: str
    task: str
    value: float
    notes: str


@dataclass(frozen=True)
class ModelResults:
    """What a run says of one model: its name, and the figures that have a value."""

    model: str
    results: tuple[Result, ...]


def results_of(record: Drawn) -> ModelResults | None:
    """The figures of the model that a run is about: audited, refined, or the one after a change.

    None of a run about several models or about texts, such as a ranking.
    """
    if isinstance(record, Audit):
        corpus = _text(record.provenance.text.corpus)
        return _model(record.provenance.model, _audited(record, corpus))
    if isinstance(record, Comparison) and record.provenance:
        after = record.provenance["after"]
        corpus = _text(after["text"]["corpus"])
        return _model(after["model"], _compared(record.summary, corpus))
    if isinstance(record, Refinement) and record.heldout.provenance:
        after = record.heldout.provenance["after"]
        corpus = f"{_text(after['text']['corpus'])}, held out"
        return _model(after["model"], _compared(record.summary.heldout, corpus))
    if isinstance(record, ComparedBenchmarks):
        return _model(record.after, map(_scored, record.entries))
    return None


def hub_results(record: Drawn) -> dict[str, HubResult]:
    """Files of ``.eval_results/`` by their names: scores of tasks whose data lie on the Hub.

    The id and the task are those that the harness read, ``dataset_path`` and ``dataset_name``. The
    Hub shows a score where the data set is a registered benchmark that has the task.
    """
    if not isinstance(record, ComparedBenchmarks):
        return {}
    found = {}
    for one in (*record.entries, *record.inside):
        if one.dataset is None or not HUB_ID.fullmatch(one.dataset) or one.after.value is None:
            continue
        score = _scored(one)
        words = _in_words(score.estimate, score.form)
        notes = f"{record.harness}, task {one.name}, {score.name}, {words}"
        found[f"{_as_id(one.name)}.yaml"] = HubResult(
            one.dataset,
            one.subset or "default",
            float(f"{float(score.estimate):.6g}"),
            f"{notes}, n = {count(one.n)}".replace("\u00a0", " "),
        )
    return found


def _model(name: str, results: Any) -> ModelResults:
    known = tuple(one for one in results if one.estimate.value is not None)
    return ModelResults(Path(name).name or name, known)


def _audited(audit: Audit, corpus: str) -> Iterator[Result]:
    summary = audit.summary
    yield Result(corpus, "accuracy", "Next-token accuracy", summary.accuracy, share)
    yield Result(corpus, "loss", "Cross-entropy", summary.nll_nats, decimal, "nats")
    yield Result(corpus, "perplexity", "Perplexity", summary.perplexity, decimal)
    yield Result(corpus, "median_margin", "Median margin", summary.median_margin, decimal, "logits")


def _compared(summary: ComparisonSummary, corpus: str) -> Iterator[Result]:
    flips, calibration = summary.flips, summary.calibration
    loss = calibration.nll_difference_nats
    yield Result(corpus, "accuracy", "Next-token accuracy", flips.accuracy_after, share)
    yield Result(corpus, "loss", "Cross-entropy", calibration.after.nll_nats, decimal, "nats")
    difference = "Accuracy, after − before"
    yield Result(corpus, "accuracy_difference", difference, flips.accuracy_difference, points)
    yield Result(corpus, "loss_difference", "Cross-entropy, after − before", loss, signed, "nats")
    yield Result(corpus, "churn", "Changed top tokens", flips.churn, share)
    if summary.divergence is not None:
        mean = summary.divergence.kl_forward.mean
        yield Result(corpus, "kl", "KL(before‖after)", mean, decimal, "nats")


def _scored(one: TaskChange) -> Result:
    """A task's score after; of a perplexity itself, which the harness reports, not its loss."""
    kind = one.metric.partition(",")[0]
    if one.unit != "nats":
        return Result(one.name, kind, one.label, one.after, one.form)
    value, low, high = (
        None if end is None else math.exp(end)
        for end in (one.after.value, one.after.low, one.after.high)
    )
    after = replace(one.after, value=value, low=low, high=high)
    return Result(one.name, kind, kind, after, decimal)


def _in_words(estimate: Estimate, form: Form, unit: str = "") -> str:
    """Value and interval; the value alone where the interval holds all that is possible."""
    known = estimate if determined(estimate, form) else replace(estimate, low=None, high=None)
    return bounded(known, form, unit)


def _text(read: str) -> str:
    """What was read, without how: the name of a file, or the id of a data set of the Hub."""
    corpus = read.partition(": ")[0]
    return corpus if HUB_ID.fullmatch(corpus) and not Path(corpus).exists() else Path(corpus).name


def _as_id(name: str) -> str:
    """A name of letters, digits, ``._-`` and the slash of an id."""
    if HUB_ID.fullmatch(name):
        return name
    return re.sub(r"[^\w.-]+", "-", name).strip("-") or "text"
