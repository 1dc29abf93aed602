"""Histograms of right and of wrong decisions, as figures of a page."""

from __future__ import annotations

from collections.abc import Iterator

from unembed.decisions.audit.summary import Histogram
from unembed.report.parts import wording
from unembed.report.parts.drawing import Spec, draw, heading
from unembed.report.parts.marks import NO_SCALE, reference, scaled
from unembed.report.parts.parts import Figure, Key, Table, table_of
from unembed.report.parts.scales import scale_between, scale_of
from unembed.report.parts.wording import Wording
from unembed.stats.estimate import Estimate


def histogram_figure(
    figure: tuple[str, str],
    bins: Histogram,
    unit: str,
    median: tuple[Estimate, Wording],
    caption: str,
    *,
    when: str = "",
    tables: tuple[Table, ...] = (),
    ticks: int = 6,
) -> Figure:
    """Positions per bin as bars and in numbers; ``figure`` is its name and its title.

    The ``median`` is marked in its wording; ``when`` says when a decision was right, such as
    ``before``; ``tables`` come first.
    """
    name, title = figure
    sides = [f"{side} {when}".rstrip() for side in ("right", "wrong")]
    for beyond, words in ((bins.below, "to the left"), (bins.above, "to the right")):
        if beyond:
            caption += f" {wording.counted(beyond, 'position')} further {words}."
    table = table_of(
        "Positions per bin",
        list(_bins(bins)),
        {
            unit: lambda one: f"{wording.decimal(one[0])} to {wording.decimal(one[1])}",
            sides[0]: lambda one: wording.count(one[2]),
            sides[1]: lambda one: wording.count(one[3]),
        },
    )
    chart = draw(histogram(bins, unit, median, ticks), f"{title}: histogram in {unit}")
    keys = (Key("right", sides[0]), Key("wrong", sides[1]))
    return Figure(name, title, caption, chart, keys, (*tables, table))


def histogram(counts: Histogram, unit: str, median: tuple[Estimate, Wording], ticks: int) -> Spec:
    """Share of positions per bin, right decisions below, wrong ones stacked on them."""
    n = sum(counts.right) + sum(counts.wrong) + counts.below + counts.above
    rows: list[Spec] = []
    for low, high, right, wrong in _bins(counts):
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
    x = scaled(scale_between(counts.edges[0], end, ticks), unit, grid=False)
    heights = scale_of([0.0, *(row["to"] for row in rows)], percent=True)
    layers = [
        {
            "data": {"values": rows},
            "mark": {"type": "bar", "stroke": "var(--paper)", "strokeWidth": 0.6},
            "encoding": {
                "x": x | {"field": "low"},
                "x2": {"field": "high"},
                "y": scaled(heights, None, grid=True) | {"field": "from"},
                "y2": {"field": "to"},
                "color": {"field": "fill"} | NO_SCALE,
                "description": {"field": "tip"},
            },
        }
    ]
    at = median[0].value
    if at is not None and counts.edges[0] <= at <= end:
        left = at < (counts.edges[0] + end) / 2
        layers.append(_upright(at, f"median {wording.point(*median)}", left))
    return {"title": heading("share of positions"), "layer": layers}


def _bins(bins: Histogram) -> Iterator[tuple[float, float, int, int]]:
    """The ends of each bin, and how many right and wrong decisions are in it."""
    return zip(bins.edges, bins.edges[1:], bins.right, bins.wrong, strict=False)


def _upright(x: float, label: str, label_on_right: bool) -> Spec:
    """A vertical line with its label at the top."""
    side, align = (6, "left") if label_on_right else (-6, "right")
    text = {"type": "text", "y": 0, "dx": side, "dy": 7, "align": align, "color": "var(--ink)"}
    axis = {"type": "quantitative"}
    return {
        "layer": [
            reference("x", x, axis, {"strokeDash": [], "strokeWidth": 1.4}),
            {
                "data": {"values": [{"x": x, "label": label}]},
                "mark": text | {"fontSize": 12.5, "fontWeight": 600, "aria": False},
                "encoding": {"x": axis | {"field": "x"}, "text": {"field": "label"}},
            },
        ],
    }
