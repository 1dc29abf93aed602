"""What a refinement does to held-out decisions while it runs, and when it costs too much."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from unembed.decisions.measure import ColumnChoice, measure
from unembed.errors import UnembedError
from unembed.head.head import Head
from unembed.runs.ranks import current_ranks
from unembed.text.batches import Batch
from unembed.training.recipe.recipe import Budget
from unembed.training.run.checkpoint_seal import seal
from unembed.training.run.engine import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from unembed.training.run.head_hook import HeadHook, PrecisionCache, refuse_nonfinite
from unembed.training.run.summary import WatchedStep

CHECKED_CANDIDATES = 5
HELDOUT_LOSS = "the loss on held-out text"
DIVERGED_NATS = 3.0
"""A held-out loss this far above its start, and above that of guessing, does not come back."""
SUSPECTED_STEPS = 10
"""The held-out loss is measured where the mean loss of so many steps is as high, and after a false
alarm not again for as many."""


@dataclass(frozen=True)
class HeldoutCheck:
    """Fixed held-out batches, what the starting model decided there, and the budget.

    ``counted`` marks the positions whose loss of a right decision the budget counts.
    """

    hook: HeadHook
    batches: Sequence[Batch]
    counted: Bool[np.ndarray, " positions"]
    budget: Budget
    precisions: PrecisionCache
    start: dict[str, np.ndarray]

    @staticmethod
    def of(
        hook: HeadHook, batches: Sequence[Batch], protected: Bool[Tensor, " vocab"], budget: Budget
    ) -> HeldoutCheck:
        """Measure the starting model. ``protected`` marks the tokens that the budget counts."""
        targets = np.concatenate([batch.targets.numpy() for batch in batches])
        counted = protected.cpu().numpy()[targets]
        check = HeldoutCheck(hook, batches, counted, budget, PrecisionCache({}), {})
        check.start.update(check.columns(hook.model, "before the first step"))
        return check

    @torch.no_grad()
    def columns(self, model: nn.Module, when: str) -> dict[str, np.ndarray]:
        """The decisions of the model as it is now; ``model`` may be a wrapper around it.

        Raises UnembedError, saying ``when``, where a hidden state or a loss is not finite.
        """
        was = model.training
        model.eval()
        try:
            found = [
                columns for batch in self.batches for columns in self._measured(model, batch, when)
            ]
        finally:
            model.train(was)
            _cut_again(model)
        return {name: np.concatenate([one[name] for one in found]) for name in found[0]}

    def compare(self, model: nn.Module, step: int) -> WatchedStep:
        """Compare the model as it is now with the start; what the first process finds counts."""
        found = self._against_start(self.columns(model, f"after step {step}"), step)
        return WatchedStep(**current_ranks().from_first(f"step {step}", asdict(found)))

    def at_start(self) -> WatchedStep:
        """The starting model itself, as step 0."""
        return self._against_start(self.start, 0)

    def _against_start(self, now: dict[str, np.ndarray], step: int) -> WatchedStep:
        start = self.start
        right, was = (side["top1"] == side["target"] for side in (now, start))
        kept = (start["topk_ids"][:, :, None] == now["topk_ids"][:, None, :]).any(2)
        lost = (was & ~right)[self.counted]
        return WatchedStep(
            step=step,
            n=len(right),
            nll=float(now["nll"].mean(dtype=np.float64)),
            accuracy=float(right.mean()),
            median_margin=float(np.median(now["margin"])),
            median_relative_distance=float(np.median(now["relative_distance"])),
            churn=float((now["top1"] != start["top1"]).mean()),
            right_to_wrong=float(lost.mean()) if lost.size else 0.0,
            stable_candidates=float(kept.mean()),
        )

    def exceeded(self, now: WatchedStep) -> str | None:
        """Which bound of the budget is passed, in words; None where none is."""
        budget, before = self.budget, float(self.start["nll"].mean(dtype=np.float64))
        if budget.nll is not None and now.nll > before * (1 + budget.nll):
            rise = now.nll / before - 1
            return f"held-out loss rose by {rise:.2%}, more than {budget.nll:.2%}"
        if budget.right_to_wrong is not None and now.right_to_wrong > budget.right_to_wrong:
            return (
                f"{now.right_to_wrong:.2%} of the watched decisions went from right to wrong, "
                f"more than {budget.right_to_wrong:.2%}"
            )
        return None

    def _measured(self, model: nn.Module, batch: Batch, when: str) -> list[dict[str, np.ndarray]]:
        """The columns of each block of a batch, measured where the model would call its head."""
        device, found = next(self.hook.model.parameters()).device, []
        sizes = [int(block.real.sum()) for block in batch.blocks]
        for block, targets in zip(batch.blocks, batch.targets.split(sizes), strict=True):
            inputs = {"input_ids": block.input_ids.to(device)}
            read = partial(self._columns, block.real, targets, when)
            found.append(self.hook.at_head(model, inputs, read))
        return found

    def _columns(
        self,
        real: Bool[Tensor, "batch seq"],
        targets: Int[Tensor, " positions"],
        when: str,
        hidden: Float[Tensor, "batch seq dim"],
        head: Head,
    ) -> dict[str, np.ndarray]:
        rows = hidden[real.to(hidden.device)]
        refuse_nonfinite(HELDOUT_LOSS, rows, when)
        precision = self.precisions.of(head.weight, rows)
        wanted = ColumnChoice(CHECKED_CANDIDATES)
        columns = measure(rows, head, targets.to(rows.device), wanted, precision)
        refuse_nonfinite(HELDOUT_LOSS, torch.from_numpy(columns["nll"]), when)
        return columns


class StopCallback(TrainerCallback):
    """Watches a run of the Trainer: measures, keeps the last good weights, stops where it must."""

    def __init__(self, check: HeldoutCheck, every: int, bar: Any) -> None:
        self.check, self.every, self.bar = check, every, bar
        self.stopped: str | None = None
        self.acquitted = 0
        self.good: dict[str, Tensor] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """The weights that the run starts or goes on from are good; a start is step 0."""
        if state.global_step == 0:
            history: list[Any] = state.log_history
            history.append({"step": 0, "watched": asdict(self.check.at_start())})
        self._keep(given["model"])
        self.bar.update(state.global_step - self.bar.n)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Measure every so many steps, and go back to the last good weights where it costs."""
        self.bar.update(1)
        if state.global_step >= state.max_steps:
            # From a checkpoint of the last step the Trainer would go on by one more.
            control.should_save = False
        if state.global_step % self.every and state.global_step < state.max_steps:
            return
        model = given["model"]
        found = self.check.compare(model, state.global_step)
        history: list[Any] = state.log_history
        history.append({"step": state.global_step, "watched": asdict(found)})
        self.bar.set_postfix_str(f"loss {found.nll:.3f}, median margin {found.median_margin:.3f}")
        exceeded = self.check.exceeded(found)
        if exceeded is None:
            self._keep(model)
            return
        self.stopped = f"at step {state.global_step} {exceeded}: back to the weights before"
        for name, parameter in model.named_parameters():
            if name in self.good:
                parameter.data.copy_(self.good[name])
        control.should_training_stop = True
        control.should_save = False

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Note what the checkpoint's files hold, so that a damaged one is told from a whole one."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()
        if state.is_world_process_zero:
            seal(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}")

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Stop a run whose held-out loss has left for good; the batches' only give cause to look.

        A batch may be a few tokens, whose losses lie far apart in any run.
        """
        logs: dict[str, float] = given.get("logs") or {}
        if "loss" not in logs or self.stopped is not None or state.global_step < self.acquitted:
            return
        history: list[dict[str, float]] = state.log_history
        recent = [_loss(line) for line in history if "loss" in line][-SUSPECTED_STEPS:]
        first = float(self.check.start["nll"].mean(dtype=np.float64))
        limit = max(math.log(self.check.hook.head.tokens), first + DIVERGED_NATS)
        if sum(recent) / len(recent) <= limit:
            return
        loss = self.check.compare(given["model"], state.global_step).nll
        if loss > limit:
            raise UnembedError(
                f"the run diverged: held-out loss {loss:.2f} nats at step {state.global_step}, "
                f"{first:.2f} at its start: lower the learning rate or the weight"
            )
        self.acquitted = state.global_step + SUSPECTED_STEPS

    @torch.no_grad()
    def _keep(self, model: nn.Module) -> None:
        """Copy what moves, into the copy before; without a budget nothing is ever gone back to."""
        if not self.check.budget.bounded:
            return
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            if name in self.good:
                self.good[name].copy_(parameter)
            else:
                self.good[name] = parameter.detach().clone()


def _cut_again(model: nn.Module) -> None:
    """Have FSDP 2 take back the weights that it leaves whole where no backward pass follows."""
    for module in model.modules():
        if hasattr(module, "set_reshard_after_backward"):
            cut: Any = module
            cut.reshard()


def _loss(logs: dict[str, float]) -> float:
    return logs.get("cross_entropy", logs["loss"])
