"""Checkpoints of a training on disk: resumed from, written whole, and what a full disk says."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from unembed.errors import WriteError
from unembed.runs.files import check_room
from unembed.runs.ranks import current_ranks
from unembed.training.recipe.recipe import Recipe
from unembed.training.recipe.scope import Scoped
from unembed.training.run.checkpoint_seal import damage
from unembed.training.run.trainer import RefineTrainer

KEPT = 2
"""Checkpoints that stay of a training, so that the one before a damaged one is there."""

FLOAT32_BYTES = 4

DISK_FULL = (
    "No space left",
    "File too large",
    "os error 28",
    "PytorchStreamWriter",
    "inline_container",
    "iostream error",
)
"""How a refused write reads, by the library that met it."""


def train_on(trainer: RefineTrainer, checkpoints: Path) -> None:
    """Run the Trainer from its last whole checkpoint; what the disk refuses is one line."""
    try:
        trainer.train(resume_from_checkpoint=_last_whole(checkpoints))
    except (OSError, SafetensorError, RuntimeError) as error:
        words = str(error)
        if not any(sign in words for sign in DISK_FULL):
            raise
        raise WriteError(
            f"a checkpoint could not be written to {checkpoints}, as on a full disk "
            f"({words.splitlines()[0]}): make room and repeat the command, which goes on from the "
            "checkpoint before"
        ) from error


def check_training_room(
    scoped: Scoped, checkpoints: Path, recipe: Recipe, dtype: torch.dtype
) -> None:
    """Raise WriteError where a training's checkpoints, and beside them its model, do not fit.

    A checkpoint holds the float32 weights (of ``lora`` the adapters alone) and two moments of each
    that moves. KEPT of them stay, and one more while it is written; the model of ``dtype`` follows
    before they go. What a killed run left of them takes no more room.
    """
    saved = scoped.n_moving if scoped.scope == "lora" else scoped.n_total
    checkpoint = FLOAT32_BYTES * (saved + 2 * scoped.n_moving)
    written = (recipe.steps - 1) // recipe.watch_every
    model = scoped.n_total * dtype.itemsize
    needed = max(min(written, KEPT + 1) * checkpoint, min(written, KEPT) * checkpoint + model)
    there = sum(path.stat().st_size for path in checkpoints.rglob("*") if path.is_file())
    what = "the checkpoints and the model of this training"
    check_room(checkpoints.parent, needed - there, what)


def saved_dtype(recipe: Recipe, start: nn.Module) -> torch.dtype:
    """The dtype that the refined model is saved in: the recipe's, or the starting model's."""
    if recipe.save_dtype is None:
        return next(start.parameters()).dtype
    dtype: torch.dtype = getattr(torch, recipe.save_dtype)
    return dtype


def _last_whole(checkpoints: Path) -> str | None:
    """The newest checkpoint that is whole; the others are removed, each with a line on stderr.

    Of several processes the first looks.
    """
    ranks = current_ranks()
    found: str | None = ranks.from_first(
        f"the checkpoints in {checkpoints}", _first_whole(checkpoints) if ranks.first else None
    )
    return found


def _first_whole(checkpoints: Path) -> str | None:
    found = sorted(checkpoints.glob("checkpoint-*"), key=_step, reverse=True)
    for i, folder in enumerate(found):
        wrong = damage(folder)
        if wrong is None:
            return str(folder)
        shutil.rmtree(folder)
        after = f"step {_step(found[i + 1])}" if i + 1 < len(found) else "the start"
        sys.stderr.write(f"checkpoint of step {_step(folder)} {wrong}: going on from {after}\n")
    return None


def _step(folder: Path) -> int:
    step = folder.name.removeprefix("checkpoint-")
    return int(step) if step.isdigit() else -1


def save_model(model: nn.Module, tokenizer: Any, dtype: torch.dtype, folder: Path) -> None:
    """Write a model with its tokenizer whole or not at all."""
    partial = folder.with_name(folder.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    whole: Any = model.to(dtype).eval()
    try:
        whole.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise WriteError(
            f"the refined model could not be written to {folder}: {error}; make room and repeat "
            "the command"
        ) from error
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
