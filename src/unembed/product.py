"""The float32-exact matrix product behind the sweep: its routes, and the probe that picks one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

TILE = 16
"""Rows and columns of every product are padded to multiples of this, which keeps BLAS libraries off
their vector and edge paths: a logit is then bitwise the same in whatever block it is computed."""

Route = Literal["onednn", "ieee"]


@contextmanager
def float32_products(route: Route) -> Iterator[None]:
    """Take float32 products by this route inside the block; every setting is put back after it."""
    backends: Any = torch.backends
    backend = backends.mkldnn.matmul if route == "onednn" else backends.cuda.matmul
    before = backend.fp32_precision
    backend.fp32_precision = "bf16" if route == "onednn" else "ieee"
    try:
        yield
    finally:
        backend.fp32_precision = before


def pad_rows(matrix: Float[Tensor, "rows dim"]) -> Float[Tensor, "padded dim"]:
    """The matrix in float32 with zero rows added up to a multiple of TILE."""
    missing = -matrix.shape[0] % TILE
    matrix = matrix.to(torch.float32)
    return torch.nn.functional.pad(matrix, (0, 0, 0, missing)) if missing else matrix
