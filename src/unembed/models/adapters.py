"""LoRA adapters that PEFT saved, merged into a copy of the model that they belong to."""

from __future__ import annotations

import copy
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from unembed.errors import UnembedError
from unembed.head.head import output_embedding
from unembed.models.checkpoint import Checkpoint, hushed, refuse_pickles

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
ADAPTER_TYPE = "LORA"
REASON_CHARACTERS = 100


def is_adapter(folder: str | Path) -> bool:
    """Whether this is a folder of an adapter."""
    return (Path(folder) / CONFIG).is_file()


def adapted(checkpoint: Checkpoint, folder: str | Path) -> Checkpoint:
    """A copy of the checkpoint with an adapter's ``alpha / rank * B A`` added to its weights.

    The checkpoint stays as it was. Both have the same output head, so that signatures of the two
    compare. Raises UnembedError, in one line, without PEFT, and for an adapter that
    is no LoRA, whose weights are pickled or damaged, that was made for another model, or that
    changes the output head or an embedding tied to it.
    """
    folder = Path(folder)
    _check(folder)
    model: Any = copy.deepcopy(checkpoint.model)
    with hushed():
        import peft

        try:
            with torch.random.fork_rng(devices=[]):
                loaded: Any = peft.PeftModel.from_pretrained(
                    model,
                    str(folder),
                    config=peft.LoraConfig.from_pretrained(str(folder)),
                    torch_device=str(next(model.parameters()).device),
                    use_safetensors=True,
                )
            needed, known = (
                set(peft.get_peft_model_state_dict(loaded, save_embedding_layers=embeddings))
                for embeddings in (False, True)
            )
            _check_fit(folder, checkpoint, needed, known)
            merged = loaded.merge_and_unload(safe_merge=True).eval()
        except UnembedError:
            raise
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:REASON_CHARACTERS].rstrip(".: ")
            raise UnembedError(
                f"{folder} does not fit {checkpoint.name} ({reason}): give the model that it was "
                "trained on"
            ) from error
    _check_head(folder, checkpoint, merged)
    return Checkpoint(f"{checkpoint.name} with {folder.name}", merged, checkpoint.tokenizer)


def _check(folder: Path) -> None:
    """Raise UnembedError for what the files alone show to be wrong."""
    if not is_adapter(folder):
        raise UnembedError(f"{folder} holds no {CONFIG}: give the folder of an adapter")
    try:
        kind = json.loads((folder / CONFIG).read_text()).get("peft_type")
    except (OSError, ValueError, AttributeError):
        raise UnembedError(f"{folder / CONFIG} is no JSON object: copy the adapter again") from None
    if kind != ADAPTER_TYPE:
        raise UnembedError(f"{folder} is an adapter of type {kind}: give a {ADAPTER_TYPE}")
    if not (folder / WEIGHTS).is_file():
        refuse_pickles(folder)
        raise UnembedError(f"{folder} holds no {WEIGHTS}: copy the adapter again")
    try:
        _names(folder)
    except (SafetensorError, OSError) as error:
        raise UnembedError(f"{folder / WEIGHTS} is damaged ({error}): copy it again") from None
    if find_spec("peft") is None:
        raise UnembedError(
            f"{folder} is an adapter, which needs PEFT: pip install 'unembed[train]'"
        )


def _names(folder: Path) -> set[str]:
    with safe_open(folder / WEIGHTS, "pt") as held:
        return set(held.keys())


def _check_fit(folder: Path, checkpoint: Checkpoint, needed: set[str], known: set[str]) -> None:
    """Raise UnembedError unless the file's tensors are those that the adapted model has.

    PEFT itself loads what fits and ignores the rest without a word. ``known`` includes embeddings,
    which it saves whole with their adapters.
    """
    held = _names(folder)
    for names, fault in ((held - known, "has no"), (needed - held, "also needs")):
        if names:
            raise UnembedError(
                f"{folder} does not fit {checkpoint.name}, which {fault} {min(names)} (one of "
                f"{len(names)}): give the model that it was trained on"
            )


def _check_head(folder: Path, checkpoint: Checkpoint, merged: Any) -> None:
    """Raise UnembedError where a hidden state would have other logits than before."""
    base: Any = checkpoint.model
    head, inputs = output_embedding(base), base.get_input_embeddings()
    tied = inputs is not None and inputs.weight.data_ptr() == head.weight.data_ptr()
    pairs = [("output head", head, output_embedding(merged))]
    if tied:
        pairs.append(
            ("embedding, which the head is tied to", inputs, merged.get_input_embeddings())
        )
    for what, before, after in pairs:
        for name in ("weight", "bias"):
            old, new = (getattr(module, name, None) for module in (before, after))
            if old is None and new is None:
                continue
            if old is None or new is None or not torch.equal(old, new):
                raise UnembedError(
                    f"{folder} changes the {what}: signatures of two heads do not compare; give "
                    "an adapter of the other layers"
                )
