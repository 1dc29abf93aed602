"""The charts of the expressibility gap, as Vega-Lite specifications."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from unembed.decisions.audit.gap import GapFit, LineFit
from unembed.report.parts import wording
from unembed.report.parts.drawing import Spec, heading
from unembed.report.parts.marks import (
    CURVES,
    band,
    dots,
    line,
    points,
    quantity,
    reference,
    scaled,
    ticks_in,
)
from unembed.report.parts.scales import scale_of

SHARE_HEADING = heading("share of positions with a margin below ε")
WIDTH_TITLE = "width ε in logits"


def gap_curve(gap: GapFit) -> Spec:
    """Share of positions below each width, log–log, with its interval and both fits."""
    interval = [
        {"x": x, "y_low": low, "y_high": high}
        for x, low, high in zip(
            gap.epsilon, gap.eta_low or gap.eta, gap.eta_high or gap.eta, strict=True
        )
        if low > 0
    ]
    measured = _measured(gap, lambda x, y: f"{y} of positions\nhave a margin below {x}")
    fits = [_line(fit) for fit in (gap.published, gap.fixed) if fit is not None]
    drawn = [row for rows in fits for row in rows] + measured
    ys = [row["y"] for row in drawn] + [row[end] for row in interval for end in ("y_low", "y_high")]
    channels = {
        "x": _log_axis([row["x"] for row in drawn], WIDTH_TITLE),
        "y": _log_axis(ys, None, percent=True),
    }
    bounds = [] if gap.eta_low is None else [interval]
    layers = [
        *(band(rows, channels, {"color": "var(--ink)", "opacity": 0.16}) for rows in bounds),
        *(
            line(rows, channels, look | {"strokeWidth": width})
            for rows, look, width in zip(fits, CURVES, (3.5, 2.5), strict=False)
        ),
        dots(measured, channels, "var(--ink)", 22),
    ]
    return {"title": SHARE_HEADING, "layer": layers}


def local_slope(gap: GapFit) -> Spec:
    """d log η / d log ε, with slope 1 as the line to compare with."""
    rows = [
        {"x": x, "y": y, "tip": f"slope {wording.decimal(y)}\nat ε = {wording.decimal(x)}"}
        for x, y in zip(gap.slope_epsilon, gap.local_slope, strict=True)
    ]
    y = scaled(scale_of([0.0, 1.2, *gap.local_slope], ticks=6), None, grid=True)
    channels = {"x": _log_axis(gap.slope_epsilon, WIDTH_TITLE), "y": y}
    return {
        "title": heading("local slope of the gap curve"),
        "layer": [
            reference("y", 1.0, y, {"color": "var(--muted)"}),
            line(rows, channels, {"color": "var(--ink)"}),
            dots(rows, channels, "var(--ink)", 30),
        ],
    }


def two_gaps(native: GapFit, exact: GapFit, native_name: str) -> Spec:
    """The gap curve of the native-precision head as steps over the float32 one."""
    coarse = _measured(native, lambda x, y: f"{native_name}\n{y} below {x}")
    fine = _measured(exact, lambda x, y: f"float32\n{y} below {x}")
    squares = {"fill": "var(--paper)", "stroke": "var(--ink)", "shape": "square"}
    channels = {
        "x": _log_axis([row["x"] for row in coarse + fine], WIDTH_TITLE),
        "y": _log_axis([row["y"] for row in coarse + fine], None, percent=True),
    }
    return {
        "title": SHARE_HEADING,
        "layer": [
            line(fine, channels, {"color": "var(--accent)", "strokeWidth": 2.4}),
            dots(fine, channels, "var(--accent)", 20),
            points([row | squares for row in coarse], channels, size=34, outline=1.8),
        ],
    }


def _measured(gap: GapFit, tip: Callable[[str, str], str]) -> list[Spec]:
    """The points of the curve that a logarithmic axis has room for."""
    return [
        {"x": x, "y": y, "tip": tip(wording.decimal(x), wording.share(y))}
        for x, y in zip(gap.epsilon, gap.eta, strict=True)
        if y > 0
    ]


def _line(fit: LineFit) -> list[Spec]:
    if fit.beta.value is None or fit.intercept.value is None:
        return []
    return [
        {"x": x, "y": 10 ** (fit.intercept.value + fit.beta.value * math.log10(x))}
        for x in (fit.epsilon_min, fit.epsilon_max)
    ]


def _log_axis(values: Sequence[float], title: str | None, percent: bool = False) -> Spec:
    positive = [value for value in values if value > 0] or [1.0]
    low, high = min(positive), max(positive)
    margin = (high / low) ** 0.04 if high > low else 2.0
    domain = [low / margin, high * margin]
    decades = range(math.floor(math.log10(domain[0])), math.ceil(math.log10(domain[1])) + 1)
    steps = (1, 2, 5) if math.log10(domain[1] / domain[0]) < 2.2 else (1,)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    values = [tick for tick in ticks if domain[0] <= tick <= domain[1]]
    axis = {"title": title, "values": values} | ticks_in("~%" if percent else ".3~g")
    return quantity(axis, type="log", domain=domain, nice=False)
