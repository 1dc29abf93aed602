"""Random heads, hidden states and targets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from unembed.head.head import Head
from unembed.head.precision import Precision

IEEE = Precision("ieee", 0.0, True)

HEAD_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bias-scale": {"bias": True, "scale": 0.5},
    "softcap-padded": {"softcap": 6.0, "padded": 40},
    "all": {"bias": True, "scale": 0.5, "softcap": 6.0, "padded": 40},
}


def trainable_head(
    vocab: int,
    dim: int,
    n: int,
    *,
    bias: bool = False,
    scale: float = 1.0,
    softcap: float | None = None,
    padded: int = 0,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Head, Tensor]:
    """Hidden states, a random head and targets; everything that can requires a gradient."""
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)  # noqa: E731
    valid = torch.ones(vocab, dtype=torch.bool)
    if padded:
        valid[-padded:] = False
        valid[1] = False
    weight, hidden, offsets = draw(vocab, dim), draw(n, dim), draw(vocab) if bias else None
    targets = torch.randint(2, vocab - padded, (n,), generator=g)
    parts = [t for t in (weight, hidden, offsets) if t is not None]
    head = Head.from_parts(weight, offsets, scale, softcap, valid if padded else None)
    for part in parts:
        part.requires_grad_()
    return hidden, head, targets


def random_head(
    vocab: int,
    dim: int,
    n: int,
    *,
    scale: float = 1.0,
    softcap: float | None = None,
    bias: bool = False,
    padded: int = 0,
    dtype: torch.dtype = torch.float32,
    size: float = 50.0,
) -> tuple[Head, torch.Tensor, torch.Tensor]:
    """A random head with |logits| up to ``size``, hidden states and targets."""
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(vocab, dim, generator=g)
    hidden = torch.randn(n, dim, generator=g)
    weight *= size / (scale * (hidden @ weight.T).abs().max() + 1e-6)
    offsets = torch.randn(vocab, generator=g) if bias else None
    valid = None
    if padded:
        valid = torch.ones(vocab, dtype=torch.bool)
        valid[-padded:] = False
        valid[1] = False
    targets = torch.randint(0, vocab, (n,), generator=g)
    if valid is not None:
        targets[~valid[targets]] = 0
    head = Head.from_parts(
        weight.to(dtype), None if offsets is None else offsets.to(dtype), scale, softcap, valid
    )
    return head, hidden.to(dtype), targets


TwoHeads = tuple[Tensor, Head, Tensor, Head]


def two_heads(vocab: int, dim: int, n: int, *, apart: float = 0.3, **how: Any) -> TwoHeads:
    """A model that requires gradients and a frozen one, a disturbed copy of it."""
    hidden, head, _ = trainable_head(vocab, dim, n, **how)
    g = torch.Generator().manual_seed(1)

    def moved(part: Tensor) -> Tensor:
        noise = torch.randn(part.shape, generator=g, dtype=torch.float64)
        return (part.detach().double() + apart * noise).to(part.dtype)

    bias = None if head.bias is None else moved(head.bias)
    frozen = replace(head, weight=moved(head.weight), bias=bias)
    return hidden, head, moved(hidden), frozen
