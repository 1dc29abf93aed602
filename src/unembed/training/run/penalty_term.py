"""What a refinement adds to the cross-entropy: a penalty of decisions, and what holds the model."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor, nn

from unembed.errors import UnembedError
from unembed.head.loss import HeadLoss
from unembed.short_repr import ShortRepr
from unembed.training.recipe.objectives import Objective
from unembed.training.recipe.protection import Ewc, KlAnchor, MarginAnchor
from unembed.training.recipe.weighting import WeightTable

POSITION_WEIGHTS = "position_weights"
"""The key of a batch's weights of its positions, shaped as its labels; see ``Positions``."""


@dataclass(frozen=True)
class PenaltyTerm(ShortRepr):
    """What is added to the cross-entropy: ``weight * P``, and what holds the model near its start.

    ``weighting`` weighs P's positions. ``reference`` is the frozen starting model, which the margin
    and KL anchors need, and ``ewc`` comes with its factor.
    """

    objective: Objective
    weight: float
    ce_weight: float = 1.0
    weighting: WeightTable | None = None
    ewc: tuple[float, Ewc] | None = None
    margin: MarginAnchor | None = None
    kl: KlAnchor | None = None
    reference: nn.Module | None = None

    def __post_init__(self) -> None:
        for name in ("weight", "ce_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UnembedError(f"{name} {getattr(self, name)} is no factor: give 0 or more")
        if (self.margin or self.kl) and self.reference is None:
            raise ValueError("an anchor needs the reference model that it holds to")

    @property
    def penalised(self) -> bool:
        """Whether P counts."""
        return self.weight > 0 and self.objective.name != "none"

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
