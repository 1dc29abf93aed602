"""How a sweep's numbers are made on this machine, chosen by measurement before the first one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unembed.head.kernels import Epilogue, fastest
from unembed.head.product import (
    TILE,
    WIDE_BLOCK,
    WIDE_ROWS,
    Route,
    candidate,
    left_operand,
    multiply,
    right_operand,
)
from unembed.short_repr import ShortRepr


@dataclass(frozen=True)
class Precision(ShortRepr):
    """How float32 products are taken, and what the probe saw.

    ``route`` is "onednn" (the CPU wheel's second float32 product, often twice as fast), "ieee" (the
    default one: MKL on CPU, plain float32 on CUDA), or on CUDA "wide" (16-bit operands, float32
    sums) or "split" (float32 hidden states in three bfloat16 parts). ``error`` is the probe's
    largest ``|product - float64|`` over ``|w| |h|``; ``invariant`` says that the probe got the same
    bits from small and large blocks. ``epilogue`` names the kernel that takes the statistics from
    each block.
    """

    route: Route
    error: float
    invariant: bool
    epilogue: Epilogue = "eager"

    @staticmethod
    @torch.no_grad()
    def probe(
        weight: Float[Tensor, "vocab dim"], hidden_dtype: torch.dtype | None = None
    ) -> Precision:
        """The fastest route whose error is that of float32 on rows of this weight.

        The flag behind "onednn" permits real bfloat16 arithmetic on machines with matrix units for
        it, and matrix units may add less exactly than float32 does, so every route is taken only
        where its error against float64 is within four times that of the plain float32 product.
        ``hidden_dtype`` is that of the hidden states, the weight's where it is None.
        Source: theory §1.
        """
        hidden_dtype = hidden_dtype or weight.dtype
        route = candidate(weight.device, hidden_dtype, weight.dtype)
        epilogue = fastest(weight.device)
        hidden, rows = _sample(weight)
        if route in ("wide", "split"):
            hidden = hidden.to(hidden_dtype)
        ieee = _measure("ieee", hidden, rows, epilogue)
        if route == "ieee":
            return ieee
        try:
            faster = _measure(route, hidden, rows, epilogue)
        except RuntimeError:  # a GPU, or a build of torch, without this product
            return ieee
        faithful = faster.error <= 4 * ieee.error and faster.invariant >= ieee.invariant
        return faster if faithful else ieee


def _sample(
    weight: Float[Tensor, "vocab dim"],
) -> tuple[Float[Tensor, "rows dim"], Float[Tensor, "columns dim"]]:
    """Random hidden states and the weight's first rows.

    As many as a sweep multiplies at once on CUDA, whose library picks its kernel by the shape.
    """
    cuda = weight.device.type == "cuda"
    count, columns = (WIDE_ROWS, WIDE_BLOCK) if cuda else (4 * TILE, 16 * TILE)
    rows = weight[:columns]
    rows = torch.where(torch.isfinite(rows), rows, torch.zeros_like(rows))
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, weight.shape[1], generator=generator, dtype=torch.float32).to(
        weight.device
    ), rows


def _measure(
    route: Route,
    hidden: Float[Tensor, "rows dim"],
    rows: Float[Tensor, "columns dim"],
    epilogue: Epilogue,
) -> Precision:
    left = left_operand(hidden, rows.dtype, route)
    right = right_operand(rows, left)
    whole = torch.empty(len(left), len(right), dtype=torch.float32, device=left.device)
    small = torch.empty(TILE, TILE, dtype=torch.float32, device=left.device)
    multiply(left, right, route, whole)
    multiply(left[:TILE], right[-TILE:], route, small)
    some, few = hidden[: 4 * TILE].double(), rows[: 16 * TILE].double()
    sizes = some.norm(dim=1)[:, None] * few.norm(dim=1)
    off = (whole[: len(some), : len(few)].double() - some @ few.T).abs()
    error = float((off / sizes.clamp_min(1e-30)).max())
    # CUDA's library picks its kernel by the shape, so one pair of blocks would prove nothing there.
    same = left.device.type != "cuda" and torch.equal(whole[:TILE, -TILE:], small)
    return Precision(route, error, same, epilogue)
