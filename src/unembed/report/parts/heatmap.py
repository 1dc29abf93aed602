"""A square matrix as a heat map in SVG, small enough for hundreds of names.

Cells of one colour are one path, each run of them in a row a stroke; what a cell says is looked up
by the page's script. Colours are CSS variables, for light and for dark.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from jaxtyping import Float, Int

from unembed.report.parts.drawing import Spec
from unembed.report.parts.marks import NO_SCALE
from unembed.report.parts.wording import short, visible
from unembed.stats.forms import Form

COLOUR_STEPS = 20
"""Steps of the colour scale between 0 and 1."""

PLAIN_UP_TO = 13
"""Up to this level a cell is near enough to the paper of either theme for text as on paper."""

LIGHT_UP_TO = {"--deep": 14, "--right": 18, "--wrong": COLOUR_STEPS}
"""Up to this level a cell of each hue takes black text in the light theme as in the dark one."""

ROW_GAP, COLUMN_GAP, COLUMN_TILT = 12.0, 14.0, 60.0
"""Least pixels between the names of rows and of columns, and the degrees that the latter tilt."""

NAME_LETTER_WIDTH, DIGIT_WIDTH = 6.6, 6.2
"""Pixels of an average letter of a name, and of a character of a number in a cell."""

SIDE_WANTED, LEAST_CELL, MOST_CELL = 560.0, 3.0, 44.0
"""Pixels of a map that leaves the page across, and those of its cells."""

NUMBERS_FROM = 30.0
"""Pixels of such a cell from which on its value is written into it."""

MOST_ROWS_WITH_GAPS = 60
"""Rows up to which a gap parts the cells."""


@dataclass(frozen=True)
class Heatmap:
    """What a heat map shows; ``kind`` is its name in the page, ``label`` what it is in words.

    ``levels`` are the colours of ``values``, by ``levels_of``. Values are written into the cells
    with so many ``digits`` where they fit, those on the diagonal only if ``diagonal``. Where the
    frame has room there are ``names``; those of ``doubted`` rows stand out.
    """

    kind: str
    label: str
    values: Float[np.ndarray, "rows columns"]
    levels: Int[np.ndarray, "rows columns"]
    signed: bool
    digits: int = 2
    diagonal: bool = True
    names: tuple[str, ...] = ()
    doubted: frozenset[int] = frozenset()


@dataclass(frozen=True)
class MapFrame:
    """Where the cells lie in the drawing, and how large they are; names have so many letters."""

    left: float
    top: float
    cell: float
    size: int
    right: float
    foot: float
    letters: int = 0

    @property
    def side(self) -> float:
        """Pixels of all cells across."""
        return self.cell * self.size

    @property
    def width(self) -> float:
        """Pixels of the drawing across."""
        return self.left + self.side + self.right

    @property
    def height(self) -> float:
        """Pixels of the drawing down."""
        return self.top + self.side + self.foot


def bare_frame(size: int, width: float, largest: float) -> MapFrame:
    """A frame without room for names; no cell is larger than ``largest``."""
    return MapFrame(1.0, 1.0, min(largest, (width - 2) / size), size, 1.0, 1.0)


def named_frame(
    names: Sequence[str],
    letters: int,
    largest: float,
    cell_of: Callable[[float], float],
    right: float = 1.0,
) -> MapFrame:
    """A frame with room for names; ``cell_of`` gives the size of a cell by the room at the left."""
    longest = max(len(short(name, letters)) for name in names) * NAME_LETTER_WIDTH
    tilted = math.radians(COLUMN_TILT)
    left = longest + 12
    cell = min(largest, cell_of(left))
    # The first column's name, tilted, may begin to the left of those of the rows.
    left = max(left, longest * math.cos(tilted) + 12 - cell / 2)
    cell = min(largest, cell_of(left))
    foot = longest * math.sin(tilted) + 18
    return MapFrame(left, 2.0, cell, len(names), right, foot, letters)


def draw_heatmap(heatmap: Heatmap, frame: MapFrame, *, rows: bool = True, more: str = "") -> str:
    """The drawing, with names where the frame has room; ``more`` is SVG in its pixels."""
    names = ""
    if frame.letters:
        names = _names(heatmap, frame, "row") if rows else ""
        names += _names(heatmap, frame, "column")
    body = _cells(heatmap, frame) + more + names
    cursor = f'<rect class="cursor" width="{number(frame.cell)}" height="{number(frame.cell)}"/>'
    field = (
        f'<rect class="field" data-kind="{heatmap.kind}" x="{number(frame.left)}" '
        f'y="{number(frame.top)}" width="{number(frame.side)}" height="{number(frame.side)}"/>'
    )
    return (
        f'<svg viewBox="0 0 {number(frame.width)} {number(frame.height)}" class="map" role="img" '
        f'style="max-width:{number(frame.width)}px" aria-label="{escape(heatmap.label)}">'
        f"{body}{cursor}{field}</svg>"
    )


def heatmap_spec(
    heatmap: Heatmap, tip: Callable[[int, int], str], more: Sequence[Spec] = ()
) -> Spec:
    """The same map in Vega-Lite, for figures that leave the page.

    ``tip`` is what the cell of a row and a column says; ``more`` are layers on its axes.
    """
    size = len(heatmap.levels)
    cell = spec_cell(size)
    rows: list[Spec] = []
    for y, x in np.ndindex(heatmap.levels.shape):
        level = int(heatmap.levels[y, x])
        row = {"x": x, "y": y, "fill": colour(level, signed=heatmap.signed), "tip": tip(y, x)}
        if level and (heatmap.diagonal or x != y):
            light = abs(level) <= LIGHT_UP_TO[_hue(level, heatmap.signed)]
            ink = "var(--ink)" if light else "var(--paper)"
            row |= {"label": _bare(float(heatmap.values[y, x]), heatmap.digits), "ink": ink}
        rows.append(row)
    place = {"x": name_axis("x", heatmap.names, tilt=-60), "y": name_axis("y", heatmap.names)}
    for axis in place.values():
        axis["axis"]["labelOverlap"] = cell < COLUMN_GAP
    cells = {
        "data": {"values": rows},
        "mark": {"type": "rect", "stroke": "var(--paper)", "strokeWidth": float(cell > 8)},
        "encoding": place
        | {"color": {"field": "fill"} | NO_SCALE, "description": {"field": "tip"}},
    }
    numbers = {
        "data": {"values": [row for row in rows if "label" in row]},
        "mark": {"type": "text", "fontSize": 10.5, "aria": False},
        "encoding": place | {"text": {"field": "label"}, "color": {"field": "ink"} | NO_SCALE},
    }
    layers = [cells, *([numbers] if cell >= NUMBERS_FROM else []), *more]
    return {"width": {"step": cell}, "height": {"step": cell}, "layer": layers}


def spec_cell(size: int) -> float:
    """Pixels of a cell of a map of so many rows that leaves the page."""
    return max(LEAST_CELL, min(MOST_CELL, SIDE_WANTED / max(1, size)))


def name_axis(field: str, names: Sequence[str], tilt: int = 0, letters: int = 28) -> Spec:
    """An axis of the numbers 0, 1, … that shows their names; two may have the same one."""
    words = json.dumps([short(name, letters) for name in names])
    axis: Spec = {"title": None, "domain": False, "labelAngle": tilt, "labelLimit": 240}
    axis |= {"labelExpr": f"{words}[datum.value]", "grid": False, "labelOverlap": True}
    scale = {"domain": list(range(len(names))), "padding": 0}
    return {"field": field, "type": "ordinal", "axis": axis, "scale": scale}


def levels_of(
    matrix: Float[np.ndarray, "rows columns"], *, signed: bool
) -> Int[np.ndarray, "rows columns"]:
    """The colour of each cell: 1 to ``COLOUR_STEPS`` for 0 to 1, with a sign if ``signed``.

    0 is a cell without a value. What lies outside the scale has the colour of its end.
    """
    known = np.nan_to_num(matrix)
    size = np.abs(known) if signed else np.maximum(known, 0.0)
    level = np.minimum(np.floor(size * COLOUR_STEPS) + 1, COLOUR_STEPS).astype(np.int64)
    if signed:
        level = np.where(known < 0, -level, level)
    return np.where(np.isnan(matrix), 0, level)


def colour(level: int, *, signed: bool) -> str:
    """The colour of a level; on a signed scale blue above 0 and orange below."""
    if level == 0:
        return "var(--missing)"
    share = max(4.0, 100 * (abs(level) - 0.5) / COLOUR_STEPS)
    return f"color-mix(in oklab,var({_hue(level, signed)}) {share:.0f}%,var(--paper))"


def _hue(level: int, signed: bool) -> str:
    return "--deep" if not signed else "--right" if level > 0 else "--wrong"


def _text_class(level: int, signed: bool) -> str:
    """The class of a number on a cell of this level: by what reads well in both themes."""
    if abs(level) <= PLAIN_UP_TO:
        return ""
    return ' class="middle"' if abs(level) <= LIGHT_UP_TO[_hue(level, signed)] else ' class="on"'


def number(value: float) -> str:
    """A length in pixels with at most one decimal."""
    return f"{value:.1f}".removesuffix(".0")


def _cells(heatmap: Heatmap, frame: MapFrame) -> str:
    size, levels = frame.size, heatmap.levels
    parts = [
        f'<path stroke="{colour(level, signed=heatmap.signed)}" d="{_runs(levels == level)}"/>'
        for level in np.unique(levels).tolist()
    ]
    if size <= MOST_ROWS_WITH_GAPS:
        lines = "".join(f"M{i} 0v{size}M0 {i}h{size}" for i in range(1, size))
        parts.append(f'<path class="gaps" d="{lines}"/>')
    if (levels == 0).any():
        lines = "".join(f"M{x} {y + 1}l1-1" for y, x in np.argwhere(levels == 0).tolist())
        parts.append(f'<path class="hatch" d="{lines}"/>')
    place = f"translate({number(frame.left)} {number(frame.top)}) scale({frame.cell:.4f})"
    return f'<g class="cells" transform="{place}">{"".join(parts)}</g>{_numbers(heatmap, frame)}'


def _runs(chosen: np.ndarray) -> str:
    """The chosen cells, each run of them in a row as one stroke."""
    edges = np.diff(np.pad(chosen.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    begins, ends = np.argwhere(edges == 1), np.argwhere(edges == -1)
    return "".join(
        f"M{x} {y}.5h{end - x}"
        for (y, x), (_, end) in zip(begins.tolist(), ends.tolist(), strict=True)
    )


def _numbers(heatmap: Heatmap, frame: MapFrame) -> str:
    """The values in their cells, where the longest of them fits."""
    known = [
        (y, x) for y, x in np.argwhere(heatmap.levels != 0).tolist() if heatmap.diagonal or x != y
    ]
    words = [_bare(heatmap.values[place], heatmap.digits) for place in known]
    if max(map(len, words), default=0) * DIGIT_WIDTH + 3 > frame.cell:
        return ""
    texts = []
    for (y, x), value in zip(known, words, strict=True):
        on = _text_class(int(heatmap.levels[y, x]), heatmap.signed)
        place = (frame.left + (x + 0.5) * frame.cell, frame.top + (y + 0.5) * frame.cell + 4)
        texts.append(f'<text x="{number(place[0])}" y="{number(place[1])}"{on}>{value}</text>')
    return f'<g class="numbers">{"".join(texts)}</g>'


def _bare(value: float, digits: int) -> str:
    """A number for a cell: without the 0 before the point."""
    words = Form(decimals=digits)(value)
    return words.replace("0.", ".", 1) if abs(value) < 1 else words


def _names(heatmap: Heatmap, frame: MapFrame, along: str) -> str:
    """Names at each cell, or at every second, third, … where they would run into each other."""
    found = []
    every = max(1, math.ceil((ROW_GAP if along == "row" else COLUMN_GAP) / frame.cell))
    for at in range(0, frame.size, every):
        middle = (at + 0.5) * frame.cell + 4
        if along == "row":
            place = f'x="{number(frame.left - 8)}" y="{number(frame.top + middle)}"'
        else:
            x, y = number(frame.left + middle), number(frame.top + frame.side + 12)
            place = f'transform="translate({x} {y}) rotate(-{COLUMN_TILT:g})"'
        doubted = " doubted" if at in heatmap.doubted else ""
        name = heatmap.names[at]
        whole, cut = escape(visible(name)), escape(short(name, frame.letters))
        tip = f' data-tip="{whole}"' if whole != cut else ""
        found.append(f'<text class="{along}{doubted}" {place}{tip}>{cut}</text>')
    return "".join(found)
