"""The Hugging Face Trainer with a penalty of the head's decisions added to the cross-entropy."""

from __future__ import annotations

import math
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unembed.errors import UnembedError
from unembed.head.head import Head, final_hidden
from unembed.head.loss import HeadLoss, head_loss
from unembed.head.sweep import Sweep, sweep
from unembed.training.recipe.objectives import MeanLoss, Objective, mean_loss
from unembed.training.recipe.protection import Ewc, HeadInput, KlAnchor, MarginAnchor
from unembed.training.recipe.weighting import WeightTable
from unembed.training.run.engine import Trainer
from unembed.training.run.head_hook import HeadHook, PrecisionCache, Targets, refuse_nonfinite

POSITION_WEIGHTS = "position_weights"
"""The key of a batch's weights of its positions, shaped as its labels; see ``Positions``."""


@dataclass(frozen=True)
class PenaltyTerm:
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


@dataclass
class LossLog:
    """Sums over the passes since the last log, for the diagnostics."""

    positions: int = 0
    cross_entropy: float = 0.0
    penalty: float = 0.0
    compared: int = 0
    ratio: float = 0.0
    cosine: float = 0.0

    def add(self, loss: MeanLoss, positions: int) -> None:
        """Count the loss of a batch."""
        self.positions += positions
        self.cross_entropy += float(loss.cross_entropy) * positions
        self.penalty += float(loss.penalty) * positions

    def means(self) -> dict[str, float]:
        """Means over the positions, and over the comparisons of gradients."""
        if not self.positions:
            return {}
        found = {
            "cross_entropy": self.cross_entropy / self.positions,
            "penalty": self.penalty / self.positions,
        }
        if self.compared:
            found["gradient_ratio"] = self.ratio / self.compared
            found["gradient_cosine"] = self.cosine / self.compared
        return found


class RefineMixin:
    """Put before a Trainer: ``class MyTrainer(RefineMixin, Trainer)``, then ``.refine_with(term)``.

    The loss is taken where the head is called, so that the logits of a batch never exist: memory is
    that of the body. A ``compute_loss_func`` would need those logits. At weight 0 the Trainer runs
    as it is, to the bit. Gradient accumulation, devices and mixed precision are the Trainer's:
    cross-entropy is a mean over the tokens of a step, and P over those of a batch, weighed by its
    share of the step's tokens. Source: theory §5.
    """

    term: PenaltyTerm | None = None
    diagnose_every: int = 10
    _hook: HeadHook | None = None

    def refine_with(
        self, term: PenaltyTerm, *, token_ids: list[int] | None = None, diagnose_every: int = 10
    ) -> None:
        """Minimise the cross-entropy and ``term`` from here on.

        ``token_ids`` are the tokenizer's: other rows of the head are then no tokens.
        ``diagnose_every`` steps the two gradients are compared; 0 is never.
        """
        trainer: Any = self
        self.term, self.diagnose_every = term, diagnose_every
        self._loss_log, self._precisions = LossLog(), PrecisionCache({})
        if trainer.args.n_gpu > 1:
            raise UnembedError(
                f"one process would train on {trainer.args.n_gpu} GPUs, with a head on each: start "
                "one process a GPU with torchrun, or set CUDA_VISIBLE_DEVICES"
            )
        if not term.plain:
            self._hook = HeadHook.of(trainer.model, token_ids)
            trainer.loss_is_scaled_for_ga = True

    def compute_loss(
        self,
        model: nn.Module,
        inputs: MutableMapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The loss of one batch, with its graph; evaluation is the Trainer's own."""
        weights = inputs.pop(POSITION_WEIGHTS, None)
        if self._hook is None or self.term is None or return_outputs:
            base: Any = super()
            loss = base.compute_loss(model, inputs, return_outputs, num_items_in_batch)
        else:
            loss = self._refined(model, dict(inputs), weights, num_items_in_batch)
        self._refuse_nonfinite(loss[0] if return_outputs else loss)
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """The Trainer's log with the two parts of the loss and how their gradients compare."""
        if "loss" in logs and self.term is not None:
            logs = {**logs, **self._loss_log.means()}
            self._loss_log = LossLog()
        base: Any = super()
        base.log(logs, *args, **kwargs)

    def _refined(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        weights: Float[Tensor, "batch seq"] | None,
        items: Tensor | int | None,
    ) -> Float[Tensor, ""]:
        trainer: Any = self
        assert self._hook is not None
        found = Targets.of(inputs.pop("labels"))
        if weights is not None:
            weights = weights[found.kept]
        step = self._hook.at_head(
            model, inputs, lambda h, head: self._loss_at_head(h, head, found, weights, inputs)
        )
        n = len(found.ids)
        if items is None:
            # Older Trainers divide by the steps themselves where they counted no items.
            scaled = hasattr(Trainer, "loss_is_scaled_for_ga")
            share: Any = 1 / trainer.current_gradient_accumulation_steps if scaled else 1
        else:
            averaged = trainer.args.average_tokens_across_devices
            share = n * (trainer.accelerator.num_processes if averaged else 1) / items
        loss: Tensor = step * share
        return loss

    def _loss_at_head(
        self,
        hidden: Float[Tensor, "batch seq dim"],
        head: Head,
        targets: Targets,
        weights: Float[Tensor, "positions"] | None,
        inputs: dict[str, Any],
    ) -> Float[Tensor, ""]:
        term, rows = self.term, hidden[targets.kept]
        assert term is not None
        self._refuse_nonfinite(rows)
        precision = self._precisions.of(head.weight, rows)
        said = head_loss(
            rows,
            head,
            targets.ids,
            term.objective.k_needed,
            cosines=term.objective.cosines_needed,
            precision=precision,
        )
        if term.weighting is not None:
            by_token = term.weighting.of_positions(targets.ids, said)
            weights = by_token if weights is None else by_token * weights
        loss = mean_loss(
            said, term.objective, term.weight, ce_weight=term.ce_weight, weights=weights
        )
        self._loss_log.add(loss, len(rows))
        total = loss.total
        if self._gradients_due():
            self._compare_gradients(said, loss.total, rows if rows.requires_grad else head.weight)
        if term.ewc is not None:
            assert self._hook is not None
            total = total + term.ewc[0] * term.ewc[1].penalty(self._hook.model)
        if term.reference is not None:
            reading = HeadInput(rows, head, precision)
            total = total + self._anchored(said, reading, targets, inputs)
        return total

    def _anchored(
        self, said: HeadLoss, reading: HeadInput, targets: Targets, inputs: dict[str, Any]
    ) -> Float[Tensor, ""]:
        """The penalties of the anchors to the starting model, which reads the same batch."""
        term, hook = self.term, self._hook
        assert term is not None
        assert term.reference is not None
        assert hook is not None
        with torch.no_grad():
            ids: Int[Tensor, "batch seq"] = inputs["input_ids"]
            start = final_hidden(term.reference, ids)[targets.kept]
            head = hook.current_head(term.reference)
            precision = self._precisions.of(head.weight, start)
        total = reading.hidden.new_zeros(())
        if term.margin is not None:
            was: Sweep = sweep(start, head, targets.ids, precision=precision)
            total = total + term.margin.penalty(said, was)
        if term.kl is not None:
            reference = HeadInput(start, head, precision)
            total = total + term.kl.penalty(reading, reference, targets.ids)
        return total

    def _refuse_nonfinite(self, values: Tensor) -> None:
        trainer: Any = self
        refuse_nonfinite("the loss", values, f"at step {trainer.state.global_step}")

    def _gradients_due(self) -> bool:
        trainer: Any = self
        due = self.diagnose_every and trainer.state.global_step % self.diagnose_every == 0
        return bool(due and self.term is not None and self.term.penalised)

    def _compare_gradients(self, said: HeadLoss, total: Tensor, where: Tensor) -> None:
        """``|lambda P'| / |CE'|`` and their cosine, both in the head's input (its weight, where
        nothing before the head is trained).
        """
        term = self.term
        assert term is not None
        cross_entropy = term.ce_weight * said.nll.mean()
        by_penalty, by_entropy = (
            torch.autograd.grad(loss, where, retain_graph=True)[0].float().flatten()
            for loss in (total - cross_entropy, cross_entropy)
        )
        sizes = float(by_penalty.norm()), float(by_entropy.norm())
        if min(sizes) > 0:
            self._loss_log.compared += 1
            self._loss_log.ratio += sizes[0] / sizes[1]
            self._loss_log.cosine += float(by_penalty @ by_entropy) / (sizes[0] * sizes[1])


class RefineTrainer(RefineMixin, Trainer):
    """The Trainer that ``refine`` runs."""
