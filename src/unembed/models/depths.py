"""Where a model's blocks are, and what lies between the last of them and the head."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unembed.head.head import final_hidden, output_embedding
from unembed.models.mode import kept_mode
from unembed.short_repr import ShortRepr

PROBE_TOKENS = 8


@dataclass(frozen=True)
class Tail(ShortRepr):
    """The modules between a model's last block and its head, by path and class, in order.

    ``exact`` says that one after the other they make the head's input, to the bit, of the last
    block's output: nothing else lies between.
    """

    blocks: int
    modules: tuple[str, ...]
    exact: bool

    def __str__(self) -> str:
        between = ", ".join(self.modules) or "nothing"
        rest = "" if self.exact else ", and steps that are no modules"
        return f"{between}{rest} between the last of {self.blocks} blocks and the head"


def longest_lists(model: nn.Module) -> dict[str, nn.ModuleList]:
    """The longest lists of modules that run from their first to their last, each once, by path.

    A list within another is left out: a block's experts may run in order too. A model has one such
    list, its blocks, or is built in another way.
    """
    lists = {path: m for path, m in model.named_modules() if isinstance(m, nn.ModuleList)}
    ran: dict[str, list[nn.Module]] = {path: [] for path in lists}
    with contextlib.ExitStack() as stack:
        for path, members in lists.items():
            for member in members:
                note = member.register_forward_pre_hook(lambda m, _args, to=ran[path]: to.append(m))
                stack.callback(note.remove)
        run_probe(model)
    found: dict[str, nn.ModuleList] = {}
    for path, members in lists.items():
        inside = any(path.startswith(f"{outer}.") for outer in found)
        if ran[path] and ran[path] == list(members) and not inside:
            found[path] = members
    longest = max(map(len, found.values()), default=0)
    return {path: members for path, members in found.items() if len(members) == longest}


def tail_of(model: nn.Module) -> Tail | None:
    """What a model runs between its last block and its head; None where its blocks are not found.

    The modules that run after the last block are run again, one on the other's output, and the
    result is compared with the head's input.
    """
    lists = list(longest_lists(model).values())
    if len(lists) != 1:
        return None
    last, paths = lists[0][-1], {module: path for path, module in model.named_modules()}
    leaves = [module for module in model.modules() if not list(module.children())]
    ran: list[nn.Module] = []
    left: list[Tensor] = []

    def leave(_module: nn.Module, _args: object, output: Any) -> None:
        left.append(output if isinstance(output, Tensor) else output[0])
        ran.clear()

    with contextlib.ExitStack() as stack:
        stack.callback(last.register_forward_hook(leave).remove)
        for module in leaves:
            note = module.register_forward_hook(lambda m, _args, _output: ran.append(m))
            stack.callback(note.remove)
        hidden = run_probe(model)
    with evaluating(model):
        made: Any = left[-1]
        try:
            for module in list(ran):
                made = module(made)
        except Exception:  # a module that takes other inputs is no step of a chain
            made = None
    named = tuple(f"{paths[module]} ({type(module).__name__})" for module in ran)
    exact = isinstance(made, Tensor) and made.shape == hidden.shape and torch.equal(made, hidden)
    return Tail(len(lists[0]), named, exact)


def run_probe(model: nn.Module) -> Tensor:
    """The final hidden states of a few tokens, in evaluation and without gradients."""
    ids = torch.arange(PROBE_TOKENS, device=output_embedding(model).weight.device)[None]
    with evaluating(model):
        return final_hidden(model, ids)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without gradients, dropout and skipped layers; every module's mode is put back."""
    with kept_mode(model), torch.no_grad():
        model.eval()
        yield
