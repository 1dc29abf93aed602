"""Low-rank adapters on a causal language model's linear layers, by PEFT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from unembed.errors import UnembedError
from unembed.head.head import output_embedding
from unembed.models.checkpoint import hushed
from unembed.models.quantization import is_linear
from unembed.short_repr import ShortRepr

NAMES_SHOWN = 8


@dataclass(frozen=True)
class Lora(ShortRepr):
    """Low-rank adapters: ``W x + alpha / rank * B A dropout(x)`` with ``B = 0`` at the start.

    ``targets`` are linear layers by the end of their path (``q_proj``, ``1.mlp.up_proj``); None
    takes every linear layer but the head. ``seed`` draws A. Raises UnembedError for settings that
    are out of range.
    """

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UnembedError(f"LoRA rank {self.rank} adapts nothing: give at least 1")
        if self.alpha < 1:
            raise UnembedError(f"LoRA alpha {self.alpha} adapts nothing: give at least 1")
        if not 0 <= self.dropout < 1:
            raise UnembedError(f"LoRA dropout {self.dropout} is not in [0, 1): give one that is")
        if self.targets is not None and not self.targets:
            raise UnembedError("LoRA targets () name no layer: leave them out to take all")


def check_peft() -> None:
    """Raise UnembedError without PEFT."""
    if find_spec("peft") is None:
        raise UnembedError("scope 'lora' needs PEFT: pip install 'unembed[train]'")


def add_lora(
    model: nn.Module, lora: Lora, apart: Sequence[nn.Module] = ()
) -> tuple[nn.Module, str]:
    """PEFT's model around this one with the adapters in place, and a clause that says so.

    The adapters alone require gradients; modules ``apart`` get none. Raises UnembedError, and
    leaves the model as it was, for targets that are no linear layer or the head, and for layers
    that PEFT does not adapt.
    """
    targets = _targets(model, lora, apart)
    with hushed():
        import peft

        config = peft.LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=targets,
            task_type="CAUSAL_LM",
        )
        try:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(lora.seed)
                wrapped: nn.Module = peft.get_peft_model(model, config)
        except ValueError as error:
            _strip(model)
            raise UnembedError(
                f"PEFT adapts no such layers of {type(model).__name__} "
                f"({str(error).splitlines()[0].rstrip('.')}): name others as targets"
            ) from error
    kinds = ", ".join(dict.fromkeys(path.rpartition(".")[2] for path in targets))
    what = f"adapters of rank {lora.rank} on {len(targets)} linear layers move ({kinds})"
    return wrapped, what


def _strip(model: Any) -> None:
    """Take out the adapters that were in place before PEFT refused one."""
    for path, module in list(model.named_modules()):
        if hasattr(module, "get_base_layer"):
            model.set_submodule(path, module.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config


def _targets(model: nn.Module, lora: Lora, apart: Sequence[nn.Module]) -> list[str]:
    """The paths of the linear layers to adapt, of which none is ``apart``."""
    head = output_embedding(model)
    left = {module for one in apart for module in one.modules()}
    linear = {path: m for path, m in model.named_modules() if is_linear(m) and m not in left}
    body = [path for path, module in linear.items() if module is not head]
    kinds = list(dict.fromkeys(path.rpartition(".")[2] for path in body))
    if lora.targets is None:
        if not body:
            raise UnembedError(f"{type(model).__name__} has no linear layer besides its head")
        return body
    found: dict[str, None] = {}
    for target in lora.targets:
        fits = [path for path in linear if f".{path}".endswith(f".{target}")]
        if any(linear[path] is head for path in fits):
            raise UnembedError(f"LoRA target {target!r} is the head: take scope head to move it")
        if not fits:
            few = ", ".join(kinds[:NAMES_SHOWN])
            raise UnembedError(
                f"LoRA target {target!r} is no linear layer of {type(model).__name__}: "
                f"it has {few or 'none'}"
            )
        found.update(dict.fromkeys(fits))
    return list(found)
