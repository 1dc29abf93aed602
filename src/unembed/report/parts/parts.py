"""What a page is made of: cards, figures with their tables, sections."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from unembed.report.parts import wording
from unembed.report.parts.drawing import Chart
from unembed.report.parts.wording import Wording
from unembed.stats.estimate import Estimate

Item = TypeVar("Item")


@dataclass(frozen=True)
class Card:
    """One headline number. Without a ``value``, ``reason`` says why."""

    label: str
    value: str | None
    unit: str
    interval: str
    n: str
    reason: str
    remark: str


@dataclass(frozen=True)
class Table:
    """A table whose first column names the row; the rows ``faint`` rest on little.

    ``estimates`` are what its rows say in words, where each of them is one estimate.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    faint: frozenset[int] = frozenset()
    estimates: tuple[Estimate | None, ...] = ()

    @property
    def heading(self) -> str:
        """The caption, and what the mark of few documents says where a cell has it."""
        marked = any(cell.endswith(wording.FEW_MARK) for row in self.rows for cell in row[1:])
        return f"{self.caption}. {wording.FEW_LEGEND}" if marked else self.caption


@dataclass(frozen=True)
class Key:
    """One entry of a figure's key: ``look`` is a class of the stylesheet."""

    look: str
    label: str


@dataclass(frozen=True)
class Figure:
    """A chart, how to read it, and the same numbers as tables."""

    name: str
    title: str
    caption: str
    chart: Chart
    keys: tuple[Key, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Section:
    """A heading with a sentence or two, then figures side by side, then tables.

    ``folded`` tables lie closed under the words ``more``.
    """

    name: str
    title: str
    lead: str
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    folded: tuple[Table, ...] = ()
    more: str = ""


def charts_or_tables(
    figures: Iterable[tuple[Figure, int]],
) -> tuple[tuple[Figure, ...], tuple[Table, ...]]:
    """The figures that show two groups or more, each given with how many it shows.

    Of the others, charts of one dot, the tables, each once.
    """
    shown: list[Figure] = []
    tables: list[Table] = []
    for figure, groups in figures:
        if groups > 1:
            shown.append(figure)
        else:
            tables += [table for table in figure.tables if table not in tables]
    return tuple(shown), tuple(tables)


def card(label: str, estimate: Estimate, form: Wording, unit: str = "", remark: str = "") -> Card:
    """A card from an estimate."""
    return Card(
        label=label,
        value=None if estimate.value is None else wording.point(estimate, form),
        unit=unit,
        interval=wording.interval(estimate, form),
        n=", ".join(filter(None, (wording.count(estimate.n), wording.few_documents(estimate)))),
        reason=estimate.reason or "",
        remark=remark,
    )


def table_of(
    caption: str,
    items: Iterable[Item],
    columns: Mapping[str, Callable[[Item], str]],
    faint: Callable[[Item], bool] = lambda _: False,
) -> Table:
    """A row for each item: a column is its head and what it says of an item."""
    found = list(items)
    rows = tuple(tuple(column(item) for column in columns.values()) for item in found)
    few = frozenset(at for at, item in enumerate(found) if faint(item))
    return Table(caption, tuple(columns), rows, few)


def estimates_table(
    caption: str, rows: Mapping[str, tuple[Estimate, Wording] | str], first: str = "figure"
) -> Table:
    """Estimates by name with their intervals; what is in words already has none."""
    return Table(
        caption,
        (first, "value", "95 % interval"),
        tuple(
            (name, one, "")
            if isinstance(one, str)
            else (name, wording.point(*one), wording.interval_cell(*one))
            for name, one in rows.items()
        ),
        estimates=tuple(None if isinstance(one, str) else one[0] for one in rows.values()),
    )
