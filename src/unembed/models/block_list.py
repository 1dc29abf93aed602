"""A model's blocks: how to read the states between them, and to run what follows them alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from unembed.head.head import final_hidden
from unembed.short_repr import ShortRepr


@dataclass(frozen=True)
class BlockList(ShortRepr):
    """Blocks that a model runs one after the other, and where each takes and leaves its state.

    ``path`` is that of the list within the model, ``numbers`` are those of its modules that run on
    text; ``entry`` is the number or name of the argument that is the state. ``returns`` has a
    number a block: the entries of what it returns, the first of them the state, or None where it
    returns the state alone. ``axes`` are a state's axes of rows and of positions.
    """

    path: str
    numbers: tuple[int, ...]
    entry: int | str
    returns: tuple[int | None, ...]
    axes: tuple[int, int] = (0, 1)

    @property
    def blocks(self) -> int:
        """How many run."""
        return len(self.numbers)

    def within(self, model: nn.Module) -> list[nn.Module]:
        """The modules, in a model or a copy of it."""
        members = list(model.get_submodule(self.path).children())
        return [members[number] for number in self.numbers]

    def read(
        self, model: nn.Module, input_ids: Int[Tensor, "batch seq"], wanted: Collection[int]
    ) -> tuple[Float[Tensor, "batch seq dim"], dict[int, Tensor]]:
        """The head's input, and the states after so many blocks, as the model lays them out.

        0 is the state that enters the first block.
        """
        blocks = self.within(model)
        found: dict[int, Tensor] = {}

        def enter(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found[0] = state_in(args, kwargs, self.entry).clone()

        def leave(depth: int) -> Callable[[nn.Module, Any, Any], None]:
            def note(_block: nn.Module, _args: Any, output: Any) -> None:
                found[depth] = state_of(output).clone()  # a later block may add to it in place

            return note

        with contextlib.ExitStack() as stack:
            for depth in wanted:
                hook = (
                    blocks[depth - 1].register_forward_hook(leave(depth))
                    if depth
                    else blocks[0].register_forward_pre_hook(enter, with_kwargs=True)
                )
                stack.callback(hook.remove)
            return final_hidden(model, input_ids), found

    def replay(
        self, model: nn.Module, input_ids: Int[Tensor, "batch seq"], state: Tensor
    ) -> Float[Tensor, "batch seq dim"]:
        """The head's input if the last block had left this state.

        The model's own forward pass runs, and no block: each passes on the state that it is given,
        and the last leaves this one. So all that follows the blocks is run as the model runs it.
        """
        blocks = self.within(model)

        def leave(_block: nn.Module, _args: Any, _output: Any) -> Any:
            return _packed(state.clone(), self.returns[-1])

        with contextlib.ExitStack() as stack:
            for block, size in zip(blocks, self.returns, strict=True):
                stack.enter_context(_forwarding(block, self._passing(size)))
            stack.callback(blocks[-1].register_forward_hook(leave).remove)
            return final_hidden(model, input_ids)

    def by_position(
        self, state: Tensor, rows: Tensor | None = None
    ) -> Float[Tensor, "positions width"]:
        """A state a position, all of them or those that are true in ``rows``, a row each.

        A state of several streams (hyper-connections) is their numbers one after the other.
        """
        first = state.movedim(self.axes, (0, 1))
        chosen = first.flatten(0, 1) if rows is None else first[rows]
        return chosen.flatten(1)

    def _passing(self, size: int | None) -> Callable[..., Any]:
        def passing(*args: Any, **kwargs: Any) -> Any:
            return _packed(state_in(args, kwargs, self.entry), size)

        return passing


def state_in(args: tuple[Any, ...], kwargs: Mapping[str, Any], entry: int | str) -> Any:
    """The argument at a number or of a name; None where there is none."""
    if isinstance(entry, str):
        return kwargs.get(entry)
    return args[entry] if entry < len(args) else None


def state_of(output: Any) -> Any:
    """What a block returns, or the first of it."""
    return output[0] if isinstance(output, tuple | list) and output else output


def _packed(state: Any, size: int | None) -> Any:
    return state if size is None else (state, *[None] * (size - 1))


@contextlib.contextmanager
def _forwarding(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Another forward for one module; its own, or that of its class, is put back."""
    own = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own
