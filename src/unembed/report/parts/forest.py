"""A forest plot that is a table: each row a name, a dot with its interval, and its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unembed.report.parts.scales import Scale

SCROLLS_FROM = 40
"""Rows from which on the table scrolls in a frame of its own."""


@dataclass(frozen=True)
class Cell:
    """What a cell says; ``bar``, from 0 to 1, is drawn before it."""

    text: str
    bar: float | None = None


@dataclass(frozen=True)
class ForestRow:
    """One row. Without a ``value`` nothing is drawn, without ``low`` and ``high`` no interval.

    ``look`` is "lead" for a row to see first, "faint" for one that matters less, or empty.
    """

    name: str
    value: float | None
    low: float | None
    high: float | None
    cells: tuple[Cell, ...]
    look: str = ""


@dataclass(frozen=True)
class ReferenceLine:
    """A value that is marked all the way down, and what it is."""

    at: float
    label: str


@dataclass(frozen=True)
class Forest:
    """The rows on one scale. ``head`` names the first column, the axis and the cells."""

    caption: str
    head: tuple[str, ...]
    scale: Scale
    rows: tuple[ForestRow, ...]
    line: ReferenceLine | None = None

    @property
    def long(self) -> bool:
        """Whether the rows are too many to be shown at once."""
        return len(self.rows) > SCROLLS_FROM

    def percent(self, value: float) -> str:
        """Where a value lies along the axis, ``37.5%``."""
        return f"{100 * self.scale.place(value):.2f}%"

    def extent(self, row: ForestRow) -> str:
        """The style of a row's interval."""
        assert row.low is not None
        assert row.high is not None
        low, high = (100 * self.scale.place(end) for end in (row.low, row.high))
        return f"left:{low:.2f}%;width:{high - low:.2f}%"


def reach(rows: Sequence[ForestRow]) -> list[float]:
    """Every value and every end of an interval, for the scale."""
    ends = (end for row in rows if row.value is not None for end in (row.value, row.low, row.high))
    return [end for end in ends if end is not None]
