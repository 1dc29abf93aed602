"""Train on random halves of the sources: does a sum of scores foresee the loss of each target?

The linear data-modelling score of Ilyas et al. (2022) and Park et al. (2023), with domains in place
of examples: for each target, Spearman's correlation over subsets of the predicted gain, the mean of
its scores with the subset's members, and the gain measured after training on their mixture.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from kept import kept
from methods import Found
from tasks import Task

from training import LoraTraining, Training, adapted, heldout_losses, key_of
from unembed import Checkpoint, Estimate, Head
from unembed.demo import samples_loss, trained_head
from unembed.runs import digest_of, progress_bar
from unembed.signatures import Samples
from unembed.stats import standard_ranks, student_t
from unembed.training import plain_model

PERMUTATIONS = 200


@dataclass(frozen=True)
class Subsets:
    """Which domains each subset holds, and what training on their mixture gained each target."""

    members: Bool[np.ndarray, "subsets domains"]
    gains: Float[np.ndarray, "subsets targets"]


def drawn_subsets(count: int, domains: int, seed: int) -> Bool[np.ndarray, "subsets domains"]:
    """Random halves in pairs of complements, so that each domain is in exactly half of them."""
    rng = np.random.default_rng([seed, count, domains])
    members = np.zeros((count, domains), dtype=bool)
    for i in range(0, count, 2):
        members[i, rng.permutation(domains)[: domains // 2]] = True
        if i + 1 < count:
            members[i + 1] = ~members[i]
    return members


def measure_subsets(
    checkpoint: Checkpoint,
    tasks: list[Task],
    head: Head,
    training: Training,
    count: int,
    seed: int,
    folder: Path | None,
    shown: bool,
) -> Subsets:
    """Train on each subset's mixture, by as many steps as on one source; kept as ``measure`` does.

    A mixture has the rows, or positions, of its members in one random order.
    """
    members = drawn_subsets(count, len(tasks), seed)
    before = np.array([samples_loss(task.heldout, head) for task in tasks])
    what = "head" if not isinstance(training, LoraTraining) else "lora"
    key = [digest_of(checkpoint.model), *key_of(tasks), asdict(training), seed, members.tolist()]

    def one(row: int) -> dict[str, Any]:
        some = [task for task, there in zip(tasks, members[row], strict=True) if there]
        if isinstance(training, LoraTraining):
            scoped = adapted(checkpoint, [x.text.train for x in some], head, training, seed)
            after = Checkpoint(checkpoint.name, plain_model(scoped).eval(), checkpoint.tokenizer)
            return {"losses": heldout_losses(after, tasks, head)}
        moved = trained_head(_together(some), head, replace(training, seed=seed))
        return {"losses": [samples_loss(task.heldout, moved) for task in tasks]}

    gains = []
    with progress_bar(f"{what}, subsets", "subset", count, shown) as bar:
        for row in range(count):
            place = folder and folder / f"seed-{seed}" / f"{what}-subsets" / f"{row:02d}.json"
            gains.append(before - np.array(kept(place, key, partial(one, row))["losses"]))
            bar.update()
    return Subsets(members, np.array(gains))


def _together(tasks: list[Task]) -> Samples:
    """The positions of all tasks' text to train on."""
    some = [task.train for task in tasks]
    # A sequence's number is its own task's.
    before = np.cumsum([0, *(int(one.sequence.max()) + 1 for one in some)])
    numbers = [one.sequence + start for one, start in zip(some, before, strict=False)]
    return Samples(
        " + ".join(task.name for task in tasks),
        torch.cat([one.hidden for one in some]),
        torch.cat([one.targets for one in some]),
        np.concatenate([one.document for one in some]),
        np.concatenate(numbers),
    )


@dataclass(frozen=True)
class Foreseen:
    """Mean over targets of the correlation of predicted and measured gains over subsets.

    ``others`` takes, of each target, the subsets alone that do not hold its own domain: there the
    question is which others help. ``p`` is the share of orders of the sources, one for all targets,
    in which ``others`` is as large, the one found among them.
    """

    method: str
    every: Estimate
    others: Estimate
    p: float


@dataclass(frozen=True)
class Correlations:
    """``of[i, k, t]``: of target t over subsets, all (i = 0) or without its own domain (i = 1).

    k = 0 takes all pairs of complements, and k + 1 all but pair k.
    """

    of: Float[np.ndarray, "2 deletions targets"]

    def estimate(self, which: int) -> Estimate:
        """The mean over targets, with a 95 % interval.

        Targets share the subsets, so that both count: to the variance of a mean of targets is added
        the jackknife's over pairs of complements, with Student's t of the fewer of the two.
        """
        each, deleted = self.of[which, 0], self.of[which, 1:].mean(1)
        targets, pairs = len(each), len(deleted)
        mean = float(each.mean())
        if min(targets, pairs) < 2:
            return Estimate(mean, n=targets)
        drawn = (pairs - 1) / pairs * np.square(deleted - deleted.mean()).sum()
        se = np.sqrt(each.var(ddof=1) / targets + drawn)
        reach = student_t(min(targets, pairs) - 1) * float(se)
        return Estimate(mean, mean - reach, mean + reach, n=targets)

    def __sub__(self, other: Correlations) -> Correlations:
        return Correlations(self.of - other.of)


def correlations(subsets: Subsets, found: Found) -> Correlations:
    """How the mean of a method's scores over a subset's members orders the subsets, by target.

    An unknown score counts as the target's least.
    """
    predicted = _predicted(subsets, _known(found.values))
    count, targets = subsets.gains.shape
    pair = np.arange(count) // 2
    of = np.zeros((2, 1 + pair[-1] + 1, targets))
    for t in range(targets):
        for k in range(of.shape[1]):
            kept = pair != k - 1
            for which, rows in enumerate((kept, kept & ~subsets.members[:, t])):
                of[which, k, t] = _rho(predicted[rows, t], subsets.gains[rows, t])
    return Correlations(of)


def foreseen(subsets: Subsets, found: Found) -> Foreseen:
    """How well sums of a method's scores foresaw training on mixtures."""
    made = correlations(subsets, found)
    return Foreseen(found.method, made.estimate(0), made.estimate(1), _permuted(subsets, found))


def _known(scores: Float[np.ndarray, "sources targets"]) -> Float[np.ndarray, "sources targets"]:
    known = scores.copy()
    for column in known.T:
        there = column[~np.isnan(column)]
        column[np.isnan(column)] = there.min() if len(there) else 0.0
    return known


def _predicted(
    subsets: Subsets, scores: Float[np.ndarray, "sources targets"]
) -> Float[np.ndarray, "subsets targets"]:
    mean: Float[np.ndarray, "subsets targets"] = subsets.members @ scores
    return np.round(mean / subsets.members.sum(1, keepdims=True), 9)


def _permuted(subsets: Subsets, found: Found) -> float:
    """The share of orders of the sources that foresee the others as well."""
    scores = _known(found.values)
    rng = np.random.default_rng(0)
    targets = range(scores.shape[1])
    apart = [~subsets.members[:, t] for t in targets]
    gains = [standard_ranks(subsets.gains[apart[t], t]) for t in targets]

    def mean(order: Int[np.ndarray, " sources"]) -> float:
        predicted = _predicted(subsets, scores[order])
        each = [standard_ranks(predicted[apart[t], t]) @ gains[t] for t in targets]
        return float(np.mean(each))

    there = mean(np.arange(len(scores)))
    drawn = [mean(rng.permutation(len(scores))) for _ in range(PERMUTATIONS)]
    return (1 + sum(one >= there - 1e-9 for one in drawn)) / (1 + PERMUTATIONS)


def _rho(a: Float[np.ndarray, " subsets"], b: Float[np.ndarray, " subsets"]) -> float:
    return float(standard_ranks(a) @ standard_ranks(b)) if len(a) > 1 else 0.0
