"""The columns of one depth under one lens, from what the head says beside its final decision."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from unembed.decisions.measure import ColumnChoice, columns_of
from unembed.head.beside_final import BesideFinal
from unembed.head.cosines import pair_cosines
from unembed.head.head import Head
from unembed.head.penalties import cosine_penalty, fisher_penalty
from unembed.head.precision import Precision
from unembed.head.sweep import Sweep

OF_AUDIT = (
    "target",
    "top1",
    "top2",
    "margin",
    "relative_distance",
    "hidden_norm",
    "nll",
    "entropy",
    "logsumexp",
    "rank",
)
"""Columns that an audit has too, which the last depth holds to the bit."""
OF_DEPTH = ("final_rank", "kl_final", "acceptance", "cosine_penalty", "fisher_penalty")
CANDIDATES = ("topk_ids", "topk_logits")


def bytes_a_position(top_k: int) -> int:
    """Width of a position in a table, with its document and place."""
    return 4 * (2 + len(OF_AUDIT) + len(OF_DEPTH) + 2 * top_k)


@torch.no_grad()
def depth_columns(
    hidden: Float[Tensor, "positions dim"],
    found: BesideFinal,
    head: Head,
    targets: Int[Tensor, " positions"],
    top_k: int,
    precision: Precision,
) -> dict[str, Shaped[np.ndarray, "positions ..."]]:
    """Every column of these positions at one depth by its name, plus ``finite``.

    ``hidden`` is what the lens gave the head. Source: theory §3.
    """
    swept = found.swept
    columns = columns_of(hidden, head, targets, swept, ColumnChoice(top_k), precision)
    logits = swept.topk_values[:, :top_k]
    cosines = pair_cosines(head, swept.topk_ids[:, :top_k])
    own = {
        "final_rank": found.final_rank.to(torch.int32),
        "kl_final": found.kl_final,
        "acceptance": found.acceptance,
        "cosine_penalty": cosine_penalty(logits, cosines),
        "fisher_penalty": fisher_penalty(logits, cosines),
    }
    kept = {name: columns[name] for name in OF_AUDIT}
    finite = columns["finite"].copy()
    for name in OF_DEPTH:
        kept[name] = own[name].cpu().numpy()
        finite &= np.isfinite(kept[name])
    return kept | {name: columns[name] for name in CANDIDATES} | {"finite": finite}


def final_itself(swept: Sweep) -> BesideFinal:
    """The final decision beside itself: the last depth under the model's own tail."""
    n, device = len(swept.rank), swept.rank.device
    return BesideFinal(
        swept=swept,
        final_rank=torch.ones(n, dtype=torch.int64, device=device),
        kl_final=torch.zeros(n, device=device),
        acceptance=torch.ones(n, device=device),
    )
