"""Joint against what its marginals foretell, and against the first moment, in Vega-Lite."""

from __future__ import annotations

import math
from collections.abc import Sequence

from unembed.report.alignment.pairs import NAMES, TaskPair, cosine, estimate, pair_name, told
from unembed.report.comparison.charts import NO_SCALE, ends, plain_axis
from unembed.report.parts import wording
from unembed.report.parts.drawing import Spec, heading
from unembed.signatures.alignment.records import Alignments

MOST = 800
"""Points that a chart draws; of more pairs, as many at even ranks."""

CROWDED = 120
"""Pairs from which on the errors of the many are drawn faintly."""

LOOKS = {
    0: ("var(--muted)", "circle"),
    1: ("var(--accent)", "triangle-up"),
    -1: ("var(--wrong)", "triangle-down"),
}
"""Colour and shape of a point by what is told of it: above, below, neither."""


def drawn(pairs: Sequence[TaskPair]) -> list[TaskPair]:
    """At most ``MOST`` of the pairs, the first and the last among them, at even ranks."""
    if len(pairs) <= MOST:
        return list(pairs)
    step = (len(pairs) - 1) / (MOST - 1)
    return [pairs[round(at * step)] for at in range(MOST)]


def against_proxy(alignments: Alignments, pairs: Sequence[TaskPair]) -> Spec:
    """Joint against activation × error, with the diagonal on which coupling is 1."""
    points = _points(alignments, pairs, ("proxy", "joint"), ("activation", "error", "coupling"))
    marks = [
        point | _look(told(estimate(alignments, "coupling", pair), 1.0)) for pair, point in points
    ]
    low, high = _domain(marks, ("x", "y"))
    marks = [_cut(mark, (low, high), (low, high)) for mark in marks]
    diagonal = {
        "data": {"values": [{"x": low, "y": low, "x2": high, "y2": high}]},
        "mark": {"type": "rule", "color": "var(--ink)", "strokeDash": [3, 3], "aria": False},
        "encoding": {
            "x": _axis("activation × error", (low, high)) | {"field": "x"},
            "y": _axis(None, (low, high)) | {"field": "y"},
            "x2": {"field": "x2"},
            "y2": {"field": "y2"},
        },
    }
    x, y = _axis("activation × error", (low, high)), _axis(None, (low, high))
    return {"title": heading("joint"), "layer": [diagonal, *_layers(marks, x, y)]}


def against_joint(alignments: Alignments, pairs: Sequence[TaskPair]) -> Spec:
    """First moment against joint, with the line at 0."""
    points = _points(alignments, pairs, ("joint", "first_moment"), ())
    marks = [
        point | _look(min(0, told(estimate(alignments, "first_moment", pair), 0.0)))
        for pair, point in points
    ]
    wide, tall = _domain(marks, ("x",)), _domain([*marks, {"y": -1.0}], ("y",))
    marks = [_cut(mark, wide, tall) for mark in marks]
    x, y = _axis("joint", wide), _axis(None, tall)
    zero = {
        "data": {"values": [{"y": 0.0}]},
        "mark": {"type": "rule", "color": "var(--ink)", "strokeDash": [3, 3], "aria": False},
        "encoding": {"y": y | {"field": "y"}},
    }
    return {"title": heading("first moment"), "layer": [zero, *_layers(marks, x, y)]}


def _points(
    alignments: Alignments,
    pairs: Sequence[TaskPair],
    axes: tuple[str, str],
    more: tuple[str, ...],
) -> list[tuple[TaskPair, Spec]]:
    found = []
    for pair in pairs:
        x, y = (estimate(alignments, kind, pair) for kind in axes)
        if x.value is None or y.value is None:
            continue
        told_of = [*reversed(axes), *(k for k in more if alignments.pairs(k) is not None)]
        lines = [
            f"{NAMES[kind]} {wording.full(estimate(alignments, kind, pair), cosine)}"
            for kind in told_of
        ]
        tip = "\n".join((pair_name(alignments, pair), *lines))
        found.append((pair, {"tip": tip} | ends(x, "x") | ends(y, "y")))
    return found


def _look(side: int) -> Spec:
    colour, shape = LOOKS[side]
    return {"side": side, "colour": colour, "shape": shape}


def _domain(marks: Sequence[Spec], names: Sequence[str]) -> tuple[float, float]:
    """Tenths that hold every value; an interval may reach beyond and is cut there."""
    values = [mark[name] for mark in marks for name in names]
    low, high = min(values, default=0.0), max(values, default=1.0)
    return min(0.0, math.floor(10 * low) / 10), max(1.0, math.ceil(10 * high) / 10)


def _cut(mark: Spec, wide: tuple[float, float], tall: tuple[float, float]) -> Spec:
    """The same with intervals that end where the chart does."""
    return mark | {
        f"{name}_{end}": min(max(mark[f"{name}_{end}"], low), high)
        for name, (low, high) in (("x", wide), ("y", tall))
        for end in ("low", "high")
    }


def _axis(title: str | None, domain: tuple[float, float]) -> Spec:
    axis = plain_axis(title, grid=True, form=".1~f") | {
        "labelFlush": False,
        "labelExpr": "datum.value === 0 ? '0' : datum.label",
    }
    scale = {"domain": list(domain), "nice": False, "zero": False}
    return {"type": "quantitative", "axis": axis, "scale": scale}


def _layers(marks: Sequence[Spec], x: Spec, y: Spec) -> list[Spec]:
    """Intervals and points, those that are told on top."""
    layers = []
    for plain in (True, False):
        chosen = [mark for mark in marks if (mark["side"] == 0) == plain]
        faint = len(marks) > CROWDED
        bars = {"type": "rule", "strokeWidth": 1.3, "aria": False}
        bars["opacity"] = (0.12 if plain else 0.3) if faint else (0.4 if plain else 0.65)
        points = {"type": "point", "filled": True, "size": 34 if faint else 66}
        points["opacity"] = 0.6 if faint and plain else 0.9
        for along in ("x", "y"):
            layers.append(_bar(chosen, bars, x, y, along))
        layers.append(
            {
                "data": {"values": chosen},
                "mark": points,
                "encoding": {
                    "x": x | {"field": "x"},
                    "y": y | {"field": "y"},
                    "color": {"field": "colour"} | NO_SCALE,
                    "shape": {"field": "shape"} | NO_SCALE,
                    "description": {"field": "tip"},
                },
            }
        )
    return layers


def _bar(marks: Sequence[Spec], mark: Spec, x: Spec, y: Spec, along: str) -> Spec:
    return {
        "data": {"values": list(marks)},
        "mark": mark,
        "encoding": {
            "x": x | {"field": "x_low" if along == "x" else "x"},
            "y": y | {"field": "y_low" if along == "y" else "y"},
            f"{along}2": {"field": f"{along}_high"},
            "color": {"field": "colour"} | NO_SCALE,
        },
    }
