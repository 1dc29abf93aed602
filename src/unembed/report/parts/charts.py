"""The charts of decisions, as a Vega-Lite specification.

Colours are CSS variables that the page's stylesheet defines, for light and for dark. Marks that
carry a reading have it as their description.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from unembed.decisions.audit.summary import Band, Density, Histogram
from unembed.report.parts import wording
from unembed.report.parts.drawing import Spec, heading

STEPS = 9
"""Steps of the sequential scale ``--seq-1`` … ``--seq-9``."""


def histogram(counts: Histogram, unit: str, median: float | None, ticks: int = 6) -> Spec:
    """Share of positions per bin, right decisions below, wrong ones stacked on them."""
    n = sum(counts.right) + sum(counts.wrong) + counts.below + counts.above
    rows: list[Spec] = []
    for low, high, right, wrong in zip(
        counts.edges, counts.edges[1:], counts.right, counts.wrong, strict=False
    ):
        total = right + wrong
        if total:
            tip = (
                f"{wording.decimal(low)} to {wording.decimal(high)} {unit}\n"
                f"{wording.share(total / n)} of positions ({wording.count(total)})\n"
                f"{wording.share(right / total)} of them right"
            )
            ends = {"low": low, "high": high, "tip": tip}
            rows.append(ends | {"from": 0.0, "to": right / n, "fill": "var(--right)"})
            rows.append(ends | {"from": right / n, "to": total / n, "fill": "var(--wrong)"})
    # Empty bins at the far end, which a fixed set of edges leaves, are not drawn.
    end = max((row["high"] for row in rows), default=counts.edges[-1])
    layers = [
        {
            "data": {"values": rows},
            "mark": {"type": "bar", "stroke": "var(--paper)", "strokeWidth": 0.6},
            "encoding": {
                "x": {
                    "field": "low",
                    "type": "quantitative",
                    "scale": {"domain": [counts.edges[0], end], "nice": False},
                    "axis": {"title": unit, "grid": False, "tickCount": ticks, "format": ".3~g"},
                },
                "x2": {"field": "high"},
                "y": {
                    "field": "from",
                    "type": "quantitative",
                    "axis": {"title": None, "format": ".1~%", "tickCount": 5},
                },
                "y2": {"field": "to"},
                "color": {"field": "fill", "type": "nominal", "scale": None},
                "description": {"field": "tip"},
            },
        }
    ]
    if median is not None and counts.edges[0] <= median <= end:
        left = median < (counts.edges[0] + end) / 2
        label = f"median {wording.decimal(median)}"
        layers.append(_upright(median, label, left))
    return {"title": heading("share of positions"), "layer": layers}


def bands(parts: Sequence[Band]) -> Spec:
    """Accuracy and confidence in each margin band, with intervals and counts."""
    rows: list[Spec] = []
    for band in parts:
        label = f"{wording.between(band.low, band.high)}|{wording.count(band.n)}"
        for series, estimate in (("accuracy", band.accuracy), ("confidence", band.confidence)):
            if estimate.value is None:
                continue
            rows.append(
                {
                    "band": label,
                    "series": series,
                    "y": estimate.value,
                    "low": estimate.value if estimate.low is None else estimate.low,
                    "high": estimate.value if estimate.high is None else estimate.high,
                    "fill": "var(--right)" if series == "accuracy" else "var(--paper)",
                    "stroke": "var(--right)" if series == "accuracy" else "var(--accent)",
                    "shape": "circle" if series == "accuracy" else "diamond",
                    "tip": f"{series} {wording.full(estimate, wording.share)}\n"
                    f"margin {wording.between(band.low, band.high)}, "
                    f"n = {wording.count(estimate.n)}",
                }
            )
    order = [f"{wording.between(b.low, b.high)}|{wording.count(b.n)}" for b in parts]
    x = {
        "field": "band",
        "type": "nominal",
        "sort": order,
        "scale": {"domain": order},
        "axis": {
            "title": "margin in logits, positions beneath",
            "labelExpr": "split(datum.label, '|')",
            "labelLineHeight": 15,
            "labelPadding": 8,
            "labelOverlap": False,
            "grid": False,
            "labelAngle": 0,
        },
    }
    shift = {
        "field": "series",
        "sort": ["accuracy", "confidence"],
        "scale": {"paddingOuter": 1.2},
    }
    y = {
        "type": "quantitative",
        "scale": {"domain": [0, 1]},
        "axis": {"title": None, "format": ".0%", "tickCount": 5},
    }
    stroke = {"field": "stroke", "type": "nominal", "scale": None}
    return {
        "title": heading("share right, and probability given to the choice"),
        "data": {"values": rows},
        "layer": [
            {
                "mark": {"type": "rule", "strokeWidth": 2, "aria": False},
                "encoding": {
                    "x": x,
                    "xOffset": shift,
                    "y": y | {"field": "low"},
                    "y2": {"field": "high"},
                    "color": stroke,
                },
            },
            {
                "mark": {"type": "point", "size": 110, "strokeWidth": 2.4, "opacity": 1},
                "encoding": {
                    "x": x,
                    "xOffset": shift,
                    "y": y | {"field": "y"},
                    "fill": {"field": "fill", "type": "nominal", "scale": None},
                    "stroke": stroke,
                    "shape": {"field": "shape", "type": "nominal", "scale": None},
                    "description": {"field": "tip"},
                },
            },
        ],
    }


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

    def axis(field: str, edges: Sequence[float], title: str | None) -> Spec:
        return {
            "field": field,
            "type": "quantitative",
            "scale": {"domain": [edges[0], edges[-1]], "nice": False, "zero": False},
            "axis": {"title": title, "tickCount": 6, "grid": False, "format": ".3~g"},
        }

    return {
        "title": heading(y_title),
        "data": {"values": rows},
        "mark": {"type": "rect", "strokeWidth": 0.7},
        "encoding": {
            "x": axis("x", grid.x_edges, x_title),
            "x2": {"field": "x2"},
            "y": axis("y", grid.y_edges, None),
            "y2": {"field": "y2"},
            "color": {"field": "fill", "type": "nominal", "scale": None},
            # A cell's own colour as its outline closes the hairlines between neighbours.
            "stroke": {"field": "fill", "type": "nominal", "scale": None},
            "description": {"field": "tip"},
        },
    }


def _upright(x: float, label: str, label_on_right: bool) -> Spec:
    """A vertical line with its label at the top."""
    encoding = {"x": {"field": "x", "type": "quantitative"}}
    return {
        "data": {"values": [{"x": x, "label": label}]},
        "layer": [
            {
                "mark": {"type": "rule", "color": "var(--ink)", "strokeWidth": 1.4, "aria": False},
                "encoding": encoding,
            },
            {
                "mark": {
                    "type": "text",
                    "y": 0,
                    "dx": 6 if label_on_right else -6,
                    "dy": 7,
                    "align": "left" if label_on_right else "right",
                    "color": "var(--ink)",
                    "fontSize": 12.5,
                    "fontWeight": 600,
                    "aria": False,
                },
                "encoding": encoding | {"text": {"field": "label"}},
            },
        ],
    }


def _step(count: int, fullest: int) -> int:
    if fullest <= 1:
        return STEPS
    return 1 + round((STEPS - 1) * math.log(count) / math.log(fullest))
