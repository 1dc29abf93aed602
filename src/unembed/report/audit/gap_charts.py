"""The charts of the expressibility gap, as Vega-Lite specifications."""

from __future__ import annotations

import math
from collections.abc import Sequence

from unembed.decisions.audit.gap import GapFit, LineFit
from unembed.report.parts import wording
from unembed.report.parts.drawing import Spec, heading


def gap_curve(gap: GapFit) -> Spec:
    """Share of positions below each width, log–log, with its interval and both fits."""
    band = [
        {"x": x, "y": low, "y2": high}
        for x, low, high in zip(
            gap.epsilon, gap.eta_low or gap.eta, gap.eta_high or gap.eta, strict=True
        )
        if low > 0
    ]
    points = [
        {
            "x": x,
            "y": y,
            "tip": f"{wording.share(y)} of positions\nhave a margin below {wording.decimal(x)}",
        }
        for x, y in zip(gap.epsilon, gap.eta, strict=True)
        if y > 0
    ]
    lines = [(gap.published, "var(--accent)", 3.5, False)]
    if gap.fixed is not None:
        lines.append((gap.fixed, "var(--accent-2)", 2.5, True))
    fits = [(_line(fit), colour, width, dashed) for fit, colour, width, dashed in lines]
    drawn = [row for rows, *_ in fits for row in rows] + points
    xs = [row["x"] for row in drawn]
    ys = [row["y"] for row in drawn] + [row["y"] for row in band] + [row["y2"] for row in band]
    encoding = {
        "x": _log_axis("x", xs, "width ε in logits"),
        "y": _log_axis("y", ys, None, percent=True),
    }
    layers: list[Spec] = []
    if gap.eta_low is not None:
        layers.append(
            {
                "data": {"values": band},
                "mark": {"type": "area", "color": "var(--ink)", "opacity": 0.16, "aria": False},
                "encoding": encoding | {"y2": {"field": "y2"}},
            }
        )
    for rows, colour, width, dashed in fits:
        mark = {"type": "line", "color": colour, "strokeWidth": width, "aria": False}
        if dashed:
            mark["strokeDash"] = [6, 4]
        layers.append({"data": {"values": rows}, "mark": mark, "encoding": encoding})
    layers.append(
        {
            "data": {"values": points},
            "mark": {"type": "circle", "size": 22, "color": "var(--ink)", "opacity": 1},
            "encoding": encoding | {"description": {"field": "tip"}},
        }
    )
    return {"title": heading("share of positions with a margin below ε"), "layer": layers}


def local_slope(gap: GapFit) -> Spec:
    """d log η / d log ε, with slope 1 as the line to compare with."""
    rows = [
        {"x": x, "y": y, "tip": f"slope {wording.decimal(y)}\nat ε = {wording.decimal(x)}"}
        for x, y in zip(gap.slope_epsilon, gap.local_slope, strict=True)
    ]
    encoding = {
        "x": _log_axis("x", gap.slope_epsilon, "width ε in logits"),
        "y": {
            "field": "y",
            "type": "quantitative",
            "scale": {"domain": [min(0.0, *gap.local_slope, 0.0), max(1.2, *gap.local_slope, 1.2)]},
            "axis": {"title": None, "tickCount": 5, "format": ".3~g"},
        },
    }
    return {
        "title": heading("local slope of the gap curve"),
        "layer": [
            {
                "data": {"values": [{"y": 1.0}]},
                "mark": {
                    "type": "rule",
                    "color": "var(--muted)",
                    "strokeDash": [3, 3],
                    "aria": False,
                },
                "encoding": {"y": {"field": "y", "type": "quantitative"}},
            },
            {
                "data": {"values": rows},
                "mark": {
                    "type": "line",
                    "color": "var(--ink)",
                    "strokeWidth": 2,
                    "aria": False,
                },
                "encoding": encoding,
            },
            {
                "data": {"values": rows},
                "mark": {"type": "circle", "size": 30, "color": "var(--ink)", "opacity": 1},
                "encoding": encoding | {"description": {"field": "tip"}},
            },
        ],
    }


def two_gaps(native: GapFit, exact: GapFit, native_name: str) -> Spec:
    """The gap curve of the native-precision head as steps over the float32 one."""

    def rows(gap: GapFit, name: str) -> list[Spec]:
        return [
            {"x": x, "y": y, "tip": f"{name}\n{wording.share(y)} below {wording.decimal(x)}"}
            for x, y in zip(gap.epsilon, gap.eta, strict=True)
            if y > 0
        ]

    coarse, fine = rows(native, native_name), rows(exact, "float32")
    both = coarse + fine
    encoding = {
        "x": _log_axis("x", [row["x"] for row in both], "width ε in logits"),
        "y": _log_axis("y", [row["y"] for row in both], None, percent=True),
    }
    tipped = encoding | {"description": {"field": "tip"}}
    return {
        "title": heading("share of positions with a margin below ε"),
        "layer": [
            {
                "data": {"values": fine},
                "mark": {
                    "type": "line",
                    "color": "var(--accent)",
                    "strokeWidth": 2.4,
                    "aria": False,
                },
                "encoding": encoding,
            },
            {
                "data": {"values": fine},
                "mark": {"type": "circle", "size": 20, "color": "var(--accent)", "opacity": 1},
                "encoding": tipped,
            },
            {
                "data": {"values": coarse},
                "mark": {
                    "type": "point",
                    "shape": "square",
                    "size": 34,
                    "strokeWidth": 1.8,
                    "stroke": "var(--ink)",
                    "fill": "var(--paper)",
                    "opacity": 1,
                },
                "encoding": tipped,
            },
        ],
    }


def _line(fit: LineFit) -> list[Spec]:
    if fit.beta.value is None or fit.intercept.value is None:
        return []
    return [
        {"x": x, "y": 10 ** (fit.intercept.value + fit.beta.value * math.log10(x))}
        for x in (fit.epsilon_min, fit.epsilon_max)
    ]


def _log_axis(
    field: str, values: Sequence[float], title: str | None, percent: bool = False
) -> Spec:
    positive = [value for value in values if value > 0] or [1.0]
    low, high = min(positive), max(positive)
    margin = (high / low) ** 0.04 if high > low else 2.0
    domain = [low / margin, high * margin]
    decades = range(math.floor(math.log10(domain[0])), math.ceil(math.log10(domain[1])) + 1)
    steps = (1, 2, 5) if math.log10(domain[1] / domain[0]) < 2.2 else (1,)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    return {
        "field": field,
        "type": "quantitative",
        "scale": {"type": "log", "domain": domain, "nice": False},
        "axis": {
            "title": title,
            "values": [tick for tick in ticks if domain[0] <= tick <= domain[1]],
            "format": "~%" if percent else ".3~g",
        },
    }
