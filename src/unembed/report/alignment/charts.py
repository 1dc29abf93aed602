"""Joint against the product of its two sides, and against the first moment, in Vega-Lite."""

from __future__ import annotations

import math
from collections.abc import Sequence

from unembed.report.alignment.pairs import FORMS, NAMES, TaskPair, estimate, pair_name
from unembed.report.parts import wording
from unembed.report.parts.drawing import Spec, heading
from unembed.report.parts.marks import (
    diagonal,
    interval_fields,
    intervals,
    points,
    reference,
    scaled,
)
from unembed.report.parts.scales import scale_between
from unembed.report.parts.wording import side_of
from unembed.signatures.alignment.records import Alignments

MOST_PAIRS_DRAWN = 800
"""Pairs that a chart draws; of more, as many at even ranks."""

CROWDED_FROM = 120
"""Pairs from which on the errors of the many are drawn faintly."""

SIDE_LOOKS = {
    0: ("var(--muted)", "circle"),
    1: ("var(--accent)", "triangle-up"),
    -1: ("var(--wrong)", "triangle-down"),
}
"""Colour and shape of a point by where its interval lies: above, below, neither."""


def against_proxy(alignments: Alignments, pairs: Sequence[TaskPair]) -> Spec:
    """Joint against activation × error, with the diagonal on which coupling is 1."""
    marks = [
        mark | _look(side_of(estimate(alignments, "coupling", pair), 1.0))
        for pair, mark in _marks(
            alignments, pairs, ("proxy", "joint"), ("activation", "error", "coupling")
        )
    ]
    span = _domain(marks, ("x", "y"))
    channels = {"x": _axis("activation × error", span), "y": _axis(None, span)}
    layers = [diagonal(*span, channels), *_layers(marks, channels)]
    return {"title": heading("joint"), "layer": layers}


def against_joint(alignments: Alignments, pairs: Sequence[TaskPair]) -> Spec:
    """First moment against joint, with the line at 0."""
    marks = [
        mark | _look(min(0, side_of(estimate(alignments, "first_moment", pair), 0.0)))
        for pair, mark in _marks(alignments, pairs, ("joint", "first_moment"), ())
    ]
    tall = _domain([*marks, {"y": -1.0}], ("y",))
    channels = {"x": _axis("joint", _domain(marks, ("x",))), "y": _axis(None, tall)}
    layers = [reference("y", 0.0, channels["y"], {}), *_layers(marks, channels)]
    return {"title": heading("first moment"), "layer": layers}


def _marks(
    alignments: Alignments,
    pairs: Sequence[TaskPair],
    axes: tuple[str, str],
    more: tuple[str, ...],
) -> list[tuple[TaskPair, Spec]]:
    """The pairs that have both values, with their places and what they say."""
    found = []
    kinds = [*reversed(axes), *(kind for kind in more if alignments.pairs(kind) is not None)]
    for pair in pairs:
        x, y = (
            wording.possible_part(estimate(alignments, kind, pair), FORMS[kind]) for kind in axes
        )
        if x.value is None or y.value is None:
            continue
        lines = [
            f"{NAMES[kind]} {wording.full(estimate(alignments, kind, pair), FORMS[kind])}"
            for kind in kinds
        ]
        tip = "\n".join((pair_name(alignments, pair), *lines))
        place = interval_fields(x, "x") | interval_fields(y, "y")
        found.append((pair, {"tip": tip} | place))
    return found


def _look(side: int) -> Spec:
    colour, shape = SIDE_LOOKS[side]
    return {"side": side, "fill": colour, "stroke": colour, "shape": shape}


def _domain(marks: Sequence[Spec], names: Sequence[str]) -> tuple[float, float]:
    """Tenths that hold every value; an interval may reach beyond and is cut there."""
    values = [mark[name] for mark in marks for name in names]
    low, high = min(values, default=0.0), max(values, default=1.0)
    return min(0.0, math.floor(10 * low) / 10), max(1.0, math.ceil(10 * high) / 10)


def _axis(title: str | None, domain: tuple[float, float]) -> Spec:
    found = scaled(scale_between(*domain, 5), title, grid=True)
    found["scale"]["clamp"] = True
    return found


def _layers(marks: Sequence[Spec], channels: dict[str, Spec]) -> list[Spec]:
    """Intervals and points, those that lie above or below on top."""
    layers = []
    faint = len(marks) > CROWDED_FROM
    for neither in (True, False):
        chosen = [mark for mark in marks if (mark["side"] == 0) == neither]
        opacity = (0.12 if neither else 0.3) if faint else (0.4 if neither else 0.65)
        for along in ("x", "y"):
            layers.append(intervals(chosen, channels, along, width=1.3, opacity=opacity))
        size, strength = 34 if faint else 66, 0.6 if faint and neither else 0.9
        layers.append(points(chosen, channels, size=size, opacity=strength))
    return layers
