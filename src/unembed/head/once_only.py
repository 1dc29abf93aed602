"""Gradients of our own backward passes, whose second derivative is an error and never zero."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def once_only(
    gradients: Iterable[Tensor | None], of: Iterable[Tensor | None], name: str
) -> tuple[Tensor | None, ...]:
    """The gradients, of which autograd knows that they depend on the tensors ``of``.

    Taking a derivative of one raises RuntimeError with the ``name`` of the loss. torch's own
    ``once_differentiable`` does so where the incoming gradient has a graph alone: that of a mean or
    a sum has none, the gradients are then constants to autograd, and a Hessian or a gradient
    penalty silently misses this loss's part. Without ``create_graph`` they are left as they are.
    """
    if not torch.is_grad_enabled():
        return tuple(gradients)
    held = [tensor for tensor in of if tensor is not None and tensor.requires_grad]
    mark: Any = _OnceOnly.apply
    return tuple(None if one is None else mark(name, one, *held) for one in gradients)


class _OnceOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, name: str, gradient: Tensor, *_of: Tensor) -> Tensor:
        ctx.name = name
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *_to: Tensor) -> tuple[Tensor, ...]:
        raise RuntimeError(
            f"{ctx.name} is differentiable once, and this asks for its second derivative: take "
            "that from the plain formula in its docstring, on as few positions as fit"
        )
