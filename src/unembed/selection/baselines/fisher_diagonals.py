"""Likeness of the diagonals of two head Fishers: Task2Vec at the head."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from unembed.head.head import Head
from unembed.selection.baselines.cosine import cosine, ratio
from unembed.signatures.alignment.grams import error_blocks, logsumexp
from unembed.signatures.samples import Samples

BLOCK = 1024
"""Tokens taken at once: a block of the diagonal has so many rows of the hidden states' width."""


@torch.no_grad()
def task2vec(target: Samples, source: Samples, head: Head) -> float:
    """Task2Vec's symmetric similarity of the head Fisher's diagonal (Achille et al. 2019), 0 to 1::

        f[k] = mean of e[k]² ‖a‖² / dim                  # the diagonal, averaged over token k's row
        task2vec = cos(f_s / (f_s + f_t), f_t / (f_s + f_t))

    One minus the published distance, with a token's row of the head as the filter, the observed
    next tokens as labels (the empirical Fisher), and no training of a probe. Tokens without a
    gradient in either text are left out. Each token counts the same, however rare: the target's
    scale counts, its frequent tokens do not. Symmetric. NaN where a text has no gradient.
    Source: theory §11.
    """
    s, t = (_row_means(text, head) for text in (source, target))
    both = s + t
    both[both == 0] = 1
    return cosine(s / both, t / both)


@torch.no_grad()
def fisher_diagonal(target: Samples, source: Samples, head: Head) -> float:
    """The cosine of the diagonals of the head Fishers, entry by entry, from 0 to 1::

        d[k, i] = mean of e[k]² a[i]²
        fisher_diagonal = cos(d_s, d_t)

    Exact, and never whole: some tokens of ``d`` at a time. Symmetric; the same under a scale of
    either text's states at fixed errors, but not under rotation of the coordinates. NaN where a
    text has no gradient. Costs ``3 n vocab dim`` multiplications for n positions.
    Source: theory §11.
    """
    product = left = right = 0.0
    for s, t in zip(_diagonals(source, head), _diagonals(target, head), strict=True):
        product += float((s * t).sum())
        left += float(s.square().sum())
        right += float(t.square().sum())
    return ratio(product, left, right)


def _row_means(text: Samples, head: Head) -> Float[Tensor, " vocab"]:
    size = text.hidden.to(head.weight.device).double().square().mean(1) / len(text.document)
    return torch.cat([size @ errors.square() for errors in _errors(text, head)])


def _diagonals(text: Samples, head: Head) -> Iterator[Float[Tensor, "columns dim"]]:
    squared = text.hidden.to(head.weight.device).double().square() / len(text.document)
    for errors in _errors(text, head):
        yield errors.square_().T @ squared


def _errors(text: Samples, head: Head) -> Iterator[Float[Tensor, "positions columns"]]:
    device = head.weight.device
    hidden, targets = text.hidden.to(device).double(), text.targets.to(device).long()
    return error_blocks(hidden, targets, head, logsumexp(hidden, head, BLOCK), BLOCK)
