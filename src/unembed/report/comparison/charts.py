"""The charts of groups of positions in a comparison, as Vega-Lite specifications."""

from __future__ import annotations

from collections.abc import Sequence

from unembed.decisions.comparison.flips import MINIMUM_FLIPS, FlipGroup, Flips
from unembed.report.parts import wording
from unembed.report.parts.drawing import Spec, heading
from unembed.report.parts.marks import (
    interval_fields,
    intervals,
    label_axis,
    plain_axis,
    plain_zero,
    points,
    reference,
    share_fields,
)
from unembed.stats.estimate import Estimate


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
                "group": group_label(group.name, group.flips.n),
                "x": 100 * change.value,
                "x_low": 100 * (change.value if change.low is None else change.low),
                "x_high": 100 * (change.value if change.high is None else change.high),
                "fill": "var(--paper)" if few(group.flips) else colour,
                "stroke": colour,
                "tip": f"{noun} {group.name}, n = {wording.count(group.flips.n)}\n"
                f"{wording.full(change, wording.points)}\n{flip_words(group.flips)}",
            }
        )
    x: Spec = {
        "type": "quantitative",
        "axis": plain_zero(plain_axis(None, grid=True, form="+.2~f")),
    }
    channels = {"x": x, "y": label_axis([group_label(one.name, one.flips.n) for one in groups])}
    zero = {"strokeDash": [], "strokeWidth": 1.2}
    return {
        "title": heading("accuracy after − before, percentage points"),
        "layer": [
            reference("x", 0.0, {"type": "quantitative"}, zero),
            intervals(rows, channels, "x"),
            points(rows, channels, size=100, outline=2.2),
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
                        "group": group_label(group.name, group.flips.n),
                        "when": when,
                        "tip": f"accuracy {when} {wording.full(accuracy, wording.share)}\n"
                        f"{noun} {group.name}, n = {wording.count(accuracy.n)}",
                        "fill": "var(--paper)" if when == "before" else "var(--accent)",
                        "stroke": "var(--accent)",
                    }
                    | share_fields(accuracy, "x")
                )
    shift = {"field": "when", "sort": ["before", "after"], "scale": {"paddingOuter": 1.2}}
    channels: dict[str, Spec] = {
        "x": {
            "type": "quantitative",
            "scale": {"domain": [0, 1]},
            "axis": plain_axis(None, grid=True, form=".0%"),
        },
        "y": label_axis([group_label(group.name, group.flips.n) for group in groups]),
        "yOffset": shift,
    }
    return {
        "title": heading("accuracy"),
        "layer": [
            intervals(rows, channels, "x"),
            points(rows, channels, size=80, outline=2.2),
        ],
    }


def means(
    values: Sequence[tuple[str, int, Estimate, str]], title: str, *, form: str, zero: bool
) -> Spec:
    """A mean with its interval for each group, one row a group; the axis may start at 0.

    ``values`` are the group's name and size, its mean, and what it says under the pointer.
    """
    colours = {"fill": "var(--accent)", "stroke": "var(--accent)"}
    rows: list[Spec] = [
        {"group": group_label(name, n), "tip": tip} | colours | interval_fields(value, "x")
        for name, n, value, tip in values
        if value.value is not None
    ]
    axis = plain_axis(None, grid=True, form=form)
    axis |= {"labelOverlap": "greedy", "labelSeparation": 16, "tickCount": 4}
    channels = {
        "x": {"type": "quantitative", "scale": {"zero": zero}, "axis": axis},
        "y": label_axis([group_label(name, n) for name, n, *_ in values]),
    }
    layers = [intervals(rows, channels, "x"), points(rows, channels)]
    return {"title": heading(title), "layer": layers}


def flip_words(flips: Flips) -> str:
    """Both kinds of flips in words."""
    return (
        f"{wording.count(flips.wrong_to_right)} gained, {wording.count(flips.right_to_wrong)} lost"
    )


def group_label(name: str, n: int) -> str:
    """A group's name over its number of positions, as ``label_axis`` breaks it."""
    return f"{name}|n {wording.count(n)}"


def _colour(value: float) -> str:
    return "var(--gained)" if value > 0 else "var(--lost)" if value < 0 else "var(--muted)"
