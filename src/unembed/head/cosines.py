"""Cosines between the head's rows that a position selects, and what they add to its gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unembed.head.product import float32_products

GATHERED = 2048
"""Rows of the weight that are copied out at once."""
PAIRED = 256
"""Positions whose rows are held at once, pair by pair."""


def row_cosines(
    weight: Float[Tensor, "vocab dim"], ids: Int[Tensor, "positions k"], dtype: torch.dtype
) -> Float[Tensor, "positions k k"]:
    """``w_i . w_j / (|w_i| |w_j|)`` of each position's rows in this dtype; 0 for a zero row.

    Between -1 and 1, and exactly 1 on the diagonal of a row that is not zero. Source: theory §5.
    """
    n, k = ids.shape
    found = torch.empty(n, k, k, dtype=dtype, device=weight.device)
    step = max(1, GATHERED // k)
    with float32_products("ieee"):
        for top in range(0, n, step):
            rows, _ = _unit_rows(weight, ids[top : top + step], dtype)
            torch.bmm(rows, rows.mT, out=found[top : top + step])
    own = found.clamp_(-1.0, 1.0).diagonal(dim1=1, dim2=2)
    own.round_()
    return found


def pair_cosines(
    weight: Float[Tensor, "vocab dim"], ids: Int[Tensor, "positions k"]
) -> Float[Tensor, "positions k k"]:
    """``row_cosines`` in float32, a pair of columns after the other.

    A position's bits depend on no other in the call and on no number of threads, as those of a
    batch of products may; for a handful of columns it takes less time too.
    """
    n, k = ids.shape
    found = torch.empty(n, k, k, dtype=torch.float32, device=weight.device)
    for top in range(0, n, PAIRED):
        rows, _ = _unit_rows(weight, ids[top : top + PAIRED], torch.float32)
        for i in range(k):
            for j in range(i + 1):
                cosine = (rows[:, i] * rows[:, j]).sum(1).clamp_(-1.0, 1.0)
                cosine = cosine.round_() if i == j else cosine
                found[top : top + PAIRED, i, j] = found[top : top + PAIRED, j, i] = cosine
    return found


@dataclass(frozen=True)
class CosineGradient:
    """A loss's gradient in the cosines of selected rows, to be taken on to the rows.

    With ``u = w / |w|`` and ``v_i = sum_j pulls_ij u_j``, where ``pulls`` is the gradient plus its
    transpose with a zero diagonal, ``dL/dw_i = (v_i - (u_i . v_i) u_i) / |w_i|``; 0 for a zero row.
    """

    weight: Float[Tensor, "vocab dim"]
    ids: Int[Tensor, "positions k"]
    pulls: Float[Tensor, "positions k k"]

    @staticmethod
    def of(
        weight: Float[Tensor, "vocab dim"],
        ids: Int[Tensor, "positions k"],
        to_cosines: Float[Tensor, "positions k k"],
    ) -> CosineGradient:
        """From the gradient in the cosines, whose diagonal means nothing: it is constant."""
        pulls = to_cosines + to_cosines.mT
        pulls.diagonal(dim1=1, dim2=2).zero_()
        return CosineGradient(weight, ids, pulls)

    def add_to(self, at_rows: Float[Tensor, "block dim"], start: int) -> None:
        """Add dL/dw to a block of the weight's gradient whose first row is ``start``."""
        inside = (self.ids >= start) & (self.ids < start + len(at_rows))
        step = max(1, GATHERED // self.ids.shape[1])
        for some in inside.nonzero().split(step):
            positions, slots = some.unbind(1)
            ids = self.ids[positions]
            rows, norms = _unit_rows(self.weight, ids, at_rows.dtype)
            with float32_products("ieee"):
                to_unit = torch.bmm(self.pulls[positions, slots][:, None], rows)[:, 0]
            each = torch.arange(len(some), device=ids.device)
            own = rows[each, slots]
            to_unit -= own * (own * to_unit).sum(1, keepdim=True)
            at_rows.index_add_(0, ids[each, slots] - start, to_unit.div_(norms[each, slots]))


def _unit_rows(
    weight: Float[Tensor, "vocab dim"], ids: Int[Tensor, "positions k"], dtype: torch.dtype
) -> tuple[Float[Tensor, "positions k dim"], Float[Tensor, "positions k 1"]]:
    """These rows at length 1 and their norms; a zero row stays zero, its norm being infinite.

    The norm is taken in float64, where squares of float32 numbers neither vanish nor overflow.
    """
    rows = weight[ids].to(dtype)
    norms = torch.linalg.vector_norm(rows, dim=2, keepdim=True, dtype=torch.float64).to(dtype)
    norms.masked_fill_(norms == 0, torch.inf)
    return rows / norms, norms
