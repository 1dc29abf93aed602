"""The tables of alignments: pairs by their joint, pairs by their coupling, tasks."""

from __future__ import annotations

from collections.abc import Sequence

from unembed.report.alignment.pairs import (
    NAMES,
    OK,
    TaskPair,
    by_joint,
    estimate,
    every_pair,
    pair_name,
    why_not,
)
from unembed.report.parts.parts import Table
from unembed.report.parts.wording import (
    count,
    counted,
    decimal,
    full,
    interval,
    point,
    side_of,
    three,
)
from unembed.signatures.alignment.records import Alignments

PAIRS_AT_END = 20
"""Pairs shown at either end of a list that has more than three times as many."""

MOST_COUPLINGS = 6
"""Pairs named next to the chart of couplings, at either end."""

COUPLING_SIGNS = {0: "", 1: " ▲", -1: " ▼"}
"""After a coupling whose interval leaves out 1, as in the chart."""


def pair_tables(alignments: Alignments) -> tuple[Table, ...]:
    """Every pair that has a joint, the most alike first; of many, those at either end."""
    pairs = by_joint(alignments)
    known = set(pairs)
    left = [pair for pair in every_pair(len(alignments.tasks)) if pair not in known]
    missing = ""
    if left:
        reasons = list(dict.fromkeys(why_not(alignments, pair) for pair in left))
        more = f"; and {counted(len(reasons) - 3, 'other reason')}" if len(reasons) > 3 else ""
        missing = f". {counted(len(left), 'pair')} without a joint: {'; '.join(reasons[:3])}{more}"
    if len(pairs) <= 3 * PAIRS_AT_END:
        return (_pairs(alignments, "Pairs by their joint, the most alike first" + missing, pairs),)
    of = f"of {count(len(pairs))} pairs"
    return (
        _pairs(alignments, f"The {PAIRS_AT_END} most alike {of}{missing}", pairs[:PAIRS_AT_END]),
        _pairs(
            alignments,
            f"The {PAIRS_AT_END} least alike {of}, the least first",
            pairs[: -PAIRS_AT_END - 1 : -1],
        ),
    )


def coupling_tables(alignments: Alignments) -> tuple[Table, ...]:
    """The pairs that coupling raises and lowers the most, of those whose interval leaves out 1."""
    found = {pair: estimate(alignments, "coupling", pair) for pair in by_joint(alignments)}
    tables = []
    for side, caption in ((1, "Raised the most"), (-1, "Lowered the most")):
        ours = [pair for pair, one in found.items() if side_of(one, 1.0) == side]
        ours.sort(key=lambda pair: -side * (found[pair].value or 0.0))
        rows = tuple(
            (pair_name(alignments, pair), *_value_and_interval(alignments, pair))
            for pair in ours[:MOST_COUPLINGS]
        )
        if rows:
            more = f", {MOST_COUPLINGS} of {count(len(ours))}" if len(ours) > MOST_COUPLINGS else ""
            tables.append(Table(caption + more, ("pair", "coupling", "95 % interval"), rows))
    return tuple(tables)


def task_table(alignments: Alignments) -> Table:
    """What is known of each task; those that lack samples are faint."""
    rows = []
    for task in alignments.tasks:
        spread = task.participation_ratio
        rows.append(
            (
                task.name,
                count(task.samples),
                count(task.documents),
                "none" if spread is None else decimal(spread),
                "none" if task.residual is None else three(task.residual),
                task.status,
            )
        )
    return Table(
        "δ is the share of a task’s Fisher that its two sides, taken as independent, leave",
        ("task", "samples", "documents", "participation ratio", "residual δ", "status"),
        tuple(rows),
        frozenset(at for at, task in enumerate(alignments.tasks) if task.status != OK),
    )


def _pairs(alignments: Alignments, caption: str, pairs: Sequence[TaskPair]) -> Table:
    kinds = [
        kind
        for kind in ("joint", "activation", "error", "coupling", "first_moment")
        if alignments.pairs(kind) is not None
    ]
    rows = []
    for pair in pairs:
        cells = []
        for kind in kinds:
            found = estimate(alignments, kind, pair)
            if kind == "joint":
                cells.append(full(found, three))
            elif found.value is None:
                cells.append("none")
            elif kind == "coupling":
                cells.append(full(found, three) + COUPLING_SIGNS[side_of(found, 1.0)])
            else:
                cells.append(three(found.value))
        rows.append((pair_name(alignments, pair), *cells))
    doubted = frozenset(
        at
        for at, pair in enumerate(pairs)
        if any(alignments.tasks[one].status != OK for one in (pair.first, pair.second))
    )
    return Table(caption, ("pair", *(NAMES[kind] for kind in kinds)), tuple(rows), doubted)


def _value_and_interval(alignments: Alignments, pair: TaskPair) -> tuple[str, str]:
    found = estimate(alignments, "coupling", pair)
    return point(found, three), interval(found, three)
