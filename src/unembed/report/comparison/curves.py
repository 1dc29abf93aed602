"""Stated against observed shares in a comparison, as Vega-Lite specifications."""

from __future__ import annotations

from collections.abc import Sequence

from unembed.decisions.comparison.calibration import ReliabilityBin
from unembed.decisions.comparison.prediction import ChanceBin
from unembed.report.comparison.charts import ends_of_share, plain_axis
from unembed.report.parts import wording
from unembed.report.parts.drawing import Spec, heading


def reliability(bins: Sequence[ReliabilityBin], colour: str) -> Spec:
    """Accuracy over confidence with intervals, and the diagonal of perfect calibration."""
    rows: list[Spec] = [
        {
            "x": one.confidence.value,
            "tip": f"confidence {wording.share(one.low)} to {wording.share(one.high)}, "
            f"n = {wording.count(one.n)}\nmean {wording.full(one.confidence, wording.share)}\n"
            f"accuracy {wording.full(one.accuracy, wording.share)}",
        }
        | ends_of_share(one.accuracy, "y")
        for one in bins
        if one.confidence.value is not None and one.accuracy.value is not None
    ]
    return _diagonal(
        rows, {"domain": [0, 1]}, "mean confidence", ".0%", "share right", colour, [0.0, 1.0]
    )


def chances(bins: Sequence[ChanceBin]) -> Spec:
    """Observed over predicted share of flips; both axes are square roots, for most are small."""
    rows: list[Spec] = [
        {
            "x": one.predicted.value,
            "tip": f"chance {one.low:g} to {one.high:g}, n = {wording.count(one.n)}\n"
            f"predicted {wording.full(one.predicted, wording.share)}\n"
            f"observed {wording.full(one.observed, wording.share)}",
        }
        | ends_of_share(one.observed, "y")
        for one in bins
        if one.n and one.predicted.value is not None and one.observed.value is not None
    ]
    end = max([0.01, *(row["x"] for row in rows), *(row["y_high"] for row in rows)])
    scale = {"type": "sqrt", "domain": [0, end], "nice": False}
    return _diagonal(
        rows, scale, "predicted share", ".1~%", "observed share", "var(--accent)", [0.0, end]
    )


def _diagonal(
    rows: list[Spec],
    scale: Spec,
    x_title: str,
    form: str,
    y_title: str,
    colour: str,
    line: list[float],
) -> Spec:
    ticks: Spec = (
        {"labelOverlap": "greedy", "values": [0, 0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5]}
        if "type" in scale
        else {}
    )

    def axis(field: str, title: str | None) -> Spec:
        return {
            "field": field,
            "type": "quantitative",
            "scale": scale,
            "axis": plain_axis(title, grid=field != "x", form=form) | ticks,
        }

    encoding = {"x": axis("x", x_title), "y": axis("y", None)}
    return {
        "title": heading(y_title),
        "layer": [
            {
                "data": {"values": [{"x": end, "y": end} for end in line]},
                "mark": {
                    "type": "line",
                    "color": "var(--muted)",
                    "strokeDash": [3, 3],
                    "strokeWidth": 1.4,
                    "aria": False,
                },
                "encoding": encoding,
            },
            {
                "data": {"values": rows},
                "mark": {"type": "rule", "strokeWidth": 2, "color": colour, "aria": False},
                "encoding": {
                    "x": encoding["x"],
                    "y": encoding["y"] | {"field": "y_low"},
                    "y2": {"field": "y_high"},
                },
            },
            {
                "data": {"values": rows},
                "mark": {"type": "circle", "size": 60, "color": colour, "opacity": 1},
                "encoding": encoding | {"description": {"field": "tip"}},
            },
        ],
    }
