"""Made-up rankings, mixtures, transfers and maps, for the tests of their pages."""

from __future__ import annotations

import math

import numpy as np

from unembed.selection.index.plane import Map
from unembed.selection.mixing.record import Mixture, Share
from unembed.selection.ranking.records import Ranked, Ranking
from unembed.selection.transfer.records import Scores, Transfer, Verdict
from unembed.stats.estimate import Estimate

WORDS = (
    "sonnets",
    "python scripts",
    "algebra proofs",
    "java services",
    "folk tales",
    "calculus exercises",
    "shell one-liners",
    "newspaper fiction column",
    "geometry",
    "rust crates",
    "song lyrics",
    "number theory olympiad",
    "weather bulletins",
    "court records",
    "recipes",
    "chess games",
)
FEW = "too few samples: n = 40, participation ratio 310"


def names(n: int) -> tuple[str, ...]:
    """The first n names, numbered from the second round on."""
    rounds = [at // len(WORDS) for at in range(n)]
    return tuple(
        WORDS[at % len(WORDS)] + (f" {number + 1}" if number else "")
        for at, number in enumerate(rounds)
    )


def ranking(
    sources: int, *, missing: int = 0, by: str = "joint", shift: float = 0.0, seed: int = 0
) -> Ranking:
    """Sources with falling scores; the last ``missing`` ones have none."""
    rng = np.random.default_rng(seed)
    known = sources - missing
    values = np.sort(0.3 + 0.5 * rng.random(known))[::-1] + shift
    weights = np.exp(40 * (values - values.max(initial=-math.inf)))
    best = weights / weights.sum()
    error = 0.02 + 0.03 * rng.random(known)
    ranked = [
        Ranked(
            name,
            float(values[at]),
            float(values[at] - 1.9 * error[at]),
            float(values[at] + 2.0 * error[at]),
            float(best[at]),
            2000 + 37 * at,
            120 + at,
        )
        for at, name in enumerate(names(known))
    ]
    ranked += [Ranked(f"stub {at}", None, None, None, 0.0, 40, 4, FEW) for at in range(missing)]
    return Ranking(
        target="field notes",
        by=by,
        sources=tuple(ranked),
        method="complex_tensorsketch",
        samples=5012,
        documents=311,
        status="ok",
        debiased=True,
    )


def mixture(sources: int, *, warnings: tuple[str, ...] = (), seed: int = 0) -> Mixture:
    """Falling weights, every third of them 0."""
    rng = np.random.default_rng(seed)
    raw = np.array([0.0 if at % 3 == 2 else 0.6**at for at in range(sources)])
    weights = raw / raw.sum()
    tokens = 20 + 60 * rng.random(sources)
    probabilities = weights / tokens
    probabilities /= probabilities.sum()
    shares = tuple(
        Share(
            name,
            Estimate(
                float(weight), max(0.0, float(weight) - 0.041), float(weight) + 0.047, 2000 + at
            ),
            float(probability),
            2000 + at,
            120 + at,
        )
        for at, (name, weight, probability) in enumerate(
            zip(names(sources), weights, probabilities, strict=True)
        )
    )
    return Mixture(
        target="field notes",
        by="joint",
        shares=shares,
        total=Estimate(0.974, 0.93, 1.018, 5012),
        residual=Estimate(0.0213, 0.0021, 0.0405, 5012),
        samples=5012,
        documents=311,
        warnings=warnings,
    )


METHODS = (
    "joint",
    "gradient",
    "error",
    "activation",
    "cka_debiased",
    "unigram_loss",
    "logme",
    "random",
    "oracle",
)


def transfer(
    tasks: int, *, seeds: int = 3, methods: tuple[str, ...] = METHODS, seed: int = 0
) -> Transfer:
    """Tasks i, i + 4, i + 8, … help each other, the rest hurts a little."""
    rng = np.random.default_rng(seed)
    cluster = np.arange(tasks) % 4
    same = cluster[:, None] == cluster
    mean = np.where(same, 0.28, -0.05) + 0.07 * rng.normal(size=(tasks, tasks))
    mean[np.eye(tasks, dtype=bool)] = 0.7
    gains = mean + 0.015 * rng.normal(size=(seeds, tasks, tasks))
    scores = []
    for at, method in enumerate(methods):
        if method == "oracle":
            values = gains.copy()
        elif method == "random":
            values = rng.random(gains.shape)
        else:
            noise = 0.06 + 0.05 * at
            values = (
                mean + noise * rng.normal(size=mean.shape) + 0.01 * rng.normal(size=gains.shape)
            )
        if method == "unigram_loss":
            values = values - 4.2
        cost = None if method in ("oracle", "random") else 1.31 * (at + 1)
        scores.append(
            Scores(method, values, cost, None if cost is None else 10.5 * at, 16384 + 1000 * at)
        )
    return Transfer(
        name="sixteen kinds of text",
        tasks=names(tasks),
        training="head alone, AdamW, 200 steps",
        gains=gains,
        scores=tuple(scores),
    )


def verdicts(methods: tuple[str, ...] = METHODS) -> tuple[Verdict, ...]:
    """The earlier a method is named, the better it chose; random by chance, the oracle always."""
    found = []
    for at, method in enumerate(methods):
        quality = {"oracle": 1.0, "random": 0.08}.get(method, 0.91 - 0.093 * at)
        room = 0.0 if method == "oracle" else 0.061
        found.append(
            Verdict(
                method=method,
                top1=_estimate(quality * 0.9, 1.3 * room, 48),
                share=_estimate(quality, room, 48),
                regret=_estimate(0.21 * (1 - quality), 0.3 * room, 48),
                spearman=_estimate(quality * 0.8, room, 48),
                p=0.0005 if quality > 0.1 else 0.41,
                unknown=3 if method == "error" else 0,
            )
        )
    return tuple(found)


def plane(entries: int, *, tags: int = 4, seed: int = 0) -> Map:
    """Entries in as many clusters as there are tags; without tags, in one."""
    rng = np.random.default_rng(seed)
    cluster = np.arange(entries) % max(tags, 1)
    centres = rng.normal(size=(max(tags, 1), 2)) * (0.5, 0.28)
    points = centres[cluster] + rng.normal(size=(entries, 2)) * 0.07
    return Map(
        names=names(entries),
        tags=tuple(f"kind {at}" if tags else "" for at in cluster),
        samples=tuple(200 + 13 * (at % 50) for at in range(entries)),
        points=points,
        explained=(0.312, 0.174),
    )


def _estimate(value: float, room: float, n: int) -> Estimate:
    return Estimate(value, value - room, value + room, n)
