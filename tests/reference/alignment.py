"""Alignments from every pair of samples, one after the other, and small tasks to take them of."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from unembed.signatures.signature import Features, Identity, Signature, accumulate, empty
from unembed.signatures.sketches.sketch import Sketch, SketchSpec

KERNELS = ("joint", "activation", "error", "first_moment")


@dataclass(frozen=True)
class Task:
    """Samples' errors and activations, and a document hash each."""

    error: torch.Tensor
    activation: torch.Tensor
    document: np.ndarray


def hashes(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng([seed, 7])
    return rng.integers(0, 1 << 63, count, dtype=np.uint64)


def language_like(
    n: int, seed: int, *, vocab: int = 60, dim: int = 12, tilt: float = 1.0, per_document: int = 1
) -> Task:
    """Errors of a softmax head on low-rank activations around a centre, ``tilt`` away from a common
    one; labels favour tokens of the task's own, so that the mean gradient is not 0."""
    world, own = np.random.default_rng(99), np.random.default_rng(seed)
    head = world.normal(size=(vocab, dim)) * 0.6
    base = world.normal(size=dim)
    directions = world.normal(size=(4, dim)) * np.array([1.0, 0.7, 0.5, 0.3])[:, None]
    centre = base + tilt * own.normal(size=4) @ directions
    docs = -(-n // per_document)
    topic = np.repeat(own.normal(size=(docs, 4)) @ directions * 0.7, per_document, 0)[:n]
    a = (
        centre
        + topic
        + own.normal(size=(n, 4)) @ directions * 0.7
        + own.normal(size=(n, dim)) * 0.2
    )
    logits = a @ head.T
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    surprise = np.exp(own.normal(size=vocab) * 1.5)
    q = p * surprise / (p * surprise).sum(1, keepdims=True)
    y = (q.cumsum(1) > own.random((n, 1))).argmax(1)
    e = p.copy()
    e[np.arange(n), y] -= 1
    document = np.repeat(hashes(docs, seed), per_document)[:n]
    return Task(torch.tensor(e).float(), torch.tensor(a).float(), document)


def features(sketch: Sketch, task: Task) -> Features:
    def through(linear: object, rows: torch.Tensor) -> torch.Tensor:
        into = torch.zeros(len(rows), linear.width)  # type: ignore[attr-defined]
        linear.add(rows, 0, into)  # type: ignore[attr-defined]
        return sketch.factor(into)

    r, s = (through(x, task.error) for x in sketch.error)
    ra, sa = (through(x, task.activation) for x in sketch.activation)
    e, a = r * s, ra * sa
    norm = task.error.square().sum(1) * task.activation.square().sum(1)
    return Features(*(sketch.pack(x) for x in (e * a, a, e, r * ra)), norm)


def signed(name: str, sketch: Sketch, task: Task, *, blocks: int = 32) -> Signature:
    identity = Identity(sketch.spec, "token", "empirical", "head", "body", "tokenizer")
    state = empty(sketch.spec.m, first=True, blocks=blocks)
    state = accumulate(state, features(sketch, task), task.document)
    return Signature(name, identity, state, {})


def spec_of(task: Task, **how: object) -> SketchSpec:
    return SketchSpec(task.error.shape[1], task.activation.shape[1], **how)  # type: ignore[arg-type]


def kernels(a: Task, b: Task) -> dict[str, list[list[float]]]:
    """``(g·g')²``, ``(a·a')²``, ``(e·e')²`` and ``g·g'`` of every pair of samples."""
    found: dict[str, list[list[float]]] = {name: [] for name in KERNELS}
    for e, x in zip(a.error.double(), a.activation.double(), strict=True):
        inner_e, inner_a = b.error.double() @ e, b.activation.double() @ x
        for name, row in zip(
            KERNELS,
            ((inner_e * inner_a) ** 2, inner_a**2, inner_e**2, inner_e * inner_a),
            strict=True,
        ):
            found[name].append(row.tolist())
    return found


def mean(kernel: list[list[float]], counted: list[list[bool]]) -> float:
    kept = [
        k
        for row, keep in zip(kernel, counted, strict=True)
        for k, c in zip(row, keep, strict=True)
        if c
    ]
    return math.fsum(kept) / len(kept) if kept else math.nan


def alignment(a: Task, b: Task, *, debias: bool, shared: bool) -> dict[str, float]:
    """Every quantity of two tasks. Norms are over pairs of samples of different documents; with
    ``shared`` inputs, norms and products are over pairs of different folds."""

    def apart(x: Task) -> list[list[bool]]:
        return [[bool(i != j) for j in x.document] for i in x.document]

    def halves(x: Task, y: Task, kernel: list[list[float]]) -> float:
        """Each of the two pairs of folds counts alike."""
        means = []
        for fold in (0, 1):
            chosen = [
                [int(i) & 1 == fold and int(j) & 1 != fold for j in y.document] for i in x.document
            ]
            means.append(mean(kernel, chosen))
        return sum(means) / 2

    def all_pairs(x: Task, y: Task) -> list[list[bool]]:
        return [[True] * len(y.document) for _ in x.document]

    ab, aa, bb = kernels(a, b), kernels(a, a), kernels(b, b)
    found = {}
    for name in KERNELS:
        n = mean(ab[name], all_pairs(a, b))
        if debias and shared:
            n = halves(a, b, ab[name])
        norms = []
        for x, kernel in ((a, aa[name]), (b, bb[name])):
            if not debias:
                norms.append(mean(kernel, all_pairs(x, x)))
            elif not shared:
                norms.append(mean(kernel, apart(x)))
            else:
                norms.append(halves(x, x, kernel))
        found[name] = n / math.sqrt(norms[0] * norms[1]) if min(norms) > 0 else math.nan
    found["proxy"] = found["activation"] * found["error"]
    found["coupling"] = found["joint"] / found["proxy"]
    return found


def exact_features(task: Task, m: int) -> Features:
    """Features without a sketch, whose products over m are the kernels exactly."""

    def padded(rows: torch.Tensor) -> torch.Tensor:
        assert rows.shape[1] <= m
        return torch.nn.functional.pad(rows, (0, m - rows.shape[1])) * math.sqrt(m)

    def squared(x: torch.Tensor) -> torch.Tensor:
        """``x xᵀ`` by its upper triangle."""
        i, j = torch.triu_indices(x.shape[1], x.shape[1])
        return x[:, i] * x[:, j] * torch.where(i == j, 1.0, math.sqrt(2))

    g = (task.error[:, :, None] * task.activation[:, None]).flatten(1)
    made = (squared(g), squared(task.activation), squared(task.error), g)
    return Features(*(padded(x) for x in made), g.square().sum(1))


def chosen(given: Features, at: np.ndarray) -> Features:
    """Some rows of features, in some order."""
    rows = [None if x is None else x[torch.from_numpy(at)] for x in vars(given).values()]
    return Features(*rows)  # type: ignore[arg-type]
