"""A model written to a folder of its own, whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from unembed.errors import UnembedError, WriteError
from unembed.models.checkpoint import Checkpoint, hushed
from unembed.runs.files import check_writable, make_folder, refusals


def check_new_folder(folder: Path) -> None:
    """Raise UnembedError unless a model may be written to this folder: a new one, or empty."""
    with refusals(folder):
        if folder.exists() and not folder.is_dir():
            raise UnembedError(f"{folder} is a file: give a folder for the model")
        check_writable(folder)
        others = sorted(one.name for one in folder.iterdir()) if folder.exists() else []
    if others:
        raise UnembedError(
            f"{folder} is in use (it holds {others[0]}): give an empty or new folder"
        )


def save(checkpoint: Checkpoint, folder: Path) -> None:
    """Write the model with its tokenizer, for plain transformers to load."""
    check_new_folder(folder)
    partial = folder.with_name(folder.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    model: Any = checkpoint.model
    try:
        with hushed():
            make_folder(folder.parent)
            model.save_pretrained(partial)
            checkpoint.tokenizer.save_pretrained(partial)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise WriteError(
            f"the model could not be written to {folder}: {error}; make room and repeat the command"
        ) from error
    if folder.exists():
        folder.rmdir()
    partial.rename(folder)
