"""Rows of linear layers without outlying weights, so that an 8-bit rounding has finer steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unembed.errors import UnembedError
from unembed.head.head import final_hidden, output_embedding
from unembed.models.mode import evaluating
from unembed.models.quantization import is_linear
from unembed.short_repr import ShortRepr
from unembed.training.run.engine import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from unembed.training.run.examples import Examples

READ_POSITIONS = 20_480
"""Positions of the training text whose inputs say how the weights of a row stand in for others."""
MOMENT_BYTES = 1 << 31
"""Second moments of inputs that are held at a time; more layers than that take another pass."""
SWEEPS = 30
RIDGE = 1e-3
"""Of the mean squared input, added to each: few positions do not say all of a layer's inputs."""


@dataclass(frozen=True)
class RowBounds(ShortRepr):
    """Linear layers whose weights move, and the largest weight that each of their rows may have.

    A row are the weights of one output. A bound is so many root mean squares of the row at the
    start, shaped (out, 1), each layer's its own ``out``.
    """

    layers: tuple[nn.Module, ...]
    bounds: tuple[Tensor, ...]

    @staticmethod
    @torch.no_grad()
    def of(model: nn.Module, times: float) -> RowBounds:
        """Of all linear layers but the head. Raises UnembedError where none of them moves."""
        last = output_embedding(model)
        layers = tuple(
            module
            for module in model.modules()
            if is_linear(module) and module is not last and _parameter(module).requires_grad
        )
        if not layers:
            raise UnembedError(
                f"row_bound {times:g} finds no linear layer of {type(model).__name__} that moves, "
                "besides its head: leave it out"
            )
        rows = (_rows(layer) for layer in layers)
        bounds = tuple(times * one.square().mean(1, keepdim=True).sqrt() for one in rows)
        return RowBounds(layers, bounds)

    @torch.no_grad()
    def hold(self) -> None:
        """Take each weight that has left its bound back to it."""
        for layer, bound in zip(self.layers, self.bounds, strict=True):
            rows = _rows(layer)
            rows.copy_(rows.clamp(-bound, bound))

    @torch.no_grad()
    def fit(self, model: nn.Module, examples: Examples) -> None:
        """Bring the layers within their bounds, near to what they make of a text's inputs."""
        with evaluating(model):
            for part in _groups(self.layers):
                moments = _second_moments(model, part, examples)
                for layer, found in zip(part, moments, strict=True):
                    rows = _rows(layer)
                    bound = self.bounds[self.layers.index(layer)]
                    rows.copy_(within(rows, found, bound))


class HoldRowsCallback(TrainerCallback):
    """Keeps rows within their bounds after each step of the optimiser."""

    def __init__(self, bounds: RowBounds) -> None:
        self.bounds = bounds

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Take what left its bound back to it."""
        self.bounds.hold()


def within(
    weight: Float[Tensor, "out dim"],
    moments: Float[Tensor, "dim dim"],
    bound: Float[Tensor, "out 1"],
    sweeps: int = SWEEPS,
) -> Float[Tensor, "out dim"]:
    """The rows ``|w| <= bound`` with the least mean squared change of outputs, by coordinates.

    That is ``(w - weight) moments (w - weight)`` for inputs of these second moments, with RIDGE of
    their mean on the diagonal. A row that is within its bound stays as it is, to the bit.
    """
    ridge = RIDGE * moments.diagonal().mean() + torch.finfo(moments.dtype).tiny
    moments = moments + ridge * torch.eye(len(moments), dtype=moments.dtype, device=moments.device)
    found = weight.clamp(-bound, bound)
    gradient = (found - weight) @ moments
    edge = bound[:, 0]
    for _ in range(sweeps):
        before = found.clone()
        for at, row in enumerate(moments):
            best = found[:, at] - gradient[:, at] / row[at]
            step = best.clamp(-edge, edge) - found[:, at]
            gradient.addr_(step, row)
            found[:, at] += step
        if bool((found - before).abs().le(1e-4 * bound).all()):
            break
    return found


def _parameter(layer: nn.Module) -> nn.Parameter:
    return layer.get_parameter("weight")


def _rows(layer: nn.Module) -> Float[Tensor, "out dim"]:
    """The weight as (out, in), a view: GPT-2's layers hold it the other way round."""
    weight = _parameter(layer).detach()
    return weight.T if type(layer).__name__ == "Conv1D" else weight


def _groups(layers: tuple[nn.Module, ...]) -> Iterator[list[nn.Module]]:
    """The layers in order, as many at a time as MOMENT_BYTES holds, at least one."""
    group: list[nn.Module] = []
    held = 0
    for layer in layers:
        rows = _rows(layer)
        size = rows.shape[1] ** 2 * rows.element_size()
        if group and held + size > MOMENT_BYTES:
            yield group
            group, held = [], 0
        group.append(layer)
        held += size
    yield group


def _second_moments(model: nn.Module, layers: list[nn.Module], examples: Examples) -> list[Tensor]:
    """The sum of ``x xᵀ`` over the inputs x of each layer, at evenly spread training windows."""
    found = [rows.new_zeros(2 * (rows.shape[1],)) for rows in map(_rows, layers)]
    handles = [
        layer.register_forward_pre_hook(partial(_gather, moments))
        for layer, moments in zip(layers, found, strict=True)
    ]
    try:
        for ids in _windows(examples):
            final_hidden(model, ids.to(_parameter(layers[0]).device))
    finally:
        for handle in handles:
            handle.remove()
    return found


def _gather(moments: Tensor, _layer: nn.Module, args: tuple[Tensor, ...]) -> None:
    inputs = args[0].detach().flatten(0, -2).to(moments.dtype)
    moments.addmm_(inputs.T, inputs)


def _windows(examples: Examples) -> Iterator[Tensor]:
    """Windows spread evenly over the text, of READ_POSITIONS in all."""
    positions = max(1, examples.windows.positions)
    every = max(1, round(positions / READ_POSITIONS))
    for i in range(0, len(examples), every):
        yield examples[i]["input_ids"][None]
