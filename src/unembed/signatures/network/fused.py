"""Calls of weights that several experts of a mixture share one tensor for, as they happen."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

BY_LINEAR = ("linear",)
BY_PRODUCT = ("matmul", "__matmul__", "mm", "bmm")
BY_GROUPS = ("_grouped_mm", "grouped_mm", "grouped_mm_fallback")
"""What transformers multiply experts' rows by: each expert's own, all of one size, or in groups."""


@dataclass(frozen=True)
class FusedCall:
    """One product of rows with experts' weights: ``groups`` are (expert, first row, row after).

    ``selection`` numbers the positions that rows were taken of, None where it was not seen.
    """

    inputs: Float[Tensor, "rows inputs"]
    groups: tuple[tuple[int, int, int], ...]
    selection: Int[Tensor, " rows"] | None


Met = Callable[[str, FusedCall, Tensor], Tensor]
"""Takes a weight's name, a call of it and the output, and gives what the model goes on with."""


class FusedCalls(TorchFunctionMode):
    """Within it every product with one of some fused weights is met, and whose rows it was of.

    ``positions`` is how many rows a state of all positions has: rows that are chosen of such a
    state, or repeated, are those that the next experts are given.
    """

    def __init__(
        self, weights: Mapping[str, nn.Parameter], positions: int, met: Met | None
    ) -> None:
        super().__init__()
        self.selection: Int[Tensor, " rows"] | None = None
        self._positions, self._met = positions, met
        self._spans = [
            (weight.data_ptr(), weight.data_ptr() + weight.nbytes, name, weight)
            for name, weight in weights.items()
        ]

    def __torch_function__(
        self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run what the model asked for."""
        named = kwargs or {}
        output = func(*args, **named)
        name = getattr(func, "__name__", "").partition(".")[0]
        if name in BY_LINEAR + BY_PRODUCT + BY_GROUPS:
            return self._product(name, args, named, output)
        if args and isinstance(args[0], Tensor) and args[0].is_floating_point():
            self._note_selection(name, args, named)
        return output

    def _product(self, name: str, args: Any, named: Any, output: Any) -> Any:
        weight = args[1] if len(args) > 1 else named.get("weight", named.get("mat2"))
        if not isinstance(weight, Tensor) or self._met is None:
            return output
        for first, last, which, whole in self._spans:
            if first <= weight.data_ptr() < last:
                groups = _groups(name, args, named, weight, whole)
                rows = args[0].reshape(-1, args[0].shape[-1])
                selection = self.selection
                if selection is None and len(rows) == self._positions:
                    selection = torch.arange(len(rows))
                if selection is not None and len(selection) != len(rows):
                    selection = None
                return self._met(which, FusedCall(rows.detach(), groups, selection), output)
        return output

    def _note_selection(self, name: str, args: Any, named: Any) -> None:
        """Remember which rows were chosen of a state of all positions."""
        state, count = args[0], self._positions
        if state.ndim != 2 or len(state) != count:
            return
        if name == "__getitem__":
            self._note_index(args[1])
        elif name == "index_select":
            self._note_index(named.get("index", args[-1]))
        elif name == "repeat" and args[2:] == (1,):
            self.selection = torch.arange(count).repeat(args[1])
        elif name == "repeat_interleave" and isinstance(args[1], int):
            self.selection = torch.arange(count).repeat_interleave(args[1])

    def _note_index(self, given: Any) -> None:
        """Remember an index of rows alone: with a second tensor it is one of single numbers."""
        tensors = [
            one
            for one in (given if isinstance(given, tuple) else (given,))
            if isinstance(one, Tensor)
        ]
        if len(tensors) == 1 and tensors[0].ndim == 1:
            chosen = tensors[0].detach().cpu()
            self.selection = chosen.nonzero()[:, 0] if chosen.dtype == torch.bool else chosen


def fused_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights of several experts in one tensor, by name: experts x one side x the other."""
    found: dict[str, nn.Parameter] = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            continue
        for name, weight in module.named_parameters(recurse=False):
            if weight.ndim == 3 and weight.is_floating_point():
                found[f"{path}.{name}"] = weight
    return found


@contextlib.contextmanager
def widths_met(
    weights: Mapping[str, nn.Parameter],
) -> Iterator[dict[str, tuple[int, int]]]:
    """Of each weight that is multiplied within the block, the widths of output and input."""
    found: dict[str, tuple[int, int]] = {}

    def met(name: str, call: FusedCall, output: Tensor) -> Tensor:
        found[name] = (int(output.shape[-1]), int(call.inputs.shape[-1]))
        return output

    if not weights:
        yield found
        return
    with FusedCalls(weights, 0, met):
        yield found


def _groups(
    name: str, args: Any, named: Any, weight: Tensor, whole: nn.Parameter
) -> tuple[tuple[int, int, int], ...]:
    """Which rows of a product are of which expert."""
    rows = args[0].numel() // args[0].shape[-1]
    if name in BY_GROUPS:
        ends = (named["offs"] if named.get("offs") is not None else args[2]).tolist()
        return tuple(
            (expert, first, last)
            for expert, (first, last) in enumerate(zip([0, *ends[:-1]], ends, strict=True))
            if last > first
        )
    if weight.ndim == 2:
        step = whole.stride(0) * whole.element_size()
        return (((weight.data_ptr() - whole.data_ptr()) // step, 0, rows),)
    each = rows // len(weight)
    return tuple((expert, expert * each, (expert + 1) * each) for expert in range(len(weight)))
