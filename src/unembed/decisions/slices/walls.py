"""The walls of a hidden state's cell, nearest first, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unembed.errors import UnembedError
from unembed.head.head import Head
from unembed.short_repr import ShortRepr

ROWS = 4096
"""Rows of the head that are made float64 at once."""
CANDIDATES = 32
"""Nearest walls that are kept of each cell."""
EVEN = 1e-14
"""Difference of two logits, relative to the larger, up to which they are one number rounded."""
NEAR_TWIN = 1e-8
"""Squared distance of two rows, relative to their squares, below which it is measured again."""


@dataclass(frozen=True)
class Walls(ShortRepr):
    """Which tokens lie across the walls of the cell of ``state``, and how far each wall is.

    ``owner`` has the largest logit before scale and soft-cap, the lowest id of several
    (``owners_of``). ``tokens`` are those across its nearest walls, nearest first; ``normals`` point
    at right angles to a wall from the owner to that token, and have length 1; a wall begins
    ``distances`` along its normal. ``runner_up`` has the second largest logit; a token of the
    owner's very row has no wall, and is neither. ``logits`` are those of the state, -inf where a
    row is no token.
    """

    state: Float[np.ndarray, " dim"]
    owner: int
    runner_up: int
    logits: Float[np.ndarray, " vocab"]
    tokens: Int[np.ndarray, " walls"]
    distances: Float[np.ndarray, " walls"]
    normals: Float[np.ndarray, "walls dim"]

    @property
    def facet_distance(self) -> float:
        """Euclidean distance to the nearest wall (theory §1)."""
        return float(self.distances[0])

    def at(self, token: int) -> int:
        """Where a token stands among the walls."""
        return int(np.flatnonzero(self.tokens == token)[0])

    def reach(self, wall: int) -> float:
        """How far the nearest point of a wall is that the runner-up's wall does not cut off.

        That is the wall's distance where its foot lies on this side of the runner-up's, else the
        distance to where the two meet. The wall with the least is an edge of the cell: one that
        cut the way to it would have less.
        """
        first = self.at(self.runner_up)
        d, r = self.distances[wall], self.distances[first]
        cosine = float(self.normals[wall] @ self.normals[first])
        if cosine * d <= r:
            return float(d)
        sine = 1 - cosine**2
        meeting = (d**2 + r**2 - 2 * cosine * d * r) / sine if sine > 0 else np.inf
        return float(np.sqrt(meeting))


def walls_of(hidden: Float[Tensor, "positions dim"], head: Head) -> list[Walls]:
    """The walls of the cell of each hidden state, two passes over the head for all of them.

    Equivalent to::

        l = W @ h + b                                           # no scale, no soft-cap
        distance = (l[t] - l[v]) / norm(w[t] - w[v])            # of every v but t = argmax(l)

    in float64. Raises UnembedError for a state or a head that is not finite, and for a head whose
    rows are all equal. Source: theory §1, §3.
    """
    states = hidden.detach().to(head.weight.device).double()
    if not bool(torch.isfinite(states).all()):
        raise UnembedError("a hidden state is not finite: there is no cell around it")
    logits, squares = logits_of(head, states), squares_of(head)
    if not np.isfinite(logits.max(axis=1)).all() or np.isnan(logits).any():
        raise UnembedError("the head's logits are not finite: mend its weights, or audit without")
    owners = owners_of(logits)
    crosses = products(head, rows_of(head, owners))
    return [
        _walls(state.cpu().numpy(), head, int(owner), own, squares, cross)
        for state, owner, own, cross in zip(states, owners, logits, crosses, strict=True)
    ]


def logits_of(
    head: Head, states: Float[Tensor, "positions dim"]
) -> Float[np.ndarray, "positions vocab"]:
    """``W h + b`` in float64, before scale and soft-cap; -inf where a row is no token."""
    found = products(head, states)
    if head.bias is not None:
        found += head.bias.double().cpu().numpy()
    if head.valid is not None:
        found[:, ~head.valid.cpu().numpy()] = -np.inf
    return found


def owners_of(
    logits: Float[np.ndarray, "positions vocab"],
) -> Int[np.ndarray, " positions"]:
    """The lowest id whose logit is the largest, but for a rounding of ``EVEN`` of its size.

    Products of equal rows need not have equal bits.
    """
    best = logits.max(axis=1, keepdims=True)
    found: Int[np.ndarray, " positions"] = (logits >= best - EVEN * np.abs(best)).argmax(axis=1)
    return found


def products(
    head: Head, vectors: Float[Tensor, "positions dim"]
) -> Float[np.ndarray, "positions vocab"]:
    """``vectors @ W.T`` in float64, some rows of the head at a time."""
    head.must_be_whole("a slice")
    found = np.empty((len(vectors), head.vocab))
    for start in range(0, head.vocab, ROWS):
        rows = head.weight[start : start + ROWS].double()
        found[:, start : start + ROWS] = (vectors @ rows.T).cpu().numpy()
    return found


def rows_of(head: Head, tokens: Int[np.ndarray, " tokens"]) -> Float[Tensor, "tokens dim"]:
    """These rows of the head in float64."""
    return head.rows_at(torch.from_numpy(tokens).to(head.weight.device)).double()


def squares_of(head: Head) -> Float[np.ndarray, " vocab"]:
    """The squared lengths of the head's rows in float64."""
    found = np.empty(head.vocab)
    for start in range(0, head.vocab, ROWS):
        rows = head.weight[start : start + ROWS]
        norms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
        found[start : start + ROWS] = norms.square().cpu().numpy()
    return found


def _walls(
    state: Float[np.ndarray, " dim"],
    head: Head,
    owner: int,
    logits: Float[np.ndarray, " vocab"],
    squares: Float[np.ndarray, " vocab"],
    cross: Float[np.ndarray, " vocab"],
) -> Walls:
    both = squares + squares[owner]
    apart = both - 2 * cross
    # The difference of large squares says nothing of rows that are almost the owner's.
    doubtful = np.flatnonzero((apart < NEAR_TWIN * both) & np.isfinite(logits))
    for some in np.array_split(doubtful, -(-len(doubtful) // ROWS) or 1):
        apart[some] = (rows_of(head, some) - _row(head, owner)).square().sum(1).cpu().numpy()
    walls = (apart > 0) & np.isfinite(logits)
    walls[owner] = False
    if not walls.any():
        raise UnembedError("every row of the head is the same: it has one cell, without walls")
    distance = np.full(len(logits), np.inf)
    distance[walls] = (logits[owner] - logits[walls]) / np.sqrt(apart[walls])
    runner_up = int(np.where(walls, logits, -np.inf).argmax())
    nearest = np.argsort(distance, kind="stable")[:CANDIDATES]
    nearest = nearest[walls[nearest]]
    tokens = np.union1d(nearest, [runner_up])
    across = (rows_of(head, tokens) - _row(head, owner)).cpu().numpy()
    size = np.linalg.norm(across, axis=1)
    # Straight from the difference of the rows, as close rows lose their gap between two logits.
    gap = -(across @ state)
    if head.bias is not None:
        bias = head.bias.double().cpu().numpy()
        gap -= bias[tokens] - bias[owner]
    distances = np.maximum(gap, 0.0) / size
    order = np.argsort(distances, kind="stable")
    normals = across / size[:, None]
    return Walls(state, owner, runner_up, logits, tokens[order], distances[order], normals[order])


def _row(head: Head, token: int) -> Float[Tensor, " dim"]:
    return head.weight[token].double()
