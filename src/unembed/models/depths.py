"""Where a model's blocks are, and what lies between the last of them and the head."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from unembed.errors import HeadError, UnembedError
from unembed.head.head import final_hidden
from unembed.models.block_list import BlockList, state_of
from unembed.models.mode import evaluating
from unembed.models.running_lists import (
    PROBE_ROWS,
    PROBE_TOKENS,
    RunningList,
    probe_ids,
    running_lists,
)
from unembed.short_repr import ShortRepr

MOST_TRIED = 4
"""Lists that are tried, each for two runs of the body, where the first are not the blocks."""

HEAD_ALONE = "its layers cannot be measured, an audit of its head can"


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


@dataclass(frozen=True)
class Depths(ShortRepr):
    """A model's blocks and the way from the last of them to its head, found and proved.

    ``path`` is that of the list of ``blocks``; ``widths`` are those of the stream at depths 0 (what
    enters the first block) to ``blocks``. ``tail`` says in words what follows, ``block_list`` how
    the states are read and the tail is replayed.
    """

    path: str
    blocks: int
    widths: tuple[int, ...]
    tail: Tail
    block_list: BlockList

    @staticmethod
    def of(model: nn.Module) -> Depths:
        """Find the blocks of a causal language model and prove them on a probe batch.

        A list of modules is that of the blocks where those that run on text run once and in order;
        what each reads is what the one before it returned, to the bit, or a power of two of it; and
        what the last one returned makes the head's input, to the bit, when the rest of the model is
        run on it alone: also with other tokens as the model's input, and at half of the positions
        with nothing at the others.
        Raises HeadError that says of the longest list what did not hold. Source: theory §3.
        """
        kind, reasons = type(model).__name__, []
        for one in running_lists(model)[:MOST_TRIED]:
            try:
                return _proved(model, one)
            except _NotProvedError as failed:
                reasons.append(f"of {one.path} ({one.length} modules), {failed}")
        reason = reasons[0] if reasons else "it runs no list of modules"
        raise HeadError(f"the blocks of {kind} are not proved: {reason}; {HEAD_ALONE}")

    def check(self, wanted: Collection[int]) -> None:
        """Raise UnembedError for depths that are not there."""
        missing = sorted({depth for depth in wanted if not 0 <= depth <= self.blocks})
        if missing:
            raise UnembedError(
                f"depth {missing[0]} is not there: {self.path} has {self.blocks} blocks, so that "
                f"depths are 0 (what enters the first) to {self.blocks}"
            )


class _NotProvedError(Exception):
    """Says of a list of modules what did not hold."""


@dataclass
class _Call:
    """What one block was given and returned."""

    given: dict[int | str, Tensor]
    output: Any


def _proved(model: nn.Module, found: RunningList) -> Depths:
    """The depths of a list of modules; _NotProvedError where they are not its blocks."""
    if not found.in_order:
        first = ", ".join(str(number + 1) for number in found.ran[:6])
        more = " ..." if len(found.ran) > 6 else ""
        raise _NotProvedError(f"modules run as {first}{more}: not each once and in order")
    ids = probe_ids(model)
    with evaluating(model):
        members = list(model.get_submodule(found.path).children())
        calls = _calls(model, [members[number] for number in found.ran], ids)
        entry = _entry(calls)
        for block, call in enumerate(calls[1:], 1):
            if not _is_read(call.given.get(entry), state_of(calls[block - 1].output)):
                raise _NotProvedError(f"block {block}'s output is not what block {block + 1} reads")
        returns = tuple(
            len(call.output) if isinstance(call.output, tuple | list) else None for call in calls
        )
        axes = _axes(state_of(calls[-1].output))
        blocks = BlockList(found.path, found.ran, entry, returns, axes)
        last, widths = _prove_replay(model, blocks, ids)
        tail = _tail_of(model, blocks, ids, last)
    return Depths(found.path, blocks.blocks, widths, tail, blocks)


def _calls(model: nn.Module, blocks: list[nn.Module], ids: Int[Tensor, "batch seq"]) -> list[_Call]:
    """What each block was given and returned, copied, since a block may add in place."""
    given: list[dict[int | str, Tensor]] = []
    outputs: list[Any] = []

    def enter(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        slots: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
        given.append({at: one.clone() for at, one in slots if isinstance(one, Tensor)})

    def leave(_block: nn.Module, _args: Any, output: Any) -> None:
        state = state_of(output)
        if not isinstance(state, Tensor):
            raise _NotProvedError(f"block {len(given)} returns no tensor first")
        if not bool(torch.isfinite(state).all()):
            raise _NotProvedError(f"block {len(given)} returns numbers that are not finite")
        kept = state.clone()
        outputs.append(kept if state is output else [kept, *output[1:]])

    with contextlib.ExitStack() as stack:
        for block in blocks:
            stack.callback(block.register_forward_pre_hook(enter, with_kwargs=True).remove)
            stack.callback(block.register_forward_hook(leave).remove)
        final_hidden(model, ids)
    return [_Call(*call) for call in zip(given, outputs, strict=True)]


def _entry(calls: list[_Call]) -> int | str:
    """The argument by which a block takes its state: that which the block before it returned."""
    if len(calls) == 1:
        floating = [at for at, one in calls[0].given.items() if one.is_floating_point()]
        if not floating:
            raise _NotProvedError("its only block is given no state")
        return floating[0]
    for at, one in calls[1].given.items():
        if at in calls[0].given and _is_read(one, state_of(calls[0].output)):
            return at
    raise _NotProvedError("block 1's output is not what block 2 reads")


def _axes(state: Tensor) -> tuple[int, int]:
    """A state's axes of rows and of positions."""
    shape = list(state.shape[:-1])
    for first in range(len(shape) - 1):
        if shape[first : first + 2] == [PROBE_ROWS, PROBE_TOKENS]:
            return first, first + 1
    raise _NotProvedError(
        f"the last block's output, of shape {tuple(state.shape)} for {PROBE_ROWS} rows of "
        f"{PROBE_TOKENS} tokens, has no state a token"
    )


def _prove_replay(
    model: nn.Module, blocks: BlockList, ids: Int[Tensor, "batch seq"]
) -> tuple[Tensor, tuple[int, ...]]:
    """The last state and all widths; _NotProvedError where the tail reads more than that state."""
    hidden, states = blocks.read(model, ids, range(blocks.blocks + 1))
    last = states[blocks.blocks]
    for depth, state in states.items():
        if state.shape != last.shape:
            raise _NotProvedError(
                f"the state at depth {depth} is of shape {tuple(state.shape)} and the last "
                f"{tuple(last.shape)}, so that the tail cannot read both"
            )

    def replayed(tokens: Int[Tensor, "batch seq"], state: Tensor) -> Tensor:
        try:
            return blocks.replay(model, tokens, state)
        except Exception as error:
            raise _NotProvedError(
                "the model cannot be run without them "
                f"({type(error).__name__}: {' '.join(str(error).split())[:80]})"
            ) from error

    if not _same(replayed(ids, last), hidden):
        raise _NotProvedError(
            "the state after the last block, given back in its place, does not make the head's "
            "input again"
        )
    if not _same(replayed(ids.roll(1, 1), last), hidden):
        raise _NotProvedError("the head's input depends on more than the last block's output")
    kept = torch.arange(ids.numel(), device=last.device).view(ids.shape) % 2 == 0
    alone = torch.zeros_like(last).movedim(blocks.axes, (0, 1))
    alone[kept] = last.movedim(blocks.axes, (0, 1))[kept]
    half = replayed(ids, alone.movedim((0, 1), blocks.axes))
    if not _same(half[kept], hidden[kept]):
        raise _NotProvedError("positions still meet between the last block and the head")
    return last, tuple(blocks.by_position(states[depth]).shape[1] for depth in sorted(states))


def _is_read(given: Tensor | None, returned: Tensor) -> bool:
    """Whether a block is given what the one before it returned, or a power of two of that.

    RWKV halves its state after every sixth block, which rounds nothing.
    """
    if given is None or given.shape != returned.shape:
        return False
    at = returned.abs().argmax()
    size = float(returned.flatten()[at])
    ratio = float(given.flatten()[at]) / size if size else 1.0
    return math.frexp(ratio)[0] == 0.5 and torch.equal(returned * ratio, given)


def _same(one: Tensor | None, other: Tensor) -> bool:
    return one is not None and one.shape == other.shape and torch.equal(one, other)


def _tail_of(
    model: nn.Module, blocks: BlockList, ids: Int[Tensor, "batch seq"], last: Tensor
) -> Tail:
    """What a model runs between its last block and its head.

    The modules that run after the last block are run again, one on the other's output, and the
    result is compared with the head's input.
    """
    paths = {module: path for path, module in model.named_modules()}
    leaves = [module for module in model.modules() if not list(module.children())]
    ran: list[nn.Module] = []
    with contextlib.ExitStack() as stack:
        end = blocks.within(model)[-1].register_forward_hook(lambda *_call: ran.clear())
        stack.callback(end.remove)
        for module in leaves:
            note = module.register_forward_hook(lambda m, _args, _output: ran.append(m))
            stack.callback(note.remove)
        hidden = blocks.replay(model, ids, last)
    made: Any = last
    try:
        for module in list(ran):
            made = module(made)
    except Exception:  # a module that takes other inputs is no step of a chain
        made = None
    named = tuple(f"{paths[module]} ({type(module).__name__})" for module in ran)
    return Tail(blocks.blocks, named, isinstance(made, Tensor) and _same(made, hidden))
