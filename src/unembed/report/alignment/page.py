"""The page of alignments: who is like whom, and where the likeness comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unembed.report.alignment import charts
from unembed.report.alignment.maps import Labels, bare_map, labelled_map
from unembed.report.alignment.pairs import (
    FORMS,
    MEANINGS,
    NAMES,
    OF_PARTS,
    by_joint,
    estimate,
    every_pair,
    hint_data,
    possible,
)
from unembed.report.alignment.tables import coupling_tables, pair_tables, task_table
from unembed.report.parts.drawing import draw
from unembed.report.parts.facts import command_of, kept_facts, with_command
from unembed.report.parts.marks import spaced
from unembed.report.parts.page import template
from unembed.report.parts.parts import Figure, Key, Section
from unembed.report.parts.wording import count, counted, determined, two
from unembed.report.verdicts.alignment import verdict
from unembed.report.verdicts.samples import OK, doubted_notes
from unembed.runs.manifest import FinishedRun
from unembed.signatures.alignment.ordering import Dendrogram, dendrogram
from unembed.signatures.alignment.records import Alignments
from unembed.signatures.network.names import part_words


@dataclass(frozen=True)
class GlossaryTerm:
    """A quantity, over what it ranges here, and what it means."""

    name: str
    span: str
    meaning: str


def alignment_page(
    alignments: Alignments,
    *,
    title: str,
    facts: Sequence[tuple[str, str]] = (),
    command: str = "",
) -> str:
    """The page of alignments: maps in one order, coupling, first moments, pairs, tasks.

    ``facts`` are label and value of what produced the numbers, to which ``command`` is added. One
    file that loads nothing; the same arguments give the same page, byte for byte.

    Raises ``ReportUnavailable`` where the extra ``plot`` is not installed.
    """
    tree = dendrogram(alignments.joint.value)
    return template("alignment").render(
        title=title,
        verdict=verdict(alignments),
        extent=extent(alignments),
        notes=notes(alignments),
        terms=terms(alignments),
        maps=map_figures(alignments, tree),
        sections=_sections(alignments, tree),
        facts=with_command(facts, command),
        hints=hint_data(alignments, tree.order),
    )


def sections_of(alignments: Alignments) -> tuple[Section, ...]:
    """Every figure and table of the page."""
    tree = dendrogram(alignments.joint.value)
    maps = Section("maps", "Who is like whom", "", map_figures(alignments, tree))
    return (maps, *_sections(alignments, tree))


def _sections(alignments: Alignments, tree: Dendrogram) -> tuple[Section, ...]:
    found = (
        coupling_section(alignments),
        first_moment_section(alignments, tree),
        pairs_section(alignments),
        tasks_section(alignments),
    )
    return tuple(section for section in found if section is not None)


def extent(alignments: Alignments) -> str:
    """How much was compared, and how."""
    samples = sum(task.samples for task in alignments.tasks)
    debiased = "debiased" if alignments.debiased else "not debiased"
    return (
        f"{counted(len(alignments.tasks), 'task')}, {count(samples)} samples, each one "
        f"{alignments.unit}. Fisher: {alignments.fisher}, {debiased}. Method: {alignments.method}."
    )


def notes(alignments: Alignments) -> tuple[str, ...]:
    """What a reader must know before trusting a number."""
    found = doubted_notes([(task.name, task.status) for task in alignments.tasks], "task")
    if not alignments.debiased:
        found.append(
            "The norms count each sample against itself: the fewer the samples, the lower every "
            "joint reads."
        )
    return tuple(found)


def terms(alignments: Alignments) -> tuple[GlossaryTerm, ...]:
    """The quantities that were kept, each with its least and its largest value."""
    found = []
    for kind, meaning in MEANINGS.items():
        if alignments.pairs(kind) is None:
            continue
        values = [
            float(one)
            for pair in every_pair(len(alignments.tasks))
            if determined(one := estimate(alignments, kind, pair), FORMS[kind])
        ]
        span = dict.fromkeys((two(min(values)), two(max(values)))) if values else ("none",)
        said = OF_PARTS.get(kind, meaning) if alignments.part else meaning
        found.append(GlossaryTerm(NAMES[kind], " to ".join(span), said))
    return tuple(found)


def map_figures(alignments: Alignments, tree: Dendrogram) -> tuple[Figure, ...]:
    """Joint with its names and tree, then activation and error in the same order."""
    labels = _labels(alignments, tree)
    grid = np.ix_(tree.order, tree.order)
    joint = Figure(
        "joint",
        "Joint",
        "Average linkage on 1 − joint gives the order. Where two branches of the tree meet, the "
        "farther right, the less alike their tasks are on average.",
        labelled_map(possible(alignments, "joint")[grid], "joint", labels),
        (Key("ramp-plain", "0 to 1"), *_missing(alignments)),
    )
    figures = [joint]
    for kind, caption in (
        ("activation", "The input side: hidden states."),
        ("error", "The output side: predicted against observed tokens."),
    ):
        found = alignments.pairs(kind)
        if found is not None:
            chart = bare_map(possible(alignments, kind)[grid], kind, labels)
            figures.append(Figure(kind, NAMES[kind].capitalize(), caption, chart))
    return tuple(figures)


def coupling_section(alignments: Alignments) -> Section | None:
    """Joint against the product of its marginals; None where either was not kept."""
    if alignments.coupling is None or alignments.proxy is None:
        return None
    pairs = by_joint(alignments)
    chosen = spaced(pairs, charts.MOST_PAIRS_DRAWN)
    figure = Figure(
        "coupling",
        "Joint against activation × error",
        "On the dashed diagonal coupling is 1. Lines are 95 % intervals, of sketch and of samples "
        "together." + _some(len(chosen), len(pairs)),
        draw(charts.against_proxy(alignments, chosen), "joint against activation × error, by pair"),
        (
            Key("above-one", "coupling above 1"),
            Key("below-one", "below 1"),
            Key("undecided", "neither, within error"),
        ),
    )
    return Section(
        "coupling",
        "Where the likeness comes from",
        "If what a task gets wrong had nothing to do with where it gets it wrong, the joint would "
        "be the product of the two sides. Pairs above the diagonal share errors in shared states; "
        "pairs below make the same errors elsewhere.",
        (figure,),
        coupling_tables(alignments),
    )


def first_moment_section(alignments: Alignments, tree: Dendrogram) -> Section | None:
    """Signed cosines of mean gradients; None where they were not kept."""
    if alignments.first_moment is None:
        return None
    pairs = [
        pair
        for pair in by_joint(alignments)
        if estimate(alignments, "first_moment", pair).value is not None
    ]
    chosen = spaced(pairs, charts.MOST_PAIRS_DRAWN)
    moments = possible(alignments, "first_moment")[np.ix_(tree.order, tree.order)]
    figures = (
        Figure(
            "first-moment-joint",
            "First moment against joint",
            "Points far below the rest: the same directions, pushed the opposite way."
            + _some(len(chosen), len(pairs)),
            draw(charts.against_joint(alignments, chosen), "first moment against joint, by pair"),
            (Key("below-one", "below 0"), Key("undecided", "above 0, or neither")),
        ),
        Figure(
            "first-moment",
            "First moment",
            "In the order of the maps above.",
            bare_map(moments, "first_moment", _labels(alignments, tree), signed=True, width=480.0),
            (Key("ramp-signed", "−1 to 1"), *_missing(alignments)),
        ),
    )
    return Section(
        "direction",
        "Together, or against each other",
        "The joint does not see signs: a task and the same task with its labels turned around can "
        "reach 1. The cosine of mean gradients tells them apart.",
        figures,
    )


def pairs_section(alignments: Alignments) -> Section:
    """The pairs in numbers."""
    return Section(
        "pairs",
        "Pairs in numbers",
        "Values with 95 % intervals"
        + (". ▲ and ▼: the coupling’s interval leaves out 1." if alignments.coupling else ".")
        + " Faint rows have a task that lacks samples.",
        (),
        pair_tables(alignments),
    )


def tasks_section(alignments: Alignments) -> Section:
    """The tasks in numbers."""
    return Section(
        "tasks",
        "Tasks",
        "The participation ratio is the effective number of directions that a task’s updates "
        "spread over: the larger it is, the more samples a joint takes.",
        tables=(task_table(alignments),),
    )


def _labels(alignments: Alignments, tree: Dendrogram) -> Labels:
    """The tasks' names in the order of the maps."""
    tasks = [alignments.tasks[at] for at in tree.order]
    doubted = frozenset(at for at, task in enumerate(tasks) if task.status != OK)
    return Labels(tuple(task.name for task in tasks), doubted, tree)


def _missing(alignments: Alignments) -> tuple[Key, ...]:
    lacking = bool(np.isnan(possible(alignments, "joint")).any())
    return (Key("missing", "not determined"),) if lacking else ()


def _some(drawn: int, pairs: int) -> str:
    if drawn == pairs:
        return ""
    return f" {count(drawn)} of {count(pairs)} pairs are drawn, at even ranks of the joint."


def page_of_run(alignments: Alignments, run: FinishedRun | None, _links: Mapping[str, str]) -> str:
    """The page of alignments."""
    title = f"How alike {len(alignments.tasks)} tasks would move {part_words(alignments.part)}"
    return alignment_page(alignments, title=title, facts=kept_facts(run), command=command_of(run))
