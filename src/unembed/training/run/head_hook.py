"""A forward pass that ends at the model's head, where a loss can be taken without logits."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unembed.errors import UnembedError
from unembed.head.head import Head, output_embedding
from unembed.head.precision import Precision
from unembed.short_repr import ShortRepr

Read = TypeVar("Read")
IGNORED = -100
"""The label of an input without a target, as in transformers."""


@dataclass(frozen=True)
class HeadHook(ShortRepr):
    """The head of a model in training, reached from inside of its forward pass.

    There the weights are whole under DDP and FSDP alike, and the loss can be taken from the hidden
    states before any logit exists. ``model`` is the one without wrappers; ``head`` is its head as
    it was when the hook was made, of which ``current_head`` replaces weight and bias.
    """

    model: nn.Module
    head: Head

    @staticmethod
    def of(model: nn.Module, token_ids: list[int] | None = None) -> HeadHook:
        """The hook into an unwrapped model. Raises HeadError as ``Head.of`` does."""
        was = model.training
        try:
            head = Head.of(model.eval(), token_ids)
            head.must_be_whole("refinement")
            return HeadHook(model, head)
        finally:
            model.train(was)

    def current_head(self, model: nn.Module) -> Head:
        """The head with the weight and bias that ``model`` has now, and their gradients."""
        module = output_embedding(model)
        return replace(self.head, weight=module.weight, bias=getattr(module, "bias", None))

    def at_head(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        read: Callable[[Float[Tensor, "batch seq dim"], Head], Read],
    ) -> Read:
        """``read(hidden, head)``, called where ``model(**inputs)`` would compute its logits.

        ``model`` is the unwrapped one or a wrapper around it. What it makes of the logits after
        its head is computed on one number a position instead. A tensor that requires a gradient is
        joined to the model's output, where DDP and FSDP look for what a backward pass will need.
        """
        module = output_embedding(self.model)
        found: list[Read] = []

        def instead(hidden: Tensor, *_args: object, **_kwargs: object) -> Tensor:
            value = read(hidden, self.current_head(self.model))
            found.append(value)
            return _joined(hidden[..., :1].detach(), value)

        # In a compiled model the loss is no part of what is compiled: its gradients are read twice.
        module.forward = instead if "torch._dynamo" not in sys.modules else _uncompiled(instead)
        try:
            output = model(**{**inputs, "use_cache": False})
        finally:
            del module.forward
        if len(found) != 1:
            raise UnembedError(
                f"{type(self.model).__name__} calls its head {len(found)} times in a forward pass: "
                "only models that call it once can be refined"
            )
        return _joined(found[0], output.logits)


def _uncompiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function, which ``torch.compile`` calls and does not look into."""
    apart: Any = torch.compiler.disable(function)
    left: Callable[..., Tensor] = apart
    return left


class _Joined(torch.autograd.Function):
    """The first tensor, bit for bit; the second gets a gradient of zeros."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, other: Tensor) -> Tensor:
        ctx.save_for_backward(other)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        [other] = ctx.saved_tensors
        return gradient, torch.zeros_like(other)


def _joined(value: Read, other: object) -> Read:
    """``value``, whose backward pass goes through ``other`` too."""
    if not (isinstance(value, Tensor) and isinstance(other, Tensor) and other.requires_grad):
        return value
    differentiable: Any = _Joined.apply
    joined: Read = differentiable(value, other)
    return joined


@dataclass(frozen=True)
class Targets:
    """Where a batch has a next token to predict: ``kept`` marks inputs, ``ids`` are the tokens."""

    kept: Tensor
    ids: Int[Tensor, " positions"]

    @staticmethod
    def of(labels: Int[Tensor, "batch seq"]) -> Targets:
        """Position t predicts ``labels[:, t + 1]``, unless that is ``IGNORED`` (theory §0)."""
        after = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
        kept = after != IGNORED
        return Targets(kept, after[kept])


def refuse_nonfinite(what: str, values: Tensor, when: str) -> None:
    """Raise UnembedError, saying ``when``, unless all values are finite."""
    if not bool(torch.isfinite(values).all()):
        raise UnembedError(
            f"{what} is not finite {when}: lower the learning rate or the weight, or load the "
            "model in float32"
        )


@dataclass(frozen=True)
class PrecisionCache:
    """The product's precision for each dtype that a head is read in, probed once."""

    known: dict[tuple[torch.dtype, torch.dtype], Precision]

    def of(self, weight: Tensor, hidden: Tensor) -> Precision:
        """The precision for this weight and these hidden states."""
        key = (weight.dtype, hidden.dtype)
        if key not in self.known:
            self.known[key] = Precision.probe(weight.detach(), hidden.dtype)
        return self.known[key]
