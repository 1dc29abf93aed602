"""What two models' scores on the same benchmark samples differ by, task by task."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from unembed.decisions.benchmarks.metrics import Unit
from unembed.runs.arrays import read_table
from unembed.runs.columns import columns
from unembed.runs.frames import Figures, frame_of
from unembed.runs.manifest import FinishedRun
from unembed.runs.record import record_from_json, record_to_json
from unembed.runs.run_record import RunRecord
from unembed.runs.table import NAME_WIDTH, as_text
from unembed.short_repr import ShortRepr, html_table
from unembed.stats.estimate import Estimate
from unembed.stats.forms import Form, decimal, full, point, points, share, signed

SAMPLES_FILE = "samples.parquet"


@dataclass(frozen=True)
class TaskChange(ShortRepr):
    """One metric of a task, or of a group of tasks, before and after on the same ``n`` samples.

    ``difference`` is after - before; of a perplexity all three are the loss behind it, in ``unit``.
    ``parts`` are a group's tasks. ``wrong_to_right`` and ``right_to_wrong`` count samples where all
    are right or wrong, and ``mcnemar_p`` is McNemar's exact test of them. ``p`` is the test of
    independent documents, McNemar's too where each sample is one, and ``corrected_p`` what Holm's
    correction for the number of tests makes of it. ``dataset`` and ``subset`` are what the harness
    read the samples from, of a single task.
    """

    name: str
    metric: str
    unit: Unit
    higher_is_better: bool
    parts: tuple[str, ...]
    n: int
    before: Estimate
    after: Estimate
    difference: Estimate
    wrong_to_right: int | None
    right_to_wrong: int | None
    mcnemar_p: float | None
    p: float | None
    corrected_p: float | None = None
    dataset: str | None = None
    subset: str | None = None

    @property
    def gain(self) -> Estimate:
        """The difference with its sign such that more is better."""
        found = self.difference
        if self.higher_is_better or found.value is None:
            return found
        low, high = (None if end is None else -end for end in (found.high, found.low))
        return Estimate(-found.value, low, high, found.n, found.reason, found.documents)

    @property
    def form(self) -> Form:
        """How scores are written."""
        return share if self.unit == "share" else decimal

    @property
    def change_form(self) -> Form:
        """How the difference is written."""
        return points if self.unit == "share" else signed

    @property
    def label(self) -> str:
        """The metric, the loss behind a perplexity as such, and the filter in brackets."""
        name, _, used = self.metric.partition(",")
        loss = " as loss, nats" if self.unit == "nats" else ""
        return f"{name}{loss}{f' ({used})' if used else ''}"

    @property
    def in_words(self) -> str:
        """What a change of the unit is called behind its number; empty of a share."""
        return self.unit if self.unit in ("nats", "bits") else ""


@dataclass(frozen=True)
class TaskMean(ShortRepr):
    """The unweighted mean over tasks and groups whose scores are shares; ``names`` are theirs."""

    names: tuple[str, ...]
    before: Estimate
    after: Estimate
    difference: Estimate


@dataclass(frozen=True)
class ChangedSample(ShortRepr):
    """A sample that one of the models got right, and the end of what it asks."""

    task: str
    doc_id: int
    gained: bool
    question: str
    target: str


@dataclass(frozen=True)
class ComparedBenchmarks(RunRecord, Figures):
    """Two models on the same benchmark samples, paired (theory §4).

    ``entries`` are the tasks that belong to no group and the groups that the harness makes one
    number of, each by its headline metric; ``inside`` the tasks of those groups, by the group's
    metric; ``others`` the further metrics. ``mean`` is None where fewer than two entries are
    shares. ``samples`` and ``documents`` count those of all tasks; ``document`` is the field that
    says what belongs together, None where each sample is a document. ``table`` has a row for each
    sample and metric.
    """

    KIND: ClassVar[str] = "benchmarks"

    before: str
    after: str
    harness: str
    document: str | None
    samples: int
    documents: int
    entries: tuple[TaskChange, ...]
    inside: tuple[TaskChange, ...]
    others: tuple[TaskChange, ...]
    mean: TaskMean | None
    changed: tuple[ChangedSample, ...]
    notes: tuple[str, ...]
    in_memory: pa.Table | None = field(default=None, repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the table."""
        return {k: v for k, v in record_to_json(self).items() if k != "in_memory"}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ComparedBenchmarks:
        """Read back what ``to_json`` wrote."""
        return record_from_json(cls, values)

    @classmethod
    def of_run(cls, run: FinishedRun) -> ComparedBenchmarks:
        """Open a run whose files are whole; the samples stay on disk."""
        return cls.from_json(run.summary())

    @property
    def table(self) -> pa.Table:
        """A row for each sample and metric: ``task metric doc_id document before after ...``."""
        if self.in_memory is not None:
            return self.in_memory
        assert self.run_folder is not None
        return read_table(Path(self.run_folder) / SAMPLES_FILE)

    def samples_to_pandas(self) -> Any:
        """The table as a pandas DataFrame. Raises UnembedError where pandas is not installed."""
        return frame_of(self.table)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)

    def __str__(self) -> str:
        facts = [("models", f"{self.before} → {self.after}")]
        facts.append(("samples", f"{self.samples:,} in {self.documents:,} documents"))
        if self.mean is not None:
            words = full(self.mean.difference, points)
            facts.append((f"mean of {len(self.mean.names)} tasks", words))
        rows = self._rows()
        widths = [2 + max(len(row[at]) for row in rows) for at in range(1, len(HEAD) - 1)]
        notes = as_text(("note", note) for note in self.notes)
        table = columns(rows, NAME_WIDTH, *widths)
        return "\n\n".join(filter(None, (as_text(facts), table, notes)))

    def _phrases(self) -> Iterator[str]:
        yield f"{self.before} → {self.after}"
        yield from (
            f"{one.name} {full(one.difference, one.change_form, one.in_words)}"
            for one in self.entries
        )

    def _repr_html_(self) -> str:
        header, *rows = self._rows()
        return html_table(rows, header)

    def _rows(self) -> list[tuple[str, ...]]:
        """A header, then a row for each task or group."""
        return [HEAD, *map(_row, self.entries)]


HEAD = ("task", "metric", "before", "after − before", "W→R", "R→W", "p, corrected")


def _row(one: TaskChange) -> tuple[str, ...]:
    flips = ("–" if n is None else f"{n:,}" for n in (one.wrong_to_right, one.right_to_wrong))
    p = one.corrected_p
    return (
        one.name,
        one.label,
        point(one.before, one.form),
        full(one.difference, one.change_form, one.in_words),
        *flips,
        "–" if p is None else "< 0.0001" if p < 1e-4 else decimal(p),
    )
