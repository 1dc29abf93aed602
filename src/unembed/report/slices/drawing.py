"""A picture of cells in SVG, small enough for a page to hold a dozen of them twice."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from unembed.decisions.slices.cells import Point
from unembed.decisions.slices.slice import Axis, Mark, Slice
from unembed.report.parts import wording
from unembed.report.parts.scales import Scale, scale_between
from unembed.report.slices.layout import Frame, Layout, Name, in_order

TICKS = 5


def draw_cells(one: Slice, laid: Layout, frame: Frame, name: str, label: str) -> str:
    """The drawing, its colours as the stylesheets name them; ``label`` says what it is.

    ``name`` is a drawing's own in its page.
    """
    cells = "".join(
        f'<path class="cell" fill="var(--cell-{patch.look})" d="{_closed(patch.corners)}" '
        f'data-tip="{escape(cell_tip(one, patch.cell.token, patch.cell.text, patch.cell.area))}"/>'
        for patch in laid.patches
    )
    lines = "".join(f'<path class="later" d="{_open(border)}"/>' for border in laid.outlines)
    if laid.own_outline:
        lines += f'<path class="own" d="{_closed(laid.own_outline)}"/>'
    lines += "".join(f'<path class="way" d="{_open([w.start, w.end])}"/>' for w in laid.ways)
    if len(laid.states) > 1:
        lines += f'<path class="path" d="{_open([at for _, at in in_order(laid.states)])}"/>'
    states = "".join(
        f'<circle class="{"state" if at_plane(one, mark) else "state earlier"}" cx="{x:.1f}" '
        f'cy="{y:.1f}" r="{5 if mark is one.marks[0] else 4}" '
        f'data-tip="{escape(state_tip(one, mark))}"/>'
        for mark, (x, y) in reversed(laid.states)
    )
    names = "".join(map(_name, laid.names))
    side = f'width="{frame.side:g}" height="{frame.side:g}"'
    clip = f"clip-{escape(name)}"
    return (
        f'<svg viewBox="0 0 {frame.width:g} {frame.height:g}" class="tessellation" role="img" '
        f'style="max-width:{frame.width:g}px" aria-label="{escape(label)}">'
        f'<clipPath id="{clip}"><rect fill="none" {side}/></clipPath>{_axes(one, frame)}'
        f'<g transform="translate({frame.left:g} {frame.top:g})">'
        f'<g clip-path="url(#{clip})">{cells}{lines}</g>{states}{names}</g></svg>'
    )


def cell_tip(one: Slice, token: int, text: str, area: float) -> str:
    """What a cell says under the pointer."""
    share = f"{wording.share(area / one.window.area)} of the picture"
    wall = next((wall for wall in one.walls if wall.token == token), None)
    words = f"{wording.token(text)}\n{share}"
    if wall is not None:
        words += f"\nits wall is {wording.decimal(wall.distance)} away"
    return words


def state_tip(one: Slice, mark: Mark) -> str:
    """What a state says under the pointer."""
    words = f"{mark.label}: {wording.token(mark.text)}"
    if mark.beside:
        words += f"\n{wording.decimal(mark.beside * one.unit)} beside the plane"
    return words


def at_plane(one: Slice, mark: Mark) -> bool:
    """Whether a state is drawn filled: where it lies on the plane, and after a comparison."""
    return not mark.beside and (len(one.marks) != 2 or mark is one.marks[1])


def axis_words(axis: Axis) -> str:
    """What an axis points along, the token quoted."""
    return axis.words if axis.text is None else f"{axis.words} {quoted(axis.text)}"


def quoted(text: str) -> str:
    """A token in quotation marks, its blanks marked."""
    return f"“{wording.token(text, 22)}”"


def scales(one: Slice) -> tuple[Scale, Scale]:
    """The axes of a picture, in its units."""
    window = one.window
    return (
        scale_between(window.left, window.right, TICKS),
        scale_between(window.low, window.high, TICKS),
    )


def _axes(one: Slice, frame: Frame) -> str:
    x, y = scales(one)
    bottom, end = frame.top + frame.side, frame.left + frame.side
    parts = []
    for tick in x.ticks:
        at = frame.left + x.place(tick) * frame.side
        parts.append(f'<path d="M{at:.1f} {bottom:g}v5"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 18:g}">{x.label(tick)}</text>')
    for tick in y.ticks:
        at = frame.top + (1 - y.place(tick)) * frame.side
        parts.append(f'<path d="M{frame.left:g} {at:.1f}h-5"/>')
        words = f'<text class="y" x="{frame.left - 8:g}" y="{at + 4:.1f}">{y.label(tick)}</text>'
        parts.append(words)
    up, right = (escape(axis_words(axis)) for axis in reversed(one.axes))
    parts.append(f'<text class="start" x="2" y="16">↑ {up}</text>')
    parts.append(f'<text class="end" x="{end:g}" y="{frame.height - 8:g}">{right} →</text>')
    return f'<g class="axes">{"".join(parts)}</g>'


def _name(name: Name) -> str:
    return (
        f'<text class="{name.look}" x="{name.x:.1f}" y="{name.y:.1f}" '
        f'font-size="{name.size:g}">{escape(name.text)}</text>'
    )


def _closed(corners: Sequence[Point]) -> str:
    return _open(corners) + "z"


def _open(corners: Sequence[Point]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in corners)
