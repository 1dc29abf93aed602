"""How a sweep's numbers are made on this machine, chosen by measurement before the first one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unembed.epilogue import Epilogue, fastest
from unembed.product import TILE, Route, float32_products, pad_rows


@dataclass(frozen=True)
class Precision:
    """How float32 products are taken, and what the probe saw.

    ``route`` is "onednn" (the CPU wheel's second float32 product, often twice as fast) or "ieee"
    (the default one: MKL on CPU, plain float32 on CUDA). ``error`` is the probe's largest
    |product - float64| over ``|w| |h|``; ``invariant`` says that the probe got the same bits from
    small and large blocks. ``epilogue`` names the kernel that takes the statistics from each block.
    """

    route: Route
    error: float
    invariant: bool
    epilogue: Epilogue = "eager"

    @staticmethod
    def probe(weight: Float[Tensor, "vocab dim"]) -> Precision:
        """The fastest route whose error is that of float32 on rows of this weight.

        The flag behind "onednn" permits real bfloat16 arithmetic on machines with matrix units for
        it, so it is taken only where its error against float64 is within four times that of the
        plain float32 product. Source: SPEC §1.
        """
        epilogue = fastest(weight.device)
        ieee = _measure("ieee", weight, epilogue)
        if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
            return ieee
        onednn = _measure("onednn", weight, epilogue)
        faithful = onednn.error <= 4 * ieee.error and onednn.invariant >= ieee.invariant
        return onednn if faithful else ieee


def _measure(route: Route, weight: Float[Tensor, "vocab dim"], epilogue: Epilogue) -> Precision:
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
    invariant = bool(torch.equal(whole[:TILE, -TILE:], small))
    return Precision(route, error, invariant, epilogue)
