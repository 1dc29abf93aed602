"""Damage against gain, and figures against the weight, as Vega-Lite specifications."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unembed.report.parts import wording
from unembed.report.parts.drawing import Spec, heading
from unembed.report.parts.marks import (
    NO_SCALE,
    interval_fields,
    intervals,
    plain_axis,
    points,
    quantity,
    reference,
    scaled,
)
from unembed.report.parts.scales import scale_of
from unembed.report.parts.wording import PERCENT, POINTS, Wording
from unembed.stats.estimate import Estimate
from unembed.training.doses.records import CONTROL, TEMPERATURE, DoseRow

OBJECTIVE_SHAPES = {
    CONTROL: "circle",
    "fisher": "circle",
    "fisher-expand": "triangle-down",
    "margin": "square",
    "entropy": "triangle-up",
    "cosine": "diamond",
    TEMPERATURE: "cross",
}
"""The shape of each objective's points; colours are ``--dose-NAME`` of the stylesheet."""

APART = 3.0
"""Largest weights that differ by more than this factor have no axis in common."""
WEIGHT_SHIFT = 0.025
"""How far the objectives stand apart at one weight, as a share of the largest weight."""


@dataclass(frozen=True)
class Measure:
    """A figure of ``DoseFigures``: its field, its name on an axis and its words."""

    field: str
    title: str
    form: Wording


def frontier(rows: Sequence[DoseRow], gain: Measure, damage: Measure, at: float | None) -> Spec:
    """Damage against gain: seeds as faint points, means with both intervals, in order of weight."""
    found: list[Spec] = []
    for row in rows:
        x, y = (figure_of(row, measure) for measure in (gain, damage))
        if x.value is None or y.value is None:
            continue
        tip = "\n".join(
            f"{measure.title} {wording.full(one, measure.form)}"
            for measure, one in ((gain, x), (damage, y))
        )
        place = interval_fields(x, "x") | interval_fields(y, "y")
        found.append(_look(row) | place | {"tip": f"{row.name}\n{tip}"})
    seeds = [
        _look(row) | {"x": getattr(one, gain.field), "y": getattr(one, damage.field)}
        for row in rows
        if len(row.singles) > 1
        for one in row.singles
        if getattr(one, gain.field) is not None and getattr(one, damage.field) is not None
    ]
    # A temperature's path begins where nothing is gained and nothing lost.
    marks = [*found, *seeds, {"x": 0.0, "y": 0.0}, *([] if at is None else [{"x": at}])]
    channels = {"x": _axis(gain, gain.title, marks, "x"), "y": _axis(damage, None, marks, "y")}
    layers = [
        *([] if at is None else [reference("x", at, channels["x"], {})]),
        _paths(found, channels),
        points(seeds, channels, size=26, opacity=0.4),
        intervals(found, channels, "x", width=1.6, opacity=0.8),
        intervals(found, channels, "y", width=1.6, opacity=0.8),
        points(found, channels),
    ]
    return {"title": heading(damage.title), "layer": layers}


def doses(found: Sequence[tuple[DoseRow, Estimate]], measure: Measure) -> Spec:
    """A figure of each trained dose against its weight, every line starting at the control.

    Weights whose scales differ between the objectives stand as shares of each one's largest.
    """
    trained = [(row, one) for row, one in found if row.objective != TEMPERATURE]
    names = list(dict.fromkeys(row.objective for row, _ in trained if row.objective != CONTROL))
    axis_of = DoseAxis.of([row for row, _ in trained])
    largest = max((axis_of.at(row) for row, _ in trained), default=0.0)
    marks: list[Spec] = []
    for row, one in trained:
        if one.value is None:
            continue
        place = names.index(row.objective) - (len(names) - 1) / 2 if row.objective in names else 0
        tip = f"{row.name}\n{measure.title} {wording.full(one, measure.form)}"
        shifted = axis_of.at(row) + place * WEIGHT_SHIFT * largest
        marks.append(_look(row) | {"x": shifted, "tip": tip} | interval_fields(one, "y"))
    values = {} if axis_of.largest else {"values": sorted({row.dose for row, _ in trained})}
    axis = plain_axis(axis_of.title, grid=False, form=".4~g") | values
    channels = {"x": quantity(axis), "y": _axis(measure, None, marks, "y")}
    layers = [
        _paths(marks, channels),
        intervals(marks, channels, "y", width=1.6, opacity=0.8),
        points(marks, channels),
    ]
    return {"title": heading(measure.title), "layer": layers}


@dataclass(frozen=True)
class DoseAxis:
    """Where doses stand: at their weights, or their shares of the loss's gradient.

    ``largest`` has each objective's largest weight, where these differ too much for one axis.
    """

    title: str
    largest: dict[str, float]

    @staticmethod
    def of(rows: Sequence[DoseRow]) -> DoseAxis:
        """The axis of these doses."""
        largest: dict[str, float] = {}
        for row in rows:
            if row.objective not in (CONTROL, TEMPERATURE):
                largest[row.objective] = max(row.dose, largest.get(row.objective, 0.0))
        if any(row.gradient_share is not None for row in rows):
            return DoseAxis("share of the loss’s gradient", {})
        sizes = [size for size in largest.values() if size > 0]
        if sizes and max(sizes) > APART * min(sizes):
            words = ", ".join(f"{name} {size:g}" for name, size in largest.items())
            return DoseAxis(f"weight, as a share of the largest ({words})", largest)
        return DoseAxis("weight", {})

    def at(self, row: DoseRow) -> float:
        """A dose's place."""
        return row.dose / (self.largest.get(row.objective) or 1.0)


def figure_of(row: DoseRow, measure: Measure) -> Estimate:
    """The figure that a measure names."""
    found: Estimate = getattr(row.figures, measure.field)
    return found


def _look(row: DoseRow) -> Spec:
    colour = f"var(--dose-{row.objective})"
    return {
        "objective": row.objective,
        "weight": row.dose,
        "fill": colour,
        "stroke": colour,
        "shape": OBJECTIVE_SHAPES.get(row.objective, "circle"),
    }


def _paths(marks: Sequence[Spec], channels: dict[str, Spec]) -> Spec:
    """A line for each objective by rising weight: the control belongs to each of them."""
    control = [mark for mark in marks if mark["objective"] == CONTROL]
    joined: list[Spec] = []
    for name in dict.fromkeys(mark["objective"] for mark in marks):
        ours = [mark for mark in marks if mark["objective"] == name]
        if name != CONTROL:
            # The temperature starts at the model itself: nothing gained, nothing lost.
            unscaled = {"x": 0.0, "y": 0.0, "weight": 1.0}
            begin = [unscaled] if name == TEMPERATURE else control
            look = {"objective": name, "stroke": ours[0]["stroke"]}
            joined += [mark | look for mark in (*begin, *ours)]
    return {
        "data": {"values": joined},
        "mark": {"type": "line", "strokeWidth": 1.6, "opacity": 0.75, "aria": False},
        "encoding": {
            "x": channels["x"] | {"field": "x"},
            "y": channels["y"] | {"field": "y"},
            "color": {"field": "stroke"} | NO_SCALE,
            "detail": {"field": "objective"},
            "order": {"field": "weight"},
        },
    }


def _axis(measure: Measure, title: str | None, marks: Sequence[Spec], along: str) -> Spec:
    """The axis that holds a measure of the marks; one without a title is vertical, with a grid."""
    values = [
        mark[f] for mark in marks for f in (along, f"{along}_low", f"{along}_high") if f in mark
    ]
    percent = measure.form.unit in (PERCENT, POINTS)
    scale = scale_of(values, ticks=5, percent=percent)
    return scaled(scale, title, grid=title is None, signed=measure.form.signed)
