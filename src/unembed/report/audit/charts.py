"""What a margin is worth, as Vega-Lite specifications."""

from __future__ import annotations

import math
from collections.abc import Sequence

from unembed.decisions.audit.summary import Band, Density
from unembed.report.parts import wording
from unembed.report.parts.drawing import Spec, heading
from unembed.report.parts.marks import (
    NO_SCALE,
    interval_fields,
    intervals,
    label_axis,
    points,
    scaled,
)
from unembed.report.parts.scales import PORTIONS, scale_between

SEQUENTIAL_STEPS = 9
"""Steps of the sequential scale ``--seq-1`` … ``--seq-9`` of the stylesheet."""

_SERIES = {
    "accuracy": {"fill": "var(--right)", "stroke": "var(--right)", "shape": "circle"},
    "confidence": {"fill": "var(--paper)", "stroke": "var(--accent)", "shape": "diamond"},
}


def bands(parts: Sequence[Band]) -> Spec:
    """Accuracy and confidence in each margin band, with intervals and counts."""
    order = [f"{wording.between(one.low, one.high)}|{wording.count(one.n)}" for one in parts]
    rows: list[Spec] = []
    for label, band in zip(order, parts, strict=True):
        where = f"margin {wording.between(band.low, band.high)}"
        for series, estimate in (("accuracy", band.accuracy), ("confidence", band.confidence)):
            if estimate.value is not None:
                words = f"{series} {wording.full(estimate, wording.share)}"
                tip = f"{words}\n{where}, n = {wording.count(estimate.n)}"
                row = {"group": label, "series": series, "tip": tip}
                rows.append(row | _SERIES[series] | interval_fields(estimate, "y"))
    axis = {
        "title": "margin in logits, positions beneath",
        "labelExpr": "split(datum.label, '|')",
        "labelLineHeight": 15,
        "labelPadding": 8,
        "labelOverlap": False,
        "grid": False,
        "labelAngle": 0,
    }
    shift = {"field": "series", "sort": list(_SERIES), "scale": {"paddingOuter": 1}}
    channels = {
        "x": label_axis(order) | {"axis": axis},
        "xOffset": shift,
        "y": scaled(PORTIONS, None, grid=True),
    }
    layers = [intervals(rows, channels, "y"), points(rows, channels, size=110, outline=2.4)]
    return {"title": heading("share right, and probability given to the choice"), "layer": layers}


def density(grid: Density, x_title: str, y_title: str) -> Spec:
    """Positions per cell of a grid, in steps of equal ratio from one to the fullest cell."""
    fullest = max((count for column in grid.counts for count in column), default=0)
    rows = [
        {
            "x": grid.x_edges[i],
            "x2": grid.x_edges[i + 1],
            "y": grid.y_edges[j],
            "y2": grid.y_edges[j + 1],
            "fill": f"var(--seq-{_step(count, fullest)})",
            "tip": f"{wording.count(count)} positions\n"
            f"{x_title} {grid.x_edges[i]:.3g} to {grid.x_edges[i + 1]:.3g}\n"
            f"{y_title} {grid.y_edges[j]:.3g} to {grid.y_edges[j + 1]:.3g}",
        }
        for i, column in enumerate(grid.counts)
        for j, count in enumerate(column)
        if count
    ]

    def axis(edges: Sequence[float], title: str | None) -> Spec:
        return scaled(scale_between(edges[0], edges[-1], 6), title, grid=False)

    return {
        "title": heading(y_title),
        "data": {"values": rows},
        "mark": {"type": "rect", "strokeWidth": 0.7},
        "encoding": {
            "x": axis(grid.x_edges, x_title) | {"field": "x"},
            "x2": {"field": "x2"},
            "y": axis(grid.y_edges, None) | {"field": "y"},
            "y2": {"field": "y2"},
            "color": {"field": "fill"} | NO_SCALE,
            # A cell's own colour as its outline closes the hairlines between neighbours.
            "stroke": {"field": "fill"} | NO_SCALE,
            "description": {"field": "tip"},
        },
    }


def _step(count: int, fullest: int) -> int:
    if fullest <= 1:
        return SEQUENTIAL_STEPS
    return 1 + round((SEQUENTIAL_STEPS - 1) * math.log(count) / math.log(fullest))
