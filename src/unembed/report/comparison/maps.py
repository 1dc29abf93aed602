"""Class by frequency as a heat map of net or of churn, as a Vega-Lite specification."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

from unembed.decisions.comparison.flips import MINIMUM_FLIPS, FlipGroup, Flips
from unembed.report.comparison.charts import few, flip_words
from unembed.report.parts import wording
from unembed.report.parts.drawing import Spec, heading
from unembed.report.parts.marks import NO_SCALE, room_for
from unembed.report.parts.wording import side_of
from unembed.stats.forms import Form

NET_STEPS = 4
"""Steps on either side of zero of the scale ``--loss-4`` … ``--gain-4``."""

CHURN_STEPS = 5
"""Steps used of the scale ``--seq-1`` … ``--seq-9``: ink does not show on the darker half."""


def net_map(groups: Sequence[FlipGroup], rows: Sequence[str], columns: Sequence[str]) -> Spec:
    """Net of each class and frequency; the colour is the change of accuracy.

    Grey where flips are few, or where the interval of the change holds 0.
    """
    sure = [
        abs(group.flips.accuracy_difference.value)
        for group in groups
        if group.flips.accuracy_difference.value is not None
        and not few(group.flips)
        and side_of(group.flips.accuracy_difference, 0.0)
    ]
    largest = max(sure, default=0.0)

    def look(flips: Flips) -> tuple[str, str]:
        change = flips.accuracy_difference.value
        label = wording.signed_count(flips.net)
        told = side_of(flips.accuracy_difference, 0.0)
        if change is None or few(flips) or not told:
            return "var(--few)", label
        step = min(NET_STEPS, 1 + int(NET_STEPS * abs(change) / largest))
        return f"var(--{'gain' if told > 0 else 'loss'}-{step})", label

    return _map(groups, rows, columns, look)


def churn_map(groups: Sequence[FlipGroup], rows: Sequence[str], columns: Sequence[str]) -> Spec:
    """Churn of each class and frequency, in equal steps up to the largest; grey where few."""
    largest = max(
        (g.flips.churn.value or 0.0 for g in groups if g.flips.changed >= MINIMUM_FLIPS),
        default=0.0,
    )

    def look(flips: Flips) -> tuple[str, str]:
        churn = flips.churn.value or 0.0
        # A cell of a narrow screen has room for two digits.
        label = Form(wording.PERCENT, 100.0, decimals=int(churn < 0.1))(churn)
        if flips.changed < MINIMUM_FLIPS:
            return "var(--few)", label
        step = 1 + round((CHURN_STEPS - 1) * churn / largest)
        return f"var(--seq-{step})", label

    return _map(groups, rows, columns, look)


def _map(
    groups: Sequence[FlipGroup],
    rows: Sequence[str],
    columns: Sequence[str],
    look: Callable[[Flips], tuple[str, str]],
) -> Spec:
    """Cells of class and frequency with their label and their count, a colour from ``look``."""
    cells: list[Spec] = []
    for (row, column), group in zip(product(rows, columns), groups, strict=True):
        flips, n = group.flips, wording.count(group.flips.n)
        fill, label = look(flips) if flips.n else ("transparent", "")
        tip = f"{row}, target seen {column} times, n = {n}\n"
        tip += (
            f"accuracy {wording.full(flips.accuracy_difference, wording.points)}\n"
            f"churn {wording.full(flips.churn, wording.share)}\n{flip_words(flips)}"
            if flips.n
            else "no position"
        )
        cell = {"row": row, "column": column, "fill": fill, "label": label, "n": n, "tip": tip}
        cells.append(cell)
    title = {"title": "occurrences of the target in the text", "labelAngle": 0}
    place = {
        "x": _names("column", columns, title),
        "y": _names("row", rows, {"title": None, "minExtent": room_for(rows)}),
    }
    colours = {"color": {"field": "fill"} | NO_SCALE, "description": {"field": "tip"}}
    text = {"type": "text", "color": "var(--ink)", "aria": False}
    above, beneath = {"dy": -6, "fontSize": 13, "fontWeight": 600}, {"dy": 9, "fontSize": 12}
    return {
        "title": heading("class of the target; n beneath"),
        "data": {"values": cells},
        "layer": [
            {
                "mark": {"type": "rect", "stroke": "var(--paper)", "strokeWidth": 2},
                "encoding": place | colours,
            },
            {"mark": text | above, "encoding": place | {"text": {"field": "label"}}},
            {"mark": text | beneath, "encoding": place | {"text": {"field": "n"}}},
        ],
    }


def _names(field: str, names: Sequence[str], axis: Spec) -> Spec:
    """An axis of names in this order."""
    order = {"sort": list(names), "scale": {"domain": list(names)}}
    return {"field": field, "type": "ordinal", "axis": axis | {"domain": False}} | order
