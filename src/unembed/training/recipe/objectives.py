"""What a refinement minimises: cross-entropy, and a penalty of the leading logits and rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unembed.errors import UnembedError
from unembed.head.loss import HeadLoss
from unembed.head.penalties import cosine_penalty, fisher_penalty
from unembed.short_repr import ShortRepr
from unembed.training.recipe.names import DIRECTIONS, OBJECTIVES

LEAST_GRADIENT = torch.finfo(torch.float32).tiny
"""A penalty whose gradient is shorter is taken to have none: no float32 weight would match it."""


@dataclass(frozen=True)
class Objective(ShortRepr):
    """Which penalty P is added to the cross-entropy (theory §5).

    ``none`` is no penalty, the control; ``entropy`` is that of the full vocabulary in nats.
    ``margin`` is minus the margin where that is below ``threshold``, in logits. ``fisher`` and
    ``cosine`` are spreads of the ``k`` leading tokens' rows under their softmax. ``direction`` is
    for fisher: "contract" minimises its spread, which widens margins; "expand" is its opposite.

    Raises UnembedError for a value that no objective can have.
    """

    name: str
    k: int = 5
    threshold: float = 1.0
    direction: str = "contract"

    def __post_init__(self) -> None:
        if self.name not in OBJECTIVES:
            raise UnembedError(
                f"objective {self.name!r} is unknown: give one of {', '.join(OBJECTIVES)}"
            )
        if self.k < 2:
            raise UnembedError(f"k {self.k} is less than the 2 tokens of a margin: give 2 or more")
        if not 0 < self.threshold < math.inf:
            raise UnembedError(
                f"threshold {self.threshold} is no margin in logits: give a positive number"
            )
        if self.direction not in DIRECTIONS:
            raise UnembedError(
                f"direction {self.direction!r} is neither contract nor expand: give one of the two"
            )
        if self.direction == "expand" and not OBJECTIVES[self.name].directions:
            raise UnembedError(
                f"direction 'expand' is for fisher, not for {self.name}: leave it out"
            )

    @property
    def cosines_needed(self) -> bool:
        """What to give ``head_loss`` as ``cosines``."""
        return OBJECTIVES[self.name].cosines

    @property
    def gated(self) -> bool:
        """Whether the model's decisions say which positions count."""
        return OBJECTIVES[self.name].gated

    @property
    def k_needed(self) -> int:
        """What to give ``head_loss`` as ``k``, at least."""
        return self.k if self.cosines_needed else 2


@dataclass(frozen=True)
class Penalties:
    """P at each position, to be minimised, and which positions count."""

    values: Float[Tensor, " positions"]
    counted: Bool[Tensor, " positions"]


@dataclass(frozen=True)
class GradientSizes:
    """Squared lengths of CE' and P', and their product, in the head's input at some positions.

    Those of several batches of a step add up where each is of its part of the step's means.
    """

    cross_entropy: float = 0.0
    penalty: float = 0.0
    product: float = 0.0

    @staticmethod
    def of(
        cross_entropy: Float[Tensor, ""], penalty: Float[Tensor, ""], at: Float[Tensor, "..."]
    ) -> GradientSizes:
        """Of two losses whose graphs hold ``at``, and are left as they are."""
        by_entropy, by_penalty = (
            torch.autograd.grad(loss, at, retain_graph=True)[0].flatten()
            if loss.requires_grad
            else torch.zeros_like(at).flatten()
            for loss in (cross_entropy, penalty)
        )
        dtype = torch.promote_types(at.dtype, torch.float32)
        return GradientSizes.between(by_entropy.to(dtype), by_penalty.to(dtype))

    @staticmethod
    def between(by_entropy: Float[Tensor, " n"], by_penalty: Float[Tensor, " n"]) -> GradientSizes:
        """Of two gradients."""
        return GradientSizes(
            float(by_entropy.norm()) ** 2,
            float(by_penalty.norm()) ** 2,
            float(by_entropy @ by_penalty),
        )

    def weight(self, share: float) -> float:
        """lambda, for which ``|lambda P'| = share |CE'|``; 0 where P' is 0."""
        penalty = math.sqrt(self.penalty)
        if penalty < LEAST_GRADIENT:
            return 0.0
        return share * math.sqrt(self.cross_entropy) / penalty


@dataclass(frozen=True)
class LossParts:
    """The two means of a loss, or these positions' part of them, with their graphs."""

    cross_entropy: Float[Tensor, ""]
    penalty: Float[Tensor, ""]
    ce_weight: float = 1.0

    def sizes(self, at: Float[Tensor, "positions dim"]) -> GradientSizes:
        """Of the gradients of both in ``at``, that of the cross-entropy with its factor."""
        return GradientSizes.of(self.ce_weight * self.cross_entropy, self.penalty, at)

    def joined(self, weight: float, sizes: GradientSizes | None = None) -> MeanLoss:
        """The loss at this lambda."""
        total = self.ce_weight * self.cross_entropy
        if weight > 0:
            total = total + weight * self.penalty
        return MeanLoss(total, self.cross_entropy.detach(), self.penalty.detach(), weight, sizes)


@dataclass(frozen=True)
class MeanLoss:
    """``total`` is what to minimise; its two parts, without their factors, carry no graph.

    ``weight`` is the lambda that the penalty has in it, and ``sizes`` what that was chosen by where
    a share was given.
    """

    total: Float[Tensor, ""]
    cross_entropy: Float[Tensor, ""]
    penalty: Float[Tensor, ""]
    weight: float = 0.0
    sizes: GradientSizes | None = None


def penalties(objective: Objective, said: HeadLoss) -> Penalties:
    """The objective's P at every position, from what ``head_loss`` said there.

    Of more than ``objective.k`` leading logits the first k are taken, of fewer all. Raises
    ValueError where the cosines are needed and were not asked for. Source: theory §5.
    """
    found: Penalties = _function(objective, objective.name)(objective, said)
    return found


def counted(objective: Objective, said: HeadLoss) -> Bool[Tensor, " positions"]:
    """The ``counted`` of ``penalties``, without its values: no cosines are needed."""
    if not objective.gated:
        return torch.ones_like(said.nll, dtype=torch.bool)
    found: Bool[Tensor, " positions"] = _function(objective, f"{objective.name}_counted")(
        objective, said
    )
    return found


def none(objective: Objective, said: HeadLoss) -> Penalties:
    """0 everywhere."""
    return _everywhere(torch.zeros_like(said.nll))


def margin(objective: Objective, said: HeadLoss) -> Penalties:
    """Minus the margin, counted where that is below the threshold."""
    found = said.topk_values[:, 0] - said.topk_values[:, 1]
    return Penalties(-found, margin_counted(objective, said))


def margin_counted(objective: Objective, said: HeadLoss) -> Bool[Tensor, " positions"]:
    """Where the margin is below the threshold."""
    return said.topk_values[:, 0] - said.topk_values[:, 1] < objective.threshold


def fisher(objective: Objective, said: HeadLoss) -> Penalties:
    """``fisher_penalty`` of the leading rows, or minus it."""
    spread = fisher_penalty(*_leading(objective, said))
    return _everywhere(-spread if objective.direction == "expand" else spread)


def entropy(objective: Objective, said: HeadLoss) -> Penalties:
    """That of the full vocabulary, in nats."""
    return _everywhere(said.entropy)


def cosine(objective: Objective, said: HeadLoss) -> Penalties:
    """``cosine_penalty`` of the leading rows."""
    return _everywhere(cosine_penalty(*_leading(objective, said)))


def weighted_mean(
    found: Penalties,
    weights: Float[Tensor, " positions"] | None = None,
    mass: float | None = None,
) -> Float[Tensor, ""]:
    """``sum w c P / sum w c`` over the positions, c their ``counted``; 0 where that sum is 0.

    ``weights`` are at least 0; None is 1 everywhere. What does not count gets a zero gradient.
    ``mass`` is the sum below the line where these positions are a part of those to average over.
    """
    share = found.counted.to(found.values.dtype)
    share = share if weights is None else share * weights.to(share)
    counting = torch.where(share > 0, found.values, 0.0)
    if mass is not None:
        return (share * counting).sum() / (mass if mass > 0 else 1.0)
    total = share.sum()
    return (share * counting).sum() / torch.where(total > 0, total, 1.0)


def mean_loss(
    said: HeadLoss,
    objective: Objective,
    weight: float = 0.0,
    *,
    gradient_share: float | None = None,
    at: Float[Tensor, "positions dim"] | None = None,
    ce_weight: float = 1.0,
    weights: Float[Tensor, " positions"] | None = None,
    positions: float | None = None,
    mass: float | None = None,
) -> MeanLoss:
    """``ce_weight * mean(nll) + weight * weighted_mean(P)`` over the positions given.

    ``weights`` are the penalty's alone, and every position counts in the cross-entropy. At
    ``weight`` 0 the total is the cross-entropy's, bit for bit, whatever the objective. Without
    positions both parts are 0. Where the positions given are a part of a step's, ``positions`` is
    how many that has, and ``mass`` its ``sum w c``: the losses of the parts add up.

    With ``gradient_share`` r the weight is chosen anew at every call, from the hidden states ``at``
    that were given to ``head_loss``, all positions of the step at once::

        weight = r * norm(grad(ce_weight * mean(nll), at)) / norm(grad(weighted_mean(P), at))

    It is a plain number, takes no gradient and keeps no state, and is 0 where P's gradient is 0; at
    r = 0 nothing is computed. One r serves objectives of different units.

    Raises UnembedError for a negative weight or share, and where both are given; ValueError for a
    share of a part of a step, and for ``at`` that is missing or in no graph. Source: theory §5.
    """
    refuse_weights(weight, ce_weight, gradient_share)
    parts = loss_parts(said, objective, ce_weight, weights, positions, mass)
    if gradient_share:
        if positions is not None or mass is not None:
            raise ValueError(
                "gradient_share is of a whole step: with positions or mass, of a part, give weight"
            )
        if at is None or not at.requires_grad:
            raise ValueError(
                "gradient_share needs at=, the hidden states that head_loss was given, in its graph"
            )
        sizes = parts.sizes(at)
        return parts.joined(sizes.weight(gradient_share), sizes)
    return parts.joined(weight)


def loss_parts(
    said: HeadLoss,
    objective: Objective,
    ce_weight: float = 1.0,
    weights: Float[Tensor, " positions"] | None = None,
    positions: float | None = None,
    mass: float | None = None,
) -> LossParts:
    """The two parts of ``mean_loss``."""
    cross_entropy = said.nll.sum() / max(1, len(said.nll) if positions is None else positions)
    return LossParts(
        cross_entropy, weighted_mean(penalties(objective, said), weights, mass), ce_weight
    )


def refuse_weights(weight: float, ce_weight: float, gradient_share: float | None) -> None:
    """Raise UnembedError for weights of a loss that cannot be, or not together."""
    for name, value in (("weight", weight), ("ce_weight", ce_weight)):
        if not 0 <= value < math.inf:
            raise UnembedError(f"{name} {value} is no weight of a loss: give 0 or more")
    if gradient_share is None:
        return
    if not 0 <= gradient_share < math.inf:
        raise UnembedError(
            f"gradient_share {gradient_share} is no share of a gradient: give 0 or more, such as "
            "0.1"
        )
    if weight > 0:
        raise UnembedError(
            f"weight {weight} and gradient_share {gradient_share} both say how much the penalty "
            "counts: give one of them"
        )
    if ce_weight == 0 and gradient_share > 0:
        raise UnembedError(
            f"gradient_share {gradient_share} of a cross-entropy with ce_weight 0 is nothing: give "
            "a weight"
        )


def _function(objective: Objective, name: str) -> Any:
    """The function of this name where the objective is at home."""
    home = import_module(f"unembed.training.recipe.{OBJECTIVES[objective.name].home}")
    return getattr(home, name)


def _everywhere(values: Float[Tensor, " positions"]) -> Penalties:
    return Penalties(values, torch.ones_like(values, dtype=torch.bool))


def _leading(
    objective: Objective, said: HeadLoss
) -> tuple[Float[Tensor, "positions k"], Float[Tensor, "positions k k"]]:
    """The logits and cosines of the first k tokens."""
    k = objective.k
    if said.topk_cosines is None:
        raise ValueError(f"{objective.name} needs cosines: head_loss(..., k={k}, cosines=True)")
    return said.topk_values[:, :k], said.topk_cosines[:, :k, :k]
