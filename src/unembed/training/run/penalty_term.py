"""What a refinement adds to the cross-entropy: a penalty of decisions, and what holds the model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from jaxtyping import Float, Int
from torch import Tensor, nn

from unembed.head.loss import HeadLoss
from unembed.short_repr import ShortRepr
from unembed.training.recipe.objectives import Objective, refuse_weights
from unembed.training.recipe.protection import Ewc, KlAnchor, MarginAnchor
from unembed.training.recipe.schedule import Schedule
from unembed.training.recipe.weighting import WeightTable

POSITION_WEIGHTS = "position_weights"
"""The key of a batch's weights of its positions, shaped as its labels; see ``Positions``."""


@dataclass(frozen=True)
class PenaltyTerm(ShortRepr):
    """What is added to the cross-entropy: ``weight * P``, and what holds the model near its start.

    ``weighting`` weighs P's positions. ``reference`` is the frozen starting model, which the margin
    and KL anchors need, and ``ewc`` comes with its factor. With ``gradient_share`` the weight of
    every step is that of ``mean_loss``, and ``weight`` is left out. ``schedule`` says when in the
    training P counts: its factor multiplies the weight, or the share.
    """

    objective: Objective
    weight: float = 0.0
    ce_weight: float = 1.0
    weighting: WeightTable | None = None
    ewc: tuple[float, Ewc] | None = None
    margin: MarginAnchor | None = None
    kl: KlAnchor | None = None
    reference: nn.Module | None = None
    gradient_share: float | None = None
    schedule: Schedule = field(default_factory=Schedule)

    def __post_init__(self) -> None:
        refuse_weights(self.weight, self.ce_weight, self.gradient_share)
        if (self.margin or self.kl) and self.reference is None:
            raise ValueError("an anchor needs the reference model that it holds to")

    @property
    def penalised(self) -> bool:
        """Whether P counts."""
        return (self.weight > 0 or self.shared) and self.objective.name != "none"

    @property
    def shared(self) -> bool:
        """Whether P counts by a share of the cross-entropy's gradient."""
        return self.gradient_share is not None and self.gradient_share > 0

    def at(self, step: int, steps: int) -> PenaltyTerm:
        """The term of this step, from 0, of so many in all: the schedule's factor is in it."""
        factor = self.schedule.factor(step, steps)
        if factor == 1.0:
            return self
        share = None if self.gradient_share is None else factor * self.gradient_share
        return replace(self, weight=factor * self.weight, gradient_share=share)

    @property
    def plain(self) -> bool:
        """Whether the cross-entropy is all there is, so that the Trainer needs no help."""
        held = (self.ewc, self.margin, self.kl)
        return not self.penalised and self.ce_weight == 1.0 and all(one is None for one in held)

    @property
    def gated(self) -> bool:
        """Whether the model's decisions say what the means of a step divide by."""
        by_decision = self.objective.gated or (self.weighting is not None and self.weighting.gated)
        return self.margin is not None or (self.penalised and by_decision)

    def weights(
        self,
        targets: Int[Tensor, " positions"],
        listed: Float[Tensor, " positions"] | None,
        said: HeadLoss | None,
    ) -> Float[Tensor, " positions"] | None:
        """Each position's weight in P, None for 1 everywhere; ``listed`` are those by position.

        ``said`` is needed where the weighting has gates.
        """
        if self.weighting is None:
            return listed
        by_token = self.weighting.of_positions(targets, said)
        return by_token if listed is None else by_token * listed
