"""Cells on a plane as convex polygons, and the proof that no token is missing."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int

from unembed.errors import UnembedError
from unembed.short_repr import ShortRepr

RASTER = 20
"""Points of the raster that proposes tokens, in each direction."""
TOLERANCE = 1e-12
"""Difference of two logits, relative to the largest in the window, that is rounding."""
HELD = 1 << 19
"""Logits that are held at once."""
SLIVER = 1e-13
"""Share of the window below which a polygon is the rounding of none."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Window(ShortRepr):
    """The part of a plane that is drawn, in its units."""

    left: float
    right: float
    low: float
    high: float

    @property
    def area(self) -> float:
        """In square units."""
        return (self.right - self.left) * (self.high - self.low)

    @property
    def corners(self) -> list[Point]:
        """Counter-clockwise from the lower left."""
        left, right, low, high = self.left, self.right, self.low, self.high
        return [(left, low), (right, low), (right, high), (left, high)]

    @staticmethod
    def around(half: float) -> Window:
        """The square of this half side around the origin."""
        return Window.square(0.0, 0.0, half)

    @staticmethod
    def square(x: float, y: float, half: float) -> Window:
        """The square of this half side around a point."""
        return Window(float(x - half), float(x + half), float(y - half), float(y + half))


@dataclass(frozen=True)
class Certificate(ShortRepr):
    """Why no token is missing: all of them were evaluated at every corner of every polygon.

    ``largest_excess`` is the most by which any of ``tokens`` logits exceeds that of a polygon's
    owner at one of ``corners``; up to ``tolerance``, both in logits, it is the rounding of float64.
    A difference of two affine functions on a convex polygon is largest at a corner, so that none
    wins anywhere inside. ``rounds`` were needed: after each the tokens that still won somewhere
    joined.
    """

    corners: int
    tokens: int
    largest_excess: float
    tolerance: float
    rounds: int

    @property
    def holds(self) -> bool:
        """Whether no token exceeds an owner by more than rounding."""
        return self.largest_excess <= self.tolerance


@dataclass(frozen=True)
class Tessellation(ShortRepr):
    """The cells of a window: whose each is, by id, and its corners counter-clockwise."""

    tokens: Int[np.ndarray, " cells"]
    polygons: tuple[Float[np.ndarray, "_ 2"], ...]
    certificate: Certificate

    def cell_at(self, x: float, y: float) -> int:
        """Which cell holds a point of the window, the first of several."""
        return int(np.argmax([depth_in(polygon, x, y) for polygon in self.polygons]))

    def in_window(self, window: Window) -> int:
        """How many of the cells reach into a smaller window."""
        return sum(_reaches(polygon, window) for polygon in self.polygons)


def tessellation(
    logits: Float[np.ndarray, "3 vocab"],
    window: Window,
    proposed: Int[np.ndarray, " proposed"] | None = None,
) -> Tessellation:
    """The upper envelope of affine logits over a window, as convex polygons with a certificate.

    ``logits`` are the rows c, a, b of ``c + a x + b y``; -inf in c is no token. Equivalent to the
    polygons::

        {(x, y) in window: l[v] >= l[u] for all u}                # for every v

    without those of no area; of tokens with equal logits the lowest id owns the cell.
    A raster of largest logits proposes tokens, half-planes cut their polygons, and all logits at
    the polygons' corners show which tokens are missing; these join until there are none. Tokens
    ``proposed`` take the raster's place, and change no cell.
    Raises UnembedError for logits that are not finite. Source: theory §3.
    """
    if np.isnan(logits).any() or np.isinf(logits[1:]).any() or np.isposinf(logits[0]).any():
        raise UnembedError("logits on the plane are not finite: there are no cells to draw")
    logits = np.ascontiguousarray(logits)
    cells = _Cells(logits, window)
    if proposed is None:
        xs = np.linspace(window.left, window.right, RASTER)
        ys = np.linspace(window.low, window.high, RASTER)
        raster = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
        proposed = _largest(logits, raster, cells.tolerance)[0]
    missing = np.unique(proposed)
    excess, rounds = 0.0, 0
    while len(missing):
        rounds += 1
        for token in missing.tolist():
            cells.join(token)
        excess, missing = cells.check()
    kept = sorted(t for t, polygon in cells.polygons.items() if _area(polygon) > cells.least)
    polygons = tuple(np.array(cells.polygons[token]) for token in kept)
    certificate = Certificate(
        corners=sum(map(len, polygons)),
        tokens=int(np.isfinite(logits[0]).sum()),
        largest_excess=excess,
        tolerance=cells.tolerance,
        rounds=rounds,
    )
    return Tessellation(np.array(kept, dtype=np.int64), polygons, certificate)


def _reaches(polygon: Float[np.ndarray, "corners 2"], window: Window) -> bool:
    """Whether a polygon has a part, not a border alone, in a window."""
    part = [(x, y) for x, y in polygon.tolist()]
    edges = ((-window.left, 1, 0), (window.right, -1, 0), (-window.low, 0, 1), (window.high, 0, -1))
    for c, a, b in edges:
        part = clipped(part, (c, float(a), float(b)))
    return _area(part) > SLIVER * window.area


def area_of(polygon: Float[np.ndarray, "corners 2"]) -> float:
    """The area of a polygon whose corners go counter-clockwise."""
    return _area([(x, y) for x, y in polygon.tolist()])


class _Cells:
    """Polygons of the tokens that have joined, and what was found at their corners."""

    def __init__(self, logits: Float[np.ndarray, "3 vocab"], window: Window) -> None:
        self.logits = logits
        self.window = window
        self.polygons: dict[int, list[Point]] = {}
        self.members: list[tuple[int, tuple[float, float, float]]] = []
        self.excesses: dict[int, float] = {}
        self.least = SLIVER * window.area
        real = np.isfinite(logits[0])
        far = [max(abs(x) for x, _ in window.corners), max(abs(y) for _, y in window.corners)]
        self.tolerance = TOLERANCE * float((np.array([1.0, *far]) @ np.abs(logits[:, real])).max())

    def join(self, token: int) -> None:
        """Cut the token's polygon, and what it wins from those of the others."""
        c, a, b = (float(row[token]) for row in self.logits)
        own = self.window.corners
        for other, (d, e, f) in self.members:
            gap = (c - d, a - e, b - f)
            own = clipped(own, gap)
            theirs = clipped(self.polygons[other], (d - c, e - a, f - b))
            if theirs is not self.polygons[other]:
                self.polygons[other] = theirs
                self.excesses.pop(other, None)
        self.members.append((token, (c, a, b)))
        self.polygons[token] = own

    def check(self) -> tuple[float, Int[np.ndarray, " missing"]]:
        """The largest excess at any corner, and the tokens that win at one and have not joined."""
        todo = [
            token
            for token, polygon in self.polygons.items()
            if token not in self.excesses and _area(polygon) > self.least
        ]
        missing: set[int] = set()
        if todo:
            corners = np.concatenate([np.array(self.polygons[token]) for token in todo])
            owners = np.repeat(todo, [len(self.polygons[token]) for token in todo])
            best, values = _largest(self.logits, corners, self.tolerance)
            c, a, b = self.logits[:, owners]
            excess = values - (c + a * corners[:, 0] + b * corners[:, 1])
            over = excess > self.tolerance
            missing = set(best[over].tolist()) - self.polygons.keys()
            for token in todo:
                self.excesses[token] = max(0.0, float(excess[owners == token].max()))
        kept = [self.excesses[t] for t, p in self.polygons.items() if _area(p) > self.least]
        return max(kept, default=0.0), np.array(sorted(missing), dtype=np.int64)


def _largest(
    logits: Float[np.ndarray, "3 vocab"],
    points: Float[np.ndarray, "points 2"],
    tolerance: float,
) -> tuple[Int[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """The lowest id whose logit is the largest at each point but for rounding, and the largest."""
    c, slopes = logits[0], logits[1:]
    tokens = np.empty(len(points), dtype=np.int64)
    values = np.empty(len(points))
    step = max(1, HELD // logits.shape[1])
    for start in range(0, len(points), step):
        here = slice(start, start + step)
        found = points[here] @ slopes
        found += c
        values[here] = found.max(axis=1)
        tokens[here] = (found >= values[here, None] - tolerance).argmax(axis=1)
    return tokens, values


def clipped(polygon: list[Point], gap: tuple[float, float, float]) -> list[Point]:
    """The part of a convex polygon where ``c + a x + b y >= 0``; itself where that is all of it.

    A new corner lies between two old ones, so that rounding moves it by no more than that of one
    of them, however flat the angle.
    """
    c, a, b = gap
    values = [c + a * x + b * y for x, y in polygon]
    if not values or min(values) >= 0:
        return polygon
    if max(values) < 0:
        return []
    found: list[Point] = []
    for i, here in enumerate(values):
        before = values[i - 1]
        if (before < 0) != (here < 0):
            (p, q), (r, s) = polygon[i - 1], polygon[i]
            share = before / (before - here)
            corner = (p + share * (r - p), q + share * (s - q))
            if not found or corner != found[-1]:
                found.append(corner)
        if here >= 0 and (not found or polygon[i] != found[-1]):
            found.append(polygon[i])
    if len(found) > 1 and found[0] == found[-1]:
        found.pop()
    return found if len(found) > 2 else []


def _area(polygon: list[Point]) -> float:
    if len(polygon) < 3:
        return 0.0
    x0, y0 = polygon[0]
    moved = [(x - x0, y - y0) for x, y in polygon]
    return sum(p * s - q * r for (p, q), (r, s) in pairwise(moved)) / 2


def depth_in(polygon: Float[np.ndarray, "corners 2"], x: float, y: float) -> float:
    """The least of the distances to the polygon's edges, negative outside."""
    edge = np.roll(polygon, -1, axis=0) - polygon
    gap = edge[:, 0] * (y - polygon[:, 1]) - edge[:, 1] * (x - polygon[:, 0])
    return float((gap / np.maximum(np.linalg.norm(edge, axis=1), 1e-300)).min())
