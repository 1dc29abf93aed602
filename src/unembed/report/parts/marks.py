"""The axes and marks that Vega-Lite charts are made of.

A row holds its place in ``x`` and ``y``, the ends of its interval in ``x_low`` … ``y_high``, its
colours in ``fill`` and ``stroke``, and in ``tip`` what it says under the pointer. ``channels`` are
the encodings of ``x`` and ``y``, to which the field of that name is added where none is named.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TypeVar

from unembed.report.parts.drawing import Spec
from unembed.report.parts.scales import Scale
from unembed.stats.estimate import Estimate

NO_SCALE: Spec = {"type": "nominal", "scale": None}
"""A field that holds the colour or the shape itself."""

CURVES: tuple[Spec, ...] = (
    {"color": "var(--accent)"},
    {"color": "var(--accent-2)", "strokeDash": [6, 4]},
    {"color": "var(--ink)", "strokeDash": [2, 3]},
)
"""A chart's curves; the keys ``line``, ``dashed`` and ``dots`` show them."""

KEPT_APART: Spec = {"labelOverlap": "greedy", "labelSeparation": 12}
"""Leaves out labels that would touch: the page's font may be wider than the renderer's."""

Channels = Mapping[str, Spec]
Row = TypeVar("Row")


def interval_fields(estimate: Estimate, name: str) -> Spec:
    """An estimate and its interval as fields; without interval, both ends are the value."""
    value = estimate.value
    return {
        name: value,
        f"{name}_low": value if estimate.low is None else estimate.low,
        f"{name}_high": value if estimate.high is None else estimate.high,
    }


def share_fields(estimate: Estimate, name: str) -> Spec:
    """``interval_fields`` within 0 and 1: an interval over few seeds may lie partly outside."""
    return {
        field: None if value is None else min(max(value, 0.0), 1.0)
        for field, value in interval_fields(estimate, name).items()
    }


def plain_axis(title: str | None, *, grid: bool, form: str) -> Spec:
    """An axis with few ticks, its title at the end."""
    return {"title": title, "grid": grid, "tickCount": 5} | ticks_in(form)


def ticks_in(form: str) -> Spec:
    """The ticks of an axis in a format of Vega's, percent as everywhere: ``10 %``."""
    if not form.endswith("%"):
        return {"format": form}
    words = "replace(datum.label, '%', '\u00a0%')"
    return {"format": form, "labelExpr": words} | KEPT_APART


def quantity(axis: Spec | None, **scale: object) -> Spec:
    """A channel of numbers; ``scale`` are properties of its scale."""
    return {"type": "quantitative", "axis": axis} | ({"scale": scale} if scale else {})


def scaled(scale: Scale, title: str | None, *, grid: bool, signed: bool = False) -> Spec:
    """A channel of numbers on a scale, whose ticks are written as the scale writes them.

    ``signed`` ones have a plus above 0.
    """
    labels = ["+" * (signed and tick > 0) + scale.label(tick) for tick in scale.ticks]
    words = json.dumps(labels, ensure_ascii=False)
    axis = {
        "title": title,
        "grid": grid,
        "values": list(scale.ticks),
        "labelExpr": f"{words}[round((datum.value - {scale.ticks[0]!r}) / {scale.step!r})]",
    } | KEPT_APART
    return quantity(axis, domain=[scale.low, scale.high], nice=False, zero=False)


LETTER_WIDTH = 7.0
"""Pixels of an axis's letter in the widest of the page's fonts, which the renderer may not have."""


def room_for(names: Sequence[str]) -> float:
    """Pixels that a vertical axis keeps for its names, so that none leaves the drawing."""
    return LETTER_WIDTH * max((len(line) for one in names for line in one.split("|")), default=0)


def label_axis(order: Sequence[str]) -> Spec:
    """A row for each label of the field ``group``, in this order; ``|`` breaks a label's line."""
    return {
        "field": "group",
        "type": "nominal",
        "sort": list(order),
        "scale": {"domain": list(order)},
        "axis": {
            "title": None,
            "labelExpr": "split(datum.label, '|')",
            "labelLineHeight": 14,
            "labelOverlap": False,
            "labelOffset": -6,
            "minExtent": room_for(order),
            "domain": False,
        },
    }


def spaced(rows: Sequence[Row], most: int) -> list[Row]:
    """So many of the rows at most, evenly spaced, the first and the last among them."""
    last = len(rows) - 1
    if last < most:
        return list(rows)
    return [rows[at * last // (most - 1)] for at in range(most)]


def intervals(
    rows: Sequence[Spec],
    channels: Channels,
    along: str,
    *,
    width: float = 2.0,
    opacity: float = 1.0,
) -> Spec:
    """The interval of each row along ``x`` or ``y``."""
    ends: Spec = {
        along: channels[along] | {"field": f"{along}_low"},
        f"{along}2": {"field": f"{along}_high"},
    }
    return {
        "data": {"values": list(rows)},
        "mark": {"type": "rule", "strokeWidth": width, "opacity": opacity, "aria": False},
        "encoding": _fields(channels) | ends | {"color": {"field": "stroke"} | NO_SCALE},
    }


def points(
    rows: Sequence[Spec],
    channels: Channels,
    *,
    size: int = 90,
    outline: float = 0.0,
    opacity: float = 1.0,
) -> Spec:
    """A point for each row, in its ``shape`` where it has one; one with ``tip`` says that."""
    mark = {"type": "point", "size": size, "strokeWidth": outline, "opacity": opacity}
    encoding = _fields(channels)
    for name in ("fill", "stroke", "shape"):
        if any(name in row for row in rows):
            encoding[name] = {"field": name} | NO_SCALE
    if any("tip" in row for row in rows):
        encoding["description"] = {"field": "tip"}
    else:
        mark["aria"] = False
    return {"data": {"values": list(rows)}, "mark": mark, "encoding": encoding}


def line(rows: Sequence[Spec], channels: Channels, look: Spec) -> Spec:
    """The rows joined by a line; ``look`` are properties of the mark, such as its colour."""
    mark = {"type": "line", "strokeWidth": 2, "aria": False} | look
    return {"data": {"values": list(rows)}, "mark": mark, "encoding": _fields(channels)}


def band(rows: Sequence[Spec], channels: Channels, look: Spec) -> Spec:
    """The area between ``y_low`` and ``y_high``."""
    mark = {"type": "area", "aria": False} | look
    ends = {"y": channels["y"] | {"field": "y_low"}, "y2": {"field": "y_high"}}
    return {"data": {"values": list(rows)}, "mark": mark, "encoding": _fields(channels) | ends}


def dots(rows: Sequence[Spec], channels: Channels, colour: str, size: int) -> Spec:
    """A dot of one colour for each row, which says its ``tip``."""
    return {
        "data": {"values": list(rows)},
        "mark": {"type": "circle", "size": size, "color": colour, "opacity": 1},
        "encoding": _fields(channels) | {"description": {"field": "tip"}},
    }


def reference(channel: str, at: float, axis: Spec, look: Spec) -> Spec:
    """A line across the whole chart at one value of ``x`` or ``y``."""
    mark = {"type": "rule", "color": "var(--ink)", "strokeDash": [3, 3], "aria": False} | look
    encoding = {channel: axis | {"field": channel}}
    return {"data": {"values": [{channel: at}]}, "mark": mark, "encoding": encoding}


def diagonal(low: float, high: float, channels: Channels) -> Spec:
    """The dashed line on which ``x`` and ``y`` are equal."""
    look = {"color": "var(--muted)", "strokeDash": [3, 3], "strokeWidth": 1.4}
    return line([{"x": end, "y": end} for end in (low, high)], channels, look)


def _fields(channels: Channels) -> Spec:
    return {
        name: channel if "field" in channel else channel | {"field": name}
        for name, channel in channels.items()
    }
