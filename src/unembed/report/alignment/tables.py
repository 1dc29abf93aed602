"""The tables of alignments: pairs by their joint, pairs by their coupling, tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from unembed.report.alignment.pairs import (
    FORMS,
    NAMES,
    TaskPair,
    by_joint,
    estimate,
    every_pair,
    pair_name,
    why_not,
)
from unembed.report.parts.parts import Table, table_of
from unembed.report.parts.wording import (
    cell,
    count,
    counted,
    decimal,
    interval_cell,
    known,
    point,
    side_of,
    three,
)
from unembed.report.verdicts.samples import OK
from unembed.signatures.alignment.records import Alignments

PAIRS_AT_END = 20
"""Pairs shown at either end of a list that has more than three times as many."""

MOST_COUPLINGS = 6
"""Pairs named next to the chart of couplings, at either end."""

COUPLING_SIGNS = {0: "", 1: " ▲", -1: " ▼"}
"""After a coupling whose interval leaves out 1, as in the chart."""


def pair_tables(alignments: Alignments) -> tuple[Table, ...]:
    """Every pair that has a joint, the most alike first; of many, those at either end.

    Those whose joint is not determined come last, and are at neither end of many.
    """
    pairs, every = by_joint(alignments), every_pair(len(alignments.tasks))
    if len(every) <= 3 * PAIRS_AT_END:
        known = [pair for pair in every if estimate(alignments, "joint", pair).value is not None]
        pairs += [pair for pair in known if pair not in pairs]
    joined = set(pairs)
    left = [pair for pair in every if pair not in joined]
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
        if ours:
            more = f", {MOST_COUPLINGS} of {count(len(ours))}" if len(ours) > MOST_COUPLINGS else ""
            columns: dict[str, Callable[[TaskPair], str]] = {
                "pair": lambda pair: pair_name(alignments, pair),
                "coupling": lambda pair: point(found[pair], three),
                "95 % interval": lambda pair: interval_cell(found[pair], three),
            }
            tables.append(table_of(caption + more, ours[:MOST_COUPLINGS], columns))
    return tuple(tables)


def task_table(alignments: Alignments) -> Table:
    """What is known of each task; those that lack samples are faint."""
    return table_of(
        "δ is the share of a task’s Fisher that its two sides, taken as independent, leave",
        alignments.tasks,
        {
            "task": lambda one: one.name,
            "samples": lambda one: count(one.samples),
            "documents": lambda one: count(one.documents),
            "participation ratio": lambda one: known(one.participation_ratio, decimal),
            "residual δ": lambda one: known(one.residual, three),
            "status": lambda one: one.status,
        },
        lambda one: one.status != OK,
    )


def _pairs(alignments: Alignments, caption: str, pairs: Sequence[TaskPair]) -> Table:
    columns: dict[str, Callable[[TaskPair], str]] = {
        "pair": lambda pair: pair_name(alignments, pair)
    }
    for kind in ("joint", "activation", "error", "coupling", "first_moment"):
        if alignments.pairs(kind) is not None:
            columns[NAMES[kind]] = partial(_cell, alignments, kind)
    doubted = {at for at, task in enumerate(alignments.tasks) if task.status != OK}
    return table_of(caption, pairs, columns, lambda pair: bool(doubted & {pair.first, pair.second}))


def _cell(alignments: Alignments, kind: str, pair: TaskPair) -> str:
    """A quantity of a pair: the joint and the coupling with their intervals."""
    found = estimate(alignments, kind, pair)
    if found.value is None or kind not in ("joint", "coupling"):
        return known(found.value, FORMS[kind])
    return cell(found, FORMS[kind]) + (
        COUPLING_SIGNS[side_of(found, 1.0)] if kind == "coupling" else ""
    )
