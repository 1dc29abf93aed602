"""A map of a model's modules to devices that keeps its output head where it can be read."""

from __future__ import annotations

import copy
import re
from typing import Any

import torch
from torch import nn

OFFLOADED = ("cpu", "disk")


def head_resident(config: Any, auto: Any) -> str | dict[str, Any]:
    """accelerate's own map of a model, with the output head, and what it is tied to, on a device.

    Every position needs the whole head, so that it is given its room first. "auto" where that is
    where accelerate puts it too, or where the model cannot be made without its weights.
    """
    accelerate: Any = __import__("accelerate")
    try:
        with torch.device("meta"):
            model = auto.from_config(copy.deepcopy(config))
        model.tie_weights()
        head = model.get_output_embeddings().weight
    except Exception:  # Loading makes it again, and says what is wrong.
        return "auto"
    held = {path for path, one in model.named_modules() if getattr(one, "weight", None) is head}
    dtype = getattr(config.get_text_config(), "dtype", None) or torch.float32
    unsplit = getattr(model, "_no_split_modules", None)
    unsplit = None if unsplit is None else list(unsplit)
    memory = accelerate.utils.get_balanced_memory(
        model, dtype=dtype, no_split_module_classes=unsplit
    )

    def mapped() -> dict[str, Any]:
        found: dict[str, Any] = accelerate.infer_auto_device_map(
            model, max_memory=memory, dtype=dtype, no_split_module_classes=unsplit
        )
        return found

    main = next(iter(memory))
    away = ("disk",) if main == "cpu" else OFFLOADED
    found = mapped()
    if all(_place(found, path) not in away for path in held):
        return found
    memory[main] = max(0, memory[main] - head.numel() * dtype.itemsize)
    return _with(mapped(), model, held, main)


def _with(
    device_map: dict[str, Any], model: nn.Module, held: set[str], device: Any
) -> dict[str, Any]:
    """The map with these modules on one device, and those around them mapped by their parts."""
    found = dict(device_map)
    for path in held:
        above = [""] + [path[: at.start()] for at in re.finditer(r"\.", path)]
        for outer in (one for one in above if one in found):
            place = found.pop(outer)
            for name, _part in model.get_submodule(outer).named_children():
                found.setdefault(f"{outer}.{name}" if outer else name, place)
    return found | dict.fromkeys(held, device)


def _place(device_map: dict[str, Any], path: str) -> Any:
    """Where a module goes: by its own entry, or by that of the nearest module around it."""
    while path and path not in device_map:
        path = path.rpartition(".")[0]
    return device_map.get(path)
