"""Stated against observed shares in a comparison, as Vega-Lite specifications."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from unembed.decisions.comparison.calibration import ReliabilityBin
from unembed.decisions.comparison.prediction import ChanceBin
from unembed.report.parts import wording
from unembed.report.parts.drawing import Spec, heading
from unembed.report.parts.marks import (
    diagonal,
    intervals,
    plain_axis,
    points,
    quantity,
    share_fields,
)


def reliability(bins: Sequence[ReliabilityBin]) -> Spec:
    """Accuracy over confidence with intervals, and the diagonal of perfect calibration."""
    rows: list[Spec] = [
        {
            "x": one.confidence.value,
            "tip": f"confidence {wording.share(one.low)} to {wording.share(one.high)}, "
            f"n = {wording.count(one.n)}\nmean {wording.full(one.confidence, wording.share)}\n"
            f"accuracy {wording.full(one.accuracy, wording.share)}",
        }
        | share_fields(one.accuracy, "y")
        for one in bins
        if one.confidence.value is not None and one.accuracy.value is not None
    ]
    titles = {"x": "mean confidence", "y": "share right"}
    return _against_diagonal(rows, titles, 1.0, ".0%", {}, {})


def chances(bins: Sequence[ChanceBin]) -> Spec:
    """Observed over predicted share of flips; both axes are square roots, as most are small."""
    rows: list[Spec] = [
        {
            "x": one.predicted.value,
            "tip": f"chance {one.low:g} to {one.high:g}, n = {wording.count(one.n)}\n"
            f"predicted {wording.full(one.predicted, wording.share)}\n"
            f"observed {wording.full(one.observed, wording.share)}",
        }
        | share_fields(one.observed, "y")
        for one in bins
        if one.n and one.predicted.value is not None and one.observed.value is not None
    ]
    end = max([0.01, *(row["x"] for row in rows), *(row["y_high"] for row in rows)])
    ticks = {"labelOverlap": "greedy", "values": [0, 0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5]}
    titles = {"x": "predicted share", "y": "observed share"}
    return _against_diagonal(rows, titles, end, ".1~%", ticks, {"type": "sqrt", "nice": False})


def _against_diagonal(
    rows: Sequence[Spec],
    titles: Mapping[str, str],
    end: float,
    form: str,
    ticks: Spec,
    scale: Mapping[str, object],
) -> Spec:
    """Points with intervals over two equal axes from 0 to ``end``, and where both are equal."""
    marks = [row | {"fill": "var(--accent)", "stroke": "var(--accent)"} for row in rows]
    x, y = (
        quantity(plain_axis(title, grid=title is None, form=form) | ticks, domain=[0, end], **scale)
        for title in (titles["x"], None)
    )
    channels = {"x": x, "y": y}
    layers = [
        diagonal(0.0, end, channels),
        intervals(marks, channels, "y"),
        points(marks, channels, size=60),
    ]
    return {"title": heading(titles["y"]), "layer": layers}
