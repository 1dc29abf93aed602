"""The flow of decisions from before to after, as a section of a comparison's page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unembed.decisions.comparison.flips import Flips
from unembed.decisions.comparison.seeds import NO_P
from unembed.decisions.comparison.summary import ComparisonSummary
from unembed.report.parts.drawing import Spec, draw
from unembed.report.parts.marks import NO_SCALE
from unembed.report.parts.parts import Figure, Key, Section, Table, estimate_row
from unembed.report.parts.wording import (
    count,
    counted,
    decimal,
    interval,
    p_value,
    point,
    points,
    share,
)

THINNEST = 0.005
"""Thickness of the smallest stream that is not empty, of the drawing's height of 1."""

GAP, TOP, BAR = 0.09, 0.1, 0.045
"""Between right and wrong, above them, and how wide the bars at either end are."""

SIDE = 0.42
"""Room for the labels at either end, over the length of the streams."""

BENDS = 24
"""Straight pieces that a stream's edge is drawn with."""


@dataclass(frozen=True)
class Stream:
    """Positions that went from one side's right or wrong to the other's."""

    label: str
    count: int
    look: str
    right_before: bool
    right_after: bool


def streams(flips: Flips) -> tuple[Stream, ...]:
    """The five streams; right ones first, so that they cross only where decisions did."""
    kept_wrong = round((1 - (flips.accuracy_before.value or 0.0)) * flips.n)
    kept_wrong -= flips.wrong_to_right + flips.wrong_to_wrong
    kept_right = flips.n - flips.changed - kept_wrong
    return (
        Stream("right, unchanged", kept_right, "kept-right", True, True),
        Stream("right to wrong", flips.right_to_wrong, "lost", True, False),
        Stream("wrong to right", flips.wrong_to_right, "gained", False, True),
        Stream("wrong to another wrong", flips.wrong_to_wrong, "moved", False, False),
        Stream("wrong, unchanged", kept_wrong, "kept-wrong", False, False),
    )


def flow(flips: Flips) -> Spec:
    """Right and wrong before, right and wrong after, and what flowed between them."""
    parts = streams(flips)
    n = max(1, flips.n)
    room = 1 - TOP - GAP - 5 * THINNEST
    thick = {s.label: THINNEST * (s.count > 0) + room * s.count / n for s in parts}
    tops_before = _stack(parts, thick, after=False)
    tops_after = _stack(sorted(parts, key=lambda s: not s.right_after), thick, after=True)
    x = {"type": "quantitative", "scale": {"domain": [-SIDE, 1 + SIDE]}, "axis": None}
    y = {"type": "quantitative", "scale": {"domain": [0, 1], "reverse": True}, "axis": None}
    channels: dict[str, Spec] = {
        "x": x | {"field": "x"},
        "y": y | {"field": "top"},
        "y2": {"field": "bottom"},
        "color": {"field": "fill"} | NO_SCALE,
    }
    # The large streams first: what changed lies on top of them.
    layers = [
        {
            "data": {"values": _band(s, tops_before[s.label], tops_after[s.label], thick, n)},
            "mark": {"type": "area", "opacity": 0.85},
            "encoding": channels | {"description": {"field": "tip"}},
        }
        for s in sorted(parts, key=lambda s: -s.count)
        if s.count
    ]
    ends = [
        end
        for after, tops in ((False, tops_before), (True, tops_after))
        for end in _ends(parts, tops, thick, after=after)
    ]
    bars = {"type": "rect", "aria": False}
    layers.append(
        {
            "data": {"values": ends},
            "mark": bars,
            "encoding": channels | {"x2": {"field": "x2"}},
        }
    )
    for after, align, dx, at in ((False, "right", -8, 0.0), (True, "left", 8, 1.0)):
        ours = [end for end in ends if end["after"] == after]
        text = {"type": "text", "align": align, "fontSize": 12.5, "aria": False}
        name = text | {"dx": dx, "dy": -9, "fontWeight": 600, "color": "var(--ink)"}
        numbers = text | {"dx": dx, "dy": 7, "lineBreak": "|", "lineHeight": 15}
        place = {"x": x | {"field": "at"}, "y": y | {"field": "middle"}}
        for mark, field in ((name, "name"), (numbers | {"color": "var(--muted)"}, "numbers")):
            layers.append(
                {
                    "data": {"values": ours},
                    "mark": mark,
                    "encoding": place | {"text": {"field": field}},
                }
            )
        layers.append(
            {
                "data": {"values": [{"x": at, "y": 0.02, "title": "after" if after else "before"}]},
                "mark": text | {"color": "var(--muted)"},
                "encoding": {
                    "x": x | {"field": "x"},
                    "y": y | {"field": "y"},
                    "text": {"field": "title"},
                },
            }
        )
    return {"layer": layers}


def flow_section(summary: ComparisonSummary) -> Section:
    """What became of right and wrong decisions."""
    flips = summary.flips
    each = ", ".join(f"{one.label} {count(one.count)}" for one in streams(flips))
    label = f"Flow of {counted(flips.n, 'decision')}: {each}"
    shares = {
        "right to wrong": flips.right_to_wrong_share,
        "wrong to right": flips.wrong_to_right_share,
        "wrong to another wrong": flips.wrong_to_wrong_share,
    }
    table = Table(
        "What became of each decision, with 95 % intervals of the share",
        ("before to after", "n", "share", "95 % interval"),
        tuple(
            (
                stream.label,
                count(stream.count),
                share(stream.count / max(1, flips.n)),
                interval(shares[stream.label], share) if stream.label in shares else "",
            )
            for stream in streams(flips)
        ),
    )
    tests = Table(
        f"Is it more than chance? n = {count(flips.n)}, {counted(flips.documents, 'document')}",
        ("figure", "value", "95 % interval"),
        (
            estimate_row("accuracy before", flips.accuracy_before, share),
            estimate_row("accuracy after", flips.accuracy_after, share),
            estimate_row("accuracy difference", flips.accuracy_difference, points),
            estimate_row("flip ratio, gained over lost", flips.flip_ratio, decimal),
            (
                "McNemar’s p, positions independent",
                p_value(flips.mcnemar_p) + (f": {NO_P}" if flips.mcnemar_p is None else ""),
                "",
            ),
            ("McNemar’s p, documents independent", point(flips.clustered_mcnemar_p, p_value), ""),
        ),
    )
    return Section(
        "flow",
        "Where the decisions went",
        "Each decision was right or wrong before and is right or wrong after. A changed token need "
        "not change that: one wrong token may give way to another.",
        (
            Figure(
                "flow",
                "From before to after",
                "Heights are numbers of positions; a stream too thin to be seen is drawn thicker.",
                (
                    Key("kept-right", "right, unchanged"),
                    Key("lost", "right → wrong"),
                    Key("gained", "wrong → right"),
                    Key("moved", "wrong → another wrong"),
                    Key("kept-wrong", "wrong, unchanged"),
                ),
                draw(flow(flips), label),
                (),
            ),
        ),
        (table, tests),
    )


def _stack(parts: Sequence[Stream], thick: dict[str, float], *, after: bool) -> dict[str, float]:
    """Where each stream begins, with a gap between right and wrong."""
    tops: dict[str, float] = {}
    y, was_right = TOP, True
    for s in parts:
        is_right = s.right_after if after else s.right_before
        if was_right and not is_right:
            y, was_right = y + GAP, False
        tops[s.label] = y
        y += thick[s.label]
    return tops


def _band(
    stream: Stream, before: float, after: float, thick: dict[str, float], n: int
) -> list[Spec]:
    """The edges of a stream, which leaves and arrives level."""
    tip = f"{stream.label}\n{counted(stream.count, 'position')}, {share(stream.count / n)}"
    rows = []
    for step in range(BENDS + 1):
        t = step / BENDS
        top = before + (after - before) * t * t * (3 - 2 * t)
        rows.append(
            {
                "x": BAR + t * (1 - 2 * BAR),
                "top": top,
                "bottom": top + thick[stream.label],
                "fill": f"var(--{stream.look})",
                "tip": tip,
            }
        )
    return rows


def _ends(
    parts: Sequence[Stream], tops: dict[str, float], thick: dict[str, float], *, after: bool
) -> list[Spec]:
    """The bars of right and of wrong on one side, with what stands beside them."""
    n = max(1, sum(s.count for s in parts))
    found = []
    for right in (True, False):
        group = [s for s in parts if (s.right_after if after else s.right_before) == right]
        total = sum(s.count for s in group)
        if total:
            top = min(tops[s.label] for s in group)
            bottom = top + sum(thick[s.label] for s in group)
            found.append(
                {
                    "after": after,
                    "x": 1 - BAR if after else 0.0,
                    "x2": 1.0 if after else BAR,
                    "at": 1.0 if after else 0.0,
                    "top": top,
                    "bottom": bottom,
                    # A thin bar's label must not leave the drawing.
                    "middle": min(max((top + bottom) / 2, TOP + 0.03), 0.92),
                    "fill": "var(--right)" if right else "var(--wrong)",
                    "name": "right" if right else "wrong",
                    "numbers": f"{count(total)}|{share(total / n)}",
                }
            )
    return found
