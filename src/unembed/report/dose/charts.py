"""Damage against gain, and figures against the weight, as Vega-Lite specifications."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from unembed.report.comparison.charts import NO_SCALE, ends, plain_axis
from unembed.report.parts import wording
from unembed.report.parts.drawing import Spec, heading
from unembed.report.parts.wording import Wording
from unembed.stats.estimate import Estimate
from unembed.training.doses.records import CONTROL, TEMPERATURE, DoseRow

SHAPES = {
    CONTROL: "circle",
    "fisher": "circle",
    "fisher-expand": "triangle-down",
    "margin": "square",
    "entropy": "triangle-up",
    "cosine": "diamond",
    TEMPERATURE: "cross",
}
"""The shape of each objective's points; colours are ``--dose-NAME`` of the stylesheet."""

_PERCENT, _POINTS = "\u00a0%", "\u00a0pp"

DODGE = 0.025
"""How far the objectives stand apart at one weight, as a share of the largest weight."""


@dataclass(frozen=True)
class Measure:
    """A figure of ``DoseFigures``: its field, its name on an axis, its words and tick format."""

    field: str
    title: str
    form: Wording
    ticks: str


def relative(value: float) -> str:
    """A relative change in percent with two decimals, ``0.0036`` as ``+0.36 %``."""
    return f"{100 * value:+.2f}".replace("-", "−").replace("−0.00", "+0.00") + _PERCENT


def apart(value: float) -> str:
    """A difference in percentage points with two decimals."""
    return relative(value).removesuffix(_PERCENT) + _POINTS


def part(value: float) -> str:
    """A share in percent with two decimals; an interval over seeds may end below 0."""
    return f"{100 * value:.2f}".replace("-", "−") + _PERCENT


def frontier(rows: Sequence[DoseRow], gain: Measure, damage: Measure, at: float | None) -> Spec:
    """Damage against gain: seeds as faint points, means with both intervals, in order of weight."""
    points: list[Spec] = []
    for row in rows:
        x, y = (figure_of(row, measure) for measure in (gain, damage))
        if x.value is None or y.value is None:
            continue
        tip = "\n".join(
            f"{measure.title} {wording.full(one, measure.form)}"
            for measure, one in ((gain, x), (damage, y))
        )
        points.append(_look(row) | ends(x, "x") | ends(y, "y") | {"tip": f"{row_name(row)}\n{tip}"})
    seeds = [
        _look(row) | {"x": getattr(one, gain.field), "y": getattr(one, damage.field)}
        for row in rows
        if len(row.singles) > 1
        for one in row.singles
        if getattr(one, gain.field) is not None and getattr(one, damage.field) is not None
    ]
    x_axis = _channel(gain, gain.title, grid=False)
    y_axis = _channel(damage, None, grid=True)
    layers = [
        *([] if at is None else [_upright(at, x_axis)]),
        _line(_paths(points), x_axis, y_axis),
        {
            "data": {"values": seeds},
            "mark": {"type": "point", "filled": True, "size": 26, "opacity": 0.4, "aria": False},
            "encoding": _encoding(x_axis, y_axis),
        },
        _bar(points, x_axis, y_axis, "x"),
        _bar(points, x_axis, y_axis, "y"),
        _points(points, x_axis, y_axis),
    ]
    return {"title": heading(damage.title), "layer": layers}


def doses(rows: Sequence[DoseRow], measure: Measure, of: Callable[[DoseRow], Estimate]) -> Spec:
    """What ``of`` takes from each dose against its weight, every line starting at the control."""
    trained = [row for row in rows if row.objective != TEMPERATURE]
    names = list(dict.fromkeys(row.objective for row in trained if row.objective != CONTROL))
    largest = max((row.weight for row in trained), default=0.0)
    points: list[Spec] = []
    for row in trained:
        found = of(row)
        if found.value is None:
            continue
        place = names.index(row.objective) - (len(names) - 1) / 2 if row.objective in names else 0
        tip = f"{row_name(row)}\n{measure.title} {wording.full(found, measure.form)}"
        shifted = row.weight + place * DODGE * largest
        points.append(_look(row) | {"x": shifted, "tip": tip} | ends(found, "y"))
    weights = sorted({row.weight for row in trained})
    axis = plain_axis("weight", grid=False, form=".4~g") | {"values": weights}
    x_axis = {"type": "quantitative", "axis": axis}
    y_axis = _channel(measure, None, grid=True)
    layers = [
        _line(_paths(points), x_axis, y_axis),
        _bar(points, x_axis, y_axis, "y"),
        _points(points, x_axis, y_axis),
    ]
    return {"title": heading(measure.title), "layer": layers}


def row_name(row: DoseRow) -> str:
    """A dose as a reader sees it."""
    if row.objective == CONTROL:
        return "no penalty"
    if row.objective == TEMPERATURE:
        like = "" if row.matched_to is None else f", as {row.matched_to}"
        return f"logits × {row.weight:.3f}{like}"
    return row.name


def figure_of(row: DoseRow, measure: Measure) -> Estimate:
    """The figure that a measure names."""
    found: Estimate = getattr(row.figures, measure.field)
    return found


def _look(row: DoseRow) -> Spec:
    return {
        "objective": row.objective,
        "weight": row.weight,
        "colour": f"var(--dose-{row.objective})",
        "shape": SHAPES.get(row.objective, "circle"),
    }


def _paths(points: Sequence[Spec]) -> list[Spec]:
    """The points that each line joins: the control belongs to the line of every objective."""
    control = [point for point in points if point["objective"] == CONTROL]
    names = dict.fromkeys(point["objective"] for point in points)
    paths: list[Spec] = []
    for name in names:
        ours = [point for point in points if point["objective"] == name]
        if name == CONTROL:
            continue
        begin = [_start(ours[0])] if name == TEMPERATURE else control
        paths += [
            point | {"objective": name, "colour": ours[0]["colour"]} for point in (*begin, *ours)
        ]
    return paths


def _start(temperature: Mapping[str, object]) -> Spec:
    """The starting model, on the path of the temperature: nothing gained, nothing lost."""
    return {"x": 0.0, "y": 0.0, "weight": 1.0} | {
        key: temperature[key] for key in ("objective", "colour")
    }


def _channel(measure: Measure, title: str | None, *, grid: bool) -> Spec:
    axis = plain_axis(title, grid=grid, form=measure.ticks)
    labels = {"labelFlush": False, "labelExpr": "datum.value === 0 ? '0' : datum.label"}
    return {"type": "quantitative", "axis": axis | labels, "scale": {"zero": False}}


def _encoding(x: Spec, y: Spec) -> Spec:
    return {
        "x": x | {"field": "x"},
        "y": y | {"field": "y"},
        "color": {"field": "colour"} | NO_SCALE,
        "shape": {"field": "shape"} | NO_SCALE,
    }


def _line(points: list[Spec], x: Spec, y: Spec) -> Spec:
    return {
        "data": {"values": points},
        "mark": {"type": "line", "strokeWidth": 1.6, "opacity": 0.75, "aria": False},
        "encoding": {
            "x": x | {"field": "x"},
            "y": y | {"field": "y"},
            "color": {"field": "colour"} | NO_SCALE,
            "detail": {"field": "objective"},
            "order": {"field": "weight"},
        },
    }


def _bar(points: list[Spec], x: Spec, y: Spec, along: str) -> Spec:
    low, high = f"{along}_low", f"{along}_high"
    ends_of = {
        "x": x | {"field": low if along == "x" else "x"},
        "y": y | {"field": low if along == "y" else "y"},
        f"{along}2": {"field": high},
    }
    return {
        "data": {"values": points},
        "mark": {"type": "rule", "strokeWidth": 1.6, "opacity": 0.8, "aria": False},
        "encoding": ends_of | {"color": {"field": "colour"} | NO_SCALE},
    }


def _points(points: list[Spec], x: Spec, y: Spec) -> Spec:
    return {
        "data": {"values": points},
        "mark": {"type": "point", "filled": True, "size": 90, "opacity": 1},
        "encoding": _encoding(x, y) | {"description": {"field": "tip"}},
    }


def _upright(at: float, x: Spec) -> Spec:
    return {
        "data": {"values": [{"x": at}]},
        "mark": {"type": "rule", "color": "var(--ink)", "strokeDash": [3, 3], "aria": False},
        "encoding": {"x": x | {"field": "x"}},
    }
