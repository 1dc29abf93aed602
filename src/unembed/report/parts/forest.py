"""A forest plot that is a table: each row a name, a dot with its interval, and its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unembed.report.parts.drawing import Chart, Spec
from unembed.report.parts.heatmap import name_axis
from unembed.report.parts.marks import NO_SCALE, reference, scaled
from unembed.report.parts.parts import Figure, Table
from unembed.report.parts.scales import Scale

WIDE = 420
"""Pixels of the axis of a figure that leaves the page."""

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


def forest_figure(name: str, title: str, forest: Forest) -> Figure:
    """The rows as a figure that leaves the page, with their numbers as its table."""
    caption = f"{forest.caption}. Lines are 95 % intervals."
    if forest.line is not None:
        caption += f" Dashed: {forest.line.label}."
    chart = Chart(title, lambda: forest_spec(forest))
    return Figure(name, title, caption, chart, (), (forest_table(forest),))


def forest_table(forest: Forest) -> Table:
    """The rows with the words of their cells, without the drawing."""
    first, _axis, *rest = forest.head
    rows = tuple((row.name, *(cell.text for cell in row.cells)) for row in forest.rows)
    few = frozenset(at for at, row in enumerate(forest.rows) if row.look == "faint")
    return Table(forest.caption, (first, *rest), rows, few)


def forest_spec(forest: Forest) -> Spec:
    """The rows in Vega-Lite: a dot with its interval, and its first number at the right."""
    rows: list[Spec] = []
    names = forest.head[2:]
    for at, row in enumerate(forest.rows):
        if row.value is None:
            continue
        colour = "var(--accent)" if row.look == "lead" else "var(--muted)"
        cells = zip(names, row.cells, strict=False)
        tip = "\n".join((row.name, *(f"{name} {cell.text}" for name, cell in cells)))
        low, high = (row.value if end is None else end for end in (row.low, row.high))
        place = {"y": at, "x": row.value, "x_low": low, "x_high": high}
        fill = colour if row.look == "lead" else "var(--paper)"
        words = row.cells[0].text if row.cells else ""
        rows.append(place | {"tip": tip, "stroke": colour, "fill": fill, "words": words})
    x = scaled(forest.scale, forest.head[1], grid=True)
    y = name_axis("y", [row.name for row in forest.rows])
    y["axis"] |= {"labelOverlap": False, "labelLimit": 320}
    ends = {"x": x | {"field": "x_low"}, "x2": {"field": "x_high"}}
    looks = {name: {"field": name} | NO_SCALE for name in ("fill", "stroke")}
    spans: Spec = {
        "mark": {"type": "rule", "strokeWidth": 2, "aria": False, "clip": True},
        "encoding": {"y": y, "color": {"field": "stroke"} | NO_SCALE} | ends,
    }
    dots: Spec = {
        "mark": {"type": "point", "size": 80, "strokeWidth": 2, "opacity": 1},
        "encoding": {"y": y, "x": x | {"field": "x"}} | looks | {"description": {"field": "tip"}},
    }
    numbers: Spec = {
        "mark": {"type": "text", "align": "left", "dx": 12, "fontSize": 12.5, "aria": False},
        "encoding": {"y": y, "x": {"value": WIDE}, "text": {"field": "words"}},
    }
    line = [] if forest.line is None else [reference("x", forest.line.at, x, {})]
    layers = [{"data": {"values": rows}} | layer for layer in (spans, dots, numbers)]
    return {"width": WIDE, "height": {"step": 24}, "layer": [*line, *layers]}


def reach(rows: Sequence[ForestRow]) -> list[float]:
    """Every value and every end of an interval, for the scale."""
    ends = (end for row in rows if row.value is not None for end in (row.value, row.low, row.high))
    return [end for end in ends if end is not None]
