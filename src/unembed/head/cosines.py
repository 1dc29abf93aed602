"""Cosines between the head's rows that a position selects, and what they add to its gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unembed.head.head import Head
from unembed.head.product import float32_products

GATHERED = 2048
"""Rows of the weight that are copied out at once."""
PAIRED = 256
"""Positions whose rows are held at once, pair by pair."""


def row_cosines(
    head: Head, ids: Int[Tensor, "positions k"], dtype: torch.dtype
) -> Float[Tensor, "positions k k"]:
    """``w_i . w_j / (|w_i| |w_j|)`` of each position's rows in this dtype; 0 for a zero row.

    Between -1 and 1, and exactly 1 on the diagonal of a row that is not zero. Where several
    processes hold the head's rows, all of them call this, and ``pair_cosines``. Source: theory §5.
    """
    n, k = ids.shape
    found = torch.empty(n, k, k, dtype=dtype, device=ids.device)
    step = max(1, GATHERED // k)
    for top in range(0, n, step):
        rows, _ = _unit_rows(head, ids[top : top + step], dtype)
        with float32_products("ieee"):
            torch.bmm(rows, rows.mT, out=found[top : top + step])
    own = found.clamp_(-1.0, 1.0).diagonal(dim1=1, dim2=2)
    own.round_()
    return found


def pair_cosines(head: Head, ids: Int[Tensor, "positions k"]) -> Float[Tensor, "positions k k"]:
    """``row_cosines`` in float32, a pair of columns after the other.

    A position's bits depend on no other in the call and on no number of threads, as those of a
    batch of products may; for a handful of columns it takes less time too.
    """
    n, k = ids.shape
    found = torch.empty(n, k, k, dtype=torch.float32, device=ids.device)
    for top in range(0, n, PAIRED):
        rows, _ = _unit_rows(head, ids[top : top + PAIRED], torch.float32)
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
    Where several processes hold the rows, ``held`` are these gradients of the rows that are held
    here, summed beforehand, for all processes must be asked for the rows of one position at once.
    """

    head: Head
    ids: Int[Tensor, "positions k"]
    pulls: Float[Tensor, "positions k k"]
    held: tuple[Int[Tensor, " rows"], Float[Tensor, "rows dim"]] | None = None

    @staticmethod
    def of(
        head: Head, ids: Int[Tensor, "positions k"], to_cosines: Float[Tensor, "positions k k"]
    ) -> CosineGradient:
        """From the gradient in the cosines, whose diagonal means nothing: it is constant."""
        pulls = to_cosines + to_cosines.mT
        pulls.diagonal(dim1=1, dim2=2).zero_()
        return CosineGradient(head, ids, pulls, _of_held_rows(head, ids, pulls))

    def add_to(self, at_rows: Float[Tensor, "block dim"], start: int) -> None:
        """Add dL/dw to a block of the weight's gradient that begins at this row of those here."""
        if self.held is not None:
            rows, gradients = self.held
            here = (rows >= start) & (rows < start + len(at_rows))
            at_rows.index_add_(0, rows[here] - start, gradients[here])
            return
        inside = (self.ids >= start) & (self.ids < start + len(at_rows))
        step = max(1, GATHERED // self.ids.shape[1])
        for some in inside.nonzero().split(step):
            positions, slots = some.unbind(1)
            ids = self.ids[positions]
            unit = _unit_rows(self.head, ids, at_rows.dtype)
            to_rows = _to_rows(*unit, slots, self.pulls[positions, slots])
            each = torch.arange(len(some), device=ids.device)
            at_rows.index_add_(0, ids[each, slots] - start, to_rows)


def _of_held_rows(
    head: Head, ids: Int[Tensor, "positions k"], pulls: Float[Tensor, "positions k k"]
) -> tuple[Int[Tensor, " rows"], Float[Tensor, "rows dim"]] | None:
    """The rows among those held here that any position selects, and the sums of their gradients.

    None where all rows are here.
    """
    if (share := head.share) is None:
        return None
    rows = share.local(ids)[share.owns(ids)].unique()
    gradients = pulls.new_zeros(len(rows), head.dim)
    step = max(1, GATHERED // ids.shape[1])
    for some, pull in zip(ids.split(step), pulls.split(step), strict=True):
        unit, norms = _unit_rows(head, some, pulls.dtype)
        positions, slots = share.owns(some).nonzero().unbind(1)
        to_rows = _to_rows(unit[positions], norms[positions], slots, pull[positions, slots])
        local = share.local(some)[positions, slots]
        gradients.index_add_(0, torch.searchsorted(rows, local), to_rows)
    return rows, gradients


def _to_rows(
    unit: Float[Tensor, "some k dim"],
    norms: Float[Tensor, "some k 1"],
    slots: Int[Tensor, " some"],
    pulls: Float[Tensor, "some k"],
) -> Float[Tensor, "some dim"]:
    """dL/dw of one of each k rows, the one in its slot."""
    with float32_products("ieee"):
        to_unit = torch.bmm(pulls[:, None], unit)[:, 0]
    each = torch.arange(len(slots), device=slots.device)
    own = unit[each, slots]
    to_unit -= own * (own * to_unit).sum(1, keepdim=True)
    return to_unit.div_(norms[each, slots])


def _unit_rows(
    head: Head, ids: Int[Tensor, "positions k"], dtype: torch.dtype
) -> tuple[Float[Tensor, "positions k dim"], Float[Tensor, "positions k 1"]]:
    """These rows at length 1 and their norms; a zero row stays zero, its norm being infinite.

    The norm is taken in float64, where squares of float32 numbers neither vanish nor overflow.
    """
    rows = head.rows_at(ids).to(dtype)
    norms = torch.linalg.vector_norm(rows, dim=2, keepdim=True, dtype=torch.float64).to(dtype)
    norms.masked_fill_(norms == 0, torch.inf)
    return rows / norms, norms
