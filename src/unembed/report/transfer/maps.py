"""The maps of a transfer: gains measured and scores given, source by target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from unembed.report.parts.drawing import Chart, Spec
from unembed.report.parts.heatmap import (
    Heatmap,
    MapFrame,
    draw_heatmap,
    heatmap_spec,
    levels_of,
    name_axis,
    named_frame,
    number,
    spec_cell,
)
from unembed.report.parts.wording import visible
from unembed.stats.forms import Form

WIDE_MAPS, NARROW_MAP = 1096.0, 340.0
"""Pixels of both maps side by side, and of one on a narrow screen."""

MAPS_APART = 40.0
"""Pixels between the two maps."""

LARGEST_CELL = 44.0

WIDE_LETTERS, NARROW_LETTERS = 24, 14
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
        """The level of each cell, as ``levels_of``; the ends' for what lies beyond."""
        if self.signed:
            scaled = matrix / (self.high or 1.0)
            return levels_of(np.sign(scaled) * np.sqrt(np.abs(scaled)), signed=True)
        span = self.high - self.low
        return levels_of((matrix - self.low) / span if span > 0 else 0.5 + 0 * matrix, signed=False)


@dataclass(frozen=True)
class Marks:
    """In each target's column the sources with a frame, and those with a dot."""

    framed: tuple[tuple[int, ...], ...]
    dotted: tuple[tuple[int, ...], ...]


def gains_map(matrix: Matrix, names: Sequence[str], marks: Marks) -> Chart:
    """The measured gains, with the names of sources and targets, in both widths."""
    heatmap = _heatmap(matrix, "gains", names, Shades.around_zero(matrix))
    wide, narrow = (
        draw_heatmap(heatmap, frame, more=_marks(marks, frame)) for frame in _frames(names)
    )
    return Chart(heatmap.label, lambda: _spec(heatmap, marks, "gain"), (wide, narrow))


def scores_map(matrix: Matrix, kind: str, names: Sequence[str], marks: Marks) -> Chart:
    """A method's scores, its cells the size of the gains'; wide, its rows go on from theirs."""
    heatmap = _heatmap(matrix, kind, names, Shades.of(matrix))
    wide, narrow = _frames(names)
    wide = replace(wide, left=1.0)
    drawn = (
        draw_heatmap(heatmap, wide, rows=False, more=_marks(marks, wide)),
        draw_heatmap(heatmap, narrow, more=_marks(marks, narrow)),
    )
    return Chart(heatmap.label, lambda: _spec(heatmap, marks, "score"), drawn)


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


def _spec(heatmap: Heatmap, marks: Marks, what: str) -> Spec:
    """The map with its frames and dots, in Vega-Lite."""
    names, form = [visible(name) for name in heatmap.names], Form(decimals=heatmap.digits)
    cell = spec_cell(len(names))

    def tip(source: int, target: int) -> str:
        pair = f"{names[source]} → {names[target]}" if source != target else f"{names[source]}"
        return f"{pair}\n{what} {form(float(heatmap.values[source, target]))}"

    def layer(chosen: tuple[tuple[int, ...], ...], mark: Spec) -> Spec:
        rows = [{"x": x, "y": y} for x, sources in enumerate(chosen) for y in sources]
        place = {field: name_axis(field, heatmap.names) for field in ("x", "y")}
        for axis in place.values():
            del axis["axis"]
        return {
            "data": {"values": rows},
            "mark": mark | {"stroke": "var(--ink)", "aria": False},
            "encoding": place,
        }

    side = max(2.0, cell - 3)
    frame = {"type": "rect", "filled": False, "strokeWidth": 1.8, "width": side, "height": side}
    dot = {"type": "point", "fill": "var(--ink)", "size": 24, "xOffset": cell / 4}
    layers = [layer(marks.framed, frame), layer(marks.dotted, dot | {"yOffset": -cell / 4})]
    return heatmap_spec(heatmap, tip, [one for one in layers if one["data"]["values"]])


def _heatmap(matrix: Matrix, kind: str, names: Sequence[str], shades: Shades) -> Heatmap:
    return Heatmap(
        kind,
        f"{kind} of every source for every target, {len(names)} tasks",
        matrix,
        shades.levels(matrix),
        shades.signed,
        digits=decimals(matrix),
        names=tuple(names),
    )


def _frames(names: Sequence[str]) -> tuple[MapFrame, MapFrame]:
    n = len(names)

    def wide(left: float) -> float:
        return (WIDE_MAPS - left - MAPS_APART) / (2 * n)

    return (
        named_frame(names, WIDE_LETTERS, LARGEST_CELL, wide),
        named_frame(names, NARROW_LETTERS, LARGEST_CELL, lambda left: (NARROW_MAP - left) / n),
    )


def _marks(marks: Marks, frame: MapFrame) -> str:
    cell = frame.cell
    room = min(2.0, cell / 8)
    side = number(cell - 2 * room)

    def corners(chosen: tuple[tuple[int, ...], ...]) -> list[tuple[float, float]]:
        return [
            (frame.left + target * cell, frame.top + source * cell)
            for target, sources in enumerate(chosen)
            for source in sources
        ]

    frames = "".join(
        f"M{number(x + room)} {number(y + room)}h{side}v{side}h-{side}z"
        for x, y in corners(marks.framed)
    )
    dots = "".join(
        f"M{number(x + cell - 2.6 * room)} {number(y + 2.6 * room)}h0"
        for x, y in corners(marks.dotted)
    )
    wide = max(3.0, min(6.0, cell / 4))
    lines = f'<path class="framed" d="{frames}"/>'
    if dots:
        lines += f'<path class="dotted rim" d="{dots}" stroke-width="{number(wide + 2)}"/>'
        lines += f'<path class="dotted" d="{dots}" stroke-width="{number(wide)}"/>'
    return lines
