"""A map of places or kinds as coloured cells, as a Vega-Lite specification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from unembed.report.parts.drawing import NARROW_SIZE, Spec, heading
from unembed.report.parts.marks import (
    NO_SCALE,
    Channels,
    interval_fields,
    intervals,
    label_axis,
    points,
    room_for,
    scaled,
)
from unembed.report.parts.scales import scale_of
from unembed.report.parts.wording import full, short
from unembed.stats.estimate import Estimate
from unembed.stats.forms import Form, cosine, determined

STEPS = 5
"""Steps used of the scale ``--seq-1`` … ``--seq-9``: ink does not show on the darker half."""
NUMBER_WIDTH = 33.0
"""Pixels of a cell on a narrow screen from which on its number is written into it."""
MOST_COLUMNS_NAMED = 14
NAME_LETTERS = 18
BROKEN = {"labelExpr": "split(datum.label, '|')", "labelLineHeight": 14, "labelLimit": 190}
"""Of an axis of names: their lines."""
HUNDREDTHS = Form(decimals=2)


def cells_map(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Mapping[tuple[str, str], Estimate],
    above: str,
    across: str,
) -> Spec:
    """A cell for every row and column that has a value, darker the nearer that is to 1.

    Grey where none is determined; numbers are written where there is room. ``|`` in a row's name
    breaks its line.
    """
    shown = ["|".join(short(line, NAME_LETTERS) for line in row.split("|")) for row in rows]
    room = room_for(shown)
    numbered = NUMBER_WIDTH * len(columns) <= NARROW_SIZE[0] - room - 30
    cells: list[Spec] = []
    for row, name in zip(rows, shown, strict=True):
        for column in columns:
            one = values.get((row, column))
            if one is None:
                continue
            known = determined(one, cosine) and one.value is not None
            step = 1 + round((STEPS - 1) * min(max(one.value or 0.0, 0.0), 1.0))
            cells.append(
                {
                    "row": name,
                    "column": column,
                    "fill": f"var(--seq-{step})" if known else "var(--few)",
                    "label": HUNDREDTHS(one.value or 0.0) if numbered and known else "",
                    "tip": f"{row.replace('|', ', ')}\n{column}\n{full(one, cosine)}",
                }
            )
    every = -(-len(columns) // MOST_COLUMNS_NAMED)
    named = [column for at, column in enumerate(columns) if at % every == 0]
    place = {
        "x": _names("column", columns, {"title": across, "labelAngle": 0, "values": named}),
        "y": _names("row", shown, {"title": None, "minExtent": room} | BROKEN),
    }
    text = {"type": "text", "color": "var(--ink)", "aria": False, "fontSize": 12.5}
    colours = {"color": {"field": "fill"} | NO_SCALE, "description": {"field": "tip"}}
    layers = [
        {
            "mark": {"type": "rect", "stroke": "var(--paper)", "strokeWidth": 1.5},
            "encoding": place | colours,
        }
    ]
    if numbered:
        layers.append({"mark": text, "encoding": place | {"text": {"field": "label"}}})
    return {"title": heading(above), "data": {"values": cells}, "layer": layers}


def parts_chart(values: Sequence[tuple[str, Estimate, str]], title: str) -> Spec:
    """An estimate with its interval for each part, one a row; what it says under the pointer."""
    rows = [
        {"group": name, "tip": tip, "stroke": "var(--accent)", "fill": "var(--accent)"}
        | interval_fields(value, "x")
        for name, value, tip in values
        if value.value is not None
    ]
    ends = [float(row[name]) for row in rows for name in ("x_low", "x_high")]
    channels: Channels = {
        "x": scaled(scale_of([0.0, *ends], ticks=4), None, grid=True),
        "y": label_axis([name for name, *_ in values]),
    }
    channels["y"]["axis"]["labelOffset"] = 0
    return {
        "title": heading(title),
        "layer": [intervals(rows, channels, "x"), points(rows, channels, size=90, outline=0.0)],
    }


def _names(field: str, names: Sequence[str], axis: Spec) -> Spec:
    """An axis of names in this order."""
    order = {"sort": list(names), "scale": {"domain": list(names)}}
    return {"field": field, "type": "ordinal", "axis": axis | {"domain": False}} | order
