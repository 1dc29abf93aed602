"""Tasks in an order that puts like beside like: average linkage, then the best order of leaves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

Matrix = Float[np.ndarray, "tasks tasks"]


@dataclass(frozen=True)
class Merge:
    """Two groups that join. Groups below T are tasks, ``T + k`` is what the k-th merge made.

    ``distance`` is the mean of ``1 - similarity`` over all pairs between the two.
    """

    left: int
    right: int
    distance: float
    size: int


@dataclass(frozen=True)
class Dendrogram:
    """The T - 1 merges, nearest first, and the tasks in the order of the tree's leaves."""

    merges: tuple[Merge, ...]
    order: Int[np.ndarray, " tasks"]


def dendrogram_order(similarity: Float[np.ndarray, "tasks tasks"]) -> Int[np.ndarray, " tasks"]:
    """Tasks in the order of ``dendrogram``'s leaves: row ``order[0]`` is drawn first."""
    return dendrogram(similarity).order


def dendrogram(similarity: Float[np.ndarray, "tasks tasks"]) -> Dendrogram:
    """Average linkage on ``1 - similarity``, and of all orders of its leaves the smoothest.

    Equivalent to joining, again and again, the two groups whose mean distance over pairs is least,
    and then choosing, of the ``2^(T-1)`` ways to draw the tree, one with the least sum of distances
    between neighbours; of it and its mirror image, the one that begins with the earlier task.

    The matrix is symmetric; its diagonal is not read. A pair without a similarity, NaN, is as far
    apart as the farthest pair that has one, and at least 1. Ties go to the earlier tasks. Time is
    cubic in the tasks, far below a second for 400.

    Raises ValueError unless the matrix is symmetric.
    """
    if not np.allclose(similarity, similarity.T, equal_nan=True):
        raise ValueError("the similarity is not symmetric: give one value for each pair")
    apart = 1.0 - np.asarray(similarity, dtype=np.float64)
    np.fill_diagonal(apart, 0.0)
    known = apart[np.isfinite(apart)]
    apart[~np.isfinite(apart)] = max(1.0, known.max(initial=0.0))
    merges = _average_linkage(apart)
    return Dendrogram(merges, _leaf_order(merges, apart))


def _average_linkage(apart: Matrix) -> tuple[Merge, ...]:
    tasks = len(apart)
    mean = apart.copy()
    np.fill_diagonal(mean, np.inf)
    group, size = list(range(tasks)), [1] * tasks
    merges: list[Merge] = []
    for made in range(tasks, 2 * tasks - 1):
        i, j = sorted(divmod(int(np.argmin(mean)), tasks))
        merges.append(Merge(group[i], group[j], float(mean[i, j]), size[i] + size[j]))
        # The mean over the pairs of a union is that of its parts, weighted by their sizes.
        row = (size[i] * mean[i] + size[j] * mean[j]) / (size[i] + size[j])
        row[i] = np.inf
        mean[i, :], mean[:, i] = row, row
        mean[j, :], mean[:, j] = np.inf, np.inf
        group[i], size[i] = made, size[i] + size[j]
    return tuple(merges)


@dataclass(frozen=True)
class _Node:
    """A group's tasks, those of its left part first.

    ``cost[u, w]`` is the least sum of distances along an order of the group that begins with its
    u-th task and ends with its w-th; infinite where both lie in the same part.
    """

    tasks: Int[np.ndarray, " leaves"]
    cost: Float[np.ndarray, "left right"] | None

    def whole(self) -> Float[np.ndarray, "leaves leaves"]:
        """The cost for every two ends; of a lone task, which is both its ends, 0."""
        if self.cost is None:
            return np.zeros((1, 1))
        left, right = self.cost.shape
        full = np.full((left + right, left + right), np.inf)
        full[:left, left:] = self.cost
        full[left:, :left] = self.cost.T
        return full


def _leaf_order(merges: tuple[Merge, ...], apart: Matrix) -> Int[np.ndarray, " tasks"]:
    tasks = len(apart)
    nodes = [_Node(np.array([task]), None) for task in range(tasks)]
    for merge in merges:
        left, right = nodes[merge.left], nodes[merge.right]
        between = apart[np.ix_(left.tasks, right.tasks)]
        cost = _least(_least(left.whole(), between), right.whole())
        nodes.append(_Node(np.concatenate((left.tasks, right.tasks)), cost))
    if not merges:
        return np.arange(tasks)
    ends = nodes[-1].whole()
    begin, end = np.unravel_index(int(np.argmin(ends)), ends.shape)
    order = np.array(_walk(nodes, merges, apart, int(begin), int(end)))
    return order if order[0] < order[-1] else order[::-1].copy()


def _least(a: Float[np.ndarray, "n k"], b: Float[np.ndarray, "k m"]) -> Float[np.ndarray, "n m"]:
    """``min over k of a[i, k] + b[k, j]``."""
    return np.stack([(row[:, None] + b).min(axis=0) for row in a])


def _walk(
    nodes: list[_Node], merges: tuple[Merge, ...], apart: Matrix, begin: int, end: int
) -> list[int]:
    """The best order of the last group between two ends, found again from the costs.

    With a stack of its own: a tree can be as deep as its tasks are many.
    """
    tasks = len(apart)
    order: list[int] = []
    todo = [(len(nodes) - 1, begin, end)]
    while todo:
        at, begin, end = todo.pop()
        if at < tasks:
            order.append(at)
            continue
        merge = merges[at - tasks]
        first, last = merge.left, merge.right
        split = len(nodes[first].tasks)
        if begin < split:
            end -= split
        else:
            first, last, begin = last, first, begin - split
        between = apart[np.ix_(nodes[first].tasks, nodes[last].tasks)]
        sums = nodes[first].whole()[begin][:, None] + between + nodes[last].whole()[:, end]
        inner, outer = np.unravel_index(int(np.argmin(sums)), sums.shape)
        todo.append((last, int(outer), end))
        todo.append((first, begin, int(inner)))
    return order
