"""At which depth decisions settle, and whose settle late, as a section of the page."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from unembed.decisions.layers.settling import SettledGroup, Settling
from unembed.report.comparison.charts import means
from unembed.report.layers.by_depth import BEYOND, MOST_BEYOND
from unembed.report.parts.drawing import Spec, draw, heading
from unembed.report.parts.marks import (
    KEPT_APART,
    Channels,
    interval_fields,
    intervals,
    points,
    scaled,
)
from unembed.report.parts.parts import (
    Figure,
    Key,
    Section,
    Table,
    charts_or_tables,
    estimates_table,
    table_of,
)
from unembed.report.parts.scales import scale_of
from unembed.report.parts.wording import Wording, cell, count, decimal, full, share, signed
from unembed.stats.estimate import Estimate


def settling_section(settling: Settling) -> Section:
    """Mean settling depths by class, frequency and outcome, beside the control."""
    lead = (
        "A decision settles at the first depth from which on the leading token is the final one, "
        f"{scope(settling)}. If depths agreed with the final token independently of each other, at "
        "the rates that they do, it would settle at depth "
        f"{full(settling.mean_if_independent, decimal)} on average instead of "
        f"{full(settling.mean, decimal)}."
    )
    figures, tables = charts_or_tables(
        (
            _groups("settling-class", "By class of the target", "class", settling.by_class),
            _groups("settling-frequency", "By frequency", "occurrences", settling.by_frequency),
        )
    )
    rows: dict[str, tuple[Estimate, Wording] | str] = {
        "mean settling depth": (settling.mean, decimal),
        **{f"{name}\u00a0%": (one, decimal) for name, one in settling.quantiles.items()},
        "mean if depths agreed independently": (settling.mean_if_independent, decimal),
        "earlier than that, in blocks": (settling.earlier, signed),
        **{
            f"mean where the model is {one.name}": (one.mean, decimal)
            for one in settling.by_outcome
        },
        "wrong less right, in blocks": (settling.wrong_less_right, signed),
    }
    whole = estimates_table(f"Settling depth in blocks, n = {count(settling.n)}", rows)
    return Section("settling", "Which decisions settle late", lead, figures, (*tables, whole))


def scope(settling: Settling) -> str:
    """``of the 5 measured depths``, or that all were measured."""
    return settling.scope or f"of all {count(len(settling.depths))} depths"


def settling_figure(settling: Settling) -> Figure:
    """The share of positions that settle at each depth, beside the control."""
    table = table_of(
        f"Settling depths, {scope(settling)}, n = {count(settling.n)}",
        list(zip(settling.by_depth, _controls(settling), strict=True)),
        {
            "depth": lambda one: str(one[0].depth),
            "settles there": lambda one: cell(one[0].share, share),
            "settled by then": lambda one: cell(one[0].by_then, share),
            "by then, if independent": lambda one: cell(one[0].by_then_if_independent, share),
        },
    )
    spec, whole = _histogram(settling)
    return Figure(
        "settling",
        "Where decisions settle",
        "The share of decisions that settle at each depth: from there on the leading token is the "
        "final one. Bars’ lines are 95 % intervals over documents." + ("" if whole else BEYOND),
        draw(spec, "Share of positions that settle at each depth"),
        (Key("right", "settles there"), Key("diamond", "if depths agreed independently")),
        (table,),
    )


def _controls(settling: Settling) -> list[float | None]:
    """The share that would settle at each depth if depths agreed independently."""
    by_then = [one.by_then_if_independent.value for one in settling.by_depth]
    return [
        None if now is None or before is None else now - before
        for before, now in itertools.pairwise([0.0, *by_then])
    ]


def _histogram(settling: Settling) -> tuple[Spec, bool]:
    bars, control = [], []
    for one, chance in zip(settling.by_depth, _controls(settling), strict=True):
        tip = (
            f"depth {one.depth}: {full(one.share, share)} settle there\n"
            f"{full(one.by_then, share)} have settled by then"
        )
        bars.append((one.depth, one.share, tip))
        if chance is not None:
            tip = f"depth {one.depth}, if depths agreed independently\n{share(chance)}"
            control.append((one.depth, Estimate(chance), tip))
    return settled_bars(bars, control)


def settled_bars(
    bars: Sequence[tuple[int, Estimate, str]], beside: Sequence[tuple[int, Estimate, str]]
) -> tuple[Spec, bool]:
    """Shares that settle at each depth as bars, and others ``beside`` them as diamonds.

    Each with its depth, and what it says under the pointer. Also whether all intervals are seen
    whole: one that rests on next to nothing may reach far beyond every bar.
    """
    order = [str(depth) for depth, *_ in bars]
    look = {"fill": "var(--paper)", "stroke": "var(--accent)", "shape": "diamond"}
    under = {"from": 0.0, "stroke": "var(--ink)"}
    rows: list[list[Spec]] = [
        [
            {"x": str(depth), "tip": tip} | style | interval_fields(value, "y")
            for depth, value, tip in some
            if value.value is not None
        ]
        for some, style in ((bars, under), (beside, look))
    ]
    drawn, marks = rows
    most = MOST_BEYOND * max((row["y"] for row in (*drawn, *marks)), default=0.0)
    ends = [row["y_high"] for row in (*drawn, *marks)]
    scale = scale_of([0.0, *(min(end, most) for end in ends)], percent=True)
    whole = max(ends, default=0.0) <= scale.high
    drawn = [row | {"y_high": min(row["y_high"], scale.high)} for row in drawn]
    x: Spec = {
        "field": "x",
        "type": "nominal",
        "sort": order,
        "scale": {"domain": order, "padding": 0.18},
        "axis": {"title": "depth at which a decision settles", "labelAngle": 0, "grid": False}
        | KEPT_APART,
    }
    channels: Channels = {"x": x, "y": scaled(scale, None, grid=True)}
    bar: Spec = {
        "data": {"values": drawn},
        "mark": {"type": "bar", "color": "var(--right)"},
        "encoding": {
            "x": x,
            "y": channels["y"] | {"field": "from"},
            "y2": {"field": "y"},
            "description": {"field": "tip"},
        },
    }
    layers = [
        bar,
        intervals(drawn, channels, "y", width=1.6),
        points(marks, channels, size=90, outline=2.2),
    ]
    return {"title": heading("share of positions"), "layer": layers}, whole


def _groups(name: str, title: str, noun: str, groups: Sequence[SettledGroup]) -> tuple[Figure, int]:
    shown = [one for one in groups if one.mean.value is not None]
    values = [
        (
            one.name,
            one.mean.n,
            one.mean,
            f"{noun} {one.name}, {full(one.share, share)} of positions\n"
            f"settle at depth {full(one.mean, decimal)}",
        )
        for one in shown
    ]
    chart = draw(
        means(values, "mean settling depth, blocks", percent=False, zero=False),
        f"Mean settling depth {title.lower()}",
    )
    caption = "Mean depth at which decisions settle. Bars are 95 % intervals over documents."
    return Figure(name, title, caption, chart, (), (_group_table(title, noun, groups),)), len(shown)


def _group_table(title: str, noun: str, groups: Sequence[SettledGroup]) -> Table:
    return table_of(
        f"Mean settling depth {title.lower()}",
        groups,
        {
            noun: lambda one: one.name,
            "share of positions": lambda one: cell(one.share, share),
            "mean depth": lambda one: cell(one.mean, decimal),
        },
    )
