"""The columns of an audit, from final hidden states and a head."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from unembed.decisions.facets import facet_distance, relative_distance
from unembed.decisions.native import native_decisions
from unembed.head.blocks import ROWS
from unembed.head.head import Head
from unembed.head.precision import Precision
from unembed.head.sweep import Sweep, sweep


@dataclass(frozen=True)
class ColumnChoice:
    """Which columns to measure: ``top_k`` candidates (0 for none), facets, the native head."""

    top_k: int = 5
    facets: bool = False
    native_head: bool = False

    @property
    def bytes_a_position(self) -> int:
        """Width of a position in a table of these columns, with its document, place and word."""
        return 57 + 8 * self.top_k + 8 * self.facets + 20 * self.native_head


@torch.no_grad()
def measure(
    hidden: Float[Tensor, "positions dim"],
    head: Head,
    targets: Int[Tensor, " positions"],
    wanted: ColumnChoice,
    precision: Precision,
) -> dict[str, Shaped[np.ndarray, "positions ..."]]:
    """Every measured column of these positions, by column name, plus ``finite``.

    A row depends on its own hidden state and target alone: on CPU it is bitwise the same whatever
    else is in the call. Source: theory §1 and the record of an audit.
    """
    swept = sweep(hidden, head, targets, k=max(2, wanted.top_k), precision=precision)
    return columns_of(hidden, head, targets, swept, wanted, precision)


@torch.no_grad()
def columns_of(
    hidden: Float[Tensor, "positions dim"],
    head: Head,
    targets: Int[Tensor, " positions"],
    swept: Sweep,
    wanted: ColumnChoice,
    precision: Precision,
) -> dict[str, Shaped[np.ndarray, "positions ..."]]:
    """``measure`` after the pass."""
    top1, top2 = swept.topk_ids[:, 0], swept.topk_ids[:, 1]
    columns: dict[str, Tensor] = {
        "target": targets,
        "top1": top1,
        "top2": top2,
        "margin": swept.margin,
        "relative_distance": relative_distance(hidden, head, top1, top2),
        "hidden_norm": torch.cat([h.double().norm(dim=1).float() for h in hidden.split(ROWS)]),
        "confidence": swept.confidence,
        "nll": swept.nll,
        "entropy": swept.entropy,
        "logsumexp": swept.logsumexp,
        "sum_p2": swept.sum_p2,
        "rank": swept.rank,
    }
    if wanted.facets:
        facet, distance = facet_distance(hidden, head, top1, precision)
        columns |= {"facet": facet, "facet_distance": distance}
    if wanted.native_head:
        native = native_decisions(hidden, head, targets)
        columns |= {
            "native_top1": native.top1,
            "native_top2": native.top2,
            "native_margin": native.margin,
            "native_step": native.rounding_step,
            "native_nll": native.nll,
        }
    if wanted.top_k:
        columns |= {
            "topk_ids": swept.topk_ids[:, : wanted.top_k],
            "topk_logits": swept.topk_values[:, : wanted.top_k],
        }
    finite = swept.finite & torch.isfinite(columns["relative_distance"])
    return {name: _plain(column) for name, column in {**columns, "finite": finite}.items()}


def _plain(column: Tensor) -> Shaped[np.ndarray, "positions ..."]:
    if column.dtype == torch.int64:
        column = column.to(torch.int32)
    found: Shaped[np.ndarray, "positions ..."] = column.cpu().numpy()
    return found
