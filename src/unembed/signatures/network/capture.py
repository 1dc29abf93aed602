"""The inputs of linear modules and the gradients at their outputs, as a pass meets them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unembed.errors import UnembedError
from unembed.signatures.network.modules import HEAD, NetworkModule, some_of, weight_of

Taken = Callable[[int, Tensor, Tensor], None]
"""Takes the number of a module, its input and the gradient at its output."""


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

    @contextlib.contextmanager
    def on(self, model: nn.Module) -> Iterator[None]:
        """Listen to a model's modules inside the block."""
        with contextlib.ExitStack() as stack:
            for number, one in enumerate(self.modules):
                if one.name == HEAD:
                    continue
                module = weight_of(model, one.name)
                handle = module.register_forward_hook(self._listening(number), with_kwargs=True)
                stack.callback(handle.remove)
            yield

    @contextlib.contextmanager
    def forward(self, taken: Taken) -> Iterator[None]:
        """Give what a pass inside the block meets to ``taken``; gradients come with backward."""
        self.calls = [0] * len(self.modules)
        self._taken = taken
        try:
            with torch.enable_grad():
                yield
        finally:
            self._taken = None

    def _listening(self, number: int) -> Callable[..., Any]:
        def listen(_module: nn.Module, args: Any, kwargs: dict[str, Any], output: Tensor) -> Any:
            taken = self._taken
            if taken is None:
                return None
            given = (args[0] if args else next(iter(kwargs.values()))).detach()
            version = given._version
            self.calls[number] += 1
            # The first module's output begins the graph. A model may change it in place, which a
            # leaf does not allow.
            first = not output.requires_grad
            leaf = output.detach().requires_grad_() if first else output

            def back(gradient: Float[Tensor, "*shape outputs"]) -> None:
                if given._version != version:
                    raise UnembedError(
                        f"what {self.modules[number].name} reads is overwritten before the "
                        "backward pass: leave that module out with --modules"
                    )
                taken(number, given, gradient)

            leaf.register_hook(back)
            return leaf.clone() if first else None

        return listen

    def never_ran(self) -> list[str]:
        """The modules that the last pass did not run."""
        return [
            one.name
            for one, calls in zip(self.modules, self.calls, strict=True)
            if not calls and one.name != HEAD
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
