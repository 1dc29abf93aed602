"""The inputs of linear modules and the gradients at their outputs, as a pass meets them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unembed.errors import UnembedError
from unembed.signatures.network.fused import FusedCall, FusedCalls
from unembed.signatures.network.modules import (
    HEAD,
    NetworkModule,
    is_routed,
    some_of,
    weight_of,
)


@dataclass(frozen=True)
class Call:
    """One call of a module and what came back: its input, and the gradient at its output.

    Of fused experts ``groups`` say which rows are of which. ``selection`` numbers the positions
    that rows were chosen of, as a mixture does.
    """

    inputs: Float[Tensor, "*shape inputs"]
    errors: Float[Tensor, "*shape outputs"]
    selection: Int[Tensor, " rows"] | None = None
    groups: tuple[tuple[int, int, int], ...] | None = None


Taken = Callable[[int, Call], None]
"""Takes the number of a module and a call of it."""


class Capture:
    """What a model's modules are given and what comes back to them, one forward and backward pass
    at a time.

    Nothing needs a gradient but what the modules return, so that the pass begins at the first of
    them and no weight gets one. ``calls`` counts how often each module ran.
    """

    def __init__(self, modules: Sequence[NetworkModule]) -> None:
        self.modules = modules
        self.calls = [0] * len(modules)
        self._taken: Taken | None = None
        self._fused: dict[str, nn.Parameter] = {}
        self._calls_met: FusedCalls | None = None
        self._mixture = any(is_routed(one.name) for one in modules)

    @contextlib.contextmanager
    def on(self, model: nn.Module) -> Iterator[None]:
        """Listen to a model's modules inside the block."""
        with contextlib.ExitStack() as stack:
            for number, one in enumerate(self.modules):
                if one.name == HEAD:
                    continue
                weight = weight_of(model, one.name)
                if weight.ndim == 3:
                    self._fused[one.name] = weight
                    continue
                module = model.get_submodule(one.name)
                handle = module.register_forward_hook(self._listening(number), with_kwargs=True)
                stack.callback(handle.remove)
            yield

    @contextlib.contextmanager
    def forward(self, taken: Taken, positions: int) -> Iterator[None]:
        """Give what a pass inside the block meets to ``taken``; gradients come with backward.

        ``positions`` is how many it reads, padding among them.
        """
        self.calls = [0] * len(self.modules)
        self._taken = taken
        with contextlib.ExitStack() as stack:
            stack.callback(setattr, self, "_taken", None)
            stack.enter_context(torch.enable_grad())
            if self._fused or self._mixture:
                numbers = {one.name: number for number, one in enumerate(self.modules)}
                self._calls_met = FusedCalls(
                    self._fused,
                    positions,
                    lambda name, call, output: self._met(numbers[name], call, output),
                )
                stack.callback(setattr, self, "_calls_met", None)
                stack.enter_context(self._calls_met)
            yield

    def _listening(self, number: int) -> Callable[..., Any]:
        def listen(_module: nn.Module, args: Any, kwargs: dict[str, Any], output: Tensor) -> Any:
            if self._taken is None:
                return None
            given = (args[0] if args else next(iter(kwargs.values()))).detach()
            selection = None if self._calls_met is None else self._calls_met.selection
            made = self._watched(number, given, selection, None, output)
            return None if made is output else made

        return listen

    def _met(self, number: int, call: FusedCall, output: Tensor) -> Tensor:
        """As ``_listening``, of a product with fused experts."""
        return self._watched(number, call.inputs, call.selection, call.groups, output)

    def _watched(
        self,
        number: int,
        given: Tensor,
        selection: Tensor | None,
        groups: tuple[tuple[int, int, int], ...] | None,
        output: Tensor,
    ) -> Tensor:
        """The output, whose gradient will be taken."""
        taken, version = self._taken, given._version
        assert taken is not None
        self.calls[number] += 1
        # The first module's output begins the graph. A model may change it in place, which a leaf
        # does not allow.
        first = not output.requires_grad
        leaf = output.detach().requires_grad_() if first else output

        def back(gradient: Float[Tensor, "*shape outputs"]) -> None:
            if given._version != version:
                raise UnembedError(
                    f"what {self.modules[number].name} reads is overwritten before the "
                    "backward pass: leave that module out with --modules"
                )
            taken(number, Call(given, gradient, selection, groups))

        leaf.register_hook(back)
        return leaf.clone() if first else output

    def never_ran(self) -> list[str]:
        """The modules that the last pass did not run."""
        return [
            one.name
            for one, calls in zip(self.modules, self.calls, strict=True)
            if not calls and one.name != HEAD and not is_routed(one.name)
        ]


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Without gradients of the weights inside the block; what each required is put back."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for parameter, _required in before:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)


def refuse_never_run(names: Sequence[str]) -> None:
    """Raise UnembedError where modules were listened to that a pass did not run."""
    if names:
        raise UnembedError(
            f"{some_of(names)} did not run on the text: leave out with --modules what it does not "
            "reach"
        )
