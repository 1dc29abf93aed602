"""Checkpoints of a training on disk: resumed from, written whole, and what a full disk says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from unembed.errors import WriteError
from unembed.training.run.trainer import RefineTrainer

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


def _last_whole(checkpoints: Path) -> str | None:
    """The newest checkpoint that was written to its end; others are removed."""
    found = []
    for folder in checkpoints.glob("checkpoint-*"):
        try:
            state = json.loads((folder / "trainer_state.json").read_text())
            found.append((int(state["global_step"]), str(folder)))
        except (OSError, ValueError, KeyError):
            shutil.rmtree(folder)
    return max(found)[1] if found else None


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
