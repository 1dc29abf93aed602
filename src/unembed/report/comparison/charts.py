"""The charts of groups of positions in a comparison, as Vega-Lite specifications."""

from __future__ import annotations

from collections.abc import Sequence

from unembed.decisions.comparison.flips import MINIMUM_FLIPS, FlipGroup, Flips
from unembed.report.parts import wording
from unembed.report.parts.drawing import Spec, heading
from unembed.stats.estimate import Estimate

NO_SCALE = {"type": "nominal", "scale": None}
"""A field that holds the colour itself."""


def few(flips: Flips) -> bool:
    """Whether too few flips between right and wrong stand behind a group's net."""
    return flips.wrong_to_right + flips.right_to_wrong < MINIMUM_FLIPS


def differences(groups: Sequence[FlipGroup], noun: str) -> Spec:
    """The change of accuracy in each group as a point with its interval, one row a group."""
    rows: list[Spec] = []
    for group in groups:
        change = group.flips.accuracy_difference
        if change.value is None:
            continue
        colour = "var(--muted)" if few(group.flips) else _colour(change.value)
        rows.append(
            {
                "group": _row_label(group),
                "x": 100 * change.value,
                "low": 100 * (change.value if change.low is None else change.low),
                "high": 100 * (change.value if change.high is None else change.high),
                "fill": "var(--paper)" if few(group.flips) else colour,
                "stroke": colour,
                "tip": f"{noun} {group.name}, n = {wording.count(group.flips.n)}\n"
                f"{wording.full(change, wording.points)}\n{flip_words(group.flips)}",
            }
        )
    x = {
        "type": "quantitative",
        "axis": plain_axis(None, grid=True, form="+.2~f")
        | {"labelExpr": "datum.value === 0 ? '0' : datum.label"},
    }
    y = label_axis([_row_label(group) for group in groups])
    stroke = {"field": "stroke"} | NO_SCALE
    return {
        "title": heading("accuracy after − before, percentage points"),
        "data": {"values": rows},
        "layer": [
            _zero("x"),
            {
                "mark": {"type": "rule", "strokeWidth": 2, "aria": False},
                "encoding": {
                    "y": y,
                    "x": x | {"field": "low"},
                    "x2": {"field": "high"},
                    "color": stroke,
                },
            },
            {
                "mark": {"type": "point", "size": 100, "strokeWidth": 2.2, "opacity": 1},
                "encoding": {
                    "y": y,
                    "x": x | {"field": "x"},
                    "fill": {"field": "fill"} | NO_SCALE,
                    "stroke": stroke,
                    "description": {"field": "tip"},
                },
            },
        ],
    }


def before_and_after(groups: Sequence[FlipGroup], noun: str) -> Spec:
    """Accuracy before and after in each group, with intervals, one row a group."""
    rows: list[Spec] = []
    for group in groups:
        for when, accuracy in (
            ("before", group.flips.accuracy_before),
            ("after", group.flips.accuracy_after),
        ):
            if accuracy.value is not None:
                rows.append(
                    {
                        "group": _row_label(group),
                        "when": when,
                        "tip": f"accuracy {when} {wording.full(accuracy, wording.share)}\n"
                        f"{noun} {group.name}, n = {wording.count(accuracy.n)}",
                        "fill": "var(--paper)" if when == "before" else "var(--accent)",
                    }
                    | ends_of_share(accuracy, "x")
                )
    x = {
        "type": "quantitative",
        "scale": {"domain": [0, 1]},
        "axis": plain_axis(None, grid=True, form=".0%"),
    }
    y = label_axis([_row_label(group) for group in groups])
    shift = {"field": "when", "sort": ["before", "after"], "scale": {"paddingOuter": 1.2}}
    return {
        "title": heading("accuracy"),
        "data": {"values": rows},
        "layer": [
            {
                "mark": {"type": "rule", "strokeWidth": 2, "color": "var(--accent)", "aria": False},
                "encoding": {
                    "y": y,
                    "yOffset": shift,
                    "x": x | {"field": "x_low"},
                    "x2": {"field": "x_high"},
                },
            },
            {
                "mark": {
                    "type": "point",
                    "size": 80,
                    "stroke": "var(--accent)",
                    "strokeWidth": 2.2,
                    "opacity": 1,
                },
                "encoding": {
                    "y": y,
                    "yOffset": shift,
                    "x": x | {"field": "x"},
                    "fill": {"field": "fill"} | NO_SCALE,
                    "description": {"field": "tip"},
                },
            },
        ],
    }


def plain_axis(title: str | None, *, grid: bool, form: str) -> Spec:
    """An axis with few ticks."""
    return {"title": title, "grid": grid, "tickCount": 5, "format": form}


def ends(estimate: Estimate, name: str) -> Spec:
    """An estimate and its interval as fields; without interval, both ends are the value."""
    value = estimate.value
    return {
        name: value,
        f"{name}_low": value if estimate.low is None else estimate.low,
        f"{name}_high": value if estimate.high is None else estimate.high,
    }


def ends_of_share(estimate: Estimate, name: str) -> Spec:
    """``ends`` within 0 and 1: an interval over few seeds may lie partly outside."""
    return {
        field: None if value is None else min(max(value, 0.0), 1.0)
        for field, value in ends(estimate, name).items()
    }


def label_axis(order: Sequence[str]) -> Spec:
    """A row for each label, in this order; ``|`` breaks a label's line."""
    return {
        "field": "group",
        "type": "nominal",
        "sort": list(order),
        "scale": {"domain": list(order)},
        "axis": {
            "title": None,
            "labelExpr": "split(datum.label, '|')",
            "labelLineHeight": 14,
            "labelOverlap": False,
            "labelOffset": -6,
            "domain": False,
        },
    }


def _row_label(group: FlipGroup) -> str:
    return f"{group.name}|n {wording.count(group.flips.n)}"


def flip_words(flips: Flips) -> str:
    """Both kinds of flips in words."""
    return (
        f"{wording.count(flips.wrong_to_right)} gained, {wording.count(flips.right_to_wrong)} lost"
    )


def _colour(value: float) -> str:
    return "var(--gained)" if value > 0 else "var(--lost)" if value < 0 else "var(--muted)"


def _zero(channel: str) -> Spec:
    return {
        "data": {"values": [{"zero": 0.0}]},
        "mark": {"type": "rule", "color": "var(--ink)", "strokeWidth": 1.2, "aria": False},
        "encoding": {channel: {"field": "zero", "type": "quantitative"}},
    }
