"""How far gradients are from those of plain autograd."""

from __future__ import annotations

import torch
from torch import Tensor

from unembed.head.head import Head


def leaves(hidden: Tensor, head: Head) -> list[Tensor]:
    return [t for t in (hidden, head.weight, head.bias) if t is not None]


def largest_error(got: list[Tensor], want: list[Tensor]) -> float:
    """The largest error of any gradient over that gradient's largest entry."""
    pairs = list(zip(got, want, strict=True))
    assert all(g.shape == w.shape and bool(torch.isfinite(g).all()) for g, w in pairs)
    return max(float((g.double() - w).abs().max() / w.abs().max()) for g, w in pairs)
