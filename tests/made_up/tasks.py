"""Small tasks as a language model might have them, their features and their signatures."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from unembed.signatures.batch_sums import accumulate
from unembed.signatures.signature import Identity, Signature
from unembed.signatures.sketches.sketch import Sketch, SketchSpec
from unembed.signatures.state import Features, empty


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
