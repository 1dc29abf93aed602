"""What the loss of a training was made of since it was last logged."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unembed.training.recipe.objectives import GradientSizes, MeanLoss


@dataclass
class LossLog:
    """Sums over the batches since the last log; ``weight`` of each position's lambda.

    ``gradients`` has a row for each step at which they were compared: the squared lengths of
    ``lambda P'`` and ``CE'``, and their product, over the step's batches.
    """

    positions: float = 0
    cross_entropy: float = 0.0
    penalty: float = 0.0
    weight: float = 0.0
    gradients: dict[int, list[float]] = field(default_factory=dict)

    def add(self, loss: MeanLoss, own: int, of_step: float) -> None:
        """Count a batch of ``own`` positions, whose ``loss`` is its part of its step's means."""
        self.positions += own
        self.cross_entropy += float(loss.cross_entropy) * of_step
        self.penalty += float(loss.penalty) * of_step
        self.weight += loss.weight * own

    def compare(self, step: int, sizes: GradientSizes) -> None:
        """Count both gradients of a batch, in the inputs that are this batch's alone."""
        row = self.gradients.setdefault(step, [0.0, 0.0, 0.0])
        for i, value in enumerate((sizes.penalty, sizes.cross_entropy, sizes.product)):
            row[i] += value

    def compared(self, step: int, sizes: GradientSizes, weight: float) -> None:
        """Count the gradients of a whole step, the penalty's times its lambda."""
        row = [weight**2 * sizes.penalty, sizes.cross_entropy, weight * sizes.product]
        self.gradients[step] = row

    def summed(self, total: Callable[[Tensor], Tensor]) -> LossLog:
        """The log of all processes; ``total`` sums a tensor over them."""
        rows = [value for row in self.gradients.values() for value in row]
        plain = [self.positions, self.cross_entropy, self.penalty, self.weight, *rows]
        sums = total(torch.tensor(plain, dtype=torch.float64)).tolist()
        positions, cross_entropy, penalty, weight, *rest = sums
        gradients = {s: rest[3 * i : 3 * i + 3] for i, s in enumerate(self.gradients)}
        return LossLog(positions, cross_entropy, penalty, weight, gradients)

    def means(self) -> dict[str, float]:
        """Means over the positions, and over the steps whose gradients were compared."""
        if not self.positions:
            return {}
        found = {
            "cross_entropy": self.cross_entropy / self.positions,
            "penalty": self.penalty / self.positions,
            "penalty_weight": self.weight / self.positions,
        }
        lengths = [
            (math.sqrt(row[0]), math.sqrt(row[1]), row[2]) for row in self.gradients.values()
        ]
        compared = [one for one in lengths if min(one[:2]) > 0]
        if compared:
            found["gradient_ratio"] = sum(p / e for p, e, _ in compared) / len(compared)
            found["gradient_cosine"] = sum(pe / (p * e) for p, e, pe in compared) / len(compared)
        return found
