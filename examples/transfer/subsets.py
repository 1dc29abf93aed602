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
from jaxtyping import Bool, Float
from kept import kept
from methods import Found
from tasks import Task

from training import LoraTraining, Training, adapted, heldout_losses, key_of
from unembed import Checkpoint, Estimate, Head
from unembed.demo import samples_loss, trained_head
from unembed.runs import digest_of, progress_bar
from unembed.signatures import Samples
from unembed.stats.rank_correlation import standard_ranks
from unembed.stats.student import student_t
from unembed.training import plain_model


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
    question is which others help.
    """

    method: str
    every: Estimate
    others: Estimate


def foreseen(subsets: Subsets, found: Found) -> Foreseen:
    """How well the mean of a method's scores over a subset orders the subsets, by target.

    Intervals are Student's t over targets. An unknown score counts as the target's least.
    """
    scores = found.values.copy()
    for target in range(scores.shape[1]):
        column = scores[:, target]
        known = column[~np.isnan(column)]
        column[np.isnan(column)] = known.min() if len(known) else 0.0
    predicted = subsets.members @ scores / subsets.members.sum(1, keepdims=True)
    every, others = [], []
    for target in range(scores.shape[1]):
        apart = ~subsets.members[:, target]
        every.append(_rho(predicted[:, target], subsets.gains[:, target]))
        others.append(_rho(predicted[apart, target], subsets.gains[apart, target]))
    return Foreseen(found.method, _mean(every), _mean(others))


def _rho(a: Float[np.ndarray, " subsets"], b: Float[np.ndarray, " subsets"]) -> float:
    return float(standard_ranks(np.round(a, 9)) @ standard_ranks(b))


def _mean(values: list[float]) -> Estimate:
    some = np.array(values)
    reach = student_t(len(some) - 1) * some.std(ddof=1) / np.sqrt(len(some))
    mean = float(some.mean())
    return Estimate(mean, max(-1.0, mean - reach), min(1.0, mean + reach), n=len(some))
