"""The float32-exact matrix product behind the sweep: its routes, and the probe that picks one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

TILE = 16
"""Rows and columns of every product are padded to multiples of this, which keeps BLAS libraries off
their vector and edge paths: a logit is then bitwise the same in whatever block it is computed."""

Route = Literal["onednn", "ieee"]


@dataclass(frozen=True)
class Precision:
    """How float32 products are taken, and what the probe saw.

    ``route`` is "onednn" (the CPU wheel's second float32 product, often twice as fast) or "ieee"
    (the default one: MKL on CPU, plain float32 on CUDA). ``error`` is the probe's largest
    |product - float64| over ``|w| |h|``; ``invariant`` says that the probe got the same bits from
    small and large blocks.
    """

    route: Route
    error: float
    invariant: bool

    @staticmethod
    def probe(weight: Float[Tensor, "vocab dim"]) -> Precision:
        """The fastest route whose error is that of float32 on rows of this weight.

        The flag behind "onednn" permits real bfloat16 arithmetic on machines with matrix units for
        it, so it is taken only where its error against float64 is within four times that of the
        plain float32 product. Source: SPEC §1.
        """
        ieee = _measure("ieee", weight)
        if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
            return ieee
        onednn = _measure("onednn", weight)
        faithful = onednn.error <= 4 * ieee.error and onednn.invariant >= ieee.invariant
        return onednn if faithful else ieee


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


def _measure(route: Route, weight: Float[Tensor, "vocab dim"]) -> Precision:
    rows = weight[: 16 * TILE].to(torch.float32)
    rows = pad_rows(torch.where(torch.isfinite(rows), rows, torch.zeros_like(rows)))
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(4 * TILE, weight.shape[1], generator=generator).to(rows)
    with float32_products(route):
        whole = hidden @ rows.T
        small = hidden[:TILE] @ rows[-TILE:].T
    exact = hidden.double() @ rows.double().T
    sizes = hidden.double().norm(dim=1)[:, None] * rows.double().norm(dim=1)
    error = float(((whole.double() - exact).abs() / sizes.clamp_min(1e-30)).max())
    return Precision(route, error, bool(torch.equal(whole[:TILE, -TILE:], small)))
