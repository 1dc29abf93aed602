"""What the means of an optimiser step divide by, however the step is split into batches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from unembed.head.loss import HeadLoss
from unembed.head.sweep import Sweep
from unembed.training.recipe.objectives import GradientSizes, counted
from unembed.training.recipe.protection import AnchorSums
from unembed.training.run.head_hook import Targets
from unembed.training.run.penalty_term import PenaltyTerm


@dataclass(frozen=True)
class StepMass:
    """Sums over the batches of a step, on all processes.

    ``positions`` have a target, ``penalty`` is ``sum w c`` of ``weighted_mean``, ``protected`` are
    the positions that the KL anchor reads. ``margin`` and ``logsumexp`` are those of
    ``AnchorSums``; the others those of ``GradientSizes``, of the sums ``nll`` and ``w c P``.
    """

    batches: float = 1.0
    positions: float = 0.0
    penalty: float = 0.0
    protected: float = 0.0
    margin: float = 0.0
    logsumexp: float = 0.0
    nll_gradient: float = 0.0
    penalty_gradient: float = 0.0
    gradient_product: float = 0.0

    @staticmethod
    def of_batch(
        term: PenaltyTerm,
        targets: Targets,
        listed: Float[Tensor, " positions"] | None,
        said: HeadLoss | None = None,
        start: HeadLoss | Sweep | None = None,
        gradients: GradientSizes | None = None,
    ) -> StepMass:
        """Of one batch. ``said`` is needed where the term is gated, ``start`` for the anchor."""
        sizes = gradients or GradientSizes()
        ids, penalty = targets.ids, 0.0
        if term.penalised:
            weights = term.weights(ids, listed, said)
            counts = torch.ones(len(ids), device=ids.device)
            if said is not None:
                counts = counted(term.objective, said).to(counts)
            penalty = float((counts if weights is None else counts * weights.to(counts)).sum())
        protected, margin, logsumexp = 0.0, 0.0, 0.0
        if term.kl is not None:
            protected = float(term.kl.protected.to(ids.device)[ids].sum())
        if term.margin is not None and said is not None and start is not None:
            margin, logsumexp = (
                float(difference.double().sum())
                for difference in term.margin.differences(said, start)
            )
        own = (1.0, float(len(ids)), penalty, protected, margin, logsumexp)
        return StepMass(*own, sizes.cross_entropy, sizes.penalty, sizes.product)

    @staticmethod
    def total(masses: Iterable[StepMass]) -> StepMass:
        """The sums of several."""
        rows = [mass.values for mass in masses]
        return StepMass(*(sum(column) for column in zip(*rows, strict=True)))

    @property
    def values(self) -> list[float]:
        """The fields in their order."""
        return [getattr(self, one.name) for one in fields(self)]

    def sizes(self, ce_weight: float) -> GradientSizes:
        """Those of the two means of the step."""
        by_entropy = ce_weight / max(1.0, self.positions)
        by_penalty = 1 / self.penalty if self.penalty > 0 else 1.0
        return GradientSizes(
            by_entropy**2 * self.nll_gradient,
            by_penalty**2 * self.penalty_gradient,
            by_entropy * by_penalty * self.gradient_product,
        )

    @property
    def anchor(self) -> AnchorSums:
        """What the margin anchor needs."""
        return AnchorSums(self.positions, self.margin, self.logsumexp)
