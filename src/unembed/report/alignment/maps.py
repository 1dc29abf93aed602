"""The maps of an alignment: every pair of tasks as a cell, the joint's with the tasks' tree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float

from unembed.report.alignment.pairs import NAMES
from unembed.report.parts import wording
from unembed.report.parts.drawing import Chart, Spec
from unembed.report.parts.heatmap import (
    Heatmap,
    MapFrame,
    bare_frame,
    draw_heatmap,
    heatmap_spec,
    levels_of,
    named_frame,
    number,
    spec_cell,
)
from unembed.signatures.alignment.ordering import Dendrogram

LARGEST_CELL = 56.0

WIDTHS = ((690.0, 84.0, 24), (340.0, 30.0, 13))
"""Of a wide and of a narrow map: its pixels across, those of the tree, the letters of a name."""


@dataclass(frozen=True)
class Labels:
    """The tasks' names in the order of the map; ``doubted`` ones have a status to read."""

    names: tuple[str, ...]
    doubted: frozenset[int]
    tree: Dendrogram


@dataclass(frozen=True)
class Branch:
    """Where two branches of the tree meet: the four corners of its line, and what it says.

    Across, a corner is a distance; down, it counts rows of the map. ``whole`` says that every joint
    between the two groups is known.
    """

    corners: tuple[tuple[float, float], ...]
    tip: str
    whole: bool

    @property
    def far(self) -> float:
        """The distance of its two groups."""
        return self.corners[1][0]


def labelled_map(matrix: Float[np.ndarray, "tasks tasks"], kind: str, labels: Labels) -> Chart:
    """A map with the names of its rows and columns and with the tree, in both widths.

    ``matrix`` and ``labels`` are in the order of the map. NaN cells are hatched.
    """
    heatmap = _heatmap(matrix, kind, labels)
    drawn = []
    for width, tree, letters in WIDTHS:
        frame = named_frame(
            labels.names,
            letters,
            LARGEST_CELL,
            partial(_cell, room=width - tree - 8, size=len(matrix)),
            right=tree + 8,
        )
        branches = _tree(frame, matrix, labels.tree, tree)
        drawn.append(draw_heatmap(heatmap, frame, more=branches))
    return Chart(heatmap.label, partial(_with_tree, heatmap, labels.tree), (drawn[0], drawn[1]))


def bare_map(
    matrix: Float[np.ndarray, "tasks tasks"],
    kind: str,
    labels: Labels,
    *,
    signed: bool = False,
    width: float = 340.0,
) -> Chart:
    """A map without names, no wider than a narrow screen there; ``signed`` colours -1 to 1."""
    heatmap = _heatmap(matrix, kind, labels, signed=signed)
    wide, narrow = (
        draw_heatmap(heatmap, bare_frame(len(matrix), min(width, most), LARGEST_CELL))
        for most, _, _ in WIDTHS
    )
    return Chart(heatmap.label, lambda: heatmap_spec(heatmap, _tip(heatmap)), (wide, narrow))


def _cell(left: float, *, room: float, size: int) -> float:
    return (room - left) / size


def _heatmap(
    matrix: Float[np.ndarray, "tasks tasks"],
    kind: str,
    labels: Labels,
    *,
    signed: bool = False,
) -> Heatmap:
    return Heatmap(
        kind,
        f"{NAMES[kind]} of every pair of {len(matrix)} tasks",
        matrix,
        levels_of(matrix, signed=signed),
        signed,
        diagonal=False,
        names=labels.names,
        doubted=labels.doubted,
    )


def _tip(heatmap: Heatmap) -> Callable[[int, int], str]:
    """What a cell says: both names and the value."""
    names = [wording.visible(name) for name in heatmap.names]
    return lambda row, column: (
        f"{names[row]} · {names[column]}\n{wording.three(float(heatmap.values[row, column]))}"
    )


def _with_tree(heatmap: Heatmap, tree: Dendrogram) -> Spec:
    """The map with the tree at its right, in Vega-Lite."""
    size = len(heatmap.values)
    lines = [
        {"x": x, "y": y, "at": at, "merge": merge}
        for merge, branch in enumerate(_branches(tree, heatmap.values))
        for at, (x, y) in enumerate(branch.corners)
    ]
    scale = {"domain": [0, size], "reverse": True, "nice": False}
    branches = {
        "width": 90,
        "height": spec_cell(size) * size,
        "data": {"values": lines},
        "mark": {"type": "line", "color": "var(--muted)", "strokeWidth": 1.3, "aria": False},
        "encoding": {
            "x": {"field": "x", "type": "quantitative", "axis": None},
            "y": {"field": "y", "type": "quantitative", "axis": None, "scale": scale},
            "detail": {"field": "merge"},
            "order": {"field": "at"},
        },
    }
    return {"hconcat": [heatmap_spec(heatmap, _tip(heatmap)), branches], "spacing": 6}


def _tree(
    frame: MapFrame, matrix: Float[np.ndarray, "tasks tasks"], tree: Dendrogram, width: float
) -> str:
    """The tree at the right of the cells: the farther right two branches meet, the less alike."""
    branches = list(_branches(tree, matrix))
    farthest = max((branch.far for branch in branches), default=0.0) or 1.0
    start = frame.left + frame.side + 6
    found = []
    for branch in branches:
        places = [
            (number(start + width * x / farthest), number(frame.top + y * frame.cell))
            for x, y in branch.corners
        ]
        (x, y), (far, _), (_, end), (back, _) = places
        look = "" if branch.whole else ' class="unsure"'
        found.append(f'<path data-tip="{branch.tip}" d="M{x} {y}H{far}V{end}H{back}"{look}/>')
    return f'<g class="tree">{"".join(found)}</g>'


def _branches(tree: Dendrogram, matrix: Float[np.ndarray, "tasks tasks"]) -> Iterator[Branch]:
    """The tree's branches, nearest first; ``matrix`` is in the order of the map."""
    place = {int(task): at for at, task in enumerate(tree.order)}
    groups = [[place[task]] for task in range(len(matrix))]
    rows = [group[0] + 0.5 for group in groups]
    reach = [0.0] * len(matrix)
    for merge in tree.merges:
        one, other = merge.left, merge.right
        first, second = groups[one], groups[other]
        whole = not np.isnan(matrix[np.ix_(first, second)]).any()
        tip = f"{wording.counted(len(first), 'task')} and {wording.counted(len(second), 'task')}\n"
        tip += (
            f"mean joint {wording.three(1 - merge.distance)}"
            if whole
            else "not every joint is known"
        )
        far = merge.distance
        corners = ((reach[one], rows[one]), (far, rows[one]), (far, rows[other]))
        yield Branch((*corners, (reach[other], rows[other])), tip, bool(whole))
        groups.append(first + second)
        rows.append((rows[one] + rows[other]) / 2)
        reach.append(far)
