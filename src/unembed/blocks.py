"""Blocks of float32 logits, and the target's logit, the same bits in whatever block they come."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unembed.epilogue.running import SEGMENT
from unembed.head import Head
from unembed.precision import Precision
from unembed.product import TILE, float32_products, pad_rows

ROWS = 512
"""Rows of a logit block; with BLOCK columns it stays inside the cache."""

BLOCK = 4096

NEVER = -1e38
"""The logit of a row that is not a token: below every real one, and still finite when it is scaled,
so that 0 times it is 0."""


def logit_blocks(
    inputs: Float[Tensor, "rows dim"], head: Head, precision: Precision, block: int = BLOCK
) -> Iterator[tuple[int, Float[Tensor, "tile block"], slice]]:
    """Blocks of float32 logits: (first column, logits, rows), blocks outer and row tiles inner.

    The rows must be padded (``product.pad_rows``). Columns are padded to a multiple of SEGMENT; a
    padded column, or one that is not a token, holds NEVER. The block is overwritten by the next.
    """
    rows = inputs.shape[0]
    buffer = torch.empty(min(rows, ROWS) * block, device=inputs.device)
    for start in range(0, head.vocab, block):
        stop = min(start + block, head.vocab)
        weight = pad_rows(head.weight[start:stop])
        bias = None if head.bias is None else head.bias[start:stop].to(torch.float32)
        barred = None if head.valid is None else ~head.valid[start:stop]
        width = -(-(stop - start) // SEGMENT) * SEGMENT
        for top in range(0, rows, ROWS):
            span = slice(top, min(top + ROWS, rows))
            height = span.stop - span.start
            logits = buffer[: height * width].view(height, width)
            with float32_products(precision.route):
                torch.mm(inputs[span], weight.T, out=logits[:, : weight.shape[0]])
            real = logits[:, : stop - start]
            apply_recipe(real, head, bias)
            if barred is not None and bool(barred.any()):
                real.masked_fill_(barred, NEVER)
            logits[:, stop - start :] = NEVER
            yield start, logits, span


def apply_recipe(
    products: Float[Tensor, "rows columns"], head: Head, bias: Float[Tensor, "columns"] | None
) -> None:
    """Turn ``W h`` into logits in place: bias, scale, soft-cap."""
    if bias is not None:
        products += bias
    if head.scale != 1.0:
        products *= head.scale
    if head.softcap is not None:
        products.div_(head.softcap).tanh_().mul_(head.softcap)


def target_logits(
    inputs: Float[Tensor, "rows dim"],
    head: Head,
    targets: Int[Tensor, "rows"],
    precision: Precision,
) -> Float[Tensor, "rows"]:
    """The target's logit of every row, from products of TILE rows with their TILE targets.

    Where the route is invariant these are bitwise the logits that the blocks will hold, so larger
    ones can be counted before the target's own block has come by.
    """
    found = torch.empty(inputs.shape[0], device=inputs.device)
    for top in range(0, inputs.shape[0], TILE):
        span = slice(top, top + TILE)
        chosen = targets[span]
        with float32_products(precision.route):
            square = inputs[span] @ head.weight[chosen].to(torch.float32).T
        apply_recipe(square, head, None if head.bias is None else head.bias[chosen].float())
        found[span] = square.diagonal()
    barred = torch.zeros_like(targets, dtype=torch.bool)
    if head.valid is not None:
        barred = ~head.valid[targets]
    return found.masked_fill_(barred, NEVER)
