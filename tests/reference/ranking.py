"""Rankings the slow way: what each document adds, one after the other, and draws counted singly."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import numpy as np
import torch

from made_up.tasks import Task


def inner(a: Task, b: Task) -> np.ndarray:
    """``(g·g')²`` of every pair of samples."""
    error, state = (x.double() @ y.double().T for x, y in ((a.error, b.error), states(a, b)))
    found: np.ndarray = ((error * state) ** 2).numpy()
    return found


def states(a: Task, b: Task) -> tuple[torch.Tensor, torch.Tensor]:
    return a.activation, b.activation


def blocks_of(task: Task, count: int) -> list[int]:
    """The bits of a document's hash above the lowest."""
    return [(int(document) >> 1) % count for document in task.document]


def joint_shares(target: Task, source: Task, count: int) -> tuple[float, dict[str, list[float]]]:
    """The debiased joint alignment of two tasks with documents of their own, and what each block of
    the one and of the other adds to it: the delta method of a jackknife with unequal blocks."""
    cross, mine, theirs = inner(target, source), inner(target, target), inner(source, source)

    def mean(kernel: np.ndarray, keep: Callable[[int, int], bool]) -> float:
        rows, columns = kernel.shape
        kept = [kernel[i, j] for i in range(rows) for j in range(columns) if keep(i, j)]
        return math.fsum(kept) / len(kept)

    def norm(task: Task, kernel: np.ndarray) -> float:
        return mean(kernel, lambda i, j: bool(task.document[i] != task.document[j]))

    product = mean(cross, lambda i, j: True)
    norms = norm(target, mine), norm(source, theirs)
    root = math.sqrt(norms[0] * norms[1])
    value = product / root
    block = blocks_of(target, count), blocks_of(source, count)
    found: dict[str, list[float]] = {"target": [], "source": []}
    for side, (who, kernel) in enumerate((("target", mine), ("source", theirs))):
        number = block[side]
        held = len(set(number))
        whole = mean(kernel, lambda i, j, number=number: number[i] != number[j])  # type: ignore[misc]
        for b in range(count):
            share = number.count(b) / len(number)

            def left(i: int, j: int, number: list[int] = number, b: int = b) -> bool:
                return number[i] != number[j] and b not in (number[i], number[j])

            def kept(i: int, j: int, side: int = side, b: int = b) -> bool:
                return block[side][(i, j)[side]] != b

            change = (mean(cross, kept) - product) / root
            change -= value / 2 * (mean(kernel, left) - whole) / norms[side]
            found[who].append(change * (1 - share) * math.sqrt(held / (held - 1)))
    return value, found


def chances(value: Sequence[float], covariance: np.ndarray, draws: int, seed: int) -> list[float]:
    """How often each is the largest of normal draws, each made number by number."""
    made, n = random.Random(seed), len(value)
    root = np.linalg.cholesky(covariance + 1e-15 * np.eye(n))
    wins = [0] * n
    for _ in range(draws):
        normal = [made.gauss(0, 1) for _ in range(n)]
        scores = [value[i] + sum(float(root[i, k]) * normal[k] for k in range(n)) for i in range(n)]
        wins[scores.index(max(scores))] += 1
    return [w / draws for w in wins]


def jackknife(values: Sequence[float]) -> float:
    """The standard error of a statistic, from its values without each block."""
    groups, centre = len(values), math.fsum(values) / len(values)
    return math.sqrt((groups - 1) / groups * math.fsum((v - centre) ** 2 for v in values))
