"""CKA from U-statistics over four different documents, whose products are unbiased."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unembed.errors import UnembedError
from unembed.selection.baselines.cosine import ratio
from unembed.selection.baselines.representation import centred, paired


@torch.no_grad()
def debiased_cka(
    a: Float[Tensor, "positions dim"],
    b: Float[Tensor, "positions other"],
    document: Int[np.ndarray, " positions"] | None = None,
) -> float:
    """Linear CKA of paired positions with every product unbiased (Nguyen et al. 2021).

    ``HSIC(a, b) / √(HSIC(a, a) HSIC(b, b))`` with the unbiased estimate of HSIC (Song et al. 2012),
    which is ``centred_product(a aᵀ, b bᵀ)``. ``document`` numbers what is independent; by default
    each position is. The same under rotation and scaling of either. A representation with itself
    has 1; two that have nothing in common have about 0, of either sign, where ``linear_cka`` is
    well above it; a value may pass 1.
    NaN with fewer than four documents, and where a representation is the same in all. Raises
    UnembedError for rows that cannot be paired. Source: theory §11.
    """
    a, b = paired(a, b, centre=True)
    known = np.arange(len(a)) if document is None else document
    if len(known) != len(a):
        raise UnembedError(f"{len(known):,} documents for {len(a):,} positions: give each its own")
    left, right = a @ a.T, b @ b.T
    product, own, other = (
        centred_product(k, m, known, known)
        for k, m in ((left, right), (left, left), (right, right))
    )
    return ratio(product, own, other)


@torch.no_grad()
def unpaired_cka(
    source: Float[Tensor, "source dim"],
    target: Float[Tensor, "target dim"],
    source_document: Int[np.ndarray, " source"],
    target_document: Int[np.ndarray, " target"],
) -> float:
    """``⟨C_s, C_t⟩ / (‖C_s‖ ‖C_t‖)`` of two texts' covariances, every product unbiased.

    Each is ``centred_product(k, k)`` of a Gram matrix ``k = x yᵀ``, which is the mean of
    ``((x_i - x_l)·(y_j - y_k))² / 4`` over positions of four different documents. NaN with fewer
    than four documents in either. Source: theory §11.
    """
    x, y = centred(source), centred(target)
    products = []
    for left, right, row, column in (
        (x, y, source_document, target_document),
        (x, x, source_document, source_document),
        (y, y, target_document, target_document),
    ):
        gram = left @ right.T
        products.append(centred_product(gram, gram, row, column))
    return ratio(*products)


def centred_product(
    k: Float[Tensor, "rows columns"],
    m: Float[Tensor, "rows columns"],
    row_document: Int[np.ndarray, " rows"],
    column_document: Int[np.ndarray, " columns"],
) -> float:
    """The unbiased inner product of two centred kernels between rows and columns::

        mean of (k_ij - k_ic - k_rj + k_rc) (m_ij - m_ic - m_rj + m_rc) / 4
        over rows i, r and columns j, c of four different documents

    Equal to the mean of ``k_ij m_ij - k_ij m_ic - k_ij m_rj + k_ij m_rc``, whose sums are had from
    sums over documents. NaN where no four documents differ. Costs ``rows × columns`` operations.
    """
    _, both = np.unique(np.concatenate([row_document, column_document]), return_inverse=True)
    device = k.device
    row, column = (torch.from_numpy(x).to(device) for x in np.split(both, [len(row_document)]))
    documents = int(both.max()) + 1
    n, o = (torch.bincount(x, minlength=documents).double() for x in (row, column))
    counts = torch.outer(n, o).fill_diagonal_(0)
    quadruples = _distinct(counts, counts)
    if not quadruples > 0:
        return math.nan
    apart = row[:, None] != column
    k, m = k * apart, m * apart
    k_rows, m_rows = (_summed(x, column, documents) for x in (k, m))
    k_columns, m_columns = (_summed(x.T, row, documents) for x in (k, m))
    k_both, m_both = (_summed(x.T, row, documents).T for x in (k_rows, m_rows))
    # How many others of two further documents there are besides a pair of positions.
    shared = n * o
    others = (n.sum() - n[:, None] - n) * (o.sum() - o[:, None] - o)
    others -= shared.sum() - shared[:, None] - shared
    pairs = _summed(_summed(k * m, column, documents).T, row, documents).T
    total = (pairs * others).sum() + _distinct(k_both, m_both)
    total -= _forked(k_rows, m_rows, n, row) + _forked(k_columns, m_columns, o, column)
    return float(total / quadruples)


def _summed(
    x: Float[Tensor, "rows columns"], document: Int[Tensor, " columns"], documents: int
) -> Float[Tensor, "rows documents"]:
    """Sums over the columns of each document."""
    return x.new_zeros(len(x), documents).index_add_(1, document, x)


def _forked(
    k: Float[Tensor, "rows documents"],
    m: Float[Tensor, "rows documents"],
    sizes: Float[Tensor, " documents"],
    document: Int[Tensor, " rows"],
) -> Float[Tensor, ""]:
    """``Σ k_ij m_ic`` over rows i, r and columns j, c of four different documents.

    Row r adds but a count: all rows less those of the documents of i, j and c.
    """
    left = (sizes.sum() - sizes[document]) * (k.sum(1) * m.sum(1) - (k * m).sum(1))
    taken = (k @ sizes) * m.sum(1) + k.sum(1) * (m @ sizes) - 2 * (k * m) @ sizes
    return (left - taken).sum()


def _distinct(
    k: Float[Tensor, "documents documents"], m: Float[Tensor, "documents documents"]
) -> Float[Tensor, ""]:
    """``Σ k_ab m_ec`` over four different documents, of matrices whose diagonals are 0."""
    total = k.sum() * m.sum() + (k * m).sum() + (k * m.T).sum()
    k_row, k_column, m_row, m_column = k.sum(1), k.sum(0), m.sum(1), m.sum(0)
    return total - (k_row + k_column) @ (m_row + m_column)
