"""Curves over the depths of a model, each point with its interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from unembed.decisions.cloud.cloud import HEAD_INPUT
from unembed.report.parts.drawing import Spec, draw, heading
from unembed.report.parts.marks import (
    CURVES,
    KEPT_APART,
    Channels,
    band,
    interval_fields,
    line,
    points,
    quantity,
    reference,
    scaled,
)
from unembed.report.parts.parts import Figure, Key, Table, table_of
from unembed.report.parts.scales import PORTIONS, Scale, scale_of
from unembed.report.parts.wording import PERCENT, Wording, cell, full, point
from unembed.stats.estimate import Estimate
from unembed.stats.forms import possible_part

MOST_TICKS = 9
"""Labels of the axis of depths at most."""

MOST_BEYOND = 1.5
"""How far an axis reaches for what it need not show, in the largest value that it must."""

DOT_SIZES = ((16, 44), (math.inf, 18))
"""Up to so many depths, a point is so large."""

LARGE_SHARE = 0.4
"""Shares up to this one have an axis of their own instead of one to 100 %."""

BEYOND = " What lies beyond the axis is in the numbers."

LOOKS: tuple[tuple[str, str], ...] = (("line", "circle"), ("dashed", "diamond"), ("dots", "square"))
"""The key and the shape of the points of a chart's first, second and third curve."""


@dataclass(frozen=True)
class Curve:
    """An estimate at each depth; ``bounds`` says that the axis must show it.

    All but depth 0, which may be of another size: what enters the first block was made to be read
    by that, and not by the head. What is ``made_up``, such as a Gaussian, has no interval.
    """

    name: str
    at: Mapping[int, Estimate]
    bounds: bool = True
    made_up: bool = False


@dataclass(frozen=True)
class Level:
    """A value that is drawn all across, and what it is."""

    at: float
    label: str


@dataclass(frozen=True)
class OverDepths:
    """What a chart over depths shows: up to three curves in one form, of so many blocks.

    ``unit`` names the vertical axis, which holds 0 where ``zero``; ``levels`` are drawn across it.
    ``axis`` names the other.
    """

    name: str
    title: str
    caption: str
    unit: str
    form: Wording
    curves: tuple[Curve, ...]
    blocks: int
    zero: bool = False
    levels: tuple[Level, ...] = ()
    axis: str = "depth: blocks run"

    @property
    def depths(self) -> tuple[int, ...]:
        """The depths at which any curve has an estimate, the head's input last."""
        found = {depth for curve in self.curves for depth in curve.at}
        return tuple(sorted(found, key=lambda depth: (depth == HEAD_INPUT, depth)))


def depth_figure(shown: OverDepths, more: Sequence[Table] = ()) -> Figure:
    """The curves as a figure, with their numbers and ``more`` tables."""
    keys = tuple(Key(key, one.name) for one, (key, _) in zip(shown.curves, LOOKS, strict=False))
    if len(keys) == 1:
        keys = ()
    spec, whole = depth_chart(shown)
    return Figure(
        shown.name,
        shown.title,
        shown.caption + ("" if whole else BEYOND),
        draw(spec, f"{shown.title}: {shown.unit} by depth"),
        (*keys, *(Key("dotted", one) for one in dict.fromkeys(one.label for one in shown.levels))),
        (depth_table(shown), *more),
    )


def depth_table(shown: OverDepths) -> Table:
    """A row for each depth, a column for each curve, with 95 % intervals."""
    nothing = Estimate(None, reason="not measured")

    def at(curve: Curve) -> Callable[[int], str]:
        words = point if curve.made_up else cell
        return lambda depth: words(curve.at.get(depth, nothing), shown.form)

    columns: dict[str, Callable[[int], str]] = {"depth": named}
    return table_of(
        f"{shown.title}, {shown.unit}, by depth",
        shown.depths,
        columns | {one.name: at(one) for one in shown.curves},
    )


def named(depth: int) -> str:
    """A depth in a table, in which the head's input has a row too."""
    return "head’s input" if depth == HEAD_INPUT else str(depth)


def depth_chart(shown: OverDepths) -> tuple[Spec, bool]:
    """The curves with the bands of their intervals, in Vega-Lite, and whether all of it is seen."""
    rows = [_rows(one, at, shown.form) for at, one in enumerate(shown.curves)]
    scale = _scale(shown, rows)
    channels: Channels = {
        "x": depth_axis(shown.blocks, shown.axis),
        "y": scaled(scale, None, grid=True),
    }
    layers: list[Spec] = [
        reference("y", one.at, channels["y"], {"color": "var(--muted)", "strokeWidth": 1.4})
        for one in shown.levels
    ]
    size = next(size for most, size in DOT_SIZES if len(shown.depths) <= most)
    pieces = [_inside(drawn, scale) for drawn in rows]
    for drawn, look in zip(pieces, CURVES, strict=False):
        area = {"color": look["color"], "opacity": 0.14}
        layers += [band(piece, channels, area) for piece in drawn]
    seen = [[row for row in drawn if scale.low <= row["y"] <= scale.high] for drawn in rows]
    for drawn, inside, look in zip(pieces, seen, CURVES, strict=False):
        layers += [line(piece, channels, look) for piece in drawn]
        layers.append(points(inside, channels, size=size, outline=1.8))
    ends = [row[end] for drawn in rows for row in drawn for end in ("y_low", "y_high")]
    whole = all(scale.low <= end <= scale.high for end in ends)
    return {"title": heading(shown.unit), "layer": layers}, whole


def _inside(rows: Sequence[Spec], scale: Scale) -> list[list[Spec]]:
    """The pieces of a curve within the axis, cut where they leave it."""
    pieces: list[list[Spec]] = []
    before: Spec | None = None
    for row in rows:
        within = scale.low <= row["y"] <= scale.high
        was = before is not None and scale.low <= before["y"] <= scale.high
        if within and not was:
            pieces.append([])
        if before is not None and within != was:
            pieces[-1].append(_crossing(*((before, row) if was else (row, before)), scale))
        if within:
            pieces[-1].append(row)
        before = row
    return [[_within(row, scale) for row in piece] for piece in pieces]


def _crossing(inside: Spec, outside: Spec, scale: Scale) -> Spec:
    """Where a line from one point to another leaves the axis."""
    end = scale.high if outside["y"] > scale.high else scale.low
    part = (end - inside["y"]) / (outside["y"] - inside["y"])
    names = ("x", "y", "y_low", "y_high")
    return {name: inside[name] + part * (outside[name] - inside[name]) for name in names}


def _within(row: Spec, scale: Scale) -> Spec:
    """The row with the ends of its interval on the axis."""
    ends = {end: min(max(row[end], scale.low), scale.high) for end in ("y_low", "y_high")}
    return row | ends


def depth_axis(blocks: int, title: str = "depth: blocks run") -> Spec:
    """The axis of depths, 0 to the number of blocks, in whole steps."""
    step = max(1, -(-blocks // (MOST_TICKS - 1)))
    ticks = sorted({*range(0, blocks + 1, step), blocks})
    if len(ticks) > 1 and ticks[-1] - ticks[-2] < step:
        ticks.pop(-2)
    axis = {"title": title, "grid": False, "values": ticks, "format": "d"}
    return quantity(axis | KEPT_APART, domain=[0, max(1, blocks)], nice=False, padding=8)


def _rows(curve: Curve, at: int, form: Wording) -> list[Spec]:
    look = CURVES[at]
    style = {"fill": look["color"], "stroke": look["color"], "shape": LOOKS[at][1]}
    if at:
        style["fill"] = "var(--paper)"
    # A percent's axis writes 0.1 as 10 %; that of any other unit writes what it holds.
    unit = 1.0 if form.unit == PERCENT else form.scale
    rows = []
    for depth, estimate in sorted(curve.at.items()):
        drawn = possible_part(estimate, form)
        if drawn.value is not None and depth != HEAD_INPUT:
            said = point(estimate, form) if curve.made_up else full(estimate, form)
            tip = f"{curve.name}, depth {depth}\n{said}"
            fields = {name: unit * end for name, end in interval_fields(drawn, "y").items()}
            rows.append({"x": depth, "tip": tip} | style | fields)
    return rows


def _scale(shown: OverDepths, rows: Sequence[Sequence[Spec]]) -> Scale:
    percent = shown.form.unit == PERCENT
    bounds = [
        row
        for drawn, curve in zip(rows, shown.curves, strict=True)
        for row in drawn
        if curve.bounds and (row["x"] > 0 or shown.blocks == 0)
    ]
    values = [row["y"] for row in bounds]
    others = [row[end] for drawn in rows for row in drawn for end in ("y", "y_low", "y_high")]
    levels = [*([0.0] if shown.zero else []), *(one.at for one in shown.levels)]
    ends = others
    if values:
        reach = MOST_BEYOND * max(map(abs, (*values, *levels)))
        ends = [*values, *(one for one in others if abs(one) <= reach)]
    if percent and max(ends, default=0.0) > LARGE_SHARE:
        return PORTIONS
    return scale_of([*levels, *ends], ticks=5, percent=percent)
