"""The maps of a transfer: gains measured and scores given, source by target, in SVG.

Cells of one colour are one path; what a cell says is looked up by the page's script.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from jaxtyping import Float, Int

from unembed.report.alignment.maps import LIGHT_UP_TO, LIGHT_UP_TO_SIGNED, colour, levels
from unembed.report.parts import wording
from unembed.report.parts.drawing import Chart

WIDE, NARROW = 1096.0, 340.0
"""Pixels of both maps side by side, and of one on a narrow screen."""

APART = 40.0
LARGEST_CELL = 44.0
ROW, COLUMN, TILT = 12.0, 14.0, 60.0
"""Least distance of the names of rows and columns, and how far the latter are tilted."""

LETTER, DIGIT = 6.6, 5.9
"""Pixels of an average letter of a name, and of a character of a number in a cell."""

LETTERS, FEW_LETTERS = 24, 14
"""Letters of a name in a wide map and in a narrow one."""

Matrix = Float[np.ndarray, "sources targets"]


@dataclass(frozen=True)
class Shades:
    """How values become colours: around 0 by square root, or from the least to the largest."""

    signed: bool
    low: float
    high: float

    @staticmethod
    def of(matrix: Float[np.ndarray, "sources targets"]) -> Shades:
        """From the pairs of two tasks: a task on itself is no choice, and would outshine them."""
        values = matrix[~np.eye(len(matrix), dtype=bool)]
        values = values[np.isfinite(values)]
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
        if low < 0 < high:
            largest = max(-low, high)
            return Shades(True, -largest, largest)
        return Shades(False, low, high)

    @staticmethod
    def around_zero(matrix: Float[np.ndarray, "sources targets"]) -> Shades:
        """The same colours above and below 0, whatever signs there are."""
        found = Shades.of(matrix)
        largest = max(abs(found.low), abs(found.high))
        return Shades(True, -largest, largest)

    def levels(self, matrix: Float[np.ndarray, "sources targets"]) -> Int[np.ndarray, "s t"]:
        """The level of each cell, as ``alignment_maps.levels``; ends for what lies beyond."""
        if self.signed:
            scaled = matrix / (self.high or 1.0)
            return levels(np.sign(scaled) * np.sqrt(np.abs(scaled)), signed=True)
        span = self.high - self.low
        return levels((matrix - self.low) / span if span > 0 else 0.5 + 0 * matrix, signed=False)


@dataclass(frozen=True)
class Marks:
    """In each target's column the sources with a frame, and those with a dot."""

    framed: tuple[tuple[int, ...], ...]
    dotted: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class _Frame:
    left: float
    top: float
    cell: float
    size: int
    foot: float

    @property
    def side(self) -> float:
        return self.cell * self.size

    @property
    def width(self) -> float:
        return self.left + self.side + 1

    @property
    def height(self) -> float:
        return self.top + self.side + self.foot


def gains_map(matrix: Matrix, names: Sequence[str], marks: Marks) -> Chart:
    """The measured gains, with the names of sources and targets, in both widths."""
    shades = Shades.around_zero(matrix)
    frames = _frames(names)
    return Chart(*(_map(matrix, "gains", names, shades, marks, frame) for frame in frames))


def scores_map(matrix: Matrix, kind: str, names: Sequence[str], marks: Marks) -> Chart:
    """A method's scores, its cells the size of the gains'; wide, its rows go on from theirs."""
    shades = Shades.of(matrix)
    wide, narrow = _frames(names)
    bare = _Frame(1.0, wide.top, wide.cell, wide.size, wide.foot)
    return Chart(*(_map(matrix, kind, names, shades, marks, frame) for frame in (bare, narrow)))


def widths(names: Sequence[str]) -> tuple[float, float]:
    """How wide the wide maps of gains and of scores are."""
    frame, _ = _frames(names)
    # A tilted name may reach beyond the left edge of the scores: their first columns' are short.
    return frame.width, frame.side + 2


def decimals(matrix: Float[np.ndarray, "sources targets"]) -> int:
    """Decimals that tell the pairs apart: two from 0.2 on, more below."""
    shades = Shades.of(matrix)
    largest = max(abs(shades.low), abs(shades.high))
    return 2 if largest >= 0.2 or largest == 0 else min(6, 1 - math.floor(math.log10(largest)))


def _frames(names: Sequence[str]) -> tuple[_Frame, _Frame]:
    return (
        _frame(names, LETTERS, lambda left: (WIDE - left - APART) / (2 * len(names))),
        _frame(names, FEW_LETTERS, lambda left: (NARROW - left) / len(names)),
    )


def _frame(names: Sequence[str], letters: int, cell_of: Callable[[float], float]) -> _Frame:
    longest = max(len(_short(name, letters)) for name in names) * LETTER
    tilted = math.radians(TILT)
    left = longest + 12
    cell = min(LARGEST_CELL, cell_of(left))
    left = max(left, longest * math.cos(tilted) + 12 - cell / 2)
    cell = min(LARGEST_CELL, cell_of(left))
    return _Frame(left, 2.0, cell, len(names), longest * math.sin(tilted) + 18)


def _map(
    matrix: Matrix, kind: str, names: Sequence[str], shades: Shades, marks: Marks, frame: _Frame
) -> str:
    letters = LETTERS if frame.width > NARROW + 1 or frame.left == 1.0 else FEW_LETTERS
    parts = [_cells(matrix, shades, frame), _marks(marks, frame)]
    if frame.left > 1.0:
        parts.append(_row_names(frame, names, letters))
    parts.append(_column_names(frame, names, letters))
    cursor = f'<rect class="cursor" width="{_n(frame.cell)}" height="{_n(frame.cell)}"/>'
    field = (
        f'<rect class="field" data-kind="{kind}" x="{_n(frame.left)}" y="{_n(frame.top)}" '
        f'width="{_n(frame.side)}" height="{_n(frame.side)}"/>'
    )
    label = f"{kind} of every source for every target, {frame.size} tasks"
    return (
        f'<svg viewBox="0 0 {_n(frame.width)} {_n(frame.height)}" class="map" role="img" '
        f'style="max-width:{_n(frame.width)}px" aria-label="{label}">{"".join(parts)}'
        f"{cursor}{field}</svg>"
    )


def _cells(matrix: Matrix, shades: Shades, frame: _Frame) -> str:
    size = len(matrix)
    found = shades.levels(matrix)
    parts = []
    for level in np.unique(found).tolist():
        lines = "".join(f"M{x} {y}.5h1" for y, x in np.argwhere(found == level).tolist())
        parts.append(f'<path stroke="{colour(level, signed=shades.signed)}" d="{lines}"/>')
    lines = "".join(f"M{i} 0v{size}M0 {i}h{size}" for i in range(1, size))
    parts.append(f'<path class="gaps" d="{lines}"/>')
    if (found == 0).any():
        lines = "".join(f"M{x} {y + 1}l1-1" for y, x in np.argwhere(found == 0).tolist())
        parts.append(f'<path class="hatch" d="{lines}"/>')
    place = f"translate({_n(frame.left)} {_n(frame.top)}) scale({frame.cell:.4f})"
    cells = f'<g class="cells" transform="{place}">{"".join(parts)}</g>'
    return cells + _numbers(matrix, found, shades, frame)


def _numbers(matrix: Matrix, found: Int[np.ndarray, "s t"], shades: Shades, frame: _Frame) -> str:
    """The values in their cells, where the longest of them fits."""
    digits = decimals(matrix)
    known = np.argwhere(found != 0).tolist()
    words = {(y, x): _bare(matrix[y, x], digits) for y, x in known}
    if max(map(len, words.values()), default=0) * DIGIT + 3 > frame.cell:
        return ""
    light = LIGHT_UP_TO_SIGNED if shades.signed else LIGHT_UP_TO
    texts = []
    for (y, x), value in words.items():
        look = ' class="on"' if abs(found[y, x]) > light else ""
        place = (frame.left + (x + 0.5) * frame.cell, frame.top + (y + 0.5) * frame.cell + 4)
        texts.append(f'<text x="{_n(place[0])}" y="{_n(place[1])}"{look}>{value}</text>')
    return f'<g class="numbers">{"".join(texts)}</g>'


def _marks(marks: Marks, frame: _Frame) -> str:
    cell = frame.cell

    def corner(source: int, target: int) -> tuple[float, float]:
        return frame.left + target * cell, frame.top + source * cell

    framed, dotted = [], []
    room = min(2.0, cell / 8)
    for target, sources in enumerate(marks.framed):
        for x, y in (corner(source, target) for source in sources):
            side = cell - 2 * room
            framed.append(f"M{_n(x + room)} {_n(y + room)}h{_n(side)}v{_n(side)}h-{_n(side)}z")
    for target, sources in enumerate(marks.dotted):
        for x, y in (corner(source, target) for source in sources):
            dotted.append(f"M{_n(x + cell - 2.6 * room)} {_n(y + 2.6 * room)}h0")
    dot = max(3.0, min(6.0, cell / 4))
    lines = f'<path class="framed" d="{"".join(framed)}"/>'
    if dotted:
        dots = "".join(dotted)
        lines += f'<path class="dotted rim" d="{dots}" stroke-width="{_n(dot + 2)}"/>'
        lines += f'<path class="dotted" d="{dots}" stroke-width="{_n(dot)}"/>'
    return lines


def _row_names(frame: _Frame, names: Sequence[str], letters: int) -> str:
    every = max(1, math.ceil(ROW / frame.cell))
    found = []
    for at in range(0, len(names), every):
        y = frame.top + (at + 0.5) * frame.cell + 4
        place = f'x="{_n(frame.left - 8)}" y="{_n(y)}"'
        found.append(_name(names[at], letters, "row", place))
    return "".join(found)


def _column_names(frame: _Frame, names: Sequence[str], letters: int) -> str:
    every = max(1, math.ceil(COLUMN / frame.cell))
    found = []
    for at in range(0, len(names), every):
        x, y = frame.left + (at + 0.5) * frame.cell + 4, frame.top + frame.side + 12
        place = f'transform="translate({_n(x)} {_n(y)}) rotate(-{TILT:g})"'
        found.append(_name(names[at], letters, "column", place))
    return "".join(found)


def _name(name: str, letters: int, look: str, place: str) -> str:
    full, short = escape(wording.visible(name)), escape(_short(name, letters))
    tip = f' data-tip="{full}"' if full != short else ""
    return f'<text class="{look}" {place}{tip}>{short}</text>'


def _short(name: str, letters: int) -> str:
    plain = wording.visible(" ".join(name.split()))
    return plain if len(plain) <= letters else plain[: letters - 1] + "…"


def _bare(value: float, digits: int) -> str:
    """A number for a cell: without the 0 before the point."""
    words = f"{round(value, digits) + 0.0:.{digits}f}"
    return (
        words.replace("0.", ".", 1).replace("-", "−") if abs(value) < 1 else words.replace("-", "−")
    )


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
