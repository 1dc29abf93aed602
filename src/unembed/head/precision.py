"""How a sweep's numbers are made on this machine, chosen by measurement before the first one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor

from unembed.head.kernels import Epilogue, fastest
from unembed.head.peers import Peers
from unembed.head.product import (
    TILE,
    WIDE_BLOCK,
    WIDE_ROWS,
    Route,
    candidates,
    left_operand,
    multiply,
    right_operand,
)
from unembed.short_repr import ShortRepr


@dataclass(frozen=True)
class Precision(ShortRepr):
    """How float32 products are taken, and what the probe saw.

    ``route`` is that of the head's product: "onednn" (the CPU wheel's second float32 product, often
    twice as fast), "ieee" (the default one: MKL on CPU, plain float32 on CUDA), "wide" (16-bit
    operands, float32 sums: on CUDA, and of bfloat16 on a CPU with AVX512-BF16), or on CUDA "split"
    (float32 hidden states in three bfloat16 parts). ``error`` is the probe's largest
    ``|product - float64|`` over ``|w| |h|``; ``invariant`` says that the probe got the same bits
    from small and large blocks. ``epilogue`` names the kernel that takes the statistics from each
    block. ``float32_route``, "onednn" or "ieee", is that of the products around the head's whose
    operands are float32 numbers: gradients, facets, a float32 body.
    """

    route: Route
    error: float
    invariant: bool
    epilogue: Epilogue = "eager"
    float32_route: Route = "ieee"

    @staticmethod
    @torch.no_grad()
    def probe(
        weight: Float[Tensor, "vocab dim"], hidden_dtype: torch.dtype | None = None
    ) -> Precision:
        """The fastest route whose error is that of float32 on rows of this weight.

        The flag behind "onednn" permits real bfloat16 arithmetic on machines with matrix units for
        it, and matrix units may add less exactly than float32 does, so every route is taken only
        where its error against float64 is within four times that of the plain float32 product.
        "onednn" is probed by float32 hidden states whatever they will be, for it takes other
        products too; the 16-bit routes by hidden states of their own dtype.
        ``hidden_dtype`` is that of the hidden states, the weight's where it is None.
        Source: theory §1.
        """
        hidden_dtype = hidden_dtype or weight.dtype
        epilogue = fastest(weight.device)
        hidden, rows = _sample(weight)
        best = ieee = _measure("ieee", hidden, rows, epilogue)
        for route in candidates(weight.device, hidden_dtype, weight.dtype):
            narrow = route in ("wide", "split")
            try:
                found = _measure(
                    route, hidden.to(hidden_dtype) if narrow else hidden, rows, epilogue
                )
            except RuntimeError:  # a GPU, or a build of torch, without this product
                continue
            if found.error <= 4 * ieee.error and found.invariant >= ieee.invariant:
                best = replace(found, float32_route=best.float32_route if narrow else route)
        return best

    def agreed(self, peers: Peers) -> Precision:
        """One precision for peers that hold a head between them, each of which gives its own.

        The plain route and the plain kernel where theirs differ.
        """
        routes, kernels = get_args(Route), get_args(Epilogue)
        chosen = (routes.index(self.route), kernels.index(self.epilogue))
        own = (*chosen, routes.index(self.float32_route), self.invariant, self.error)
        every = torch.stack(peers.gather(torch.tensor(own, dtype=torch.float64)))
        same = (every == every[0]).all(0).tolist()
        return Precision(
            self.route if same[0] else "ieee",
            float(every[:, 4].max()),
            same[0] and bool(every[:, 3].all()),
            self.epilogue if same[1] else "eager",
            self.float32_route if same[2] else "ieee",
        )


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
