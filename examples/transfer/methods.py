"""Scores of every source for every target, each from text to train on alone, with its cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from cost import Cost, measured
from jaxtyping import Float
from tasks import Task

from training import Truth, few
from unembed import Checkpoint, Head, Signature, SketchOptions, align, sketch
from unembed.runs import progress_bar
from unembed.selection import score
from unembed.signatures import Alignments

CURVE = (200, 1_000, 5_000)
"""Positions of both texts at which joint, error and gradient are had again."""
KINDS = {
    "joint": "joint",
    "activation": "activation",
    "error": "error",
    "proxy": "proxy",
    "gradient": "first_moment",
}
VECTORS = {"proxy": 2}
"""Vectors of m numbers that a kind is from; one where nothing is said."""
POSITIONS = {
    "cka": 2_000,
    "cka_debiased": 500,
    "rsa": 2_000,
    "svcca": 2_000,
    "procrustes": 2_000,
    "fa_cka_product": 300,
    "fa_cka_centred": 300,
    "task2vec": 300,
    "fisher_diagonal": 300,
    "unigram": 6_000,
    "unigram_loss": 6_000,
    "random": 6_000,
}
"""Positions of each text that a baseline reads: all, or what its cost for a pair allows.
``fa_cka_kernel`` is left out, for it is the joint alignment."""
ONE_WAY = ("unigram_loss", "random")
"""The scores that are not the same from target to source."""
COUNTS = ("unigram", "unigram_loss", "random")
"""Baselines that need no hidden states."""


@dataclass(frozen=True)
class Found:
    """A method's scores in one seed."""

    method: str
    values: Float[np.ndarray, "sources targets"]
    seconds: float | None = None
    mib: float | None = None
    bytes: int | None = None


def from_signatures(
    checkpoint: Checkpoint,
    tasks: list[Task],
    m: int,
    curve: Sequence[int],
    shown: bool,
    *,
    others: bool = True,
) -> list[Found]:
    """Alignments from sketches of every position, and of few; with ``others`` by sequences and of
    the true Fisher too.
    """
    most = len(tasks[0].train.targets)
    found = []
    passes = len(tasks) * (1 + 2 * others + len(curve))
    with progress_bar("sketch", "task", passes, shown) as bar:

        def signed(options: SketchOptions) -> tuple[list[Signature], Cost]:
            signatures = []
            with measured() as cost:
                for task in tasks:
                    signatures.append(sketch(checkpoint, task.text.train, options, task=task.name))
                    bar.update()
            return signatures, cost

        options = SketchOptions(m=m, max_positions=most, blocks=0, first_moment=True)
        signatures, reading = signed(options)
        found += aligned(signatures, tuple(KINDS), "", reading, m)
        found += aligned(signatures, tuple(KINDS), ", plug-in", reading, m, debias=False)
        found.append(steps(signatures, reading, m))
        if others:
            sequence = replace(options, unit="sequence")
            found += aligned(*_swapped(signed(sequence), tuple(KINDS), ", sequence"), m)
            true = replace(options, first_moment=False, fisher="true")
            found += aligned(*_swapped(signed(true), ("joint", "error", "proxy"), ", true"), m)
        for n in curve:
            if n <= most:
                fewer = SketchOptions(m=m, max_positions=n, blocks=0, first_moment=True)
                kinds = ("joint", "error", "gradient")
                found += aligned(*_swapped(signed(fewer), kinds, f", n = {n:,}"), m)
    return found


def _swapped(
    made: tuple[list[Signature], Cost], kinds: tuple[str, ...], label: str
) -> tuple[list[Signature], tuple[str, ...], str, Cost]:
    return made[0], kinds, label, made[1]


def aligned(
    signatures: list[Signature],
    kinds: tuple[str, ...],
    label: str,
    reading: Cost,
    m: int,
    *,
    debias: bool = True,
) -> list[Found]:
    """Some kinds of alignment; what is kept of a task is m float32 for each vector."""
    with measured() as cost:
        alignments = align(signatures, debias=debias)
    seconds, mib = reading.seconds + cost.seconds, _larger(reading.mib, cost.mib)
    return [
        Found(kind + label, pairs(alignments, kind), seconds, mib, 4 * m * VECTORS.get(kind, 1))
        for kind in kinds
    ]


def pairs(alignments: Alignments, kind: str) -> Float[np.ndarray, "tasks tasks"]:
    """One kind for all pairs; it is the same from source to target and back."""
    found = alignments.pairs(KINDS[kind])
    assert found is not None
    return found.value


def steps(signatures: list[Signature], reading: Cost, m: int) -> Found:
    """Products of mean gradients, not normalised: how far a step on one lowers another's loss."""
    means = np.stack([mean for one in signatures if (mean := one.state.mean("first")) is not None])
    return Found("step", means @ means.T / m, reading.seconds, reading.mib, 4 * m)


def from_samples(
    tasks: list[Task], head: Head, reading: float, names: Sequence[str], seed: int, shown: bool
) -> list[Found]:
    """Baselines that compare two texts; ``reading`` is what the hidden states of all took."""
    found = []
    count = len(tasks)
    with progress_bar("baselines", "pair", len(names) * count**2, shown) as bar:
        for name in names:
            size = POSITIONS[name]
            some = [few(task.train, size) for task in tasks]
            values = np.full((count, count), np.nan)
            with measured() as cost:
                for s in range(count):
                    for t in range(count):
                        if name in ONE_WAY or s <= t:
                            values[s, t] = score(name, some[t], some[s], head, seed=seed)
                            if name not in ONE_WAY:
                                values[t, s] = values[s, t]
                        bar.update()
            n = len(some[0].targets)
            label = name if n == len(tasks[0].train.targets) else f"{name}, n = {n:,}"
            share = 0.0 if name in COUNTS else reading * n / len(tasks[0].train.targets)
            held = 4 * n if name in COUNTS else 4 * n * (head.dim + 1)
            kept = 0 if name == "random" else held
            found.append(Found(label, values, cost.seconds + share, cost.mib, kept))
    return found


def from_models(truth: Truth, names: Sequence[str], how: str) -> list[Found]:
    """Scores of targets by the trained models; their cost holds the training of every source."""
    trained = sum(one.seconds for one in truth.outcomes)
    size = truth.outcomes[0].size
    return [
        Found(
            f"{name}, {how} trained",
            np.array([one.scores[name] for one in truth.outcomes]),
            trained + sum(one.scored[name] for one in truth.outcomes),
            None,
            size,
        )
        for name in names
    ]


def _larger(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else max(a, b)
