"""The flow of decisions from before to after, drawn as SVG: Vega-Lite has no Sankey diagram."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from unembed.decisions.comparison.flips import Flips
from unembed.report.parts import wording
from unembed.report.parts.drawing import Chart

THINNEST = 1.5
"""Height of the smallest stream that is not empty: thinner could not be seen."""

GAP = 26.0
BAR = 12.0
TOP = 34.0


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


def flow(flips: Flips) -> Chart:
    """Right and wrong before, right and wrong after, and what flowed between them."""
    return Chart(_svg(flips, 540.0, 330.0, 96.0), _svg(flips, 330.0, 290.0, 74.0))


def _svg(flips: Flips, width: float, height: float, side: float) -> str:
    parts = streams(flips)
    n = max(1, flips.n)
    room = height - TOP - GAP - 12 - 5 * THINNEST
    thick = {s.label: THINNEST * (s.count > 0) + room * s.count / n for s in parts}
    left, right = side, width - side
    tops_before = _stack(parts, thick, key="before")
    tops_after = _stack(sorted(parts, key=lambda s: not s.right_after), thick, key="after")
    body = []
    # The large streams first: what changed lies on top of them.
    for s in sorted(parts, key=lambda s: -s.count):
        if s.count:
            band = _band(
                left + BAR, tops_before[s.label], right - BAR, tops_after[s.label], thick[s.label]
            )
            tip = f"{s.label}\n{wording.counted(s.count, 'position')}, {wording.share(s.count / n)}"
            body.append(
                f'<path d="{band}" fill="var(--{s.look})" fill-opacity="0.85" '
                f'data-tip="{escape(tip)}"/>'
            )
    for x, tops, before in ((left, tops_before, True), (right - BAR, tops_after, False)):
        anchor, at = ("end", x - 8) if before else ("start", x + BAR + 8)
        body.append(_text(x + BAR * (not before), 12.0, "before" if before else "after", anchor))
        for is_right in (True, False):
            group = [s for s in parts if (s.right_before if before else s.right_after) == is_right]
            count = sum(s.count for s in group)
            if not count:
                continue
            top = min(tops[s.label] for s in group)
            tall = sum(thick[s.label] for s in group)
            colour = "var(--right)" if is_right else "var(--wrong)"
            body.append(
                f'<rect x="{x:.1f}" y="{top:.1f}" width="{BAR:g}" height="{tall:.1f}" '
                f'fill="{colour}"/>'
            )
            # A thin bar’s label must not leave the drawing, nor reach the line above.
            middle = min(max(top + tall / 2, TOP + 9), height - 26)
            name = "right" if is_right else "wrong"
            body.append(_text(at, middle - 9, name, anchor, strong=True))
            body.append(_text(at, middle + 7, wording.count(count), anchor))
            body.append(_text(at, middle + 22, wording.share(count / n), anchor))
    words = ", ".join(f"{s.label} {wording.count(s.count)}" for s in parts)
    label = escape(f"Flow of {wording.counted(flips.n, 'decision')}: {words}")
    view = f"0 0 {width:g} {height:g}"
    return f'<svg viewBox="{view}" role="img" aria-label="{label}">{"".join(body)}</svg>'


def _stack(
    parts: list[Stream] | tuple[Stream, ...], thick: dict[str, float], *, key: str
) -> dict[str, float]:
    tops: dict[str, float] = {}
    y, was_right = TOP, True
    for s in parts:
        is_right = s.right_before if key == "before" else s.right_after
        if was_right and not is_right:
            y, was_right = y + GAP, False
        tops[s.label] = y
        y += thick[s.label]
    return tops


def _band(x0: float, y0: float, x1: float, y1: float, thick: float) -> str:
    middle = (x0 + x1) / 2
    return (
        f"M{x0:.1f} {y0:.1f}C{middle:.1f} {y0:.1f} {middle:.1f} {y1:.1f} {x1:.1f} {y1:.1f}"
        f"V{y1 + thick:.1f}C{middle:.1f} {y1 + thick:.1f} {middle:.1f} {y0 + thick:.1f} "
        f"{x0:.1f} {y0 + thick:.1f}Z"
    )


def _text(x: float, y: float, text: str, anchor: str, *, strong: bool = False) -> str:
    weight = ' font-weight="600" fill="var(--ink)"' if strong else ' fill="var(--muted)"'
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="12.5px"{weight}>'
        f"{escape(text)}</text>"
    )
