"""LoRA adapters that PEFT saved, merged into a copy of the model that they belong to."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from unembed.errors import UnembedError
from unembed.head.head import output_embedding
from unembed.models.checkpoint import Checkpoint, hushed, load, refuse_pickles
from unembed.models.devices.placement import refuse_spread

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
ADAPTER_TYPE = "LORA"
REASON_CHARACTERS = 100


def is_adapter(folder: str | Path) -> bool:
    """Whether this is a folder of an adapter."""
    return (Path(folder) / CONFIG).is_file()


def is_adapter_alone(folder: str | Path) -> bool:
    """Whether a folder holds an adapter, and no weights of a whole model beside it."""
    whole = [file for file in Path(folder).glob("*.safetensors") if file.name != WEIGHTS]
    return is_adapter(folder) and not (whole and (Path(folder) / "config.json").is_file())


def base_of(folder: str | Path, base: str | None = None) -> str:
    """The model that an adapter belongs on: ``base``, or the local folder that the adapter names.

    Raises UnembedError where it names none.
    """
    if base is not None:
        return base
    _check(Path(folder))
    named = json.loads((Path(folder) / CONFIG).read_text()).get("base_model_name_or_path")
    if named:
        for place in (Path(named), Path(folder) / named):
            if place.is_dir():
                return str(place)
    raise UnembedError(
        f"{folder} is an adapter of {named!r}, which is no folder here: give --base, the model "
        "that it was trained on"
    )


def refuse_untrainable(name: str | Path, revision: str | None = None) -> None:
    """Raise UnembedError, before a load, for a model with an adapter in place, a folder or a name
    on the hub.
    """
    where, first = str(name), ""
    if not Path(name).is_dir() and _hub_holds_both(str(name), revision):
        where, first = "FOLDER", f"hf download {name} --local-dir FOLDER, "
    elif not is_adapter(name) or is_adapter_alone(name):
        return
    raise UnembedError(
        f"{name} holds an adapter beside its weights, which is put in place, and only a plain "
        f"model is trained: {first}move {CONFIG} and {WEIGHTS} to a folder of their own, and give "
        f"that with --base {where}, or {where} to train without it"
    )


def _hub_holds_both(name: str, revision: str | None) -> bool:
    """Whether a name on the hub is of a model and of an adapter, by two small files."""
    from transformers.utils.hub import cached_file

    with hushed():
        try:
            return all(
                cached_file(
                    name,
                    file,
                    revision=revision,
                    _raise_exceptions_for_gated_repo=False,
                    _raise_exceptions_for_missing_entries=False,
                    _raise_exceptions_for_connection_errors=False,
                )
                for file in (CONFIG, "config.json")
            )
        except (OSError, ValueError):
            return False  # Loading says what is wrong with the name.


def load_whole(name: str | Path, *, base: str | None = None, **loading: Any) -> Checkpoint:
    """A checkpoint, or an adapter's folder merged into its base, as a plain model.

    ``base`` is the model that an adapter belongs on; without it the adapter's own word is taken,
    where that is a local folder. A whole checkpoint whose folder holds an adapter too, which
    transformers puts in place by itself, says so in its name. ``loading`` is that of
    ``checkpoint.load``. Raises UnembedError as that does, for a base without an adapter, and for an
    adapter that does not fit its base.
    """
    if is_adapter(name):
        refuse_spread(str(name), loading.get("device_map"))
    if is_adapter_alone(name):
        below = load(base_of(name, base), **loading)
        return adapted(below, name, any_head=True)
    if base is not None:
        raise UnembedError(
            f"--base {base} is for an adapter, and {name} is none (no {CONFIG}, or whole weights "
            "beside it): leave --base out"
        )
    found = load(name, **loading)
    if has_adapter_in_place(found):
        return replace(found, name=f"{found.name} with the adapter in its folder")
    return found


def has_adapter_in_place(checkpoint: Checkpoint) -> bool:
    """Whether transformers put an adapter that lay beside the weights in place."""
    return bool(getattr(checkpoint.model, "_hf_peft_config_loaded", False))


def adapted(checkpoint: Checkpoint, folder: str | Path, *, any_head: bool = False) -> Checkpoint:
    """A copy of the checkpoint with an adapter's ``alpha / rank * B A`` added to its weights.

    The checkpoint stays as it was. Both have the same output head, so that signatures of the two
    compare, unless ``any_head`` allows another. Raises UnembedError, in one line, without PEFT, and
    for an adapter that is no LoRA, whose weights are pickled or damaged, that was made for another
    model, or that changes the output head or an embedding tied to it.
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
    if not any_head:
        _check_head(folder, checkpoint, merged)
    return replace(checkpoint, name=f"{checkpoint.name} with {folder.name}", model=merged)


def _check(folder: Path) -> None:
    """Raise UnembedError for what the files alone show to be wrong."""
    if not is_adapter(folder):
        raise UnembedError(f"{folder} holds no {CONFIG}: give the folder of an adapter")
    try:
        kind = json.loads((folder / CONFIG).read_text()).get("peft_type")
    except (OSError, ValueError, AttributeError, RecursionError):
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
