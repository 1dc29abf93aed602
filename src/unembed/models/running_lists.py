"""The lists of modules that a model runs through, and the few tokens that it is probed with."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unembed.head.head import final_hidden, output_embedding
from unembed.models.mode import evaluating
from unembed.short_repr import ShortRepr

PROBE_ROWS, PROBE_TOKENS = 2, 11
"""Numbers by which a state's axes of rows and of positions are told from each other."""

LISTS = (nn.ModuleList, nn.Sequential, nn.ModuleDict)


@dataclass(frozen=True)
class RunningList(ShortRepr):
    """A list of ``length`` modules, and the numbers of those that ran, in the order they did.

    ``nested`` says that it lies within another list that runs in order.
    """

    path: str
    length: int
    ran: tuple[int, ...]
    nested: bool

    @property
    def in_order(self) -> bool:
        """Whether no module ran twice, and none before an earlier one."""
        return all(a < b for a, b in pairwise(self.ran))

    @property
    def whole(self) -> bool:
        """Whether every module ran, once, from the first to the last."""
        return self.ran == tuple(range(self.length))


def running_lists(
    model: nn.Module, kinds: tuple[type[nn.Module], ...] = LISTS
) -> list[RunningList]:
    """The lists of which something runs on text, those with the most runs first.

    Lists within others come last: a block's experts may run in order too.
    """
    lists = {path: list(m.children()) for path, m in model.named_modules() if isinstance(m, kinds)}
    ran: dict[str, list[int]] = {path: [] for path in lists}
    with contextlib.ExitStack() as stack:
        for path, members in lists.items():
            for number, member in enumerate(members):

                def note(_m: nn.Module, _args: object, to: str = path, which: int = number) -> None:
                    ran[to].append(which)

                stack.callback(member.register_forward_pre_hook(note).remove)
        run_probe(model)
    found: list[RunningList] = []
    for path, members in lists.items():
        nested = any(one.in_order and path.startswith(f"{one.path}.") for one in found)
        if ran[path]:
            found.append(RunningList(path, len(members), tuple(ran[path]), nested))
    return sorted(found, key=lambda one: (one.nested, -len(one.ran)))


def longest_lists(model: nn.Module) -> dict[str, nn.ModuleList]:
    """The longest lists that run whole, by path; a model has one, its blocks, or is built in
    another way."""
    found = [one for one in running_lists(model, (nn.ModuleList,)) if one.whole and not one.nested]
    longest = max((one.length for one in found), default=0)
    lists: dict[str, Any] = {one.path: model.get_submodule(one.path) for one in found}
    return {path: members for path, members in lists.items() if len(members) == longest}


def run_probe(model: nn.Module) -> Float[Tensor, "batch seq dim"]:
    """The final hidden states of a few tokens, in evaluation and without gradients."""
    with evaluating(model):
        return final_hidden(model, probe_ids(model))


def probe_ids(model: nn.Module) -> Int[Tensor, "batch seq"]:
    """A few rows of a few tokens, on the model's device."""
    weight = output_embedding(model).weight
    tokens = torch.arange(PROBE_ROWS * PROBE_TOKENS, device=weight.device)
    return (tokens % len(weight)).view(PROBE_ROWS, PROBE_TOKENS)
