"""A picture of cells in Vega-Lite, for figures that leave the page."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from unembed.decisions.slices.cells import Point
from unembed.decisions.slices.slice import Slice
from unembed.report.parts import wording
from unembed.report.parts.drawing import Spec, heading
from unembed.report.parts.marks import NO_SCALE, scaled
from unembed.report.slices.drawing import at_plane, axis_words, cell_tip, quoted, scales, state_tip
from unembed.report.slices.layout import Layout, in_order, lay_out

SIDE = 560.0
LINE = 60
"""Letters of a line below the axis."""
INK = "var(--ink)"


def cells_spec(one: Slice, target: int | None = None) -> Spec:
    """The same picture as ``draw_cells``, ``target`` as in ``lay_out``."""
    laid = lay_out(one, SIDE, target)
    window = one.window
    unit = (window.right - window.left) / SIDE

    def place(point: Point) -> Spec:
        return {"x": window.left + point[0] * unit, "y": window.high - point[1] * unit}

    def line(points: Any, name: int, **more: Any) -> list[Spec]:
        return [place(at) | {"line": name, "order": i} | more for i, at in enumerate(points)]

    cells = [
        row
        for number, patch in enumerate(laid.patches)
        for row in line(
            patch.corners,
            number,
            fill=f"var(--cell-{patch.look})",
            tip=cell_tip(one, patch.cell.token, patch.cell.text, patch.cell.area),
        )
    ]
    x, y = scales(one)
    axes = {
        "x": scaled(x, None, grid=False) | {"field": "x"},
        "y": scaled(y, None, grid=False) | {"field": "y"},
    }
    axes["x"]["axis"]["title"] = [f"{axis_words(one.axes[0])} →", *_list_of(one, laid)]
    paths = axes | {"detail": {"field": "line"}, "order": {"field": "order"}}
    closed = {"type": "line", "interpolate": "linear-closed", "clip": True, "aria": False}
    filled = {"fill": {"field": "fill"} | NO_SCALE, "description": {"field": "tip"}}
    drawn = {"filled": True, "fillOpacity": 1, "stroke": "var(--paper)", "strokeWidth": 1.5}
    found = [_layer(cells, closed | drawn, paths | filled)]
    later = [row for number, border in enumerate(laid.outlines) for row in line(border, number)]
    if later:
        dashes = {"type": "line", "stroke": INK, "strokeWidth": 1.2, "strokeDash": [5, 4]}
        found.append(_layer(later, dashes | {"clip": True, "aria": False}, paths))
    own = {"stroke": INK, "strokeWidth": 2, "strokeJoin": "round"}
    found.append(_layer(line(laid.own_outline, 0), closed | own, paths))
    ways = [row for i, way in enumerate(laid.ways) for row in line((way.start, way.end), i)]
    dotted = {"type": "line", "stroke": INK, "strokeWidth": 1.2, "strokeDash": [2, 3]}
    found.append(_layer(ways, dotted | {"aria": False}, paths))
    if len(laid.states) > 1:
        way = line([at for _mark, at in in_order(laid.states)], 0)
        solid = {"type": "line", "stroke": INK, "strokeWidth": 1.6, "aria": False}
        found.append(_layer(way, solid, paths))
    found += [_states(one, laid, place, axes), _names(laid, place, axes)]
    title = heading(f"↑ {axis_words(one.axes[1])}")
    return {"title": title, "width": SIDE, "height": SIDE, "layer": found}


def _list_of(one: Slice, laid: Layout) -> list[str]:
    """The tokens under numbers and what states decide for, as a figure has no caption."""
    listed = [f"{at}\u00a0“{text}”" for at, text in enumerate(laid.listed, 1)]
    decided = []
    if len(one.marks) > 1:
        for text, alike in groupby(in_order(one.marks), key=lambda mark: mark.text):
            labels = [mark.label for mark in alike]
            ends = labels if len(labels) < 3 else [labels[0], labels[-1]]
            joined = ("–" if ends is not labels else ", ").join(ends)
            decided.append(f"{joined}\u00a0{quoted(text)}")
        decided[0] = f"decisions: {decided[0]}"
        decided.append(f"1 is the {one.unit_words}, {wording.decimal(one.unit)}")
    return [line for words in (decided, listed) for line in _lines(words)]


def _lines(words: list[str]) -> list[str]:
    """Words in lines that an axis is long enough for."""
    lines = [""]
    for word in words:
        if len(lines[-1]) > LINE:
            lines.append("")
        lines[-1] += f"{word}\u2003"
    return [line.rstrip() for line in lines if line]


def _states(one: Slice, laid: Layout, place: Any, axes: Spec) -> Spec:
    rows = [
        place(at)
        | {"fill": INK if at_plane(one, mark) else "var(--paper)", "tip": state_tip(one, mark)}
        | {"stroke": "var(--paper)" if at_plane(one, mark) else INK}
        for mark, at in reversed(laid.states)
    ]
    looks = {name: {"field": name} | NO_SCALE for name in ("fill", "stroke")}
    mark = {"type": "point", "shape": "circle", "size": 80, "opacity": 1, "strokeWidth": 1.5}
    return _layer(rows, mark, axes | looks | {"description": {"field": "tip"}})


def _names(laid: Layout, place: Any, axes: Spec) -> Spec:
    rows = [
        place((name.x, name.y))
        | {"text": name.text, "size": name.size, "weight": 700 if "own" in name.look else 400}
        for name in laid.names
    ]
    size: Spec = {"field": "size", "type": "quantitative", "scale": None, "legend": None}
    mark = {"type": "text", "baseline": "middle", "color": INK, "aria": False}
    return {
        "layer": [
            _layer(
                [row for row in rows if row["weight"] == weight],
                mark | {"fontWeight": weight},
                axes | {"text": {"field": "text"}, "size": size},
            )
            for weight in (400, 700)
        ]
    }


def _layer(rows: list[Spec], mark: Spec, encoding: Spec) -> Spec:
    return {"data": {"values": rows}, "mark": mark, "encoding": encoding}
