"""The charts of groups and of bins of positions in a comparison, as Vega-Lite specifications."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from unembed.decisions.comparison.calibration import ReliabilityBin
from unembed.decisions.comparison.flips import MINIMUM_FLIPS, FlipGroup, Flips
from unembed.decisions.comparison.prediction import ChanceBin
from unembed.report.parts import wording
from unembed.report.parts.drawing import Spec, heading
from unembed.report.parts.marks import (
    Channels,
    diagonal,
    interval_fields,
    intervals,
    label_axis,
    plain_axis,
    points,
    quantity,
    reference,
    scaled,
    share_fields,
)
from unembed.report.parts.scales import PORTIONS, scale_of
from unembed.report.parts.wording import side_of
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
        colour = "var(--muted)" if few(group.flips) else _colour(change)
        tip = (
            f"{noun} {group.name}, n = {wording.count(group.flips.n)}\n"
            f"{wording.full(change, wording.points)}\n{flip_words(group.flips)}"
        )
        told = side_of(change, 0.0) and not few(group.flips)
        fill = colour if told else "var(--paper)"
        place = {name: 100 * value for name, value in interval_fields(change, "x").items()}
        rows.append(_row(group.name, group.flips.n, fill, colour, tip) | place)
    ends = (row[name] for row in rows for name in ("x_low", "x_high"))
    x = scaled(scale_of([0.0, *ends]), None, grid=True, signed=True)
    zero = reference("x", 0.0, x, {"strokeDash": [], "strokeWidth": 1.2})
    title = "accuracy after − before, percentage points"
    return _by_group(title, rows, _sizes(groups), x, size=100, before=[zero])


def before_and_after(groups: Sequence[FlipGroup], noun: str) -> Spec:
    """Accuracy before and after in each group, with intervals, one row a group."""
    rows: list[Spec] = []
    for group in groups:
        flips = group.flips
        for when, accuracy, fill in (
            ("before", flips.accuracy_before, "var(--paper)"),
            ("after", flips.accuracy_after, "var(--accent)"),
        ):
            if accuracy.value is not None:
                tip = (
                    f"accuracy {when} {wording.full(accuracy, wording.share)}\n"
                    f"{noun} {group.name}, n = {wording.count(accuracy.n)}"
                )
                row = _row(group.name, flips.n, fill, "var(--accent)", tip) | {"when": when}
                rows.append(row | share_fields(accuracy, "x"))
    shift = {"field": "when", "sort": ["before", "after"], "scale": {"paddingOuter": 1}}
    x = scaled(PORTIONS, None, grid=True)
    return _by_group("accuracy", rows, _sizes(groups), x, size=80, more={"yOffset": shift})


def means(
    values: Sequence[tuple[str, int, Estimate, str]], title: str, *, percent: bool, zero: bool
) -> Spec:
    """A mean with its interval for each group, one row a group; the axis may start at 0.

    ``values`` are the group's name and size, its mean, and what it says under the pointer.
    """
    colour = "var(--accent)"
    rows = [
        _row(name, n, colour, colour, tip) | interval_fields(value, "x")
        for name, n, value, tip in values
        if value.value is not None
    ]
    ends = [row[name] for row in rows for name in ("x_low", "x_high")]
    scale = scale_of([*([0.0] if zero else []), *ends], ticks=3, percent=percent)
    sizes = [(name, n) for name, n, *_ in values]
    return _by_group(title, rows, sizes, scaled(scale, None, grid=True), size=90, outline=0.0)


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


def flip_words(flips: Flips) -> str:
    """Both kinds of flips in words."""
    return (
        f"{wording.count(flips.wrong_to_right)} gained, {wording.count(flips.right_to_wrong)} lost"
    )


def _row(name: str, n: int, fill: str, stroke: str, tip: str) -> Spec:
    return {"group": _label(name, n), "fill": fill, "stroke": stroke, "tip": tip}


def _sizes(groups: Sequence[FlipGroup]) -> list[tuple[str, int]]:
    return [(group.name, group.flips.n) for group in groups]


def _by_group(
    title: str,
    rows: Sequence[Spec],
    sizes: Sequence[tuple[str, int]],
    x: Spec,
    *,
    size: int,
    outline: float = 2.2,
    before: Sequence[Spec] = (),
    more: Channels = MappingProxyType({}),
) -> Spec:
    """Points with their intervals along ``x``, a row for each group of that name and size."""
    channels = {"x": x, "y": label_axis([_label(*one) for one in sizes]), **more}
    marks = [intervals(rows, channels, "x"), points(rows, channels, size=size, outline=outline)]
    return {"title": heading(title), "layer": [*before, *marks]}


def _label(name: str, n: int) -> str:
    """A group's name over its number of positions, as ``label_axis`` breaks it."""
    return f"{name}|n {wording.count(n)}"


def _colour(change: Estimate) -> str:
    """A colour of gain or of loss only where the interval leaves out 0."""
    return {1: "var(--gained)", -1: "var(--lost)", 0: "var(--muted)"}[side_of(change, 0.0)]


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
