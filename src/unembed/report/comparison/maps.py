"""Class by frequency as a heat map of net or of churn, as a Vega-Lite specification."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from unembed.decisions.comparison.flips import MINIMUM_FLIPS, FlipGroup, Flips
from unembed.report.comparison.charts import few, flip_words
from unembed.report.parts import wording
from unembed.report.parts.drawing import Spec, heading
from unembed.report.parts.marks import NO_SCALE

NET_STEPS = 4
"""Steps on either side of zero of the scale ``--loss-4`` … ``--gain-4``."""

CHURN_STEPS = 5
"""Steps used of the scale ``--seq-1`` … ``--seq-9``: ink does not show on the darker half."""


def net_map(groups: Sequence[FlipGroup], rows: Sequence[str], columns: Sequence[str]) -> Spec:
    """Net of each class and frequency; the colour is the change of accuracy, grey where few."""
    sure = [
        abs(group.flips.accuracy_difference.value)
        for group in groups
        if group.flips.accuracy_difference.value is not None and not few(group.flips)
    ]
    largest = max(sure, default=0.0)

    def look(flips: Flips) -> tuple[str, str]:
        change = flips.accuracy_difference.value
        label = wording.signed_count(flips.net)
        if change is None or few(flips) or largest == 0.0:
            return "var(--few)", label
        step = min(NET_STEPS, 1 + int(NET_STEPS * abs(change) / largest))
        side = "gain" if change > 0 else "loss"
        return ("var(--few)" if change == 0 else f"var(--{side}-{step})"), label

    return _map(groups, rows, columns, look)


def churn_map(groups: Sequence[FlipGroup], rows: Sequence[str], columns: Sequence[str]) -> Spec:
    """Churn of each class and frequency, in equal steps up to the largest; grey where few."""
    largest = max(
        (g.flips.churn.value or 0.0 for g in groups if g.flips.changed >= MINIMUM_FLIPS),
        default=0.0,
    )

    def look(flips: Flips) -> tuple[str, str]:
        churn = flips.churn.value or 0.0
        if flips.changed < MINIMUM_FLIPS:
            return "var(--few)", wording.share(churn)
        step = 1 + round((CHURN_STEPS - 1) * churn / largest)
        return f"var(--seq-{step})", wording.share(churn)

    return _map(groups, rows, columns, look)


def _map(
    groups: Sequence[FlipGroup],
    rows: Sequence[str],
    columns: Sequence[str],
    look: Callable[[Flips], tuple[str, str]],
) -> Spec:
    """Cells of class and frequency with their label and their count, a colour from ``look``."""
    cells: list[Spec] = []
    for i, group in enumerate(groups):
        row, column = rows[i // len(columns)], columns[i % len(columns)]
        fill, label = look(group.flips) if group.flips.n else ("transparent", "")
        change = group.flips.accuracy_difference
        cells.append(
            {
                "row": row,
                "column": column,
                "fill": fill,
                "label": label,
                "n": wording.count(group.flips.n),
                "tip": f"{row}, target seen {column} times, n = {wording.count(group.flips.n)}\n"
                + (
                    f"accuracy {wording.full(change, wording.points)}\n"
                    f"churn {wording.full(group.flips.churn, wording.share)}\n"
                    + flip_words(group.flips)
                    if group.flips.n
                    else "no position"
                ),
            }
        )
    x = {
        "field": "column",
        "type": "ordinal",
        "sort": list(columns),
        "scale": {"domain": list(columns)},
        "axis": {
            "title": "occurrences of the target in the text",
            "labelAngle": 0,
            "domain": False,
        },
    }
    y = {
        "field": "row",
        "type": "nominal",
        "sort": list(rows),
        "scale": {"domain": list(rows)},
        "axis": {"title": None, "domain": False},
    }
    text = {"type": "text", "color": "var(--ink)", "aria": False}
    return {
        "title": heading("class of the target; n beneath"),
        "data": {"values": cells},
        "layer": [
            {
                "mark": {"type": "rect", "stroke": "var(--paper)", "strokeWidth": 2},
                "encoding": {
                    "x": x,
                    "y": y,
                    "color": {"field": "fill"} | NO_SCALE,
                    "description": {"field": "tip"},
                },
            },
            {
                "mark": text | {"dy": -6, "fontSize": 13, "fontWeight": 600},
                "encoding": {"x": x, "y": y, "text": {"field": "label"}},
            },
            {
                "mark": text | {"dy": 9, "fontSize": 11},
                "encoding": {"x": x, "y": y, "text": {"field": "n"}},
            },
        ],
    }
