"""The page of two models on the same benchmark samples: which tasks differ, and how surely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from unembed.decisions.benchmarks.record import ChangedSample, ComparedBenchmarks, TaskChange
from unembed.report.parts.facts import command_of, kept_facts, with_command
from unembed.report.parts.forest import (
    Cell,
    Forest,
    ForestRow,
    ReferenceLine,
    forest_figure,
    reach,
)
from unembed.report.parts.page import template
from unembed.report.parts.parts import Card, Section, Table, card, table_of
from unembed.report.parts.scales import scale_of
from unembed.report.parts.wording import (
    bounded,
    count,
    counted,
    p_value,
    point,
    points,
    share,
    short,
)
from unembed.report.verdicts.benchmarks import LEVEL_IN_WORDS, called, verdict
from unembed.runs.manifest import FinishedRun
from unembed.stats.estimate import Estimate

KINDS = {
    "scores": ("Scores", ("share",)),
    "losses": ("Losses: less is better", ("nats", "bits")),
    "numbers": ("Scores of other scales", ("number",)),
}
"""What stands on one axis: its name, its title and the units."""
LONGEST_QUESTION, LONGEST_TARGET = 110, 40


def benchmarks_page(
    found: ComparedBenchmarks,
    *,
    title: str,
    facts: Sequence[tuple[str, str]] = (),
    command: str = "",
) -> str:
    """The page of two models' benchmark logs: verdict, tasks, groups, samples, other metrics.

    ``facts`` are label and value of what produced the numbers, to which ``command`` is added. One
    file that loads nothing; the same arguments give the same page, byte for byte.
    """
    return template("benchmarks").render(
        title=title,
        verdict=verdict(found),
        extent=extent(found),
        notes=found.notes,
        cards=cards(found),
        mean=None if found.mean is None else counted(len(found.mean.names), "task"),
        level=LEVEL_IN_WORDS,
        forests=[forest for _, forest in forests(found.entries, "The tasks")],
        inside=[forest for _, forest in forests(found.inside, "In the groups")],
        others=[forest for _, forest in forests(found.others, "Other metrics")],
        changed=changed_tables(found.changed),
        facts=with_command(facts, command),
    )


def sections_of(found: ComparedBenchmarks) -> tuple[Section, ...]:
    """Every figure and table of the page."""
    named = (
        ("tasks", "Task by task", found.entries),
        ("inside", "In the groups", found.inside),
        ("metrics", "Other metrics", found.others),
    )
    sections = []
    for name, title, changes in named:
        figures = tuple(
            forest_figure(kind if name == "tasks" else name + f"-{kind}" * (at > 0), title, forest)
            for at, (kind, forest) in enumerate(forests(changes, title))
        )
        if figures:
            sections.append(Section(name, title, "", figures))
    if found.changed:
        tables = changed_tables(found.changed)
        sections.append(Section("samples", "Samples that changed", "", (), tables))
    return tuple(sections)


def extent(found: ComparedBenchmarks) -> str:
    """How much was compared, and by which rule samples belong together."""
    groups = sum(bool(one.parts) for one in found.entries)
    tasks = counted(len(found.entries) - groups, "task")
    several = f" and {counted(groups, 'group')} of {count(len(found.inside))} tasks"
    samples = counted(found.samples, "sample")
    if found.document is None:
        samples += ", each its own document"
    else:
        samples += f" in {counted(found.documents, 'document')} by {found.document}"
    return f"{tasks}{several * (groups > 0)}, {samples}. {found.harness}."


def cards(found: ComparedBenchmarks) -> tuple[Card, ...]:
    """Before, after and their difference: of the mean over tasks, or of the only one."""
    first = found.entries[0]
    form, change, unit = first.form, first.change_form, first.in_words
    of = f"{first.name}, {first.label}"
    sides = first.difference, first.before, first.after
    if found.mean is not None:
        of, form, change, unit = "Mean over tasks", share, points, ""
        sides = found.mean.difference, found.mean.before, found.mean.after
    elif len(found.entries) > 1:
        return ()
    names = f"{of}: after − before", f"{of}, before", f"{of}, after"
    forms = change, form, form
    return tuple(
        card(name, side, how, unit) for name, side, how in zip(names, sides, forms, strict=True)
    )


def forests(changes: Sequence[TaskChange], title: str) -> list[tuple[str, Forest]]:
    """A forest for each kind of unit that there is, by its name."""
    found = []
    for name, (kind, units) in KINDS.items():
        chosen = [one for one in changes if one.unit in units]
        if chosen:
            found.append((name, forest(chosen, f"{title}. {kind}")))
    return found


def forest(changes: Sequence[TaskChange], caption: str) -> Forest:
    """Differences on one axis; those called better or worse stand out."""
    drawn = [_scaled(one.difference, one.change_form.scale) for one in changes]
    rows = tuple(
        ForestRow(
            f"{one.name}, {one.label}",
            *ends,
            (
                Cell(called(one)),
                Cell(bounded(one.difference, one.change_form)),
                Cell(point(one.before, one.form)),
                Cell(point(one.after, one.form)),
                Cell(count(one.n)),
                Cell("–" if one.wrong_to_right is None else count(one.wrong_to_right)),
                Cell("–" if one.right_to_wrong is None else count(one.right_to_wrong)),
                Cell("–" if one.corrected_p is None else p_value(one.corrected_p)),
            ),
            "lead" if called(one) in ("better", "worse") else "",
        )
        for one, ends in zip(changes, drawn, strict=True)
    )
    unit = "pp" if changes[0].unit == "share" else changes[0].unit
    head = ("task", f"difference, {unit}", "called", "after − before", "before", "after")
    return Forest(
        caption=caption,
        head=(*head, "samples", "W→R", "R→W", "p"),
        scale=scale_of([0.0, *reach(rows)]),
        rows=rows,
        line=ReferenceLine(0.0, "no difference"),
    )


def _scaled(estimate: Estimate, scale: float) -> tuple[float | None, float | None, float | None]:
    """Value and ends on the axis."""
    value, low, high = (
        None if end is None else scale * end
        for end in (estimate.value, estimate.low, estimate.high)
    )
    return value, low, high


def changed_tables(changed: Sequence[ChangedSample]) -> tuple[Table, ...]:
    """Samples that became wrong, and samples that became right."""
    return tuple(
        table_of(
            caption,
            [one for one in changed if one.gained == gained],
            {
                "task": lambda one: one.task,
                "doc_id": lambda one: str(one.doc_id),
                "target": lambda one: short(one.target, LONGEST_TARGET),
                "the end of what it asks": lambda one: _end(one.question),
            },
        )
        for gained, caption in (
            (False, "Right before, wrong after"),
            (True, "Wrong before, right after"),
        )
        if any(one.gained == gained for one in changed)
    )


def _end(question: str) -> str:
    """The end of a question in one line."""
    plain = " ".join(question.split())
    return plain if len(plain) <= LONGEST_QUESTION else f"…{plain[1 - LONGEST_QUESTION :]}"


def page_of_run(
    found: ComparedBenchmarks, run: FinishedRun | None, _links: Mapping[str, str]
) -> str:
    """The page of two models' benchmark logs."""
    title = f"Benchmarks, {_short(found.before)} → {_short(found.after)}"
    return benchmarks_page(found, title=title, facts=kept_facts(run), command=command_of(run))


def _short(name: str) -> str:
    """The last part of a model's name or path."""
    return name.rstrip("/").rpartition("/")[2] or name
