"""The maps of an alignment: every pair of tasks as a cell, the joint's with the tasks' tree."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float

from unembed.report.alignment.pairs import NAMES
from unembed.report.parts import wording
from unembed.report.parts.drawing import Chart
from unembed.report.parts.heatmap import (
    Heatmap,
    MapFrame,
    bare_frame,
    draw_heatmap,
    levels_of,
    named_frame,
    number,
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


def labelled_map(matrix: Float[np.ndarray, "tasks tasks"], kind: str, labels: Labels) -> Chart:
    """A map with the names of its rows and columns and with the tree, in both widths.

    ``matrix`` and ``labels`` are in the order of the map. NaN cells are hatched.
    """
    heatmap = _heatmap(matrix, kind, labels=labels)
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
    return Chart(*drawn)


def bare_map(
    matrix: Float[np.ndarray, "tasks tasks"],
    kind: str,
    *,
    signed: bool = False,
    width: float = 340.0,
) -> Chart:
    """A map without names, no wider than a narrow screen there; ``signed`` colours -1 to 1."""
    heatmap = _heatmap(matrix, kind, signed=signed)
    frames = (bare_frame(len(matrix), min(width, most), LARGEST_CELL) for most, _, _ in WIDTHS)
    return Chart(*(draw_heatmap(heatmap, frame) for frame in frames))


def _cell(left: float, *, room: float, size: int) -> float:
    return (room - left) / size


def _heatmap(
    matrix: Float[np.ndarray, "tasks tasks"],
    kind: str,
    *,
    signed: bool = False,
    labels: Labels | None = None,
) -> Heatmap:
    return Heatmap(
        kind,
        f"{NAMES[kind]} of every pair of {len(matrix)} tasks",
        matrix,
        levels_of(matrix, signed=signed),
        signed,
        diagonal=False,
        names=() if labels is None else labels.names,
        doubted=frozenset() if labels is None else labels.doubted,
    )


def _tree(
    frame: MapFrame, matrix: Float[np.ndarray, "tasks tasks"], tree: Dendrogram, width: float
) -> str:
    """The tree at the right of the cells: the farther right two branches meet, the less alike."""
    place = {int(task): at for at, task in enumerate(tree.order)}
    groups = [[place[task]] for task in range(frame.size)]
    rows = [frame.top + (group[0] + 0.5) * frame.cell for group in groups]
    reach = [0.0] * frame.size
    farthest = max((merge.distance for merge in tree.merges), default=0.0) or 1.0
    start = frame.left + frame.side + 6
    found = []
    for merge in tree.merges:
        first, second = groups[merge.left], groups[merge.right]
        x = width * merge.distance / farthest
        ends = [(rows[one], start + reach[one]) for one in (merge.left, merge.right)]
        corners = (*ends[0], start + x, *ends[1])
        line = "M{1} {0}H{2}V{3}H{4}".format(*map(number, corners))
        whole = not np.isnan(matrix[np.ix_(first, second)]).any()
        tip = f"{wording.counted(len(first), 'task')} and {wording.counted(len(second), 'task')}\n"
        tip += (
            f"mean joint {wording.three(1 - merge.distance)}"
            if whole
            else "not every joint is known"
        )
        look = "" if whole else ' class="unsure"'
        found.append(f'<path data-tip="{tip}" d="{line}"{look}/>')
        groups.append(first + second)
        rows.append((ends[0][0] + ends[1][0]) / 2)
        reach.append(x)
    return f'<g class="tree">{"".join(found)}</g>'
