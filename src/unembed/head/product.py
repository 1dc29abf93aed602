"""The float32-exact matrix product behind the sweep: its routes, and what each one multiplies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from jaxtyping import BFloat16, Float
from torch import Tensor

from unembed.head.kernels import compiled

TILE = 16
"""Rows and columns of every product are padded to multiples of this, which keeps BLAS libraries off
their vector and edge paths: a logit is then bitwise the same in whatever block it is computed."""

WIDE_ROWS, WIDE_BLOCK = 2048, 8192
"""The largest product taken at once on CUDA: enough to keep a large GPU busy, 64 MiB of logits."""

PRODUCTS_KEPT = 64
"""Shapes whose products oneDNN keeps compiled, of .3 to .7 MiB each. A model has a dozen or two for
windows of one length; oneDNN's own bound of 1,024 is 700 MiB where windows are of many lengths."""

Route = Literal["onednn", "ieee", "wide", "split"]


@contextmanager
def float32_products(route: Route) -> Iterator[None]:
    """Take float32 products by this route inside the block; every setting is put back after it.

    Of float32 operands "wide" and "split" make nothing, so for those it is "ieee" that is set. That
    is set on both backends: what a caller had asked of the other one would round its products.
    What stays is the bound of ``keep_few_products``.
    """
    keep_few_products()
    backends: Any = torch.backends
    both = (backends.mkldnn.matmul, backends.cuda.matmul)
    before = [backend.fp32_precision for backend in both]
    both[0].fp32_precision = "bf16" if route == "onednn" else "ieee"
    both[1].fp32_precision = "ieee"
    try:
        yield
    finally:
        for backend, setting in zip(both, before, strict=True):
            backend.fp32_precision = setting


def keep_few_products() -> None:
    """Bound what oneDNN keeps of products at PRODUCTS_KEPT, unless the environment has a bound.

    oneDNN reads the first before the first product of the process, torch the second before the
    first of each thread; later they change nothing. No number changes either.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(PRODUCTS_KEPT))


def pad_rows(
    matrix: Float[Tensor, "rows dim"], multiple: int = TILE, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "padded dim"]:
    """The matrix in this dtype, zero rows added up to a multiple of this number of rows."""
    missing = -matrix.shape[0] % multiple
    matrix = matrix.to(dtype)
    return torch.nn.functional.pad(matrix, (0, 0, 0, missing)) if missing else matrix


def narrow_route(hidden: torch.dtype, weight: torch.dtype) -> Route:
    """The route by 16-bit products that is exact for these operand types; "ieee" if there is none.

    Products of two bfloat16 or two float16 numbers are exact in float32 ("wide"). A float32 number
    is the sum of three bfloat16 ones ("split"). Source: theory §1.
    """
    if hidden == weight and weight in (torch.bfloat16, torch.float16):
        return "wide"
    return "split" if (hidden, weight) == (torch.float32, torch.bfloat16) else "ieee"


def candidates(device: torch.device, hidden: torch.dtype, weight: torch.dtype) -> tuple[Route, ...]:
    """The routes that may be faster than "ieee" here, the fastest last.

    ``Precision.probe`` decides on them.
    """
    narrow = narrow_route(hidden, weight)
    if device.type == "cuda":
        return () if narrow == "ieee" else (narrow,)
    found: list[Route] = []
    if device.type == "cpu" and torch.backends.mkldnn.is_available():
        found.append("onednn")
    if device.type == "cpu" and narrow == "wide" and _compiled(weight):
        found.append("wide")
    return tuple(found)


def _compiled(dtype: torch.dtype) -> bool:
    """Whether the compiled kernel multiplies two matrices of this dtype on this processor."""
    return dtype == torch.bfloat16 and compiled.has_bfloat16()


def bfloat16_parts(hidden: Float[Tensor, "rows dim"]) -> BFloat16[Tensor, "rows 3*dim"]:
    """Three bfloat16 matrices side by side, smallest first, that sum to a float32 one.

    Each is the rounding of what the larger ones leave: ``hi = bf16(h)``, ``mid = bf16(h - hi)``,
    ``lo = bf16(h - hi - mid)``. Rounding to 8 bits leaves at most 16, then at most 7 of float32's
    24, so ``lo + mid + hi = h`` exactly where ``|h| >= 2^-110``; below, where bfloat16 runs out of
    exponents, within ``2^-134``. Above bfloat16's largest number, 3.39e38, parts are not finite.
    """
    high = hidden.to(torch.bfloat16)
    rest = hidden - high
    middle = rest.to(torch.bfloat16)
    return torch.cat([(rest - middle).to(torch.bfloat16), middle, high], dim=1)


def left_operand(
    hidden: Float[Tensor, "rows dim"], weight: torch.dtype, route: Route
) -> Float[Tensor, "padded depth"]:
    """Hidden rows as ``multiply`` wants them, for a weight of this dtype; made once a sweep.

    Float32 for "onednn" and "ieee", as they are for "wide", their three parts for "split". Operand
    types that a 16-bit route was not made for get the one that is exact for them, or float32.
    """
    if route in ("wide", "split"):
        route = narrow_route(hidden.dtype, weight)
    if route == "split":
        return pad_rows(bfloat16_parts(hidden), dtype=weight)
    return pad_rows(hidden, dtype=weight if route == "wide" else torch.float32)


def right_operand(
    weight: Float[Tensor, "columns dim"], left: Float[Tensor, "rows depth"]
) -> Float[Tensor, "padded depth"]:
    """Rows of the weight as ``multiply`` wants them beside this left operand.

    Under "split" the weight is repeated, once for each part: one product of three times the depth
    adds the parts from the smallest in its own accumulator.
    """
    repeats = left.shape[1] // max(weight.shape[1], 1)
    padded = pad_rows(weight, dtype=left.dtype)
    return padded.repeat(1, repeats) if repeats > 1 else padded


def multiply(
    left: Float[Tensor, "rows depth"],
    right: Float[Tensor, "columns depth"],
    route: Route,
    out: Float[Tensor, "rows columns"],
) -> None:
    """``out[:] = left @ right.T``, accumulated and stored in float32.

    On CPU, where torch has no 16-bit product with a float32 result, the compiled kernel takes
    bfloat16 operands, where it can. Others are up-cast: the same products, added in another order.
    """
    cpu = left.device.type == "cpu"
    if cpu and route == "wide" and left.dtype == right.dtype and _compiled(left.dtype):
        compiled.multiply_bfloat16(left, right, out)
        return
    with float32_products(route):
        if cpu or left.dtype == torch.float32:
            torch.mm(left.to(torch.float32), right.to(torch.float32).T, out=out)
        else:
            torch.mm(left, right.T, out_dtype=torch.float32, out=out)
