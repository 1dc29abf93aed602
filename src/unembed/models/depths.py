"""Where a model's blocks are, and what lies between the last of them and the head."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from unembed.errors import HeadError, UnembedError
from unembed.head.head import final_hidden, output_embedding
from unembed.models.block_list import BlockList, state_of
from unembed.models.mode import kept_mode
from unembed.short_repr import ShortRepr

PROBE_ROWS, PROBE_TOKENS = 2, 11
"""Of the probe: numbers by which the axes of a state are told from each other."""

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

        A list of modules is that of the blocks where each is run once and in order; what each reads
        is what the one before it returned, to the bit; and what the last one returned makes the
        head's input, to the bit, when the rest of the model is run on it alone: also with other
        tokens as the model's input, and at half of the positions with nothing at the others.
        Raises HeadError that says of the longest list what did not hold. Source: theory §3.
        """
        lists = running_lists(model)
        reasons: list[str] = []
        for path, members in sorted(lists.items(), key=lambda item: -len(item[1])):
            try:
                return _proved(model, path, members)
            except _NotProvedError as failed:
                reasons.append(f"of {path} ({len(members)} modules), {failed}")
        kind = type(model).__name__
        if not reasons:
            raise HeadError(
                f"the blocks of {kind} are not found: no list of its modules is run from its first "
                f"to its last, each once; {HEAD_ALONE}"
            )
        raise HeadError(f"the blocks of {kind} are not proved: {reasons[0]}; {HEAD_ALONE}")

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


def longest_lists(model: nn.Module) -> dict[str, nn.ModuleList]:
    """The longest of ``running_lists``; a model has one, its blocks, or is built in another way."""
    found = running_lists(model)
    longest = max(map(len, found.values()), default=0)
    return {path: members for path, members in found.items() if len(members) == longest}


def running_lists(model: nn.Module) -> dict[str, nn.ModuleList]:
    """The lists of modules that run from their first to their last, each once, by path.

    A list within another is left out: a block's experts may run in order too.
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
    return found


@dataclass
class _Call:
    """What one block was given and returned."""

    given: dict[int | str, Tensor]
    output: Any


def _proved(model: nn.Module, path: str, members: nn.ModuleList) -> Depths:
    """The depths of a list of modules; _NotProvedError where they are not its blocks."""
    ids = probe_ids(model)
    with evaluating(model):
        calls = _calls(model, members, ids)
        entry = _entry(calls)
        for block, call in enumerate(calls[1:], 1):
            if not _same(call.given.get(entry), state_of(calls[block - 1].output)):
                raise _NotProvedError(f"block {block}'s output is not what block {block + 1} reads")
        axes = _axes(state_of(calls[-1].output))
        returns = tuple(
            len(call.output) if isinstance(call.output, tuple | list) else None for call in calls
        )
        blocks = BlockList(path, entry, returns, axes)
        widths = _prove_replay(model, blocks, ids)
    return Depths(path, len(members), widths, _tail_of(model, members), blocks)


def _calls(model: nn.Module, members: nn.ModuleList, ids: Int[Tensor, "batch seq"]) -> list[_Call]:
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
        kept = state.clone()
        outputs.append(kept if state is output else [kept, *output[1:]])

    with contextlib.ExitStack() as stack:
        for block in members:
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
        if at in calls[0].given and _same(one, state_of(calls[0].output)):
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
) -> tuple[int, ...]:
    """The widths of the states; _NotProvedError where the last is not all that the tail reads."""
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
    return tuple(blocks.by_position(states[depth]).shape[1] for depth in sorted(states))


def _same(one: Tensor | None, other: Tensor) -> bool:
    return one is not None and one.shape == other.shape and torch.equal(one, other)


def _tail_of(model: nn.Module, members: nn.ModuleList) -> Tail:
    """What a model runs between its last block and its head.

    The modules that run after the last block are run again, one on the other's output, and the
    result is compared with the head's input.
    """
    last, paths = members[-1], {module: path for path, module in model.named_modules()}
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
    return Tail(len(members), named, exact)


def run_probe(model: nn.Module) -> Tensor:
    """The final hidden states of a few tokens, in evaluation and without gradients."""
    with evaluating(model):
        return final_hidden(model, probe_ids(model))


def probe_ids(model: nn.Module) -> Int[Tensor, "batch seq"]:
    """A few rows of a few tokens, on the model's device."""
    weight = output_embedding(model).weight
    tokens = torch.arange(PROBE_ROWS * PROBE_TOKENS, device=weight.device)
    return (tokens % len(weight)).view(PROBE_ROWS, PROBE_TOKENS)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without gradients, dropout and skipped layers; every module's mode is put back."""
    with kept_mode(model), torch.no_grad():
        model.eval()
        yield
