"""The flow of decisions from before to after, as a section of a comparison's page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unembed.decisions.comparison.flips import Flips
from unembed.decisions.comparison.seeds import NO_P
from unembed.decisions.comparison.summary import ComparisonSummary
from unembed.report.parts.drawing import Spec, draw
from unembed.report.parts.marks import NO_SCALE, quantity
from unembed.report.parts.parts import Figure, Key, Section, estimates_table, table_of
from unembed.report.parts.wording import (
    count,
    counted,
    decimal,
    interval_cell,
    p_value,
    p_value_of,
    point,
    points,
    share,
)

THINNEST_STREAM = 0.005
"""Thickness of the smallest stream that is not empty, of the drawing's height of 1."""

STREAM_GAP, STREAMS_TOP, END_BAR = 0.09, 0.1, 0.045
"""Between right and wrong, above them, and how wide the bars at either end are."""

LABEL_ROOM = 0.42
"""Room for the labels at either end, over the length of the streams."""

STREAM_PIECES = 24
"""Straight pieces that a stream's edge is drawn with."""


@dataclass(frozen=True)
class Stream:
    """Positions that went from one side's right or wrong to the other's."""

    label: str
    count: int
    look: str
    right_before: bool
    right_after: bool

    def right(self, *, after: bool) -> bool:
        """Whether the decisions are right on one of the two sides."""
        return self.right_after if after else self.right_before


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
    room = 1 - STREAMS_TOP - STREAM_GAP - 5 * THINNEST_STREAM
    thick = {s.label: THINNEST_STREAM * (s.count > 0) + room * s.count / n for s in parts}
    before, after = (_tops(parts, thick, after=side) for side in (False, True))
    ends = [*_ends(parts, before, thick, after=False), *_ends(parts, after, thick, after=True)]
    titles = [
        {"after": side, "at": float(side), "middle": 0.02, "title": words}
        for side, words in ((False, "before"), (True, "after"))
    ]
    name = {"dx": _sided(-8, 8), "dy": -9, "fontWeight": 600, "color": "var(--ink)"}
    numbers = {"dx": _sided(-8, 8), "dy": 7, "lineBreak": "|", "lineHeight": 15}
    return {
        "layer": [
            # The large streams first: what changed lies on top of them.
            *(
                _areas(_band(s, before, after, thick[s.label], n), {"type": "area"})
                for s in sorted(parts, key=lambda s: -s.count)
                if s.count
            ),
            _areas(ends, {"type": "rect", "aria": False}),
            _words(titles, "title", {}),
            _words(ends, "name", name),
            _words(ends, "numbers", numbers),
        ]
    }


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
    table = table_of(
        "What became of each decision, with 95 % intervals of the share",
        streams(flips),
        {
            "before to after": lambda one: one.label,
            "n": lambda one: count(one.count),
            "share": lambda one: (
                point(shares[one.label], share)
                if one.label in shares
                else share(one.count / max(1, flips.n))
            ),
            "95 % interval": lambda one: (
                interval_cell(shares[one.label], share) if one.label in shares else ""
            ),
        },
    )
    independent = p_value(flips.mcnemar_p) + (f": {NO_P}" if flips.mcnemar_p is None else "")
    tests = estimates_table(
        f"Is it more than chance? n = {count(flips.n)}, {counted(flips.documents, 'document')}",
        {
            "accuracy before": (flips.accuracy_before, share),
            "accuracy after": (flips.accuracy_after, share),
            "accuracy difference": (flips.accuracy_difference, points),
            "flip ratio, gained over lost": (flips.flip_ratio, decimal),
            "McNemar’s p, positions independent": independent,
            "McNemar’s p, documents independent": p_value_of(flips.clustered_mcnemar_p),
        },
    )
    figure = Figure(
        "flow",
        "From before to after",
        "Heights are numbers of positions; a stream too thin to be seen is drawn thicker.",
        draw(flow(flips), label),
        tuple(Key(one.look, one.label.replace(" to ", " → ")) for one in streams(flips)),
    )
    return Section(
        "flow",
        "Where the decisions went",
        "Each decision was right or wrong before and is right or wrong after. A changed token need "
        "not change that: one wrong token may give way to another.",
        (figure,),
        (table, tests),
    )


def _tops(parts: Sequence[Stream], thick: dict[str, float], *, after: bool) -> dict[str, float]:
    """Where each stream begins on one side, with a gap between right and wrong."""
    tops: dict[str, float] = {}
    y = STREAMS_TOP
    for right in (True, False):
        for s in parts:
            if s.right(after=after) == right:
                tops[s.label] = y
                y += thick[s.label]
        y += STREAM_GAP * (y > STREAMS_TOP)
    return tops


def _band(
    stream: Stream, before: dict[str, float], after: dict[str, float], thick: float, n: int
) -> list[Spec]:
    """The edges of a stream, which leaves and arrives level."""
    start, end = before[stream.label], after[stream.label]
    tip = f"{stream.label}\n{counted(stream.count, 'position')}, {share(stream.count / n)}"
    look = {"fill": f"var(--{stream.look})", "tip": tip}
    steps = [at / STREAM_PIECES for at in range(STREAM_PIECES + 1)]
    tops = [start + (end - start) * t * t * (3 - 2 * t) for t in steps]
    return [
        look | {"x": END_BAR + t * (1 - 2 * END_BAR), "top": top, "bottom": top + thick}
        for t, top in zip(steps, tops, strict=True)
    ]


def _ends(
    parts: Sequence[Stream], tops: dict[str, float], thick: dict[str, float], *, after: bool
) -> list[Spec]:
    """The bars of right and of wrong on one side, with what stands next to them."""
    n = max(1, sum(s.count for s in parts))
    x, x2 = (1 - END_BAR, 1.0) if after else (0.0, END_BAR)
    found = []
    for name in ("right", "wrong"):
        group = [s for s in parts if s.right(after=after) == (name == "right")]
        total = sum(s.count for s in group)
        if total:
            top = min(tops[s.label] for s in group)
            bottom = top + sum(thick[s.label] for s in group)
            # A thin bar's label must not leave the drawing.
            middle = min(max((top + bottom) / 2, STREAMS_TOP + 0.03), 0.92)
            place = {"x": x, "x2": x2, "top": top, "bottom": bottom, "fill": f"var(--{name})"}
            label = {"after": after, "at": float(after), "middle": middle, "name": name}
            found.append(place | label | {"numbers": f"{count(total)}|{share(total / n)}"})
    return found


_X = quantity(None, domain=[-LABEL_ROOM, 1 + LABEL_ROOM])
_Y = quantity(None, domain=[0, 1], reverse=True)


def _areas(rows: list[Spec], mark: Spec) -> Spec:
    """What lies between ``top`` and ``bottom``, and between ``x`` and ``x2`` where there is one."""
    encoding: Spec = {
        "x": _X | {"field": "x"},
        "y": _Y | {"field": "top"},
        "y2": {"field": "bottom"},
        "color": {"field": "fill"} | NO_SCALE,
    }
    more = {"x2": {"field": "x2"}} if mark["type"] == "rect" else {"description": {"field": "tip"}}
    return {"data": {"values": rows}, "mark": mark | {"opacity": 0.9}, "encoding": encoding | more}


def _words(rows: list[Spec], field: str, look: Spec) -> Spec:
    """A field as text outside of the bars."""
    mark = {"type": "text", "fontSize": 12.5, "color": "var(--muted)", "aria": False}
    encoding = {"x": _X | {"field": "at"}, "y": _Y | {"field": "middle"}, "text": {"field": field}}
    align = {"align": _sided("right", "left")}
    return {"data": {"values": rows}, "mark": mark | align | look, "encoding": encoding}


def _sided(before: object, after: object) -> Spec:
    return {"expr": f"datum.after ? {after!r} : {before!r}"}
