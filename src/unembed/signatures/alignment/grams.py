"""Errors of the logits, and their inner products between samples, in blocks of the vocabulary.

The error is the gradient of the cross-entropy in the *logits*, after bias, scale and soft-cap. The
head's weights see it through the scale and the soft-cap's slope, which are left out: ``e ⊗ a`` is
their gradient where the logits are ``W h + b``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unembed.errors import UnembedError
from unembed.head.head import Head

BlocksOf = Callable[[], Iterator[Float[Tensor, "positions columns"]]]
"""Gives the columns of a matrix of samples by tokens, block after block, from the start."""


def logsumexp(
    hidden: Float[Tensor, "positions dim"], head: Head, block: int
) -> Float[Tensor, " positions"]:
    """The normaliser of every position in nats, in float64."""
    total = torch.full((len(hidden),), -math.inf, dtype=torch.float64, device=hidden.device)
    for _start, logits in _logits(hidden, head, block):
        total = torch.logaddexp(total, logits.logsumexp(1))
    return total


def probability_blocks(
    hidden: Float[Tensor, "positions dim"],
    head: Head,
    normaliser: Float[Tensor, " positions"],
    block: int,
) -> Iterator[Float[Tensor, "positions columns"]]:
    """``softmax(logits)`` in float64, a block of the vocabulary at a time; 0 at rows no token."""
    for _start, logits in _logits(hidden, head, block):
        yield logits.sub_(normaliser[:, None]).exp_()


def error_blocks(
    hidden: Float[Tensor, "positions dim"],
    targets: Int[Tensor, " positions"],
    head: Head,
    normaliser: Float[Tensor, " positions"],
    block: int,
) -> Iterator[Float[Tensor, "positions columns"]]:
    """``e = softmax(logits) - onehot(target)`` in float64, a block of the vocabulary at a time."""
    start = 0
    for errors in probability_blocks(hidden, head, normaliser, block):
        rows = ((targets >= start) & (targets < start + errors.shape[1])).nonzero()[:, 0]
        errors[rows, targets[rows] - start] -= 1
        start += errors.shape[1]
        yield errors


@dataclass(frozen=True)
class TopkErrors:
    """Each error's k largest entries and its target's; the others are 0.

    The target's is the largest, the sum of all others, but for ties and rounding: the last column
    of ``ids`` is for it where it is not among the k, else an entry of value 0. ``kept`` and
    ``dropped`` are the norms of what is kept and of what is not.
    """

    ids: Int[Tensor, "positions entries"]
    values: Float[Tensor, "positions entries"]
    kept: Float[Tensor, " positions"]
    dropped: Float[Tensor, " positions"]

    def blocks(self, block: int) -> Iterator[Float[Tensor, "positions columns"]]:
        """The kept entries as a dense matrix of the tokens kept anywhere, in blocks of columns."""
        tokens, column = self.ids.unique(return_inverse=True)
        for start in range(0, len(tokens), block):
            columns = min(block, len(tokens) - start)
            inside = (column >= start) & (column < start + columns)
            dense = self.values.new_zeros(len(self.ids), columns)
            where = torch.where(inside, column - start, 0)
            yield dense.scatter_add_(1, where, self.values * inside)

    def slack(self, rows: slice) -> Float[Tensor, "rows positions"]:
        """How far the inner products of some rows with all may be from those of whole errors.

        ``e = ē + d`` and ``‖d‖ = ε`` give ``|e·e' - ē·ē'| ≤ ε ‖ē'‖ + ε' ‖ē‖ + ε ε'``, by
        Cauchy and Schwarz.
        """
        kept, dropped = self.kept[rows, None], self.dropped[rows, None]
        return dropped * self.kept + self.dropped * kept + dropped * self.dropped


def topk_errors(
    hidden: Float[Tensor, "positions dim"],
    targets: Int[Tensor, " positions"],
    head: Head,
    k: int,
    block: int = 2048,
) -> TopkErrors:
    """The k entries of each error that are largest in size, and the target's, in float64.

    Equivalent to ``e * (rank_of(|e|) < k or token == target)``, ``e = softmax(logits) - onehot``.
    Raises UnembedError for k < 1. Source: theory §8.
    """
    if k < 1:
        raise UnembedError(f"top_k is {k}: keep one entry of each error at least")
    normaliser = logsumexp(hidden, head, block)
    sizes = torch.empty(len(hidden), 0, dtype=torch.float64, device=hidden.device)
    ids = torch.empty(len(hidden), 0, dtype=torch.long, device=hidden.device)
    at_target = torch.zeros(len(hidden), dtype=torch.float64, device=hidden.device)
    start = 0
    for errors in error_blocks(hidden, targets, head, normaliser, block):
        at_target += _at(errors, targets - start)
        found = torch.arange(start, start + errors.shape[1], device=ids.device)
        sizes = torch.cat([sizes, errors.abs_()], 1)
        ids = torch.cat([ids, found.expand(len(ids), -1)], 1)
        sizes, best = sizes.topk(min(k, sizes.shape[1]), dim=1)
        ids = ids.gather(1, best)
        start += errors.shape[1]
    is_target = ids == targets[:, None]
    # Every entry but the target's is a probability, so only that one is negative.
    values = torch.where(is_target, -sizes, sizes)
    extra = torch.where(is_target.any(1), 0.0, at_target)
    ids = torch.cat([ids, targets[:, None]], 1)
    values = torch.cat([values, extra[:, None]], 1)
    dropped = _dropped(ids, error_blocks(hidden, targets, head, normaliser, block))
    return TopkErrors(ids, values, values.norm(dim=1), dropped)


def gram(blocks: BlocksOf, rows: slice) -> Float[Tensor, "rows positions"]:
    """Inner products of some rows of a matrix with all of them: ``x[rows] @ x.T``."""
    total: Tensor | None = None
    for x in blocks():
        total = x[rows] @ x.T if total is None else total.addmm_(x[rows], x.T)
    if total is None:
        raise ValueError("a matrix of no columns has no inner products")
    return total


def fisher_gram(probabilities: BlocksOf, rows: slice) -> Float[Tensor, "rows positions"]:
    """Inner products of the true Fishers of the logits, ``F(p) = diag p - p pᵀ``.

    ``⟨F(p), F(q)⟩ = p·q - p²·q - p·q² + (p·q)²``, which is ``E[(e·e')²]`` over labels drawn from p
    and from q. Source: theory §7.
    """
    total: Tensor | None = None
    linear: Tensor | None = None
    for p in probabilities():
        squared = p.square()
        # p·q - p²·q is (p - p²)·q: one product less.
        if total is None or linear is None:
            linear = p[rows] @ p.T
            total = (p - squared)[rows] @ p.T
        else:
            linear.addmm_(p[rows], p.T)
            total.addmm_((p - squared)[rows], p.T)
        total.addmm_(p[rows], squared.T, alpha=-1)
    if total is None or linear is None:
        raise ValueError("a matrix of no columns has no inner products")
    return total.add_(linear.square_())


def residual_sums(
    x: Float[np.ndarray, "rows samples"],
    y: Float[np.ndarray, "rows samples"],
    row_document: Int[np.ndarray, " rows"],
    document: Int[np.ndarray, " samples"],
    debias: bool,
) -> Float[np.ndarray, " 6"]:
    """What ``residual`` needs of some rows of one task's kernels X and Y: add them up over rows.

    ``Σ XY, Σ_i X_i. Y_i., ΣX, ΣY`` over samples, and ``Σ X_d. Y_d., Σ X_de Y_de`` over documents
    d, e. The rows are whole documents, each a run of them; so are the samples. To debias, the pairs
    within a document are 0 already, and the second sum leaves out ``X_ij Y_ik`` with j and k of
    one document.
    """
    columns, rows = (np.flatnonzero(np.diff(d, prepend=-1)) for d in (document, row_document))
    x_document, y_document = (np.add.reduceat(kernel, columns, 1) for kernel in (x, y))
    triples = x.sum(1) @ y.sum(1)
    if debias:
        triples -= (x_document * y_document).sum()
    x_both, y_both = (np.add.reduceat(kernel, rows, 0) for kernel in (x_document, y_document))
    by_document = x_both.sum(1) @ y_both.sum(1)
    return np.array(
        [(x * y).sum(), triples, x.sum(), y.sum(), by_document, (x_both * y_both).sum()]
    )


def residual(
    sums: Float[np.ndarray, " 6"], sizes: Int[np.ndarray, " documents"], debias: bool
) -> float | None:
    """``δ = ‖F - M ⊗ Γ‖ / ‖F‖`` of one task, from its ``residual_sums`` and its documents' sizes.

    ``δ² = (mean XY - 2 mean X_ij Y_ik + mean X_ij Y_kl) / mean XY``, the biased HSIC of X and Y
    over ``mean XY`` where all indices count. To debias, i, j, k, l are of different documents, and
    the three terms are unbiased. None where F is 0, with fewer than four documents to debias from,
    and where the debiased δ² is negative, so that δ cannot be told from 0. Source: theory §7.
    """
    joint, triples, x, y, by_document, both = sums
    s1, s2, s3, s4 = (float((sizes.astype(float) ** k).sum()) for k in range(1, 5))
    counts = s1**2, s1**3, s1**4
    quadruples = x * y
    if debias:
        if len(sizes) < 4:
            return None
        # Inclusion and exclusion over the documents that two, three or four indices share.
        counts = (
            s1**2 - s2,
            s1**3 - 3 * s1 * s2 + 2 * s3,
            s1**4 - 6 * s1**2 * s2 + 3 * s2**2 + 8 * s1 * s3 - 6 * s4,
        )
        quadruples += 2 * both - 4 * by_document
    norm = joint / counts[0]
    if not norm > 0:
        return None
    squared = 1 + (quadruples / counts[2] - 2 * triples / counts[1]) / norm
    return float(np.sqrt(squared)) if squared >= 0 else None


def _logits(
    hidden: Float[Tensor, "positions dim"], head: Head, block: int
) -> Iterator[tuple[int, Float[Tensor, "positions columns"]]]:
    hidden = hidden.double()
    for start in range(0, head.vocab, block):
        span = slice(start, start + block)
        logits = hidden @ head.weight[span].double().T
        if head.bias is not None:
            logits += head.bias[span].double()
        logits *= head.scale
        if head.softcap is not None:
            logits = head.softcap * torch.tanh(logits / head.softcap)
        if head.valid is not None:
            logits[:, ~head.valid[span]] = -math.inf
        yield start, logits


def _at(
    errors: Float[Tensor, "positions columns"], columns: Int[Tensor, " positions"]
) -> Float[Tensor, " positions"]:
    """One entry of each row, 0 where its column is not in the block."""
    inside = (columns >= 0) & (columns < errors.shape[1])
    there = errors.gather(1, torch.where(inside, columns, 0)[:, None])[:, 0]
    return there * inside


def _dropped(
    ids: Int[Tensor, "positions entries"], errors: Iterator[Float[Tensor, "positions columns"]]
) -> Float[Tensor, " positions"]:
    """The norm of the entries at no id, summed as such: a difference of norms would lose it."""
    start, total = 0, torch.zeros(len(ids), dtype=torch.float64, device=ids.device)
    for block in errors:
        inside = (ids >= start) & (ids < start + block.shape[1])
        rows, entries = inside.nonzero(as_tuple=True)
        block[rows, ids[rows, entries] - start] = 0
        total += block.square().sum(1)
        start += block.shape[1]
    return total.sqrt()
