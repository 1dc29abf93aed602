"""What training a head on one text gains on others: measured, on hidden states read once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unembed.errors import UnembedError
from unembed.head.head import Head
from unembed.head.loss import head_loss
from unembed.head.precision import Precision
from unembed.runs.progress import progress_bar
from unembed.short_repr import ShortRepr
from unembed.signatures.samples import Samples

ROWS = 8192
"""Positions whose loss is taken at a time; changes memory, never a result."""


@dataclass(frozen=True)
class HeadTraining(ShortRepr):
    """How to train a head's weight on the hidden states of a text, the body left as it is.

    AdamW at a fixed ``rate``, without weight decay; or plain descent ("gd"), whose step is ``rate``
    over the mean square of the hidden states. A step takes ``batch`` positions, all of a text that
    has fewer, in an order drawn by ``seed``. Raises UnembedError for what is out of range.
    """

    steps: int = 60
    batch: int = 512
    rate: float = 3e-4
    optimizer: Literal["adamw", "gd"] = "adamw"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("batch", 1)):
            if getattr(self, name) < least:
                raise UnembedError(f"{name} is {getattr(self, name)}: give at least {least}")
        if not self.rate > 0:
            raise UnembedError(f"rate {self.rate} moves nothing: give a positive one")
        if self.optimizer not in ("adamw", "gd"):
            raise UnembedError(f"optimizer {self.optimizer!r} is not one of adamw, gd")

    @property
    def words(self) -> str:
        """In a clause, for reports."""
        how = "AdamW" if self.optimizer == "adamw" else "gradient descent"
        return f"{self.steps} steps of {how}, {self.batch:,} positions each, rate {self.rate:g}"


def trained_head(samples: Samples, head: Head, training: HeadTraining) -> Head:
    """The head after training its weight on some positions by their cross-entropy in nats.

    Naively, for each batch: ``cross_entropy(head(hidden), targets).backward(); optimizer.step()``.
    The head given stays as it is; a head tied to an embedding moves apart from it. Rows that are no
    tokens do not move. Raises UnembedError where the loss is not finite any more.
    """
    weight = head.weight.detach().float().clone().requires_grad_()
    moving = replace(head, weight=weight, tied=False)
    precision = Precision.probe(weight.detach())
    hidden, targets = samples.hidden.to(weight.device).float(), samples.targets.to(weight.device)
    rate = training.rate
    optimizer: torch.optim.Optimizer
    if training.optimizer == "gd":
        optimizer = torch.optim.SGD([weight], rate / float(hidden.square().sum(1).mean()))
    else:
        optimizer = torch.optim.AdamW([weight], rate, weight_decay=0.0)
    for some in _batches(len(targets), training):
        rows = some.to(weight.device)
        optimizer.zero_grad()
        loss = head_loss(hidden[rows], moving, targets[rows], precision=precision).nll.mean()
        if not bool(torch.isfinite(loss)):
            raise UnembedError(
                f"the loss on {samples.name!r} is not finite at rate {training.rate:g}: give a "
                "smaller rate"
            )
        loss.backward()
        optimizer.step()
    return Head.from_parts(weight.detach(), head.bias, head.scale, head.softcap, head.valid)


@torch.no_grad()
def samples_loss(samples: Samples, head: Head) -> float:
    """The mean cross-entropy of the next tokens under a head, in nats a token."""
    device = head.weight.device
    precision = Precision.probe(head.weight)
    total = 0.0
    for start in range(0, len(samples.targets), ROWS):
        hidden, targets = (
            x[start : start + ROWS].to(device) for x in (samples.hidden, samples.targets)
        )
        total += float(head_loss(hidden, head, targets, precision=precision).nll.double().sum())
    return total / len(samples.targets)


def head_gains(
    sources: Sequence[Samples],
    targets: Sequence[Samples],
    head: Head,
    training: HeadTraining | None = None,
    *,
    progress: bool = False,
) -> Float[np.ndarray, "sources targets"]:
    """How far each target's loss falls when the head is trained on each source, nats a token.

    Naively ``before - samples_loss(target, trained_head(source, head, training))``, with ``before``
    the loss under the head given.
    Targets are the held-out positions of the tasks whose training positions are the sources.
    """
    training = training or HeadTraining()
    before = np.array([samples_loss(target, head) for target in targets])
    gains = np.empty((len(sources), len(targets)))
    with progress_bar("train", "source", len(sources), progress) as bar:
        for i, source in enumerate(sources):
            moved = trained_head(source, head, training)
            gains[i] = before - [samples_loss(target, moved) for target in targets]
            bar.update()
    return gains


def _batches(count: int, training: HeadTraining) -> Iterator[Int[Tensor, " batch"]]:
    """The positions of each step: one order after another, each batch within one order."""
    drawn = torch.Generator().manual_seed(training.seed)
    size = min(training.batch, count)
    order, at = torch.randperm(count, generator=drawn), 0
    for _ in range(training.steps):
        if at + size > count:
            order, at = torch.randperm(count, generator=drawn), 0
        yield order[at : at + size]
        at += size
