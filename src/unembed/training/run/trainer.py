"""The Hugging Face Trainer with a penalty of the head's decisions added to the cross-entropy."""

from __future__ import annotations

import math
from collections.abc import MutableMapping
from dataclasses import astuple, dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unembed.head.head import Head, final_hidden
from unembed.head.loss import HeadLoss, head_loss
from unembed.head.sweep import Sweep, sweep
from unembed.training.recipe.objectives import (
    GradientSizes,
    LossParts,
    MeanLoss,
    loss_parts,
)
from unembed.training.recipe.protection import Ewc, HeadInput
from unembed.training.recipe.sharded_ewc import ShardedEwc
from unembed.training.run.engine import Trainer
from unembed.training.run.head_hook import (
    IGNORED,
    HeadHook,
    PrecisionCache,
    Targets,
    refuse_nonfinite,
)
from unembed.training.run.loss_log import LossLog
from unembed.training.run.penalty_term import POSITION_WEIGHTS, PenaltyTerm
from unembed.training.run.step_mass import StepMass
from unembed.training.run.trainer_settings import (
    refuse_other_losses,
    refuse_processes_with_several_devices,
)


@dataclass
class SplitStep:
    """The batches of an optimiser step in this process, and how many are still to be trained on."""

    batches: list[Any]
    left: int
    mass: StepMass | None = None


@dataclass(frozen=True)
class BatchPart:
    """A batch at the head: its targets, listed weights, inputs, and the sums of its whole step.

    Without ``mass`` the batch is the whole step.
    """

    targets: Targets
    listed: Float[Tensor, " positions"] | None
    inputs: dict[str, Any]
    mass: StepMass | None = None

    @staticmethod
    def of(inputs: dict[str, Any], mass: StepMass | None = None) -> BatchPart:
        """Of a batch as the Trainer has it."""
        rest = {k: v for k, v in inputs.items() if k not in ("labels", POSITION_WEIGHTS)}
        targets, listed = Targets.of(inputs["labels"]), inputs.get(POSITION_WEIGHTS)
        return BatchPart(targets, None if listed is None else listed[targets.kept], rest, mass)


class RefineMixin:
    """Put before a Trainer: ``class MyTrainer(RefineMixin, Trainer)``, then ``.refine_with(term)``.

    The loss is taken where the head is called, so that the logits of a batch never exist: memory is
    that of the body. Settings of the Trainer that would need those logits are refused. At weight 0
    the Trainer runs as it is, to the bit. Gradient accumulation, devices and mixed precision are
    the Trainer's. Every mean is over what counts in the whole step, over its batches and its
    processes (over a process's own where ``average_tokens_across_devices`` is off). Where the
    model's decisions say what counts, a step of several batches, or of several processes, has a
    pass of the body without gradients before it; under a gradient share a step of several batches.

    A term's schedule goes by the Trainer's own number of steps, so that a run that is resumed has
    the factors it would have had. Steps at which nothing of the term counts are the plain
    Trainer's, to the bit, at its cost. The log has ``penalty_weight``, the mean lambda since the
    last, and ``gradient_ratio``, at every step under a share. Source: theory §5.
    """

    term: PenaltyTerm | None = None
    diagnose_every: int = 10
    _hook: HeadHook | None = None
    _step: SplitStep | None = None
    _sharded: ShardedEwc | None = None
    _asked_sharded: bool = False
    _plainly_scaled: bool | None = None

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
        refuse_processes_with_several_devices(trainer)
        if not term.plain:
            refuse_other_losses(trainer)
            if self._hook is None:
                self._plainly_scaled = getattr(trainer, "loss_is_scaled_for_ga", None)
            self._hook = HeadHook.of(trainer.model, token_ids)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's batches of a step, which are kept at hand until it is taken."""
        base: Any = super()
        found = base.get_batch_samples(*args, **kwargs)
        self._step = SplitStep(found[0], len(found[0]))
        return found

    def compute_loss(
        self,
        model: nn.Module,
        inputs: MutableMapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The loss of one batch, with its graph; evaluation is the Trainer's own."""
        labels, trainer = inputs.get("labels"), self._trainer
        plain = self._hook is None or self.term is None or self._term_now.plain
        if self._hook is not None:
            # Asked by the Trainer after this call; a refined loss is divided here.
            trainer.loss_is_scaled_for_ga = self._plainly_scaled if plain else True
        if plain or return_outputs:
            inputs.pop(POSITION_WEIGHTS, None)
            base: Any = super()
            loss = base.compute_loss(model, inputs, return_outputs, num_items_in_batch)
        else:
            loss = self._refined(model, dict(inputs), num_items_in_batch)
        # Without a single target the Trainer's mean is 0 / 0, and it goes on.
        if labels is None or bool((labels[..., 1:] != IGNORED).any()):
            self._refuse_nonfinite(loss[0] if return_outputs else loss)
        return loss

    def training_step(self, model: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """The Trainer's, and EWC of parameters that FSDP has cut: once a step, on their parts."""
        base: Any = super()
        sharded = self._sharded_ewc(model)
        loss: Tensor = base.training_step(model, *args, **kwargs)
        trainer: Any = self
        if sharded is None or not trainer.accelerator.sync_gradients:
            return loss
        assert self.term is not None
        assert self.term.ewc is not None
        scaler = getattr(trainer.accelerator, "scaler", None)
        scale = 1.0 if scaler is None else scaler.get_scale()
        return loss + sharded.add_gradients(model, self.term.ewc[0], scale)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """The Trainer's log with the two parts of the loss and how their gradients compare."""
        if "loss" in logs and self.term is not None:
            means = self._loss_log.summed(self._over_processes).means()
            if self._hook is not None and not means:
                means = {"penalty_weight": 0.0}  # Before the schedule begins.
            logs, self._loss_log = {**logs, **means}, LossLog()
        base: Any = super()
        base.log(logs, *args, **kwargs)

    def _set_signature_columns_if_needed(self) -> None:
        """The weights of positions are no argument of the model, and are used all the same."""
        base: Any = super()
        base._set_signature_columns_if_needed()
        trainer: Any = self
        if POSITION_WEIGHTS not in trainer._signature_columns:
            trainer._signature_columns.append(POSITION_WEIGHTS)

    @property
    def _trainer(self) -> Any:
        """This, as the Trainer that it is mixed into."""
        return self

    @property
    def _term_now(self) -> PenaltyTerm:
        """The term as it counts at the step that is being taken."""
        state = self._trainer.state
        assert self.term is not None
        return self.term.at(state.global_step, max(1, state.max_steps))

    def _refined(
        self, model: nn.Module, inputs: dict[str, Any], items: Tensor | int | None
    ) -> Float[Tensor, ""]:
        trainer: Any = self
        assert self._hook is not None
        part = BatchPart.of(inputs, self._mass_of_step(model))
        loss: Tensor = self._hook.at_head(model, part.inputs, partial(self._loss_at_head, part))
        if part.mass is not None and self._averaged:
            # The engines take the mean of the gradients of all processes.
            loss = loss * trainer.accelerator.num_processes
        if items is None and not hasattr(Trainer, "loss_is_scaled_for_ga"):
            # Older Trainers divide by the batches of a step where they counted no items.
            loss = loss * trainer.current_gradient_accumulation_steps
        return loss

    @property
    def _averaged(self) -> bool:
        """Whether the means of a step are over all processes."""
        trainer: Any = self
        several = trainer.accelerator.num_processes > 1
        return bool(several and trainer.args.average_tokens_across_devices)

    def _over_processes(self, values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Sums over all processes."""
        trainer: Any = self
        if trainer.accelerator.num_processes == 1:
            return values
        reduced: Tensor = trainer.accelerator.reduce(values.to(trainer.args.device), "sum")
        return reduced.cpu()

    def _mass_of_step(self, model: nn.Module) -> StepMass | None:
        """What the means of the step of the next batch divide by; None where it is all of it."""
        step = self._step
        if step is None or step.left == 0:
            return None
        if step.left == len(step.batches) and (len(step.batches) > 1 or self._averaged):
            mass = StepMass.total(self._masses(model, step.batches))
            if self._averaged:
                sums = self._over_processes(torch.tensor(mass.values, dtype=torch.float64))
                mass = StepMass(*sums.tolist())
            step.mass = mass
        step.left -= 1
        return step.mass

    def _masses(self, model: nn.Module, batches: list[Any]) -> list[StepMass]:
        """Of each batch; where its decisions count, by a pass with the dropout that follows."""
        term, hook, trainer = self._term_now, self._hook, self._trainer
        assert hook is not None
        sized = term.shared and len(batches) > 1
        if not (term.gated or sized):
            parts = [BatchPart.of(dict(batch)) for batch in batches]
            return [StepMass.of_batch(term, part.targets, part.listed) for part in parts]
        masses = []
        device = trainer.args.device
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            for batch in batches:
                part = BatchPart.of(dict(trainer._prepare_inputs(batch)))
                read = partial(self._mass_at_head, part, sized=sized)
                masses.append(hook.at_head(model, part.inputs, read))
        return masses

    def _mass_at_head(
        self,
        part: BatchPart,
        hidden: Float[Tensor, "batch seq dim"],
        head: Head,
        sized: bool = False,
    ) -> StepMass:
        term, rows = self._term_now, hidden[part.targets.kept]
        self._refuse_nonfinite(rows)
        start = None if term.margin is None else self._start_sweep(self._start(part), part)
        if not sized:
            precision = self._precisions.of(head.weight, rows)
            said = head_loss(rows, head, part.targets.ids, precision=precision)
            return StepMass.of_batch(term, part.targets, part.listed, said, start)
        with torch.enable_grad():
            rows = rows.detach().requires_grad_()
            bias = None if head.bias is None else head.bias.detach()
            fixed = replace(head, weight=head.weight.detach(), bias=bias)
            said = self._said(term, rows, fixed, part.targets)
            weights = term.weights(part.targets.ids, part.listed, said)
            gradients = loss_parts(said, term.objective, 1.0, weights, 1.0, 1.0).sizes(rows)
        return StepMass.of_batch(term, part.targets, part.listed, said, start, gradients)

    def _said(
        self, term: PenaltyTerm, rows: Float[Tensor, "positions dim"], head: Head, targets: Targets
    ) -> HeadLoss:
        return head_loss(
            rows,
            head,
            targets.ids,
            term.objective.k_needed,
            cosines=term.objective.cosines_needed,
            precision=self._precisions.of(head.weight, rows),
        )

    def _loss_at_head(
        self, part: BatchPart, hidden: Float[Tensor, "batch seq dim"], head: Head
    ) -> Float[Tensor, ""]:
        term, targets, mass = self._term_now, part.targets, part.mass
        rows = hidden[targets.kept]
        self._refuse_nonfinite(rows)
        if term.shared and not rows.requires_grad:
            rows.requires_grad_()  # Nothing before the head is trained.
        said = self._said(term, rows, head, targets)
        parts = loss_parts(
            said,
            term.objective,
            term.ce_weight,
            term.weights(targets.ids, part.listed, said),
            None if mass is None else mass.positions,
            # A penalty that does not count has no mass, and is told as 0 in a step of parts.
            None if mass is None else (mass.penalty if term.penalised else math.inf),
        )
        loss = self._joined(term, parts, rows, mass)
        of_step = float(len(rows)) if mass is None else mass.positions
        self._loss_log.add(loss, len(rows), of_step)
        total = loss.total
        if self._gradients_due(term):
            where = rows if rows.requires_grad else head.weight
            self._compare_gradients(parts, loss, where)
        if term.ewc is not None and self._sharded is None:
            assert self._hook is not None
            penalty = term.ewc[0] * term.ewc[1].penalty(self._hook.model)
            total = total + (penalty if mass is None else penalty / mass.batches)
        if term.reference is not None:
            precision = self._precisions.of(head.weight, rows)
            total = total + self._anchored(said, HeadInput(rows, head, precision), part)
        return total

    def _joined(
        self,
        term: PenaltyTerm,
        parts: LossParts,
        rows: Float[Tensor, "positions dim"],
        mass: StepMass | None,
    ) -> MeanLoss:
        """The loss at the step's lambda, which a share takes from the gradients of all its parts.

        Those of other batches come from the pass before; of a process's only one, from the others.
        """
        if not (term.penalised and term.shared):
            return parts.joined(term.weight if term.penalised else 0.0)
        if mass is not None and self._step is not None and len(self._step.batches) > 1:
            sizes = mass.sizes(term.ce_weight)
        else:
            sizes = parts.sizes(rows)
            if mass is not None:
                own = torch.tensor(astuple(sizes), dtype=torch.float64)
                sizes = GradientSizes(*self._over_processes(own).tolist())
        assert term.gradient_share is not None
        weight = sizes.weight(term.gradient_share)
        self._loss_log.compared(self._trainer.state.global_step, sizes, weight)
        return parts.joined(weight, sizes)

    def _sharded_ewc(self, model: nn.Module) -> ShardedEwc | None:
        """The parts of EWC that this process holds, cut when the model is; None where it is whole.

        What was kept of the whole model is let go.
        """
        term = self.term
        if self._asked_sharded or self._hook is None or term is None or term.ewc is None:
            return self._sharded
        self._asked_sharded = True
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            self._sharded = ShardedEwc.of(term.ewc[1], model)
        if self._sharded is not None:
            self.term = replace(term, ewc=(term.ewc[0], Ewc({}, {})))
        return self._sharded

    def _anchored(self, said: HeadLoss, reading: HeadInput, part: BatchPart) -> Float[Tensor, ""]:
        """The penalties of the anchors to the starting model, which reads the same batch."""
        term, mass = self.term, part.mass
        assert term is not None
        reference = self._start(part)
        total = reading.hidden.new_zeros(())
        if term.margin is not None:
            was = self._start_sweep(reference, part)
            anchor = None if mass is None else mass.anchor
            total = total + term.margin.penalty(said, was, anchor)
        if term.kl is not None:
            protected = None if mass is None else mass.protected
            total = total + term.kl.penalty(reading, reference, part.targets.ids, protected)
        return total

    @torch.no_grad()
    def _start(self, part: BatchPart) -> HeadInput:
        """What the head of the starting model reads of a batch."""
        term, hook = self.term, self._hook
        assert term is not None
        assert term.reference is not None
        assert hook is not None
        ids: Int[Tensor, "batch seq"] = part.inputs["input_ids"]
        start = final_hidden(term.reference, ids)[part.targets.kept]
        head = hook.current_head(term.reference)
        return HeadInput(start, head, self._precisions.of(head.weight, start))

    @torch.no_grad()
    def _start_sweep(self, start: HeadInput, part: BatchPart) -> Sweep:
        return sweep(start.hidden, start.head, part.targets.ids, precision=start.precision)

    def _refuse_nonfinite(self, values: Tensor) -> None:
        trainer: Any = self
        refuse_nonfinite("the loss", values, f"at step {trainer.state.global_step}")

    def _gradients_due(self, term: PenaltyTerm) -> bool:
        """Whether they are to be compared, which a share has done already."""
        step = self._trainer.state.global_step
        due = self.diagnose_every and step % self.diagnose_every == 0
        return bool(due and term.penalised and not term.shared)

    def _compare_gradients(self, parts: LossParts, loss: MeanLoss, where: Tensor) -> None:
        """``|lambda P'| / |CE'|`` and their cosine, both in the head's input (its weight, batch by
        batch, where nothing before the head is trained).
        """
        cross_entropy = parts.ce_weight * parts.cross_entropy
        sizes = GradientSizes.of(cross_entropy, loss.total - cross_entropy, where)
        self._loss_log.compare(self._trainer.state.global_step, sizes)


class RefineTrainer(RefineMixin, Trainer):
    """The Trainer that ``refine`` runs."""
