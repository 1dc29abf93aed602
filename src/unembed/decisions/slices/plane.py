"""Planes through hidden space: where a picture of the cells is cut."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float

from unembed.decisions.slices.walls import Walls, products
from unembed.errors import UnembedError
from unembed.head.head import Head
from unembed.short_repr import ShortRepr

PARALLEL = 1e-6
"""Part of a direction of length 1 across another one below which the two are taken as parallel."""
STILL = 1e-12
"""Length of a move, relative to the state's, below which it is rounding."""
ONE = (1.0, "1")


TO_WALL = "normal to the wall of"
"""Begins what an axis is whose token is named behind."""
ACROSS = "at right angles to it, towards the wall of"


@dataclass(frozen=True)
class Direction(ShortRepr):
    """What an axis points along in words, which end where ``token`` is to be named."""

    words: str
    token: int | None = None


@dataclass(frozen=True)
class Plane(ShortRepr):
    """The points ``origin + unit (x axes[0] + y axes[1])``; the axes are orthonormal.

    ``unit`` is a Euclidean length in hidden space, ``unit_words`` what it is, and ``directions``
    what each axis points along. ``remarks`` say where the plane is not the one that was asked for.
    """

    origin: Float[np.ndarray, " dim"]
    axes: Float[np.ndarray, "2 dim"]
    unit: float
    unit_words: str
    directions: tuple[Direction, Direction]
    remarks: tuple[str, ...] = ()

    def places(self, states: Float[np.ndarray, "points dim"]) -> Float[np.ndarray, "points 2"]:
        """Where states lie on the plane, those beside it at their feet on it."""
        found: Float[np.ndarray, "points 2"] = (states - self.origin) @ self.axes.T / self.unit
        return found

    def beside(self, states: Float[np.ndarray, "points dim"]) -> Float[np.ndarray, " points"]:
        """How far states lie from the plane, in its units."""
        foot = self.places(states) * self.unit @ self.axes
        rest: Float[np.ndarray, " points"] = np.linalg.norm(states - self.origin - foot, axis=1)
        return rest / self.unit

    def logits(self, head: Head) -> Float[np.ndarray, "3 vocab"]:
        """Every logit on the plane, before scale and soft-cap: ``c + a x + b y``, rows c, a, b.

        -inf in c where a row is no token. All in float64.
        """
        return logits_on([self], head)[0]


def logits_on(planes: Iterable[Plane], head: Head) -> list[Float[np.ndarray, "3 vocab"]]:
    """``Plane.logits`` of several planes from one pass over the head."""
    planes = list(planes)
    vectors = [np.stack([one.origin, *(one.unit * one.axes)]) for one in planes]
    stacked = torch.from_numpy(np.concatenate(vectors)).to(head.weight.device)
    found = products(head, stacked).reshape(len(planes), 3, head.vocab)
    if head.bias is not None:
        found[:, 0] += head.bias.double().cpu().numpy()
    if head.valid is not None:
        barred = ~head.valid.cpu().numpy()
        found[:, 0, barred] = -np.inf
        found[:, 1:, barred] = 0.0
    return list(found)


def facet_plane(walls: Walls) -> Plane:
    """The plane at right angles to two walls of a state's cell, in units of the facet distance.

    Right is the normal to the runner-up's wall; up, what the normal to the nearest other wall has
    across it. Both walls stand at right angles to the plane, so that their distances on it are
    those in space; of other walls it shows distances that are at least theirs. Of other walls the
    nearest is taken whose foot lies on the cell, so that it is seen. Source: theory §3.
    """
    first = walls.at(walls.runner_up)
    right = walls.normals[first]
    others = sorted((wall for wall in range(len(walls.tokens)) if wall != first), key=walls.reach)
    remarks: tuple[str, ...] = ()
    for wall in others:
        up = across(walls.normals[wall], right)
        if up is not None:
            second = Direction(ACROSS, int(walls.tokens[wall]))
            break
        remarks = ("The nearest other wall is parallel to the runner-up’s: another one is shown.",)
    else:
        up, second = _any_across(walls.state, right)
        remarks = ("No other wall of the cell leans another way than the runner-up’s.",)
    unit, words = walls.facet_distance, "facet distance"
    if not unit:
        remarks += ("The state lies on a wall of its cell: its facet distance is 0.",)
        positive = walls.distances[walls.distances > 0]
        unit, words = (float(positive[0]), "distance to the next wall") if len(positive) else ONE
    first_direction = Direction(TO_WALL, walls.runner_up)
    axes = np.stack([right, up])
    return Plane(walls.state, axes, unit, words, (first_direction, second), remarks)


def move_plane(before: Walls, after: Walls) -> Plane:
    """The plane through two states that holds the way across the wall between their tokens.

    Right is the way from ``before``, at (0, 0), to ``after``, at (1, 0), which is the unit; up,
    what the normal to the wall between their tokens has across it, or that to the wall of the
    runner-up after where both choose one token. ``before`` and ``after`` may be of two heads: walls
    are those of the state before. Two equal states give ``facet_plane``. Source: theory §3.
    """
    if before.state.shape != after.state.shape:
        raise UnembedError(
            f"the states have {len(before.state):,} and {len(after.state):,} numbers: a plane "
            "through both takes two models of one width"
        )
    way = after.state - before.state
    length = float(np.linalg.norm(way))
    if not length > STILL * float(np.linalg.norm(before.state)):
        plane = facet_plane(before)
        same = "The states before and after are the same: the plane is that of two walls."
        return replace(plane, remarks=(same, *plane.remarks))
    right = way / length
    token = after.owner if after.owner != before.owner else after.runner_up
    wanted = np.flatnonzero(before.tokens == token).tolist()
    for wall in [*wanted, *(wall for wall in range(len(before.tokens)) if wall not in wanted)]:
        up = across(before.normals[wall], right)
        if up is not None:
            second = Direction(ACROSS, int(before.tokens[wall]))
            break
    else:
        up, second = _any_across(before.state, right)
    words = "way from before to after"
    directions = (Direction("from before to after"), second)
    return Plane(before.state, np.stack([right, up]), length, words, directions)


def path_plane(states: Float[np.ndarray, "depths dim"]) -> Plane:
    """The plane through the last of some states along which the others lie the most.

    Its axes are the two principal axes of the differences to the last state, about that state, so
    that the last decision is shown as it is; the unit is the length of the last state. Each axis
    points to where the way begins. Raises UnembedError where all states are one, or not finite.
    Source: theory §3.
    """
    if not np.isfinite(states).all():
        raise UnembedError("a state on the way through the depths is not finite")
    last = states[-1]
    way = states[:-1] - last
    _u, sizes, axes = np.linalg.svd(way, full_matrices=False)
    if not len(sizes) or not sizes[0] > 0:
        raise UnembedError("the states of all depths are the same: there is no way to draw")
    remarks: tuple[str, ...] = ()
    right, second = axes[0], Direction("second principal axis of the way")
    if len(sizes) > 1 and sizes[1] > PARALLEL * sizes[0]:
        up = axes[1]
    else:
        up, second = _any_across(last, right)
        remarks = ("The states of all depths lie on one line.",)
    both = np.stack([right, up])
    leans = np.where(way[0] @ both.T < 0, -1.0, 1.0)
    size = float(np.linalg.norm(last))
    unit, words = (size, "length of the last state") if size else ONE
    directions = (Direction("first principal axis of the way"), second)
    return Plane(last, leans[:, None] * both, unit, words, directions, remarks)


def across(
    direction: Float[np.ndarray, " dim"], right: Float[np.ndarray, " dim"]
) -> Float[np.ndarray, " dim"] | None:
    """What a direction of length 1 has at right angles to another, made length 1; None if none."""
    rest = direction - (direction @ right) * right
    size = np.linalg.norm(rest)
    if not size > PARALLEL:
        return None
    rest = rest / size
    rest -= (rest @ right) * right  # the first difference of near-parallel ones is rounded
    found: Float[np.ndarray, " dim"] = rest / np.linalg.norm(rest)
    return found


def _any_across(
    state: Float[np.ndarray, " dim"], right: Float[np.ndarray, " dim"]
) -> tuple[Float[np.ndarray, " dim"], Direction]:
    """A direction across ``right``: the state's own, or the first of the basis that is another."""
    if len(right) < 2:
        raise UnembedError("a hidden space of one dimension has no plane to draw")
    size = np.linalg.norm(state)
    if size > 0:
        up = across(state / size, right)
        if up is not None:
            return up, Direction("at right angles to it, along the state")
    axis = np.zeros(len(right))
    axis[np.abs(right).argmin()] = 1.0
    up = across(axis, right)
    assert up is not None
    return up, Direction("at right angles to it")
