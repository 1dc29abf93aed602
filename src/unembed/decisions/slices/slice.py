"""A picture of the cells around a decision, as facts: what is drawn, in numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from unembed.decisions.slices.cells import (
    Certificate,
    Tessellation,
    Window,
    area_of,
    tessellation,
)
from unembed.decisions.slices.plane import Plane, facet_plane, logits_on, move_plane, path_plane
from unembed.decisions.slices.walls import Walls, logits_of, owners_of, rows_of, walls_of
from unembed.errors import UnembedError
from unembed.head.head import Head
from unembed.short_repr import ShortRepr
from unembed.text.vocabulary import Vocabulary

TIMES = (2.5, 4.0, 6.5)
"""Half sides of a window that are tried, in distances to the farther of the two walls."""
MOVES = (1.25, 2.0, 3.2, 5.0, 7.0)
"""The same around the middle of a move, in its lengths."""
GAIN = 1.3
"""Times as many cells that a window must show at least for each step up in size."""
ROOM = 1.15
"""Half side of a window around a path, in what the path takes."""
SHARED = 1e-9
"""Difference of two logits at a corner, relative to the largest, up to which both cells hold it."""


@dataclass(frozen=True)
class Axis(ShortRepr):
    """What an axis points along: ``words``, then the token ``text`` where there is one."""

    words: str
    text: str | None = None


@dataclass(frozen=True)
class Cell(ShortRepr):
    """The part of a token's cell that lies in the window.

    ``corners`` go counter-clockwise, in the axes' units; ``area`` is in their square.
    """

    token: int
    text: str
    corners: tuple[tuple[float, ...], ...]
    area: float


@dataclass(frozen=True)
class Wall(ShortRepr):
    """A wall of the state's cell, to the cell of ``token``.

    ``distance`` is from the state to the wall in hidden space, Euclidean: ``(l_t - l_v) /
    |w_t - w_v|``; ``on_plane`` that on the picture, along the plane, in the same units: never less.
    None where the plane does not meet the wall.
    """

    token: int
    text: str
    distance: float
    on_plane: float | None


@dataclass(frozen=True)
class Mark(ShortRepr):
    """A state on the picture, with the token that it itself decides for.

    ``beside`` is how far it lies from the plane, in the axes' units; where that is not 0 the cell
    under it need not be its own.
    """

    label: str
    x: float
    y: float
    beside: float
    token: int
    text: str


@dataclass(frozen=True)
class Slice(ShortRepr):
    """The cells of a head on a plane through hidden space, exact and certified.

    Places are in units of ``unit``, a Euclidean length in hidden space, which ``unit_words`` names;
    ``axes`` say what right and up are. ``walls`` are those of the cell of the first of ``marks``,
    nearest first; ``leading`` are its logit and the runner-up's, before a soft-cap, and ``norm`` is
    the state's length. ``later_cells`` are those of a second head on the same plane.
    """

    axes: tuple[Axis, ...]
    unit: float
    unit_words: str
    norm: float
    leading: tuple[float, ...]
    window: Window
    cells: tuple[Cell, ...]
    certificate: Certificate
    marks: tuple[Mark, ...]
    walls: tuple[Wall, ...]
    later_cells: tuple[Cell, ...] = ()
    later_certificate: Certificate | None = None
    remarks: tuple[str, ...] = ()

    def _phrases(self) -> Iterator[str]:
        yield f"{self.marks[0].text!r} by {self.margin:.4g} logits"
        yield f"{len(self.cells)} cells"
        yield f"{len(self.marks)} states" if len(self.marks) > 1 else f"unit {self.unit:.4g}"
        yield "certified" if self.certificate.holds else "not certified"

    @property
    def margin(self) -> float:
        """Lead of the first state's token over the runner-up in logits, before a soft-cap."""
        return max(0.0, self.leading[0] - self.leading[1])

    @property
    def facet_distance(self) -> float:
        """Euclidean distance from the first state to the nearest wall of its cell."""
        return min(wall.distance for wall in self.walls)


def slice_of(
    hidden: Float[Tensor, " dim"], head: Head, tokens: Any, *, half: float | None = None
) -> Slice:
    """The cells around a hidden state, on the plane at right angles to two walls of its cell.

    Equivalent to, with ``u`` the normal to the runner-up's wall and ``v`` what the normal to the
    nearest other wall has across it, both of length 1, and ``d`` the facet distance::

        at = lambda x, y: (W @ (h + d * (x * u + y * v)) + b).argmax()

    as polygons, for every point of a window of ``half`` times d to each side. None takes one in
    which the farther of the two walls is near the middle and more tokens are seen than in a
    smaller. ``tokens`` spells ids: a tokenizer, a ``Vocabulary``, or None.
    Raises UnembedError for a state that is not finite. Source: theory §3.
    """
    return slices_of(hidden[None], head, tokens, half=half)[0]


def slices_of(
    hidden: Float[Tensor, "positions dim"], head: Head, tokens: Any, *, half: float | None = None
) -> list[Slice]:
    """``slice_of`` of several states, from three passes over the head."""
    every = walls_of(hidden, head)
    planes = list(map(facet_plane, every))
    found = []
    for walls, plane, logits in zip(every, planes, logits_on(planes, head), strict=True):
        windows = _around(walls, plane) if half is None else [Window.around(half)]
        window, cut = _worth_most(logits, windows)
        states = walls.state[None]
        found.append(
            _slice(
                plane, logits, walls, head, cut, window, ["state"], states, [walls.owner], tokens
            )
        )
    return found


def slice_between(
    before: Float[Tensor, " dim"],
    after: Float[Tensor, " width"],
    head: Head,
    tokens: Any,
    *,
    later_head: Head | None = None,
    half: float | None = None,
) -> Slice:
    """The cells around a state before a change and the state after it, on one plane.

    The plane goes through both states; of two heads both tessellations are cut by it. ``half`` is
    half the window's side in lengths of the move, around its middle; ``tokens`` as in ``slice_of``.
    Raises UnembedError for states that are not finite or not of one width. Source: theory §3.
    """
    if len(before) != len(after):
        raise UnembedError(
            f"the states have {len(before):,} and {len(after):,} numbers: a plane through both "
            "takes two models of one width"
        )
    later = later_head if later_head is not None and later_head.digest != head.digest else None
    first, second = walls_of(before[None], head)[0], walls_of(after[None], later or head)[0]
    plane = move_plane(first, second)
    moved = plane.places(second.state[None])[0]
    logits = plane.logits(head)
    if half is None and not moved.any():
        windows = _around(first, plane)
    else:
        middle = float(moved[0]) / 2
        windows = [Window.square(middle, 0.0, size) for size in (MOVES if half is None else [half])]
    window, cut = _worth_most(logits, windows)
    states = np.stack([first.state, second.state])
    labels, owners = ["before", "after"], [first.owner, second.owner]
    other = None if later is None else tessellation(plane.logits(later), window)
    return _slice(plane, logits, first, head, cut, window, labels, states, owners, tokens, other)


def slice_of_path(
    states: Float[Tensor, "depths dim"],
    head: Head,
    tokens: Any,
    *,
    labels: Sequence[str] | None = None,
) -> Slice:
    """The cells along a state's way through the depths, on the plane that holds most of the way.

    ``states`` are what the head would read at each depth, the last one its real input, through
    which the plane goes; the others are drawn at their feet on it, with how far they lie beside it
    and what they themselves decide. ``labels`` name them, by default by their numbers; ``tokens``
    as for ``slice_of``. Raises UnembedError for fewer than two states, or ones that are not finite.
    Source: theory §3.
    """
    if len(states) < 2:
        raise UnembedError(f"{len(states)} states make no way: give one of each depth")
    names = [str(depth) for depth in range(len(states))] if labels is None else list(labels)
    every = states.detach().to(head.weight.device).double()
    plane = path_plane(every.cpu().numpy())
    places = plane.places(every.cpu().numpy())
    low, high = places.min(axis=0), places.max(axis=0)
    middle = (low + high) / 2
    half = ROOM * float((high - low).max()) / 2
    window = Window.square(float(middle[0]), float(middle[1]), half)
    logits = plane.logits(head)
    cut = tessellation(logits, window)
    # The last state comes first: its walls are those that are told.
    order = [len(states) - 1, *range(len(states) - 1)]
    walls = walls_of(states[-1:], head)[0]
    owners = owners_of(logits_of(head, every))[order].tolist()
    named, points = [names[at] for at in order], every.cpu().numpy()[order]
    return _slice(plane, logits, walls, head, cut, window, named, points, owners, tokens)


def _around(walls: Walls, plane: Plane) -> list[Window]:
    """Windows around a state, in distances to the farther of the two walls that a plane shows."""
    first = walls.at(walls.runner_up)
    others = [walls.reach(at) for at in range(len(walls.tokens)) if at != first]
    farther = max(float(walls.distances[first]), min(others, default=0.0)) or plane.unit
    return [Window.around(times * farther / plane.unit) for times in TIMES]


def _worth_most(
    logits: Float[np.ndarray, "3 vocab"], windows: Sequence[Window]
) -> tuple[Window, Tessellation]:
    """The window with most cells for its size: a larger one has GAIN times those of a smaller.

    One without a wall is taken where none has any.
    """
    whole = tessellation(logits, windows[-1])
    seen = [whole.in_window(window) for window in windows]
    worth = [cells / GAIN**at if cells > 1 else 0 for at, cells in enumerate(seen)]
    best = int(np.argmax(worth))
    if best == len(windows) - 1:
        return windows[best], whole
    return windows[best], tessellation(logits, windows[best], whole.tokens)


def _slice(
    plane: Plane,
    logits: Float[np.ndarray, "3 vocab"],
    walls: Walls,
    head: Head,
    cut: Tessellation,
    window: Window,
    labels: Sequence[str],
    states: Float[np.ndarray, "points dim"],
    owners: Sequence[int],
    tokens: Any,
    later: Tessellation | None = None,
) -> Slice:
    """The record of what was found, with every token spelled."""
    walled = {walls.runner_up, int(walls.tokens[0]), *_neighbours(walls.owner, cut, logits)}
    shown = {walls.owner, *owners, *walled, *cut.tokens.tolist()}
    shown |= set() if later is None else set(later.tokens.tolist())
    shown |= {one.token for one in plane.directions if one.token is not None}
    spelled = tokens if isinstance(tokens, Vocabulary) else _vocabulary(tokens, shown)
    places, beside = plane.places(states), plane.beside(states)
    rounding = SHARED * (1 + float(np.abs(places).max()))
    return Slice(
        axes=tuple(
            Axis(one.words, None if one.token is None else spelled[one.token])
            for one in plane.directions
        ),
        unit=plane.unit,
        unit_words=plane.unit_words,
        norm=float(np.linalg.norm(walls.state)),
        leading=tuple(
            float(walls.logits[one] * head.scale) for one in (walls.owner, walls.runner_up)
        ),
        window=window,
        cells=_cells(cut, spelled),
        certificate=cut.certificate,
        marks=tuple(
            Mark(label, x, y, off if off > rounding else 0.0, token, spelled[token])
            for label, (x, y), off, token in zip(
                labels, places.tolist(), beside.tolist(), owners, strict=True
            )
        ),
        walls=_walls(sorted(walled), plane, walls, head, spelled),
        later_cells=() if later is None else _cells(later, spelled),
        later_certificate=None if later is None else later.certificate,
        remarks=plane.remarks,
    )


def _neighbours(
    owner: int, cut: Tessellation, logits: Float[np.ndarray, "3 vocab"]
) -> Iterator[int]:
    """The tokens whose cells share an edge with the owner's in the window."""
    at = np.flatnonzero(cut.tokens == owner)
    if not len(at):
        return
    polygon = cut.polygons[int(at[0])]
    corners = np.column_stack([np.ones(len(polygon)), polygon])
    every = corners @ logits[:, cut.tokens]
    gap = np.abs(every - every[:, at])
    near = SHARED * np.abs(every).max()
    for token, shared in zip(cut.tokens.tolist(), (gap <= near).sum(axis=0), strict=True):
        if shared > 1 and token != owner:
            yield token


def _walls(
    tokens: Sequence[int], plane: Plane, walls: Walls, head: Head, spelled: Vocabulary
) -> tuple[Wall, ...]:
    """How far these tokens' walls are from the state, nearest first."""
    chosen = np.array(tokens, dtype=np.int64)
    rows = rows_of(head, np.append(chosen, walls.owner)).cpu().numpy()
    across = rows[:-1] - rows[-1]
    gap = -(across @ walls.state)
    if head.bias is not None:
        bias = head.bias[torch.from_numpy(np.append(chosen, walls.owner))].double().cpu().numpy()
        gap -= bias[:-1] - bias[-1]
    gap = np.maximum(gap, 0.0)
    size, seen = np.linalg.norm(across, axis=1), np.linalg.norm(across @ plane.axes.T, axis=1)
    found = [
        Wall(token, spelled[token], float(g / s), float(g / p) if p > SHARED * s else None)
        for token, g, s, p in zip(tokens, gap, size, seen, strict=True)
    ]
    return tuple(sorted(found, key=lambda wall: wall.distance))


def _cells(cut: Tessellation, spelled: Vocabulary) -> tuple[Cell, ...]:
    return tuple(
        Cell(token, spelled[token], tuple((x, y) for x, y in polygon.tolist()), area_of(polygon))
        for token, polygon in zip(cut.tokens.tolist(), cut.polygons, strict=True)
    )


def _vocabulary(tokenizer: Any, ids: set[int]) -> Vocabulary:
    return Vocabulary({}) if tokenizer is None else Vocabulary.of(tokenizer, ids)
