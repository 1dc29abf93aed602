"""Load a checkpoint and its tokenizer, safely: safetensors only, no code from the checkpoint."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unembed.errors import UnembedError

CONTEXT_LIMIT = 2048
"""Longest context taken by default: attention over a model's full window of 128k tokens would cost
more than it tells. ``--context`` asks for more."""

DTYPES = {
    "auto": None,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True)
class Checkpoint:
    """A causal language model in evaluation mode with its tokenizer."""

    name: str
    model: nn.Module
    tokenizer: Any


def load(
    name: str | Path,
    *,
    dtype: str = "auto",
    device: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Checkpoint:
    """Load a causal language model from a local folder or the hub.

    ``dtype`` "auto" keeps the checkpoint's own precision. ``device`` None takes a GPU if there is
    one. Raises UnembedError where the folder is missing, holds no causal language model, lacks
    trained weights for some of it, or holds pickled weights only.
    """
    name = str(name)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if dtype not in DTYPES:
        raise UnembedError(f"--dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    _look_before_loading(name)
    import transformers

    wanted: Any = DTYPES[dtype] or "auto"
    with _quiet(transformers):
        try:
            model, report = transformers.AutoModelForCausalLM.from_pretrained(
                name,
                dtype=wanted,
                revision=revision or "main",
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                name, revision=revision or "main", trust_remote_code=trust_remote_code
            )
        except Exception as error:
            raise UnembedError(f"{name} could not be loaded: {_first_line(error)}") from error
    untrained = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})
    if untrained:
        raise UnembedError(
            f"{name} has no trained weights for {len(untrained)} parameters of "
            f"{type(model).__name__} (first: {untrained[0]}): give a causal language model with "
            "its output head, not an encoder or a bare backbone"
        )
    try:
        model = model.to(place)
    except (RuntimeError, AssertionError) as error:
        raise UnembedError(f"--device {place}: {_first_line(error)}") from None
    return Checkpoint(name, model.eval(), tokenizer)


def context_of(model: nn.Module) -> int:
    """The model's context in tokens, at most CONTEXT_LIMIT."""
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        limit = getattr(text, name, None)
        if isinstance(limit, int) and limit > 1:
            return min(limit, CONTEXT_LIMIT)
    return CONTEXT_LIMIT


def token_ids(tokenizer: Any) -> list[int]:
    """Every id that the tokenizer can produce or decode."""
    return sorted({int(i) for i in tokenizer.get_vocab().values()})


def _look_before_loading(name: str) -> None:
    """Refuse what can be recognised from the file names, before anything is read."""
    folder = Path(name)
    if folder.is_file():
        raise UnembedError(f"{name} is a file: give the folder that holds the checkpoint")
    if not folder.is_dir():
        looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
        if looks_local:
            raise UnembedError(f"{name}: no such model folder")
        return
    if not (folder / "config.json").exists():
        raise UnembedError(f"{name} holds no config.json: give a Hugging Face checkpoint folder")
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(f.name for f in folder.iterdir() if f.suffix in (".bin", ".pt", ".pth"))
        if pickled:
            raise UnembedError(
                f"{name} holds its weights only as a pickle ({pickled[0]}), which can run code "
                "when loaded; save it again with model.save_pretrained(..., safe_serialization=True)"
            )
        raise UnembedError(f"{name} holds no .safetensors weights")


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Keep the library's warnings and bars off stderr: what matters is raised as an error."""
    level = transformers.logging.get_verbosity()
    bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity(logging.CRITICAL)
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else repr(error)
