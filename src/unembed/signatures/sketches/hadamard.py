"""The fast Walsh-Hadamard transform, by products with small Hadamard matrices."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from unembed.head.product import float32_products

FACTOR = 16
"""The order of the matrices multiplied by. Higher orders take more arithmetic, lower ones more
passes over memory; 16 was the fastest on CPU at nearly every size (``benchmarks/hadamard.py``)."""

WHOLE = 64
"""The largest order that one product serves best."""

PART = 1 << 20
"""Numbers transformed at once on CPU, so that they stay in the cache between the products."""


def fwht(x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """``x @ H`` with H the unnormalised Sylvester matrix of order n, over the last dimension.

    Equivalent to::

        H = [[(-1) ** (i & j).bit_count() for i in range(n)] for j in range(n)]

    in ``n log n`` time: H is a tensor product of small ones, and x is multiplied by one after the
    other. n is a power of two, x float32 or float64; twice is n times x. Raises ValueError for
    another n. Source: theory §9.
    """
    n = x.shape[-1]
    if n < 1 or n & (n - 1):
        raise ValueError(f"a Hadamard transform of {n} numbers does not exist: pad to 2^k")
    rows = x.reshape(-1, n)
    if x.device.type != "cpu" or rows.numel() <= PART:
        return _transformed(rows).view(x.shape)
    out = torch.empty_like(rows)
    step = max(1, PART // n)
    for top in range(0, len(rows), step):
        out[top : top + step] = _transformed(rows[top : top + step])
    return out.view(x.shape)


def hadamard(n: int, like: Float[Tensor, "..."]) -> Float[Tensor, "n n"]:
    """The Sylvester matrix of order n, a power of two, in the dtype and on the device of a tensor.

    ``H[i, j] = (-1)^popcount(i & j)``.
    """
    matrix = torch.ones(1, 1, dtype=like.dtype, device=like.device)
    while len(matrix) < n:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix


def _transformed(rows: Float[Tensor, "rows n"]) -> Float[Tensor, "rows n"]:
    n = rows.shape[1]
    with float32_products("ieee"):
        if n <= WHOLE:
            return rows @ hadamard(n, rows)
        x, inner = rows.reshape(-1, FACTOR) @ hadamard(FACTOR, rows), FACTOR
        while inner < n:
            order = min(FACTOR, n // inner)
            x = hadamard(order, rows) @ x.view(-1, order, inner)
            inner *= order
    return x.view(rows.shape)
