"""Points of a plane in SVG: a path for each group, every dot a stroke of no length.

Small enough for tens of thousands of points. Colours are CSS variables, for light and for dark;
what a point says is looked up by the page's script.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from unembed.report.parts.drawing import Spec, heading
from unembed.report.parts.marks import NO_SCALE, reference, scaled
from unembed.report.parts.parts import Key
from unembed.report.parts.scales import Scale

GROUP_HUES, GROUP_SHAPES = 12, ("round", "block", "ring", "frame")
"""Colours ``--hue-1`` … of the stylesheet, and shapes: together the looks of the groups."""

MOST_GROUPS = GROUP_HUES * len(GROUP_SHAPES)
"""Groups that can be told apart; those beyond look like the last, "other"."""

HINT_STEPS = 2000.0
"""Steps of an axis in the data of the hints."""

PHONE_WIDTH = 500.0
"""A drawing narrower than this is for a phone."""

DOT_WIDTHS = ((60, 9.0), (300, 7.0), (1500, 5.0), (6000, 3.6))
"""Up to so many points, a dot is so wide; of more it is 2.6 pixels."""


@dataclass(frozen=True)
class Cloud:
    """Points with their groups, and the axes they lie on.

    ``groups`` number the looks; -1 is a point of no group. ``x_title`` and ``y_title`` name the
    axes; ``zero`` draws the line at y = 0.
    """

    name: str
    label: str
    points: Float[np.ndarray, "points 2"]
    groups: Int[np.ndarray, " points"]
    x: Scale
    y: Scale
    x_title: str
    y_title: str
    zero: bool = False


@dataclass(frozen=True)
class PointLabel:
    """The name of a point, written next to it."""

    point: int
    text: str


@dataclass(frozen=True)
class Frame:
    """Where the axes lie in a drawing of ``width`` by ``height`` pixels."""

    width: float
    height: float
    left: float = 46.0
    top: float = 30.0
    right: float = 12.0
    foot: float = 46.0

    @property
    def across(self) -> float:
        """Pixels of the horizontal axis."""
        return self.width - self.left - self.right

    @property
    def down(self) -> float:
        """Pixels of the vertical axis."""
        return self.height - self.top - self.foot


def group_classes(group: int) -> str:
    """The classes of a group: its colour and its shape."""
    if group < 0:
        return "hue-none round"
    group = min(group, MOST_GROUPS - 1)
    return f"hue-{group % GROUP_HUES + 1} {GROUP_SHAPES[group // GROUP_HUES]}"


def group_key(group: int, label: str) -> Key:
    """A group's entry in the key."""
    return Key(group_classes(group), label)


def pixels(cloud: Cloud, frame: Frame) -> Float[np.ndarray, "points 2"]:
    """Where each point lies in the drawing."""
    (x, y) = cloud.points.T
    across = (x - cloud.x.low) / (cloud.x.high - cloud.x.low)
    up = (y - cloud.y.low) / (cloud.y.high - cloud.y.low)
    place = (frame.left + across * frame.across, frame.top + (1 - up) * frame.down)
    return np.stack(place, axis=1)


def dot_width(points: int, frame: Frame) -> float:
    """How wide a dot is among so many points; on a narrow drawing they lie denser."""
    most = 4 * points if frame.width < PHONE_WIDTH else points
    return next((width for limit, width in DOT_WIDTHS if most <= limit), 2.6)


def draw_cloud(
    cloud: Cloud, frame: Frame, notes: Sequence[tuple[PointLabel, float, float, str]]
) -> str:
    """The drawing; ``notes`` are names with their places and anchors."""
    place = pixels(cloud, frame)
    wide = dot_width(len(place), frame)
    paths = []
    for group in np.unique(cloud.groups).tolist():
        dots = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in place[cloud.groups == group].tolist())
        paths.append(_group(group, dots, wide))
    names = "".join(
        f'<text class="name" data-group="{cloud.groups[note.point]}" x="{x:.1f}" y="{y:.1f}" '
        f'text-anchor="{anchor}">{escape(note.text)}</text>'
        for note, x, y, anchor in notes
    )
    size = f"max-width:{frame.width:g}px"
    box = f"{frame.left:g} {frame.top:g} {frame.across:g} {frame.down:g}"
    return (
        f'<svg viewBox="0 0 {frame.width:g} {frame.height:g}" class="cloud" role="img" '
        f'style="{size}" aria-label="{escape(cloud.label)}" data-cloud="{escape(cloud.name)}" '
        f'data-box="{box}">{_axes(cloud, frame)}{"".join(paths)}{names}'
        f'<path class="hits" stroke-width="{wide + 2:g}"/>'
        f'<circle class="at" r="{wide / 2 + 3:g}"/></svg>'
    )


def cloud_spec(
    cloud: Cloud, tips: Sequence[str], names: Sequence[str] = (), aspect: float | None = None
) -> Spec:
    """The same points in Vega-Lite, for figures that leave the page.

    ``tips`` are what each point says, and ``names`` are written beside them. ``aspect`` is the
    height of the drawing over its width.
    """
    rows: list[Spec] = []
    for at, ((x, y), group) in enumerate(
        zip(cloud.points.tolist(), cloud.groups.tolist(), strict=True)
    ):
        hue, shape = group_classes(group).split()
        hollow = "var(--paper)" if shape in ("ring", "frame") else f"var(--{hue})"
        row = {"x": x, "y": y, "fill": hollow, "stroke": f"var(--{hue})", "tip": tips[at]}
        row["shape"] = "square" if shape in ("block", "frame") else "circle"
        rows.append(row | ({"name": names[at]} if names else {}))
    x = scaled(cloud.x, cloud.x_title, grid=True)
    y = scaled(cloud.y, None, grid=True)
    place = {"x": x | {"field": "x"}, "y": y | {"field": "y"}}
    size = dot_width(len(rows), Frame(PHONE_WIDTH, PHONE_WIDTH)) ** 2
    colours = {name: {"field": name} | NO_SCALE for name in ("fill", "stroke", "shape")}
    layers: list[Spec] = [
        {
            "data": {"values": rows},
            "mark": {"type": "point", "size": size, "strokeWidth": 1.4, "opacity": 0.86},
            "encoding": place | colours | {"description": {"field": "tip"}},
        }
    ]
    if cloud.zero:
        layers.insert(0, reference("y", 0.0, y, {"color": "var(--muted)"}))
    if names:
        text = {"type": "text", "align": "left", "dx": 8, "fontSize": 12, "color": "var(--ink)"}
        layers.append(
            {
                "data": {"values": rows},
                "mark": text | {"aria": False},
                "encoding": place | {"text": {"field": "name"}},
            }
        )
    found = {"title": heading(cloud.y_title), "layer": layers}
    if aspect is None:
        return found
    width = min(760.0, 760.0 / aspect)
    return found | {"width": width, "height": width * aspect}


def cloud_data(cloud: Cloud) -> dict[str, Any]:
    """Places and groups for the page's script, in ``HINT_STEPS`` steps of each axis."""
    unit = Frame(HINT_STEPS, HINT_STEPS, 0.0, 0.0, 0.0, 0.0)
    place = np.rint(pixels(cloud, unit)).astype(int)
    return {
        "x": place[:, 0].tolist(),
        "y": place[:, 1].tolist(),
        "group": cloud.groups.tolist(),
    }


def _group(group: int, dots: str, wide: float) -> str:
    shape = group_classes(group).split()[1]
    block = shape in ("block", "frame")
    # A square of the same area is narrower than the disc.
    outer = 0.87 * wide if block else wide
    lines = f'<path d="{dots}" stroke-width="{outer:g}"/>'
    if shape in ("ring", "frame"):
        lines += f'<path class="hole" d="{dots}" stroke-width="{0.45 * outer:g}"/>'
    return f'<g class="{group_classes(group)}" data-group="{group}">{lines}</g>'


def _axes(cloud: Cloud, frame: Frame) -> str:
    parts = []
    bottom = frame.top + frame.down
    for tick in cloud.x.ticks:
        at = frame.left + cloud.x.place(tick) * frame.across
        parts.append(f'<path class="grid" d="M{at:.1f} {frame.top:g}V{bottom:g}"/>')
        words = cloud.x.label(tick)
        parts.append(f'<text class="tick" x="{at:.1f}" y="{bottom + 17:g}">{words}</text>')
    for tick in cloud.y.ticks:
        at = frame.top + (1 - cloud.y.place(tick)) * frame.down
        looks = "grid zero" if cloud.zero and abs(tick) < 1e-9 * cloud.y.step else "grid"
        right = frame.left + frame.across
        parts.append(f'<path class="{looks}" d="M{frame.left:g} {at:.1f}H{right:g}"/>')
        words = cloud.y.label(tick)
        parts.append(f'<text class="tick y" x="{frame.left - 7:g}" y="{at + 4:.1f}">{words}</text>')
    end = frame.left + frame.across
    parts.append(f'<text class="title" x="2" y="14">{escape(cloud.y_title)}</text>')
    last = f'x="{end:g}" y="{frame.height - 6:g}"'
    parts.append(f'<text class="title end" {last}>{escape(cloud.x_title)}</text>')
    return f'<g class="axes">{"".join(parts)}</g>'
