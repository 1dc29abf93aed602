"""Mixtures by looking at every subset of the sources, and errors by one loss after the other."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np

from made_up.tasks import Task
from reference.alignment import kernels
from unembed.selection.mixing.inner_products import InnerProducts


def every_subset(gram: np.ndarray, product: np.ndarray) -> np.ndarray:
    """Of all faces whose own best weights are positive, those of the least squares."""
    count = len(product)
    best, least = np.zeros(count), 0.0
    for size in range(1, count + 1):
        for chosen in combinations(range(count), size):
            at = list(chosen)
            solved = np.linalg.solve(gram[np.ix_(at, at)], product[at])
            if (solved <= 0).any():
                continue
            weights = np.zeros(count)
            weights[at] = solved
            value = weights @ gram @ weights - 2 * product @ weights
            if value < least:
                best, least = weights, float(value)
    return best


def inner_product(a: Task, b: Task, name: str, *, same: bool, debias: bool) -> float:
    """The mean kernel over all pairs of samples; of a task with itself, over those of different
    documents."""
    kept = [
        value
        for row, i in zip(kernels(a, b)[name], a.document, strict=True)
        for value, j in zip(row, b.document, strict=True)
        if not (same and debias and i == j)
    ]
    return math.fsum(kept) / len(kept)


def inner_products(tasks: list[Task], name: str, *, debias: bool) -> np.ndarray:
    return np.array(
        [[inner_product(a, b, name, same=a is b, debias=debias) for b in tasks] for a in tasks]
    )


def sampling_moves(products: InnerProducts, along: np.ndarray) -> np.ndarray:
    """How ``value @ along``, its square and the first norm move, one lost block after the other.

    Tasks of one cluster lose a block together: then their products with each other change by
    ``both``, and those with others by ``row``.
    """
    lost, cluster = products.deleted, products.cluster
    assert lost is not None
    halves, blocks, tasks, _ = lost.row.shape
    moves = []
    for half in range(halves):
        events = []
        for block in range(blocks):
            for number in range(int(cluster.max()) + 1):
                changed = np.zeros((tasks, tasks))
                for i in range(tasks):
                    for j in range(tasks):
                        if cluster[i] != number and cluster[j] != number:
                            continue
                        if i == j:
                            changed[i, j] = lost.row_norms[half, block, i, 0]
                        elif cluster[i] == cluster[j]:
                            changed[i, j] = lost.both[half, block, i, j]
                        elif cluster[i] == number:
                            changed[i, j] = lost.row[half, block, i, j]
                        else:
                            changed[i, j] = lost.row[half, block, j, i]
                each = changed @ along
                events.append([*each, along @ changed @ along, changed[0, 0]])
        moves.append(events)
    return np.array(moves)
