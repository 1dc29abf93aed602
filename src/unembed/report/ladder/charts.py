"""Direction and displacement over bytes, as Vega-Lite specifications."""

from __future__ import annotations

from collections.abc import Sequence

from unembed.decisions.ladder.summary import LadderRow, LadderSummary
from unembed.report.parts.drawing import Chart, Spec, draw, heading
from unembed.report.parts.marks import (
    Channels,
    interval_fields,
    intervals,
    plain_axis,
    points,
    quantity,
    reference,
    scaled,
)
from unembed.report.parts.parts import Figure, Key
from unembed.report.parts.scales import scale_of
from unembed.report.parts.wording import Wording, decimal, full, side_of
from unembed.report.parts.wording import points as in_points
from unembed.report.verdicts.ladder import quality, size_words
from unembed.stats.estimate import Estimate
from unembed.stats.forms import in_bytes

ROOM = 1.6
"""Factor of bytes that is left free on either side of the variants, for their names."""
BYTE_TICKS = tuple(step * 10**power for power in range(3, 14) for step in (1, 2, 5))
COLOURS = {1: "var(--right)", -1: "var(--wrong)", 0: "var(--muted)"}
"""Of an accuracy that rose, that fell, and whose interval holds 0."""


def direction(summary: LadderSummary) -> Figure:
    """Which way each variant went: the change of accuracy over the bytes of the weights."""
    rows = [
        _mark(
            summary, row, row.accuracy_difference, in_points, side_of(row.accuracy_difference, 0.0)
        )
        for row in summary.overall
        if row.accuracy_difference.value is not None
    ]
    ends = [row[name] for row in rows for name in ("y_low", "y_high")]
    y = scaled(scale_of([0.0, *ends], percent=True), None, grid=True, signed=True)
    y["axis"]["labelExpr"] = y["axis"]["labelExpr"].replace("\u00a0%", "\u00a0pp")
    return Figure(
        "direction",
        "Which way: accuracy",
        "Change of accuracy from the base, whose size the dashed line shows. Bars are 95 % "
        "intervals over documents.",
        _chart(summary, rows, y, "change of accuracy", "Accuracy over bytes", zero=True),
        (Key("gained-dot", "rose"), Key("lost-dot", "fell"), Key("few-dot", "interval holds 0")),
    )


def displacement(summary: LadderSummary) -> Figure:
    """How far each variant is: the mean KL divergence over the bytes of the weights."""
    rows = [
        _mark(summary, row, row.kl_mean, decimal, 2) for row in summary.overall if row.kl_mean.value
    ]
    least = min((row["y"] for row in rows), default=1.0)
    for row in rows:
        row["y_low"] = max(row["y_low"], least / 10)  # a logarithm has no zero
    ends = [row[name] for row in rows for name in ("y_low", "y_high")] or [1.0]
    low, high = min(ends) / 2, max(ends) * 2
    decades = [10.0**power for power in range(-12, 3) if low <= 10.0**power <= high]
    axis = plain_axis(None, grid=True, form="~g") | {"values": decades or BYTE_TICKS[:1]}
    y = quantity(axis, type="log", domain=[low, high], nice=False)
    return Figure(
        "displacement",
        "How far: mean KL",
        "Mean KL(base‖variant), both axes logarithmic. Bars are 95 % intervals over documents. It "
        "says how much changed, and not whether for better or worse.",
        _chart(summary, rows, y, "mean KL, nats", "Mean KL over bytes", zero=False),
    )


def _mark(
    summary: LadderSummary, row: LadderRow, value: Estimate, form: Wording, side: int
) -> Spec:
    colour = COLOURS.get(side, "var(--accent)")
    size = summary.facts(row.name).bytes.weights
    tip = f"{row.name}: {quality(row)}\n{full(value, form)}\n{size_words(summary, row.name)}"
    place = {"x": size, "name": row.name, "tip": tip, "stroke": colour}
    fill = "var(--paper)" if side == 0 else colour
    return place | {"fill": fill} | interval_fields(value, "y")


def _short(tick: int) -> str:
    """A round number of bytes: ``5 MB``."""
    number, unit = in_bytes(tick).split("\u00a0")
    return f"{float(number):g}\u00a0{unit}"


def _chart(
    summary: LadderSummary,
    rows: Sequence[Spec],
    y: Spec,
    title: str,
    description: str,
    *,
    zero: bool,
) -> Chart:
    whole = summary.base.bytes.weights
    sizes = [whole, *(row["x"] for row in rows)]
    low, high = min(sizes) / ROOM, max(sizes) * ROOM
    ticks = [tick for tick in BYTE_TICKS if low <= tick <= high]
    labels = [_short(tick) for tick in ticks]
    x = quantity(
        {
            "title": "bytes of weights",
            "grid": False,
            "values": ticks,
            "labelExpr": f"{labels}[indexof({ticks}, datum.value)]",
            "labelOverlap": "greedy",
            "labelSeparation": 8,
        },
        type="log",
        domain=[low, high],
        nice=False,
    )
    channels: Channels = {"x": x, "y": y}
    along = sorted(rows, key=lambda row: row["x"])
    # Neighbours' names stand above and below their dots by turns, so that close ones part.
    names: list[Spec] = [
        {
            "data": {"values": along[turn::2]},
            "mark": {"type": "text", "align": "left", "dx": 7, "dy": dy, "fontSize": 12.5}
            | {"aria": False},
            "encoding": {
                "x": x | {"field": "x"},
                "y": y | {"field": "y"},
                "text": {"field": "name"},
                "color": {"value": "var(--ink)"},
            },
        }
        for turn, dy in enumerate((-9, 12))
    ]
    layers = [
        reference("x", float(whole), x, {"color": "var(--muted)"}),
        *([reference("y", 0.0, y, {})] if zero else []),
        intervals(rows, channels, "y"),
        points(rows, channels, outline=2.0),
        *names,
    ]
    return draw({"title": heading(title), "layer": layers}, description)
