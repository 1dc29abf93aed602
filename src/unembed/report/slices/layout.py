"""Where everything of a picture of cells lies: colours, names of tokens, walls and states."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
from jaxtyping import Float

from unembed.decisions.slices.cells import Point, clipped, depth_in
from unembed.decisions.slices.slice import Cell, Mark, Slice
from unembed.report.parts import wording

LOOKS = 6
"""Tints of cells: as many as keep any two neighbours apart."""
NAME_SIZE, OWN_SIZE, SMALL_SIZE = 13.0, 15.0, 11.5
LETTER = 0.56
"""Width of an average letter in heights of the font."""
LONGEST = 22
"""Letters of a token's name."""
EDGE = 5.0
"""Pixels between a name and the border of its cell."""
STATE_ROOM = 9.0
"""Pixels around a state that no name takes."""
NEAR = 0.1
"""Pixels between two points that are one."""
LEAST_LINE = 16.0
LEAST_NAMED = 26.0
"""Pixels of the way to a wall from which on it is drawn, and from which on its length is."""


@dataclass(frozen=True)
class Frame:
    """The square of a drawing in which the cells lie: ``side`` pixels, its upper left corner."""

    side: float
    left: float = 44.0
    top: float = 30.0
    right: float = 8.0
    foot: float = 48.0

    @property
    def width(self) -> float:
        """Pixels of the drawing across."""
        return self.left + self.side + self.right

    @property
    def height(self) -> float:
        """Pixels of the drawing down."""
        return self.top + self.side + self.foot


@dataclass(frozen=True)
class Name:
    """A word on the picture, at its middle, in pixels of the frame's square from its upper left.

    ``number`` is that under which a token stands in the list of those too small for their names.
    """

    text: str
    x: float
    y: float
    size: float
    look: str
    number: bool = False


@dataclass(frozen=True)
class Patch:
    """One cell: ``look`` is 0 for that of the first state, else one of the tints."""

    cell: Cell
    look: int
    corners: tuple[Point, ...]


@dataclass(frozen=True)
class WayToWall:
    """The straight way from the state to a wall of its cell, in pixels; its length in words."""

    text: str
    start: Point
    end: Point


@dataclass(frozen=True)
class Layout:
    """What is drawn, in pixels of the frame's square; ``listed`` are the tokens under numbers."""

    patches: tuple[Patch, ...]
    own_outline: tuple[Point, ...]
    outlines: tuple[tuple[Point, ...], ...]
    names: tuple[Name, ...]
    ways: tuple[WayToWall, ...]
    states: tuple[tuple[Mark, Point], ...]
    listed: tuple[str, ...]
    unnamed: tuple[str, ...]


Found = TypeVar("Found")
Box = tuple[float, float, float, float]
Pixel = Callable[[float, float], Point]


def lay_out(one: Slice, side: float, target: int | None = None) -> Layout:
    """Place everything of a picture whose cells fill a square of ``side`` pixels.

    ``target`` is the text's own token, whose name looks another way.
    """
    window = one.window
    scale = side / (window.right - window.left)

    def pixel(x: float, y: float) -> Point:
        return (x - window.left) * scale, (window.high - y) * scale

    shapes = [tuple(pixel(x, y) for x, y in cell.corners) for cell in one.cells]
    states = tuple((mark, pixel(mark.x, mark.y)) for mark in one.marks)
    own = _own(one)
    ways = tuple(_ways(one, own, pixel, scale)) if len(one.marks) == 1 else ()
    taken = [_around(*at, STATE_ROOM) for _mark, at in states]
    names: list[Name] = []
    for way in ways:
        taken += _along(way)
    if own is not None:
        names += _lengths(ways, shapes[own])
        taken += map(_box, names)
    if len(states) > 1:
        for (_, start), (_, end) in pairwise(in_order(states)):
            taken += _along(WayToWall("", start, end))
        for mark, (x, y) in states:
            name = _tag(mark, x, y, side, shapes, taken)
            names.append(name)
            taken.append(_box(name))
    listed: list[str] = []
    unnamed: list[str] = []
    order = sorted(range(len(shapes)), key=lambda at: (at != own, -one.cells[at].area))
    for at in order:
        cell = one.cells[at]
        words = wording.token(cell.text, LONGEST)
        kinds = (("own", at == own), ("target", cell.token == target))
        look = " ".join(kind for kind, is_one in kinds if is_one) or "other"
        sizes = (OWN_SIZE, NAME_SIZE, SMALL_SIZE) if at == own else (NAME_SIZE, SMALL_SIZE)
        found = _placed(words, look, sizes, shapes[at], taken)
        if found is None:
            number = _placed(str(len(listed) + 1), "other", (SMALL_SIZE,), shapes[at], taken)
            if number is None:
                unnamed.append(words)
                continue
            found = Name(number.text, number.x, number.y, number.size, look, number=True)
            listed.append(words)
        names.append(found)
        taken.append(_box(found))
    looks = _tints([np.array(cell.corners) for cell in one.cells], own, window.right - window.left)
    patches = tuple(
        Patch(cell, look, shape) for cell, look, shape in zip(one.cells, looks, shapes, strict=True)
    )
    later = [tuple(pixel(x, y) for x, y in cell.corners) for cell in one.later_cells]
    outlines = tuple(_borders(later, side))
    outline = () if own is None else shapes[own]
    return Layout(
        patches, outline, outlines, tuple(names), ways, states, tuple(listed), tuple(unnamed)
    )


def in_order(states: Sequence[Found]) -> list[Found]:
    """The states in order of the way: a path keeps its last one first."""
    return list(states) if len(states) < 3 else [*states[1:], states[0]]


def _own(one: Slice) -> int | None:
    """Which cell is that of the first state's token."""
    tokens = [cell.token for cell in one.cells]
    return tokens.index(one.marks[0].token) if one.marks[0].token in tokens else None


def _borders(shapes: Sequence[Sequence[Point]], side: float) -> Iterator[tuple[Point, Point]]:
    """Each border between two cells once, so that its dashes are seen; not the frame."""
    seen: list[tuple[Point, Point]] = []
    for shape in shapes:
        for start, end in zip(shape, [*shape[1:], shape[0]], strict=True):
            framed = any(
                abs(start[at] - edge) < NEAR and abs(end[at] - edge) < NEAR
                for at in (0, 1)
                for edge in (0.0, side)
            )
            back = any(math.dist(start, b) < NEAR and math.dist(end, a) < NEAR for a, b in seen)
            if not framed and not back:
                seen.append((start, end))
                yield start, end


def _ways(one: Slice, own: int | None, pixel: Pixel, scale: float) -> Iterator[WayToWall]:
    """The ways to walls whose foot lies on the cell and far enough away to be seen."""
    if own is None:
        return
    corners = np.array(one.cells[own].corners)
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        edge = end - start
        length = float(np.hypot(*edge))
        if not length:
            continue
        along = float(-(start @ edge) / length**2)
        foot = start + along * edge
        far = float(np.hypot(*foot))
        wall = next(
            (
                wall
                for wall in one.walls
                if wall.on_plane is not None
                and math.isclose(wall.on_plane / one.unit, far, rel_tol=1e-6)
            ),
            None,
        )
        if 0 <= along <= 1 and wall is not None and far * scale >= LEAST_LINE:
            yield WayToWall(wording.decimal(far * one.unit), pixel(0.0, 0.0), pixel(*foot.tolist()))


def _lengths(ways: Sequence[WayToWall], shape: Sequence[Point]) -> Iterator[Name]:
    """The lengths of ways long enough for one, each on the side that has more room in the cell."""
    taken = [box for way in ways for box in _along(way)]
    upright = np.array([(x, -y) for x, y in shape])
    for way in ways:
        (x, y), (to_x, to_y) = way.start, way.end
        long = math.hypot(to_x - x, to_y - y)
        if long < LEAST_NAMED:
            continue
        a, b = -(to_y - y) / long, (to_x - x) / long
        wide = len(way.text) * LETTER * SMALL_SIZE / 2
        off = 5 + abs(a) * wide + abs(b) * SMALL_SIZE / 2
        found = [
            Name(
                way.text,
                (x + to_x) / 2 + sign * off * a,
                (y + to_y) / 2 + sign * off * b,
                SMALL_SIZE,
                "way",
            )
            for sign in (1, -1)
        ]
        free = [not any(_meet(_box(name), other) for other in taken) for name in found]
        room = [depth_in(upright, name.x, -name.y) for name in found]
        yield found[max((0, 1), key=lambda at: (free[at], room[at]))]


def _tag(
    mark: Mark,
    x: float,
    y: float,
    side: float,
    shapes: Sequence[Sequence[Point]],
    taken: Sequence[Box],
) -> Name:
    """What a state among several is called: above, below or beside it, where it meets least."""
    wide, high = len(mark.label) * LETTER * SMALL_SIZE / 2, SMALL_SIZE * 0.62
    across, down = STATE_ROOM + wide + 3, STATE_ROOM + high + 0.5
    cells = [np.array([(x, -y) for x, y in shape]) for shape in shapes]

    def trouble(name: Name) -> int:
        left, top, right, foot = box = _box(name)
        corners = [(a, -b) for a in (left, right) for b in (top, foot)]
        inside = min(left, top) >= 0 and max(right, foot) <= side
        whole = any(all(depth_in(cell, *at) >= 0 for at in corners) for cell in cells)
        met = sum(_meet(box, other) for other in taken)
        return 100 * (not inside) + 2 * (not whole) + met

    offsets = ((0, -down), (0, down), (across, 0), (-across, 0))
    found = [Name(mark.label, x + a, y + b, SMALL_SIZE, "tag") for a, b in offsets]
    return min(found, key=trouble)


def _placed(
    words: str, look: str, sizes: Sequence[float], shape: Sequence[Point], taken: Sequence[Box]
) -> Name | None:
    """The words in the largest of some sizes in which they fit into a cell beside what is there.

    A box fits around a point where the point is as far inside of every edge as half the box
    reaches across it: in the polygon with its edges moved inwards so far.
    """
    upright = [(x, -y) for x, y in shape]
    middle = np.mean(upright, axis=0)
    for size in sizes:
        wide, high = max(len(words), 1) * LETTER * size / 2 + EDGE, size * 0.62 + EDGE / 2
        room = list(upright)
        for (x, y), (to_x, to_y) in zip(upright, [*upright[1:], upright[0]], strict=True):
            edge = math.hypot(to_x - x, to_y - y)
            if not edge:
                continue
            a, b = -(to_y - y) / edge, (to_x - x) / edge
            reach = abs(a) * wide + abs(b) * high
            room = clipped(room, (-(a * x + b * y) - reach, a, b))
        if not room:
            continue
        spots = sorted(_spots(np.array(room)), key=lambda at: math.dist(at, middle))
        for x, y in spots:
            name = Name(words, x, -y, size, look)
            if not any(_meet(_box(name), other) for other in taken):
                return name
    return None


def _spots(room: Float[np.ndarray, "corners 2"]) -> Iterator[Point]:
    """Points all over a polygon: its middle, and a grid."""
    x, y = room.mean(axis=0).tolist()
    yield x, y
    (left, low), (right, high) = room.min(axis=0).tolist(), room.max(axis=0).tolist()
    for at in np.linspace(left, right, 13).tolist():
        for up in np.linspace(low, high, 13).tolist():
            if depth_in(room, at, up) >= 0:
                yield at, up


def _box(name: Name) -> Box:
    wide, high = max(len(name.text), 1) * LETTER * name.size / 2 + 2, name.size * 0.62
    return name.x - wide, name.y - high, name.x + wide, name.y + high


def _around(x: float, y: float, room: float) -> Box:
    return x - room, y - room, x + room, y + room


def _along(way: WayToWall) -> list[Box]:
    """Small boxes that cover a straight way."""
    (x, y), (to_x, to_y) = way.start, way.end
    steps = max(1, math.ceil(math.hypot(to_x - x, to_y - y) / 6))
    shares = [at / steps for at in range(steps + 1)]
    return [_around(x + share * (to_x - x), y + share * (to_y - y), 3.0) for share in shares]


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _tints(polygons: Sequence[Float[np.ndarray, "_ 2"]], own: int | None, side: float) -> list[int]:
    """A tint for each cell, 0 for ``own``, so that no two neighbours have the same.

    The cell with the fewest neighbours is taken away until none is left, and gets its tint when
    they come back: each then meets at most five, as any map of one plane allows.
    """
    count = len(polygons)
    beside: list[set[int]] = [set() for _ in range(count)]
    for i in range(count):
        for j in range(i):
            if _neighbours(polygons[i], polygons[j], 1e-7 * side):
                beside[i].add(j)
                beside[j].add(i)
    left = set(range(count)) - {own}
    order = []
    while left:
        least = min(left, key=lambda at: (len(beside[at] & left), at))
        left.remove(least)
        order.append(least)
    tints = [0] * count
    for turn, at in enumerate(reversed(order)):
        met = {tints[other] for other in beside[at]}
        # Tints are gone through in turn, so that all of them are seen.
        free = [look for look in range(1, LOOKS + 1) if look not in met]
        tints[at] = free[turn % len(free)] if turn < LOOKS else free[0]
    return tints


def _neighbours(
    one: Float[np.ndarray, "_ 2"], other: Float[np.ndarray, "_ 2"], near: float
) -> bool:
    """Whether two polygons share an edge or a part of one."""
    shared = [tuple(corner) for corner in one if depth_in(other, *corner) >= -near]
    shared += [tuple(corner) for corner in other if depth_in(one, *corner) >= -near]
    return len(shared) > 1 and math.dist(min(shared), max(shared)) > 10 * near
