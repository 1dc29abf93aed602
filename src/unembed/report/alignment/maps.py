"""A matrix of pairs as a heat map in SVG, with its tree: small enough for hundreds of tasks.

Cells of one colour are one path, each run of them in a row a stroke; what a cell says is looked up
by the page's script. Colours are CSS variables, for light and for dark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from jaxtyping import Float, Int

from unembed.report.alignment.pairs import cosine
from unembed.report.parts import wording
from unembed.report.parts.drawing import Chart
from unembed.signatures.alignment.ordering import Dendrogram

STEPS = 20
"""Steps of the colour scale between 0 and 1."""

LARGEST_CELL = 56.0
VALUE_ROOM = 30.0
"""A cell this wide or wider holds its number."""

ROW, COLUMN = 12.0, 14.0
"""Least distance between the labels of rows and of columns, which are tilted."""

TILT = 60.0
LETTER = 6.6
"""Pixels of an average letter of a label."""

LIGHT_UP_TO, LIGHT_UP_TO_SIGNED = 12, 14
"""Up to this level a cell is light enough for ink on it."""

GRID_UP_TO = 60
"""Tasks up to which a gap parts the cells."""

Matrix = Float[np.ndarray, "tasks tasks"]


@dataclass(frozen=True)
class Labels:
    """The tasks' names in the order of the map; ``doubted`` ones have a status to read."""

    names: tuple[str, ...]
    doubted: frozenset[int]
    tree: Dendrogram


@dataclass(frozen=True)
class _Frame:
    """Where the cells lie in the drawing, and how large they are."""

    left: float
    top: float
    cell: float
    size: int
    right: float
    foot: float

    @property
    def side(self) -> float:
        return self.cell * self.size

    @property
    def width(self) -> float:
        return self.left + self.side + self.right

    @property
    def height(self) -> float:
        return self.top + self.side + self.foot


def labelled_map(matrix: Float[np.ndarray, "tasks tasks"], kind: str, labels: Labels) -> Chart:
    """A map with the names of its rows and columns and with the tree, in both widths.

    ``matrix`` and ``labels`` are in the order of the map. NaN cells are hatched.
    """
    return Chart(
        _labelled(matrix, kind, labels, width=690.0, tree=84.0, letters=24),
        _labelled(matrix, kind, labels, width=340.0, tree=30.0, letters=13),
    )


def bare_map(
    matrix: Float[np.ndarray, "tasks tasks"],
    kind: str,
    *,
    signed: bool = False,
    width: float = 340.0,
) -> Chart:
    """A map without names, the same in both widths; ``signed`` colours -1 to 1."""
    size = len(matrix)
    frame = _Frame(1.0, 1.0, min(LARGEST_CELL, (width - 2) / size), size, 1.0, 1.0)
    svg = _svg(frame, kind, _cells(matrix, frame, signed))
    return Chart(svg, svg)


def _labelled(
    matrix: Matrix, kind: str, labels: Labels, *, width: float, tree: float, letters: int
) -> str:
    size = len(matrix)
    names = [_short(name, letters) for name in labels.names]
    longest = max(map(len, names)) * LETTER
    tilted = math.radians(TILT)
    left = longest + 12
    # The first column's name, tilted, may begin to the left of those of the rows.
    cell = min(LARGEST_CELL, (width - left - tree - 8) / size)
    left = max(left, longest * math.cos(tilted) + 12 - cell / 2)
    frame = _Frame(left, 2.0, cell, size, tree + 8, longest * math.sin(tilted) + 18)
    parts = [
        _cells(matrix, frame, False),
        _row_names(frame, names, labels),
        _column_names(frame, names, labels),
        _tree(frame, matrix, labels.tree, tree),
    ]
    return _svg(frame, kind, "".join(parts))


def _svg(frame: _Frame, kind: str, body: str) -> str:
    cursor = f'<rect class="cursor" width="{_n(frame.cell)}" height="{_n(frame.cell)}"/>'
    field = (
        f'<rect class="field" data-kind="{kind}" x="{_n(frame.left)}" y="{_n(frame.top)}" '
        f'width="{_n(frame.side)}" height="{_n(frame.side)}"/>'
    )
    label = f"{kind.replace('_', ' ')} of every pair of {frame.size} tasks"
    return (
        f'<svg viewBox="0 0 {_n(frame.width)} {_n(frame.height)}" class="map" role="img" '
        f'style="max-width:{_n(frame.width)}px" aria-label="{label}">{body}{cursor}{field}</svg>'
    )


def _cells(matrix: Matrix, frame: _Frame, signed: bool) -> str:
    size = len(matrix)
    found = levels(matrix, signed=signed)
    parts = [
        f'<path stroke="{colour(level, signed=signed)}" d="{_runs(found == level)}"/>'
        for level in np.unique(found).tolist()
    ]
    if size <= GRID_UP_TO:
        lines = "".join(f"M{i} 0v{size}M0 {i}h{size}" for i in range(1, size))
        parts.append(f'<path class="gaps" d="{lines}"/>')
    if (found == 0).any():
        lines = "".join(f"M{x} {y + 1}l1-1" for y, x in np.argwhere(found == 0).tolist())
        parts.append(f'<path class="hatch" d="{lines}"/>')
    place = f"translate({_n(frame.left)} {_n(frame.top)}) scale({frame.cell:.4f})"
    cells = f'<g class="cells" transform="{place}">{"".join(parts)}</g>'
    if frame.cell < VALUE_ROOM:
        return cells
    look, light = ("signed", LIGHT_UP_TO_SIGNED) if signed else ("plain", LIGHT_UP_TO)
    return f'{cells}<g class="numbers {look}">{_numbers(matrix, found, frame, light)}</g>'


def levels(
    matrix: Float[np.ndarray, "tasks tasks"], *, signed: bool
) -> Int[np.ndarray, "tasks tasks"]:
    """The colour of each cell: 1 to ``STEPS`` for 0 to 1, with the value's sign if ``signed``.

    0 is a cell without a value. What lies outside the scale has the colour of its end.
    """
    known = np.nan_to_num(matrix)
    size = np.abs(known) if signed else np.maximum(known, 0.0)
    level = np.minimum(np.floor(size * STEPS) + 1, STEPS).astype(np.int64)
    if signed:
        level = np.where(known < 0, -level, level)
    return np.where(np.isnan(matrix), 0, level)


def colour(level: int, *, signed: bool) -> str:
    """The colour of a level; on a signed scale blue above 0 and orange below."""
    if level == 0:
        return "var(--missing)"
    hue = "--deep" if not signed else "--right" if level > 0 else "--wrong"
    share = max(4.0, 100 * (abs(level) - 0.5) / STEPS)
    return f"color-mix(in oklab,var({hue}) {share:.0f}%,var(--paper))"


def _runs(chosen: np.ndarray) -> str:
    """The chosen cells, each run of them in a row as one stroke."""
    edges = np.diff(np.pad(chosen.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    begins, ends = np.argwhere(edges == 1), np.argwhere(edges == -1)
    return "".join(
        f"M{x} {y}.5h{end - x}"
        for (y, x), (_, end) in zip(begins.tolist(), ends.tolist(), strict=True)
    )


def _numbers(
    matrix: Matrix, found: Int[np.ndarray, "tasks tasks"], frame: _Frame, light: int
) -> str:
    numbers = []
    for y, x in np.argwhere(found != 0).tolist():
        if x != y:
            look = ' class="on"' if abs(found[y, x]) > light else ""
            place = (frame.left + (x + 0.5) * frame.cell, frame.top + (y + 0.5) * frame.cell + 4)
            value = f"{matrix[y, x]:.2f}".replace("-", "−")
            numbers.append(f'<text x="{_n(place[0])}" y="{_n(place[1])}"{look}>{value}</text>')
    return "".join(numbers)


def _row_names(frame: _Frame, names: Sequence[str], labels: Labels) -> str:
    def place(at: int) -> str:
        y = frame.top + (at + 0.5) * frame.cell
        return f'x="{_n(frame.left - 8)}" y="{_n(y + 4)}"'

    return _names(frame, names, labels, ROW, "row", place)


def _column_names(frame: _Frame, names: Sequence[str], labels: Labels) -> str:
    def place(at: int) -> str:
        x, y = frame.left + (at + 0.5) * frame.cell + 4, frame.top + frame.side + 12
        return f'transform="translate({_n(x)} {_n(y)}) rotate(-{TILT:g})"'

    return _names(frame, names, labels, COLUMN, "column", place)


def _names(
    frame: _Frame,
    names: Sequence[str],
    labels: Labels,
    apart: float,
    look: str,
    place: Callable[[int], str],
) -> str:
    """Names at each cell, or at every second, third, … where they would run into each other."""
    every = max(1, math.ceil(apart / frame.cell))
    found = []
    for at in range(0, len(names), every):
        doubted = " doubted" if at in labels.doubted else ""
        full, short = escape(wording.visible(labels.names[at])), escape(names[at])
        tip = f' data-tip="{full}"' if full != short else ""
        found.append(f'<text class="{look}{doubted}" {place(at)}{tip}>{short}</text>')
    return "".join(found)


def _tree(frame: _Frame, matrix: Matrix, tree: Dendrogram, width: float) -> str:
    """The tree at the right of the cells: the farther right two branches meet, the less alike."""
    size = len(tree.order)
    place = {int(task): at for at, task in enumerate(tree.order)}
    groups = [[place[task]] for task in range(size)]
    rows = [frame.top + (group[0] + 0.5) * frame.cell for group in groups]
    reach = [0.0] * size
    farthest = max((merge.distance for merge in tree.merges), default=0.0) or 1.0
    start = frame.left + frame.side + 6
    found = []
    for merge in tree.merges:
        first, second = groups[merge.left], groups[merge.right]
        x = width * merge.distance / farthest
        ends = [(rows[one], start + reach[one]) for one in (merge.left, merge.right)]
        line = "M{1} {0}H{2}V{3}H{4}".format(*map(_n, ends[0]), _n(start + x), *map(_n, ends[1]))
        whole = not np.isnan(matrix[np.ix_(first, second)]).any()
        tip = f"{wording.counted(len(first), 'task')} and {wording.counted(len(second), 'task')}\n"
        tip += f"mean joint {cosine(1 - merge.distance)}" if whole else "not every joint is known"
        look = "" if whole else ' class="unsure"'
        found.append(f'<path data-tip="{tip}" d="{line}"{look}/>')
        groups.append(first + second)
        rows.append((ends[0][0] + ends[1][0]) / 2)
        reach.append(x)
    return f'<g class="tree">{"".join(found)}</g>'


def _short(name: str, letters: int) -> str:
    plain = wording.visible(" ".join(name.split()))
    return plain if len(plain) <= letters else plain[: letters - 1] + "…"


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
