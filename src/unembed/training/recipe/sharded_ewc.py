"""Elastic weight consolidation where FSDP gives each process a part of every parameter."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unembed.errors import UnembedError
from unembed.short_repr import ShortRepr
from unembed.training.recipe.protection import Ewc

WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
"""What wrappers put into the name of a parameter."""


@dataclass(frozen=True)
class ShardedEwc(ShortRepr):
    """What ``Ewc`` keeps of the parts that this process holds.

    Between two steps a parameter is these parts alone: the penalty, a sum over entries, is taken
    there, and so is its gradient, ``fisher * (parameter - start)``. ``copies`` counts, by name, the
    processes that hold the same part (more than one where a model is sharded inside of nodes and
    repeated over them).
    """

    start: dict[str, Float[Tensor, "..."]]
    fisher: dict[str, Float[Tensor, "..."]]
    copies: dict[str, int]

    @staticmethod
    def of(ewc: Ewc, model: nn.Module) -> ShardedEwc | None:
        """The parts of ``ewc``, made of the whole model; None where ``model`` is whole.

        ``model`` is the wrapped one, outside of a forward pass. Raises UnembedError for flat
        parameters of FSDP 1 that do not keep the original ones, and ValueError where the model
        lacks a parameter.
        """
        layouts = {name: _layout(p) for name, p in _parameters(model)}
        flat = _flat_ranges(model)
        if not flat and all(layout is None for layout in layouts.values()):
            return None
        start, fisher, copies = {}, {}, {}
        for name, parameter in _parameters(model):
            if name not in ewc.start:
                continue
            whole = ewc.start[name], ewc.fisher[name]
            if id(parameter) in flat:
                span, copies[name] = flat[id(parameter)]
                parts = [one.flatten()[span] for one in whole]
            elif (layout := layouts[name]) is not None:
                parts = [_local(layout.cut(one)) for one in whole]
                copies[name] = layout.copies
            else:
                parts, copies[name] = list(whole), _processes()
            device = _local(parameter).device
            start[name], fisher[name] = (part.to(device, copy=True) for part in parts)
        missing = sorted(ewc.start.keys() - start.keys())
        if missing:
            raise ValueError(f"{type(model).__name__} has no parameter {missing[0]}")
        return ShardedEwc(start, fisher, copies)

    @torch.no_grad()
    def add_gradients(self, model: nn.Module, factor: float, scale: float = 1.0) -> float:
        """Add ``scale`` times the gradient of ``factor`` times the penalty to those of a step that
        is through its backward pass; the weighted penalty over all processes.

        ``scale`` is that of a loss in float16, whose gradients are unscaled later.
        """
        total: Tensor = torch.zeros((), dtype=torch.float64)
        for name, parameter in _parameters(model):
            if name not in self.start:
                continue
            pull = _local(parameter).float().view_as(self.start[name]) - self.start[name]
            gradient = self.fisher[name] * pull
            total += (gradient * pull).sum().cpu().double() / (2 * self.copies[name])
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            held = _local(parameter.grad)
            held += (factor * scale) * gradient.view_as(held).to(held.dtype)
        where = next(iter(self.start.values())).device
        total = total.to(where)
        torch.distributed.all_reduce(total)
        return factor * float(total)


@dataclass(frozen=True)
class _Layout:
    """How a parameter of FSDP 2 is cut: its mesh of processes and what each axis does."""

    mesh: Any
    placements: tuple[Any, ...]

    def cut(self, whole: Tensor) -> Any:
        """A whole tensor in the same parts, without a word between the processes."""
        from torch.distributed.tensor import distribute_tensor

        device = self.mesh.device_type
        return distribute_tensor(whole.to(device), self.mesh, self.placements, src_data_rank=None)

    @property
    def copies(self) -> int:
        parts: int = math.prod(
            self.mesh.size(axis)
            for axis, placement in enumerate(self.placements)
            if placement.is_shard()
        )
        return _processes() // parts


def _layout(parameter: Tensor) -> _Layout | None:
    """Of a parameter that FSDP 2 has cut; None of a plain one."""
    placements = getattr(parameter, "placements", None)
    mesh: Any = getattr(parameter, "device_mesh", None)
    return None if placements is None else _Layout(mesh, tuple(placements))


def _local(tensor: Any) -> Tensor:
    """What this process holds of a tensor."""
    held: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor.detach()
    return held


def _parameters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter by the name that it had before anything was wrapped."""
    for name, parameter in model.named_parameters():
        for wrapper in WRAPPERS:
            name = name.replace(wrapper, "")
        yield name, parameter


def _processes() -> int:
    return int(torch.distributed.get_world_size())


def _flat_ranges(model: nn.Module) -> dict[int, tuple[slice, int]]:
    """Of FSDP 1: by a parameter's id, which entries of it lie here and how many others hold them.

    FSDP 1 keeps this to itself, and is no longer developed.
    """
    if not torch.distributed.is_available():
        return {}
    from torch.distributed.fsdp import FullyShardedDataParallel

    found: dict[int, tuple[slice, int]] = {}
    for module in FullyShardedDataParallel.fsdp_modules(model):
        flat: Any = getattr(module, "_flat_param", None)
        if flat is None:
            continue
        if flat._params is None:
            raise UnembedError(
                "EWC needs parameters by their names, and FSDP 1 has flattened them: launch with "
                "--fsdp_use_orig_params true, or with --fsdp_version 2"
            )
        group: Any = module.process_group
        copies = _processes() // group.size()
        for parameter, part in zip(flat._params, flat._shard_param_infos, strict=True):
            first = part.intra_param_start_idx if part.in_shard else 0
            end = part.intra_param_end_idx + 1 if part.in_shard else 0
            found[id(parameter)] = slice(first, end), copies
    return found
