"""Histograms of right and of wrong decisions, as figures of a page."""

from __future__ import annotations

from unembed.decisions.audit.summary import Histogram
from unembed.report.parts import wording
from unembed.report.parts.drawing import Spec, draw, heading
from unembed.report.parts.marks import NO_SCALE
from unembed.report.parts.parts import Figure, Key, Table


def histogram_figure(
    figure: tuple[str, str],
    bins: Histogram,
    unit: str,
    median: float | None,
    caption: str,
    *,
    when: str = "",
    tables: tuple[Table, ...] = (),
    ticks: int = 6,
) -> Figure:
    """Positions per bin as bars and in numbers; ``figure`` is its name and its title.

    ``when`` says when a decision was right, such as ``before``; ``tables`` come first.
    """
    name, title = figure
    sides = [f"{side} {when}".rstrip() for side in ("right", "wrong")]
    for beyond, words in ((bins.below, "to the left"), (bins.above, "to the right")):
        if beyond:
            caption += f" {wording.counted(beyond, 'position')} further {words}."
    rows = tuple(
        (
            f"{wording.decimal(low)} to {wording.decimal(high)}",
            wording.count(right),
            wording.count(wrong),
        )
        for low, high, right, wrong in zip(
            bins.edges, bins.edges[1:], bins.right, bins.wrong, strict=False
        )
    )
    return Figure(
        name,
        title,
        caption,
        (Key("right", sides[0]), Key("wrong", sides[1])),
        draw(histogram(bins, unit, median, ticks), f"{title}: histogram in {unit}"),
        (*tables, Table("Positions per bin", (unit, *sides), rows)),
    )


def histogram(counts: Histogram, unit: str, median: float | None, ticks: int) -> Spec:
    """Share of positions per bin, right decisions below, wrong ones stacked on them."""
    n = sum(counts.right) + sum(counts.wrong) + counts.below + counts.above
    rows: list[Spec] = []
    for low, high, right, wrong in zip(
        counts.edges, counts.edges[1:], counts.right, counts.wrong, strict=False
    ):
        total = right + wrong
        if total:
            tip = (
                f"{wording.decimal(low)} to {wording.decimal(high)} {unit}\n"
                f"{wording.share(total / n)} of positions ({wording.count(total)})\n"
                f"{wording.share(right / total)} of them right"
            )
            span = {"low": low, "high": high, "tip": tip}
            rows.append(span | {"from": 0.0, "to": right / n, "fill": "var(--right)"})
            rows.append(span | {"from": right / n, "to": total / n, "fill": "var(--wrong)"})
    # Empty bins at the far end, which a fixed set of edges leaves, are not drawn.
    end = max((row["high"] for row in rows), default=counts.edges[-1])
    layers = [
        {
            "data": {"values": rows},
            "mark": {"type": "bar", "stroke": "var(--paper)", "strokeWidth": 0.6},
            "encoding": {
                "x": {
                    "field": "low",
                    "type": "quantitative",
                    "scale": {"domain": [counts.edges[0], end], "nice": False},
                    "axis": {"title": unit, "grid": False, "tickCount": ticks, "format": ".3~g"},
                },
                "x2": {"field": "high"},
                "y": {
                    "field": "from",
                    "type": "quantitative",
                    "axis": {"title": None, "format": ".1~%", "tickCount": 5},
                },
                "y2": {"field": "to"},
                "color": {"field": "fill"} | NO_SCALE,
                "description": {"field": "tip"},
            },
        }
    ]
    if median is not None and counts.edges[0] <= median <= end:
        left = median < (counts.edges[0] + end) / 2
        label = f"median {wording.decimal(median)}"
        layers.append(_upright(median, label, left))
    return {"title": heading("share of positions"), "layer": layers}


def _upright(x: float, label: str, label_on_right: bool) -> Spec:
    """A vertical line with its label at the top."""
    encoding = {"x": {"field": "x", "type": "quantitative"}}
    return {
        "data": {"values": [{"x": x, "label": label}]},
        "layer": [
            {
                "mark": {"type": "rule", "color": "var(--ink)", "strokeWidth": 1.4, "aria": False},
                "encoding": encoding,
            },
            {
                "mark": {
                    "type": "text",
                    "y": 0,
                    "dx": 6 if label_on_right else -6,
                    "dy": 7,
                    "align": "left" if label_on_right else "right",
                    "color": "var(--ink)",
                    "fontSize": 12.5,
                    "fontWeight": 600,
                    "aria": False,
                },
                "encoding": encoding | {"text": {"field": "label"}},
            },
        ],
    }
