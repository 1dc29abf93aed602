"""Move a model's boundaries by a short training run: train(model, texts, recipe) -> Trained."""

from __future__ import annotations

import copy
import json
import shutil
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unembed.head.head import faster_body_route
from unembed.head.precision import Precision
from unembed.head.product import Route, float32_products
from unembed.models.checkpoint import Checkpoint, context_of, load, quietly, token_ids
from unembed.models.length_proof import prove_lengths
from unembed.models.mode import kept_mode, restores_mode
from unembed.runs.files import write_whole
from unembed.runs.progress import progress_bar
from unembed.runs.ranks import current_ranks
from unembed.runs.record import record_to_json
from unembed.text.batches import BatchPlan, batches
from unembed.text.corpus import Corpus
from unembed.text.vocabulary import Vocabulary
from unembed.text.windows import Windows
from unembed.training.recipe.recipe import Recipe, steps_of
from unembed.training.recipe.scope import Scoped, apply_scope, plain_model
from unembed.training.recipe.weighting import Positions, tokens_of_classes
from unembed.training.run.checkpoints import (
    KEPT,
    check_training_room,
    save_model,
    saved_dtype,
    train_on,
)
from unembed.training.run.engine import (
    PrinterCallback,
    TrainingArguments,
    check_report_to,
)
from unembed.training.run.examples import Examples
from unembed.training.run.head_hook import HeadHook
from unembed.training.run.heldout_check import HeldoutCheck, StopCallback
from unembed.training.run.processes import (
    check_processes,
    of_process,
    training_together,
)
from unembed.training.run.rounding import Rounding
from unembed.training.run.row_bounds import HoldRowsCallback, RowBounds
from unembed.training.run.terms import term_of
from unembed.training.run.trainer import RefineTrainer

CHECKPOINTS = "checkpoints"
MODEL = "model"
NOTE = "trained.json"


@dataclass(frozen=True)
class Trained:
    """A finished training: its checkpoint as plain transformers loads it, and its note.

    ``note`` holds what moved, in words and numbers, why it stopped if it did early, and the
    Trainer's log.
    """

    checkpoint: Checkpoint
    note: dict[str, Any]


@restores_mode
def train(
    checkpoint: Checkpoint,
    training: Corpus,
    heldout: Corpus,
    recipe: Recipe,
    out: str | Path,
    *,
    positions: Positions | None = None,
    progress: bool = False,
    report_to: tuple[str, ...] = (),
) -> Trained:
    """Train a copy of a model and save it in ``out/model``, without any audit.

    Goes on from the last checkpoint in ``out``, and does nothing where the training is done; the
    arguments are those of ``refine``. ``heldout`` is measured on the way and never trained on.
    Under ``joined`` all processes train together, each on its share of every batch.
    """
    check_report_to(report_to)
    check_processes(recipe)
    out, ranks = Path(out), current_ranks()
    note = out / NOTE
    if not ranks.from_first(f"whether {note} is there", note.exists()):
        job = _TrainingJob(checkpoint, training, heldout, recipe, out, progress)
        # A caller that measures does so without gradients, which a training needs.
        with torch.inference_mode(False), torch.enable_grad(), training_together():
            found = job.run(positions, report_to)
        if found is not None:
            write_whole(note, json.dumps(found).encode())
            shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
        ranks.wait(f"the end of the training in {out}")
    device = next(checkpoint.model.parameters()).device
    refined = load(out / MODEL, device=str(device))
    return Trained(
        replace(refined, name=f"{checkpoint.name} refined"), json.loads(note.read_text())
    )


@dataclass(frozen=True)
class _TrainingJob:
    """One training: what it starts from, and where it writes."""

    checkpoint: Checkpoint
    training: Corpus
    heldout: Corpus
    recipe: Recipe
    out: Path
    progress: bool

    def run(self, positions: Positions | None, report_to: tuple[str, ...]) -> dict[str, Any] | None:
        """Train, save the model, and return the note; the first process alone has them."""
        recipe, start = self.recipe, self.checkpoint.model
        dtype = saved_dtype(recipe, start)
        torch.manual_seed(recipe.seed)
        scoped = self._scoped()
        check_training_room(scoped, self.out / CHECKPOINTS, recipe, dtype)
        ids = token_ids(self.checkpoint.tokenizer)
        context = context_of(start, recipe.context) - 1
        examples = Examples.of(self.training, context, positions)
        hook = HeadHook.of(scoped.model, ids)
        route = _route(hook)
        vocabulary = Vocabulary.of(self.checkpoint.tokenizer, range(hook.head.vocab))
        with (
            progress_bar("refine", "step", recipe.steps, self.progress) as bar,
            nullcontext() if route == "ieee" else float32_products(route),
        ):
            check = self._check(hook, context, vocabulary, route)
            callback = StopCallback(check, recipe.watch_every, bar)
            with quietly():
                trainer = RefineTrainer(
                    model=scoped.model,
                    args=_arguments(recipe, self.out / CHECKPOINTS, report_to, start),
                    train_dataset=examples,
                    data_collator=examples.collated,
                    callbacks=[callback],
                )
                trainer.remove_callback(PrinterCallback)
                term = term_of(recipe, hook, start, examples, vocabulary)
                trainer.refine_with(term, token_ids=ids)
                if recipe.row_bound is not None:
                    bounds = RowBounds.of(scoped.model, recipe.row_bound)
                    bounds.fit(scoped.model, examples)
                    trainer.add_callback(HoldRowsCallback(bounds))
                train_on(trainer, self.out / CHECKPOINTS)
                # The Trainer trains without a cache; the model generates with one.
                whole = self._whole(trainer, scoped)
                if whole is None:
                    return None
                config: Any = whole.model.config
                config.use_cache = getattr(start.config, "use_cache", False)
                refined = plain_model(whole)
                rounding = Rounding.of(start, refined, dtype)
                save_model(refined, self.checkpoint.tokenizer, dtype, self.out / MODEL)
        held = recipe.row_bound
        return {
            "moves": scoped.words
            + (f"; rows held within {held:g} of their root mean squares" if held else ""),
            "n_moving": scoped.n_moving,
            "n_total": scoped.n_total,
            "stopped": callback.stopped,
            "rounding": record_to_json(rounding),
            "log": trainer.state.log_history,
        }

    def _scoped(self) -> Scoped:
        """A copy of the model to train, in float32."""
        recipe, start = self.recipe, copy.deepcopy(self.checkpoint.model)
        return apply_scope(start.float(), recipe.scope, untie=recipe.untie, lora=recipe.lora)

    def _whole(self, trainer: Any, scoped: Scoped) -> Scoped | None:
        """What was trained, gathered where FSDP had cut it; None on all processes but the first."""
        first = current_ranks().first
        if not trainer.is_fsdp_enabled:
            return scoped if first else None
        weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        if not first:
            return None
        whole = self._scoped()
        whole.model.load_state_dict(weights)
        return whole

    def _check(
        self, hook: HeadHook, context: int, vocabulary: Vocabulary, route: Route = "ieee"
    ) -> HeldoutCheck:
        recipe = self.recipe
        windows = Windows.of(self.heldout, context, max_positions=recipe.watch_positions)
        device = next(hook.model.parameters()).device
        everything, plan = range(len(windows.length)), BatchPlan.of(device, None, windows.positions)
        with kept_mode(hook.model):
            proof = prove_lengths([hook.model.eval()], windows, plan, route)
        watched = list(batches(windows, everything, plan, mix=proof.mixed))
        counted = tokens_of_classes(recipe.budget.classes, vocabulary, hook.head.vocab)
        # From the first step on accelerate computes the model's call in bfloat16, if asked to.
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bf16):
            return HeldoutCheck.of(hook, watched, counted, recipe.budget)


def _route(hook: HeadHook) -> Route:
    """The route of the training's float32 products: the faster one of a CPU where it is as exact.

    A GPU's stay as its owner set them.
    """
    with kept_mode(hook.model):
        return faster_body_route(hook.model.eval(), Precision.probe(hook.head.weight))


def _arguments(
    recipe: Recipe, folder: Path, report_to: tuple[str, ...], start: nn.Module
) -> TrainingArguments:
    on_cpu = next(start.parameters()).device.type == "cpu"
    known = {one.name for one in fields(TrainingArguments)}
    way = "activation" if "activation_checkpointing" in known else "gradient"
    less_memory: dict[str, Any] = {f"{way}_checkpointing": recipe.gradient_checkpointing}
    arguments = TrainingArguments(
        output_dir=str(folder),
        **steps_of(of_process(recipe)),
        **less_memory,
        logging_steps=1,
        save_strategy="steps",
        save_total_limit=KEPT,
        report_to=list(report_to) or "none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=not on_cpu,
        use_cpu=on_cpu,
    )
    # With more GPUs visible the Trainer would spread its batches over all of them.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
