"""What a margin is worth, as Vega-Lite specifications."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from unembed.decisions.audit.batch_noise import NoiseBin
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
from unembed.report.parts.scales import PORTIONS, Scale, scale_between, scale_of
from unembed.stats.estimate import Estimate

SEQUENTIAL_STEPS = 9
"""Steps of the sequential scale ``--seq-1`` … ``--seq-9`` of the stylesheet."""

FILLED = {"fill": "var(--right)", "stroke": "var(--right)", "shape": "circle"}
OPEN = {"fill": "var(--paper)", "stroke": "var(--accent)", "shape": "diamond"}


def bands(parts: Sequence[Band]) -> Spec:
    """Accuracy and confidence in each margin band, with intervals and counts."""
    groups = {
        (wording.between(one.low, one.high), one.n): (one.accuracy, one.confidence) for one in parts
    }
    return _side_by_side(
        groups,
        {"accuracy": FILLED, "confidence": OPEN},
        ("share right, and probability given to the choice", "margin in logits", "margin"),
        PORTIONS,
    )


def noise(parts: Sequence[NoiseBin]) -> Spec:
    """Flips observed and foretold in each bin of margins, with intervals and counts."""
    groups = {
        (wording.between(one.low, one.high), one.n): (one.observed, one.predicted) for one in parts
    }
    ends = [end or 0.0 for pair in groups.values() for one in pair for end in (one.value, one.high)]
    return _side_by_side(
        groups,
        {"seen": FILLED, "foretold": OPEN},
        ("share of decisions that another batch changes", "margin in rounding steps", "margin"),
        scale_of([0.0, *ends, 1e-4], percent=True),
    )


def _side_by_side(
    groups: Mapping[tuple[str, int], tuple[Estimate, ...]],
    series: Mapping[str, Mapping[str, str]],
    words: tuple[str, str, str],
    scale: Scale,
) -> Spec:
    """Estimates of each group beside each other; ``words`` are heading, axis and name of a group.

    A group is its name and how many it counts.
    """
    title, axis_title, kind = words
    order = [f"{name}|{wording.count(n)}" for name, n in groups]
    rows: list[Spec] = []
    for label, ((name, n), estimates) in zip(order, groups.items(), strict=True):
        for one, estimate in zip(series, estimates, strict=True):
            if estimate.value is not None:
                said = f"{one} {wording.full(estimate, wording.share)}"
                tip = f"{said}\n{kind} {name}, n = {wording.count(n)}"
                row = {"group": label, "series": one, "tip": tip}
                rows.append(row | dict(series[one]) | interval_fields(estimate, "y"))
    axis = {
        "title": f"{axis_title}, positions beneath",
        "labelExpr": "split(datum.label, '|')",
        "labelLineHeight": 15,
        "labelPadding": 8,
        "labelOverlap": False,
        "grid": False,
        "labelAngle": 0,
    }
    shift = {"field": "series", "sort": list(series), "scale": {"paddingOuter": 1}}
    channels = {
        "x": label_axis(order) | {"axis": axis},
        "xOffset": shift,
        "y": scaled(scale, None, grid=True),
    }
    layers = [intervals(rows, channels, "y"), points(rows, channels, size=110, outline=2.4)]
    return {"title": heading(title), "layer": layers}


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
