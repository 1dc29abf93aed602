"""Slow, obvious twins of what is measured of updates: loops over samples in plain numpy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable

import numpy as np

import reference.sweep
from unembed.head.head import Head
from unembed.signatures.samples import Samples

Kernel = Callable[[int, int], float]


def probabilities(task: Samples, head: Head) -> np.ndarray:
    """softmax of the logits, one token at a time."""
    rows = []
    for row in reference.sweep.logits(task.hidden, head).tolist():
        weights = [math.exp(logit - max(row)) for logit in row]
        rows.append([weight / math.fsum(weights) for weight in weights])
    return np.array(rows)


def errors(task: Samples, head: Head) -> np.ndarray:
    """softmax less the one-hot target."""
    found = probabilities(task, head)
    for i, target in enumerate(task.targets.tolist()):
        found[i, target] -= 1
    return found


def groups(task: Samples, unit: str) -> list[list[int]]:
    """The positions of each sample: one each, or those of a sequence."""
    if unit == "token":
        return [[i] for i in range(len(task.document))]
    return [
        [i for i in range(len(task.document)) if task.sequence[i] == s]
        for s in dict.fromkeys(task.sequence.tolist())
    ]


def sample_documents(task: Samples, unit: str) -> list[int]:
    return [int(task.document[group[0]]) for group in groups(task, unit)]


def gradients(task: Samples, head: Head, unit: str) -> list[np.ndarray]:
    """Each sample's gradient, vec(e aᵀ) summed over its positions."""
    e, a = errors(task, head), task.hidden.double().numpy()
    return [sum(np.outer(e[i], a[i]).ravel() for i in group) for group in groups(task, unit)]


def fishers(task: Samples, head: Head, unit: str, fisher: str) -> list[np.ndarray]:
    """Each sample's g gᵀ; of the true Fisher, its mean over every labelling of the sample."""
    if fisher == "empirical":
        return [np.outer(g, g) for g in gradients(task, head, unit)]
    p, a = probabilities(task, head), task.hidden.double().numpy()
    found = []
    for group in groups(task, unit):
        total = 0.0
        for labels in itertools.product(range(head.vocab), repeat=len(group)):
            chance = math.prod(p[i, y] for i, y in zip(group, labels, strict=True))
            g = sum(
                np.outer(p[i] - np.eye(head.vocab)[y], a[i]).ravel()
                for i, y in zip(group, labels, strict=True)
            )
            total = total + chance * np.outer(g, g)
        found.append(total)
    return found


def marginals(
    task: Samples, head: Head, unit: str, fisher: str
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Each sample's Σ a aᵀ and Σ e eᵀ (Σ diag p - p pᵀ for the true Fisher)."""
    a, p, e = task.hidden.double().numpy(), probabilities(task, head), errors(task, head)
    each = [
        np.diag(p[i]) - np.outer(p[i], p[i]) if fisher == "true" else np.outer(e[i], e[i])
        for i in range(len(a))
    ]
    found = groups(task, unit)
    return (
        [sum(np.outer(a[i], a[i]) for i in group) for group in found],
        [sum(each[i] for i in group) for group in found],
    )


def inner_product(
    left: list[np.ndarray],
    right: list[np.ndarray],
    left_documents: list[int],
    right_documents: list[int],
    debias: bool,
) -> float:
    """The mean of x·y over pairs, those of one document left out to debias."""
    found = [
        float((x * y).sum())
        for x, d in zip(left, left_documents, strict=True)
        for y, f in zip(right, right_documents, strict=True)
        if not debias or d != f
    ]
    return math.fsum(found) / len(found)


def cosine(tasks: list[list[np.ndarray]], documents: list[list[int]], debias: bool) -> np.ndarray:
    """The matrix of cosines of mean matrices or vectors."""
    n = len(tasks)
    products = np.array(
        [
            [
                inner_product(tasks[i], tasks[j], documents[i], documents[j], debias)
                for j in range(n)
            ]
            for i in range(n)
        ]
    )
    norms = np.array([[x if x > 0 else math.nan] for x in products.diagonal()])
    return products / np.sqrt(norms * norms.T)


def debiased_residual(x: np.ndarray, y: np.ndarray, documents: list[int]) -> float:
    """δ² of kernels X and Y from means over indices of different documents."""
    n = range(len(documents))

    def apart(indices: Iterable[int]) -> bool:
        found = [documents[i] for i in indices]
        return len(set(found)) == len(found)

    pairs = [x[i, j] * y[i, j] for i, j in itertools.product(n, n) if apart((i, j))]
    triples = [x[i, j] * y[i, k] for i, j, k in itertools.product(n, n, n) if apart((i, j, k))]
    fours = [
        x[i, j] * y[k, m] for i, j, k, m in itertools.product(n, n, n, n) if apart((i, j, k, m))
    ]
    norm = np.mean(pairs)
    return float((norm - 2 * np.mean(triples) + np.mean(fours)) / norm)
