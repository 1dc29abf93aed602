"""Penalties that keep a model near its start: in its parameters, margins or distributions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from unembed.errors import UnembedError
from unembed.head.anchor import kl_to_reference
from unembed.head.head import Head
from unembed.head.loss import HeadLoss
from unembed.head.precision import Precision
from unembed.head.sweep import Sweep
from unembed.short_repr import ShortRepr
from unembed.text.vocabulary import Vocabulary
from unembed.training.recipe.weighting import (
    refuse_negative,
    refuse_unknown_classes,
    tokens_of_classes,
)


@dataclass(frozen=True)
class Protection(ShortRepr):
    """How strongly a refinement is held back; a weight of 0 leaves that term out.

    ``ewc`` weighs the parameters' distance from the start (``Ewc``), ``margin`` the mean margin's
    and logsumexp's (``MarginAnchor``), ``kl`` the distributions' (``KlAnchor``), the last at
    targets of ``classes`` alone, or everywhere where none is named. Raises UnembedError for a
    weight that is negative or not finite, for an unknown class, and for classes without ``kl``.
    Source: theory §5.
    """

    ewc: float = 0.0
    margin: float = 0.0
    kl: float = 0.0
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, weight in (("ewc", self.ewc), ("margin", self.margin), ("kl", self.kl)):
            refuse_negative(f"the protection weight {name}", weight)
        refuse_unknown_classes(self.classes)
        if self.classes and self.kl == 0:
            raise UnembedError(
                f"classes {', '.join(self.classes)} are protected with kl 0.0, which protects "
                "nothing: give kl a weight"
            )

    @property
    def needs_reference(self) -> bool:
        """Whether a frozen copy of the starting model has to run along with the one in training."""
        return self.margin > 0 or self.kl > 0


@dataclass(frozen=True)
class Ewc(ShortRepr):
    """Elastic weight consolidation: each parameter's distance from the start, by its Fisher.

    ``start`` and ``fisher`` hold, by name, every parameter that was trainable at the start, and the
    diagonal of its Fisher, in float32 on the parameter's device: twice the trainable parameters'
    float32 memory. Source: theory §5.
    """

    start: dict[str, Float[Tensor, "..."]]
    fisher: dict[str, Float[Tensor, "..."]]

    @staticmethod
    def of(model: nn.Module, losses: Iterable[Float[Tensor, ""]]) -> Ewc:
        """The empirical Fisher of the model's trainable parameters as they are now.

        Equivalent to ``fisher = mean(grad(loss) ** 2 for loss in losses)``. ``losses`` are NLLs of
        real targets, with their graph; give them lazily, one sequence at a time. The mean is over
        the items given: gradients of a batch's mean loss cancel before they are squared, and its
        Fisher is smaller, by up to the batch size. ``.grad`` is left alone.

        Under FSDP make it of the whole model, before a Trainer cuts it, which then keeps of it
        what fits its parts (``ShardedEwc``).

        Raises UnembedError where there is no item, nothing trainable, a gradient that is not
        finite, or a parameter that is cut.
        """
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not trained:
            raise UnembedError(f"{type(model).__name__} has no trainable parameter to protect")
        if any(hasattr(p, "placements") or hasattr(p, "_is_flat_param") for p in trained.values()):
            raise UnembedError(
                f"{type(model).__name__} is sharded, and its Fisher is that of whole parameters: "
                "make Ewc before the Trainer or fully_shard wraps it"
            )
        fisher = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in trained.items()}
        items = 0
        for loss in losses:
            items += 1
            gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
            for (name, total), gradient in zip(fisher.items(), gradients, strict=True):
                if gradient is None:
                    continue
                total += gradient.float().square()
                if not bool(torch.isfinite(total).all()):
                    raise UnembedError(
                        f"the gradient of {name} is not finite at item {items} of the text that "
                        "EWC reads: leave that text out, or load the model in float32"
                    )
        if not items:
            raise UnembedError("EWC was given no text to read: give at least one sequence")
        start = {name: p.detach().to(torch.float32, copy=True) for name, p in trained.items()}
        return Ewc(start, {name: total / items for name, total in fisher.items()})

    def penalty(self, model: nn.Module) -> Float[Tensor, ""]:
        """``sum(fisher * (parameter - start) ** 2) / 2`` over the names kept, in float32, or in
        float64 for float64 parameters.

        Raises ValueError where the model lacks one of them.
        """
        parameters = dict(model.named_parameters())
        missing = sorted(self.start.keys() - parameters.keys())
        if missing:
            raise ValueError(f"{type(model).__name__} has no parameter {missing[0]}")
        terms = [
            (self.fisher[name] * (parameters[name] - start).square()).sum()
            for name, start in self.start.items()
        ]
        return torch.stack([term.to(terms[0].device) for term in terms]).sum() / 2


@dataclass(frozen=True)
class AnchorSums:
    """Sums over a step's positions of margins and logsumexps, less the starting model's."""

    positions: float
    margin: float
    logsumexp: float


@dataclass(frozen=True)
class MarginAnchor(ShortRepr):
    """Holds the mean margin and the mean logsumexp where the starting model has them."""

    weight: float

    def penalty(
        self, said: HeadLoss, reference: HeadLoss | Sweep, step: AnchorSums | None = None
    ) -> Float[Tensor, ""]:
        """The weighted sum of both squared differences over the same positions; 0 where none.

        Equivalent to ``weight * ((m.mean() - m_ref.mean())^2 + (z.mean() - z_ref.mean())^2)`` of
        the margins m and logsumexps z. No gradient reaches the reference. Where these positions are
        a part of a step's, with the sums S over all its n positions and s over these, a square is
        ``2 S s / n^2`` less its half without a gradient: both value and gradient of the parts add
        up to the step's. Raises ValueError for different numbers of positions.
        """
        differences = self.differences(said, reference)
        if step is None:
            n = len(said.logsumexp)
            means = [difference.sum() / max(n, 1) for difference in differences]
            return self.weight * (means[0].square() + means[1].square())
        parts = [
            all_of_them / max(step.positions, 1) ** 2 * difference.sum()
            for all_of_them, difference in zip(
                (step.margin, step.logsumexp), differences, strict=True
            )
        ]
        margin, logsumexp = (2 * part - part.detach() for part in parts)
        return self.weight * (margin + logsumexp)

    @staticmethod
    def differences(
        said: HeadLoss, reference: HeadLoss | Sweep
    ) -> tuple[Float[Tensor, " positions"], Float[Tensor, " positions"]]:
        """Each position's margin and logsumexp, less the reference's."""
        n = len(said.logsumexp)
        if len(reference.logsumexp) != n:
            raise ValueError(f"{n} positions, {len(reference.logsumexp)} of the reference")
        margins = _margins(said) - _margins(reference).detach()
        return margins, said.logsumexp - reference.logsumexp.detach()


@dataclass(frozen=True)
class HeadInput:
    """What a head reads at some positions, and the head; ``precision`` as in ``head_loss``."""

    hidden: Float[Tensor, "positions dim"]
    head: Head
    precision: Precision | None = None


@dataclass(frozen=True)
class KlAnchor(ShortRepr):
    """Holds the distributions at targets of some token classes to the starting model's.

    ``protected`` marks the tokens of these classes.
    """

    weight: float
    protected: Bool[Tensor, " vocab"]

    @staticmethod
    def of(weight: float, classes: tuple[str, ...], vocabulary: Vocabulary, vocab: int) -> KlAnchor:
        """An anchor for these classes of a head of ``vocab`` rows, or for all where none is named.

        Raises UnembedError for an unknown class.
        """
        return KlAnchor(weight, tokens_of_classes(classes, vocabulary, vocab))

    def penalty(
        self,
        model: HeadInput,
        reference: HeadInput,
        targets: Int[Tensor, " positions"],
        count: float | None = None,
    ) -> Float[Tensor, ""]:
        """The weighted mean of ``kl_to_reference`` over positions whose target is protected.

        Other positions are left out before the heads are read. Where none is protected, a 0 with a
        gradient of zeros. ``count`` is how many are protected in the whole of a step, where these
        positions are a part of it.
        """
        kept = self.protected.to(targets.device)[targets]
        kl = kl_to_reference(
            model.hidden[kept],
            model.head,
            reference.hidden[kept],
            reference.head,
            precision=model.precision,
            reference_precision=reference.precision,
        )
        return self.weight * kl.sum() / max(len(kl) if count is None else count, 1)


def _margins(said: HeadLoss | Sweep) -> Float[Tensor, " positions"]:
    return said.topk_values[:, 0] - said.topk_values[:, 1]
