"""Stated against observed shares in a comparison, as Vega-Lite specifications."""

from __future__ import annotations

from collections.abc import Sequence

from unembed.decisions.comparison.calibration import ReliabilityBin
from unembed.decisions.comparison.prediction import ChanceBin
from unembed.report.parts import wording
from unembed.report.parts.drawing import Spec, heading
from unembed.report.parts.marks import diagonal, intervals, plain_axis, points, share_fields

_COLOURS = {"fill": "var(--accent)", "stroke": "var(--accent)"}


def reliability(bins: Sequence[ReliabilityBin]) -> Spec:
    """Accuracy over confidence with intervals, and the diagonal of perfect calibration."""
    rows: list[Spec] = [
        {
            "x": one.confidence.value,
            "tip": f"confidence {wording.share(one.low)} to {wording.share(one.high)}, "
            f"n = {wording.count(one.n)}\nmean {wording.full(one.confidence, wording.share)}\n"
            f"accuracy {wording.full(one.accuracy, wording.share)}",
        }
        | _COLOURS
        | share_fields(one.accuracy, "y")
        for one in bins
        if one.confidence.value is not None and one.accuracy.value is not None
    ]
    channels: dict[str, Spec] = {
        name: {
            "type": "quantitative",
            "scale": {"domain": [0, 1]},
            "axis": plain_axis(title, grid=name == "y", form=".0%"),
        }
        for name, title in (("x", "mean confidence"), ("y", None))
    }
    return _against_diagonal(rows, channels, "share right", 1.0)


def chances(bins: Sequence[ChanceBin]) -> Spec:
    """Observed over predicted share of flips; both axes are square roots, as most are small."""
    rows: list[Spec] = [
        {
            "x": one.predicted.value,
            "tip": f"chance {one.low:g} to {one.high:g}, n = {wording.count(one.n)}\n"
            f"predicted {wording.full(one.predicted, wording.share)}\n"
            f"observed {wording.full(one.observed, wording.share)}",
        }
        | _COLOURS
        | share_fields(one.observed, "y")
        for one in bins
        if one.n and one.predicted.value is not None and one.observed.value is not None
    ]
    end = max([0.01, *(row["x"] for row in rows), *(row["y_high"] for row in rows)])
    ticks = {"labelOverlap": "greedy", "values": [0, 0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5]}
    channels: dict[str, Spec] = {
        name: {
            "type": "quantitative",
            "scale": {"type": "sqrt", "domain": [0, end], "nice": False},
            "axis": plain_axis(title, grid=name == "y", form=".1~%") | ticks,
        }
        for name, title in (("x", "predicted share"), ("y", None))
    }
    return _against_diagonal(rows, channels, "observed share", end)


def _against_diagonal(
    rows: list[Spec], channels: dict[str, Spec], y_title: str, end: float
) -> Spec:
    layers = [
        diagonal(0.0, end, channels),
        intervals(rows, channels, "y"),
        points(rows, channels, size=60),
    ]
    return {"title": heading(y_title), "layer": layers}
