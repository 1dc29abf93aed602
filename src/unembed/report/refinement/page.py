"""The page of one refinement: nothing is computed, nothing is fetched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

from unembed.decisions.comparison.summary import ComparisonSummary
from unembed.report.comparison.flow import flow_section
from unembed.report.comparison.margins import margins_section
from unembed.report.parts.facts import command_of, facts_of_both, run_of
from unembed.report.parts.page import template
from unembed.report.parts.parts import Card, Section, Table, card, estimates_table
from unembed.report.parts.wording import (
    Wording,
    capital,
    cell,
    count,
    counted,
    decimal,
    interval_cell,
    point,
    points,
    share,
    signed,
    size,
)
from unembed.report.refinement.curves import training_section, watched_section
from unembed.report.verdicts.refinement import verdict
from unembed.runs.manifest import FinishedRun
from unembed.runs.provenance import Provenance
from unembed.stats.estimate import Estimate
from unembed.training.benchmarks.run import BenchmarkComparison
from unembed.training.run.refinement import Refinement
from unembed.training.run.summary import RefinementSummary, saved_in_words

Number = TypeVar("Number", int, float)

GAIN_AND_COST: tuple[tuple[str, Wording, str, str], ...] = (
    ("Median Δ margin", signed, "logits", "movement.everywhere.margin.median"),
    ("Median Δ scale-free margin", signed, "", "movement.everywhere.relative_distance.median"),
    ("Loss difference", signed, "nats", "calibration.nll_difference_nats"),
    ("Accuracy difference", points, "", "flips.accuracy_difference"),
    ("Churn", share, "", "flips.churn"),
    ("Right → wrong", share, "", "flips.right_to_wrong_share"),
    ("Wrong → right", share, "", "flips.wrong_to_right_share"),
)
"""Gain and cost: name, form, unit, and where a comparison has it."""

CHURNS = "flips.churn", "flips.right_to_wrong_share", "flips.wrong_to_right_share"
"""What has no sign: of the control and the refined model it is no difference of two churns."""


def refinement_page(
    title: str,
    summary: RefinementSummary,
    recipe: Mapping[str, Any],
    facts: Sequence[tuple[str, str]],
    pages: Mapping[str, str],
) -> str:
    """The page of one refinement: gain and cost, how the run went, what moved held out.

    ``recipe`` holds the plain values of the run's recipe, ``pages`` where the pages of its
    comparisons lie, by their folders. Otherwise as ``audit_page``.

    Raises ``ReportUnavailable`` where the extra ``plot`` is not installed.
    """
    return template("refinement").render(
        title=title,
        verdict=verdict(summary),
        extent=extent(summary),
        notes=notes(summary),
        cards=cards(summary),
        sections=sections_of_summary(summary, recipe.get("clip", 0.0)),
        pages=pages,
        facts=(*recipe_facts(recipe), *facts),
    )


def sections_of(refined: Refinement) -> tuple[Section, ...]:
    """Every figure and table of the page."""
    return sections_of_summary(refined.summary, _recipe(run_of(refined)).get("clip", 0.0))


def sections_of_summary(summary: RefinementSummary, clip: float) -> tuple[Section, ...]:
    """Gain and cost, the run step by step, and what moved held out; ``clip`` is the recipe's."""
    moved = (flow_section(summary.heldout), margins_section(summary.heldout))
    found = (
        cost_section(summary),
        training_section(summary, clip),
        watched_section(summary),
        *(replace(section, title=f"Held out: {section.title}") for section in moved),
    )
    return tuple(section for section in found if section is not None)


def extent(summary: RefinementSummary) -> str:
    """What was minimised, for how long, and on how much the two models were compared."""
    what = "cross-entropy alone"
    if summary.has_penalty:
        what = f"cross-entropy + {summary.weight:g} · {summary.objective}"
        if summary.options != f"--weight {summary.weight:g}":
            what = f"cross-entropy + {summary.objective} at {summary.strength}"
    sides = [size(one.n_positions, one.n_documents) for one in (summary.heldout, summary.training)]
    saved = ""
    if summary.rounding is not None:
        saved = f"Saved in {saved_in_words(summary.rounding)}. "
    return (
        f"{capital(what)}, {counted(summary.steps, 'step')}, scope {summary.scope}; "
        f"{summary.moves}. {saved}Audited on {sides[0]} held out and {sides[1]} of the training "
        "text."
    )


def notes(summary: RefinementSummary) -> tuple[str, ...]:
    """What a reader has to know before the numbers."""
    found = []
    if summary.stopped is not None:
        found.append(f"The run stopped {summary.stopped}.")
    if summary.clipped and summary.has_penalty:
        found.append(
            f"At {share(summary.clipped)} of steps the gradient was clipped, and the penalty’s "
            "weight is no clean dose."
        )
    return (*found, *summary.notes)


def cards(summary: RefinementSummary) -> tuple[Card, ...]:
    """Gain and cost held out; what it was on the training text stands below."""
    found = []
    for name, form, unit, path in GAIN_AND_COST:
        heldout, training = map(attrgetter(path), (summary.heldout, summary.training))
        remark = f"{point(training, form)} training"
        if summary.control is not None and path not in CHURNS:
            remark += f"; {point(attrgetter(path)(summary.control), form)} over the control"
        found.append(card(name, heldout, form, unit, remark))
    return tuple(found)


def cost_section(summary: RefinementSummary) -> Section:
    """Gain and cost, held out and on the training text."""
    sides = (summary.heldout, summary.training)
    changes = []
    for name, form, unit, path in GAIN_AND_COST:
        found = [attrgetter(path)(side) for side in sides]
        cells = (word(one, form) for one in found for word in (point, interval_cell))
        changes.append((f"{name}, {unit}" if unit else name, *cells))
    levels = []
    for name, form, before, after in (
        ("loss, nats", decimal, "calibration.before.nll_nats", "calibration.after.nll_nats"),
        ("accuracy", share, "flips.accuracy_before", "flips.accuracy_after"),
    ):
        found = [one for side in sides for one in attrgetter(before, after)(side)]
        levels.append((name, *(cell(one, form) for one in found)))
    return Section(
        "cost",
        "Gain and cost",
        "Gain on the training text that held-out text does not show is memory. An interval that "
        "holds 0 tells no change from chance.",
        tables=(
            Table(
                "After − before, with 95 % intervals",
                ("figure", "held out", "95 % interval", "training", "95 % interval"),
                tuple(changes),
            ),
            Table(
                "Before and after",
                ("figure", "held out, before", "after", "training, before", "after"),
                tuple(levels),
            ),
            *control_tables(summary.control),
            *benchmark_tables(summary.benchmarks),
        ),
    )


def control_tables(control: ComparisonSummary | None) -> tuple[Table, ...]:
    """What the penalty adds to the same training without it, held out."""
    if control is None:
        return ()
    caption = "What the penalty adds: from the control to the refined model, held out"
    figures = {
        f"{name}, {unit}" if unit else name: (attrgetter(path)(control), form)
        for name, form, unit, path in GAIN_AND_COST
    }
    return (estimates_table(caption, figures),)


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
        interval_cell(difference, signed),
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


def page_of_run(refined: Refinement, run: FinishedRun | None, links: Mapping[str, str]) -> str:
    """The page of a refinement, with links to those of its comparisons."""
    sides = (refined.heldout.provenance[side] for side in ("before", "after"))
    old, new = (Provenance.from_json(side) for side in sides)
    by = refined.summary.objective
    how = "without a penalty" if by == "none" else f"by {by}"
    title = f"{Path(old.model).name}, refined {how}"
    facts = facts_of_both(old, new, command_of(run))
    return refinement_page(title, refined.summary, _recipe(run), facts, links)


def _recipe(run: FinishedRun | None) -> dict[str, Any]:
    """The plain values of a run's recipe."""
    return {} if run is None else dict(run.key["recipe"])
