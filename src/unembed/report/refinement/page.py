"""The page of one refinement: nothing is computed, nothing is fetched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from unembed.decisions.comparison.summary import ComparisonSummary
from unembed.report.comparison.flow import flow_section
from unembed.report.comparison.margins import margins_section, sharpening_words
from unembed.report.parts.facts import facts_of_both
from unembed.report.parts.page import template
from unembed.report.parts.parts import Card, Section, Table, card
from unembed.report.parts.wording import (
    Wording,
    count,
    counted,
    decimal,
    full,
    interval,
    point,
    points,
    share,
    signed,
)
from unembed.report.refinement.curves import training_section, watched_section
from unembed.runs.manifest import FinishedRun
from unembed.runs.provenance import Provenance
from unembed.stats.estimate import Estimate
from unembed.training.benchmarks.run import BenchmarkComparison
from unembed.training.run.summary import RefinementSummary
from unembed.training.run.train import Refinement

Number = TypeVar("Number", int, float)
GainOrCost = tuple[str, Wording, str, Callable[[ComparisonSummary], Estimate]]

GAIN_AND_COST: tuple[GainOrCost, ...] = (
    ("Median Δ margin", signed, "logits", lambda s: s.movement.everywhere.margin.median),
    (
        "Median Δ scale-free margin",
        signed,
        "",
        lambda s: s.movement.everywhere.relative_distance.median,
    ),
    ("Loss difference", signed, "nats", lambda s: s.calibration.nll_difference_nats),
    ("Accuracy difference", points, "", lambda s: s.flips.accuracy_difference),
    ("Churn", share, "", lambda s: s.flips.churn),
    ("Right → wrong", share, "", lambda s: s.flips.right_to_wrong_share),
    ("Wrong → right", share, "", lambda s: s.flips.wrong_to_right_share),
)
"""Gain and cost: name, form, unit, and where a comparison has it."""


def refinement_page(
    title: str,
    summary: RefinementSummary,
    recipe: Mapping[str, Any],
    facts: Sequence[tuple[str, str]],
    pages: tuple[str, str],
) -> str:
    """The page of one refinement: gain and cost, how the run went, what moved held out.

    ``recipe`` holds the plain values of the run's recipe, ``pages`` where the held-out and the
    training comparison's pages lie. Otherwise as ``audit_page``.

    Raises ``ReportUnavailable`` where the extra ``plot`` is not installed.
    """
    watched = watched_section(summary)
    moved = (
        flow_section(summary.heldout),
        margins_section(summary.heldout),
    )
    return template("refinement").render(
        title=title,
        reading=reading(summary),
        extent=extent(summary),
        account=account(summary),
        notes=notes(summary),
        cards=cards(summary),
        sections=(
            cost_section(summary),
            training_section(summary, recipe["clip"]),
            *([] if watched is None else [watched]),
            *(replace(section, title=f"Held out: {section.title}") for section in moved),
        ),
        heldout_page=pages[0],
        training_page=pages[1],
        facts=(*recipe_facts(recipe), *facts),
    )


def reading(summary: RefinementSummary) -> str:
    """Gain and cost, held out, in one sentence."""
    side = summary.heldout
    margin, loss = side.movement.everywhere.margin.median, side.calibration.nll_difference_nats
    if margin.value is None or loss.value is None:
        return f"Nothing can be said of held-out text: {margin.reason or loss.reason}."
    return (
        f"Held out, the median margin changed by {signed(margin.value)} logits and the loss by "
        f"{signed(loss.value)} nats."
    )


def extent(summary: RefinementSummary) -> str:
    """What was minimised, for how long, and on how much the two models were compared."""
    what = "cross-entropy alone"
    if not _control(summary):
        what = f"cross-entropy + {summary.weight:g} · {summary.objective}"
    return (
        f"{what[0].upper()}{what[1:]}, {counted(summary.steps, 'step')}, scope {summary.scope}; "
        f"{summary.moves}. Audited on {_size(summary.heldout)} held out and "
        f"{_size(summary.training)} of the training text."
    )


def account(summary: RefinementSummary) -> str:
    """What the margins say of a temperature, and what to hold the figures against."""
    control = (
        "This is a control: what training on this text does without a penalty"
        if _control(summary)
        else "Training on this text alone changes decisions too: hold these figures against a run "
        "of the same recipe with objective none"
    )
    return f"{sharpening_words(summary.heldout.movement.sharpening)} {control}."


def _control(summary: RefinementSummary) -> bool:
    return summary.objective == "none" or summary.weight == 0


def notes(summary: RefinementSummary) -> tuple[str, ...]:
    """What a reader has to know before the numbers."""
    found = []
    if summary.stopped is not None:
        found.append(f"The run stopped {summary.stopped}.")
    if summary.clipped and not _control(summary):
        found.append(
            f"At {share(summary.clipped)} of steps the gradient was clipped, and the penalty’s "
            "weight is no clean dose."
        )
    return tuple(found)


def cards(summary: RefinementSummary) -> tuple[Card, ...]:
    """Gain and cost held out; what it was on the training text stands below."""
    return tuple(
        card(name, of(summary.heldout), form, unit, f"{point(of(summary.training), form)} training")
        for name, form, unit, of in GAIN_AND_COST
    )


def cost_section(summary: RefinementSummary) -> Section:
    """Gain and cost, held out and on the training text."""
    table = Table(
        "After − before, with 95 % intervals",
        ("figure", "held out", "95 % interval", "training", "95 % interval"),
        tuple(_both_texts(summary, *figure) for figure in GAIN_AND_COST),
    )
    levels = Table(
        "Before and after",
        ("figure", "held out, before", "after", "training, before", "after"),
        (
            _levels(summary, "loss, nats", decimal, _losses),
            _levels(summary, "accuracy", share, _accuracies),
        ),
    )
    return Section(
        "cost",
        "Gain and cost",
        "Gain on the training text that held-out text does not show is memory. An interval that "
        "holds 0 tells no change from chance.",
        tables=(table, levels, *benchmark_tables(summary.benchmarks)),
    )


def benchmark_tables(benchmarks: BenchmarkComparison | None) -> tuple[Table, ...]:
    """Every task before and after with its paired difference, and the mean over tasks."""
    if benchmarks is None:
        return ()
    means = (benchmarks.mean_before, benchmarks.mean_after, benchmarks.mean_difference)
    rows = [
        (
            f"{task.task}, {task.metric}",
            *_scored(task.before, task.after, task.difference, task.standard_error),
            _or_blank(task.right_to_wrong, count),
            _or_blank(task.wrong_to_right, count),
            _or_blank(task.mcnemar_p, decimal),
        )
        for task in benchmarks.tasks
    ]
    mean = (
        f"mean of {counted(len(rows), 'task')}",
        *_scored(*means, benchmarks.mean_standard_error),
        *("", "", ""),
    )
    of = "" if benchmarks.limit is None else f", the first {count(benchmarks.limit)} of each task"
    head = (
        *("task, metric", "documents", "before", "after", "difference"),
        *("95 % interval", "standard error", "right → wrong", "wrong → right", "McNemar’s p"),
    )
    caption = f"Benchmarks of lm-evaluation-harness, paired by document{of}"
    return (Table(caption, head, (*rows, mean)),)


def recipe_facts(recipe: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Everything that decided the run, as label and value."""
    plain = {name: value for name, value in recipe.items() if not isinstance(value, dict)}
    yield "Training", _words(plain)
    for name, values in recipe.items():
        if isinstance(values, dict):
            yield name.capitalize(), _words(values)


def _scored(
    before: Estimate, after: Estimate, difference: Estimate, standard_error: float | None
) -> tuple[str, ...]:
    return (
        count(difference.n),
        point(before, decimal),
        point(after, decimal),
        point(difference, signed),
        interval(difference, signed),
        _or_blank(standard_error, decimal),
    )


def _or_blank(value: Number | None, form: Callable[[Number], str]) -> str:
    return "" if value is None else form(value)


def _words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_value(value)}" for name, value in values.items())


def _value(value: Any) -> str:
    if isinstance(value, list | dict):
        return f"({', '.join(map(str, value.items() if isinstance(value, dict) else value))})"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _size(side: ComparisonSummary) -> str:
    return f"{counted(side.n_positions, 'position')} in {counted(side.n_documents, 'document')}"


def _both_texts(
    summary: RefinementSummary,
    name: str,
    form: Wording,
    unit: str,
    of: Callable[[ComparisonSummary], Estimate],
) -> tuple[str, ...]:
    cells = []
    for side in (summary.heldout, summary.training):
        cells += [point(of(side), form), interval(of(side), form)]
    return (f"{name}, {unit}" if unit else name, *cells)


def _levels(
    summary: RefinementSummary,
    name: str,
    form: Wording,
    of: Callable[[ComparisonSummary], tuple[Estimate, Estimate]],
) -> tuple[str, ...]:
    sides = (summary.heldout, summary.training)
    return (name, *(full(estimate, form) for side in sides for estimate in of(side)))


def _losses(side: ComparisonSummary) -> tuple[Estimate, Estimate]:
    return side.calibration.before.nll_nats, side.calibration.after.nll_nats


def _accuracies(side: ComparisonSummary) -> tuple[Estimate, Estimate]:
    return side.flips.accuracy_before, side.flips.accuracy_after


def page_of_run(refined: Refinement, run: FinishedRun, links: Mapping[str, str]) -> str:
    """The page of a finished refinement, with links to those of its comparisons."""
    sides = (refined.heldout.provenance[side] for side in ("before", "after"))
    old, new = (Provenance.from_json(side) for side in sides)
    title = f"{Path(old.model).name}, refined"
    facts = facts_of_both(old, new, run.command)
    pages = (links["heldout"], links["training"])
    return refinement_page(title, refined.summary, run.key["recipe"], facts, pages)
