"""What rounding the logits to bfloat16 does to the decisions, from an audit's table alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from unembed.decisions.audit.finite_rows import FiniteRows
from unembed.short_repr import ShortRepr
from unembed.stats.bootstrap import RESAMPLES, add_by_document, ratio_estimates
from unembed.stats.estimate import Estimate

EPSILON = 2.0**-7
"""Spacing of bfloat16 at 1: it keeps 8 significant bits."""


@dataclass(frozen=True)
class Bfloat16Rounding(ShortRepr):
    """Shares of positions where a head that gives bfloat16 logits may decide otherwise, or does.

    ``within_step``: the margin is below the rounding step, the spacing of bfloat16 at the top
    logit. ``tied``: the two best logits are rounded to the same number. ``changed``: they are, and
    the runner-up wins the tie, which goes to the lowest id.
    """

    within_step: Estimate
    tied: Estimate
    changed: Estimate


def bfloat16_rounding(
    rows: FiniteRows, *, resamples: int = RESAMPLES, seed: int = 0
) -> Bfloat16Rounding:
    """Round the two best logits of every position to bfloat16 and see who wins (theory §1).

    Equivalent to::

        top = logsumexp + log(confidence)
        tied = top.bfloat16() == (top - margin).bfloat16()
        changed = tied & (top2 < top1)

    Rounding keeps order, so that a decision changes by a tie alone. Others than the runner-up may
    win a tie too, which adds hundredths of ``changed``; weights and hidden states are taken as they
    are. Intervals cluster by document.
    """
    shares, everything = np.zeros((3, rows.documents)), np.zeros(rows.documents)
    names = ("top1", "top2", "margin", "logsumexp", "confidence")
    for inverse, top1, top2, margin, logsumexp, confidence in rows.parts(*names):
        top = top_logit(logsumexp, confidence)
        tied = _rounded(top) == _rounded(top - margin)
        found = (margin < rounding_step(top), tied, tied & (top2 < top1))
        for total, one in zip((everything, *shares), (np.ones(len(top)), *found), strict=True):
            add_by_document(total, one, inverse)
    return Bfloat16Rounding(
        *ratio_estimates(
            shares, np.broadcast_to(everything, shares.shape), resamples=resamples, seed=seed
        )
    )


def rounding_step(top: Float[np.ndarray, " positions"]) -> Float[np.ndarray, " positions"]:
    """Distance between neighbouring bfloat16 numbers at a logit: ``2 ** floor(log2 |top|) / 128``.

    In logits; that of the smallest normal number where a logit is 0.
    """
    size = np.maximum(np.abs(top.astype(np.float64)), torch.finfo(torch.bfloat16).tiny)
    step: Float[np.ndarray, " positions"] = np.exp2(np.floor(np.log2(size))) * EPSILON
    return step


def top_logit(
    logsumexp: Float[np.ndarray, " positions"], confidence: Float[np.ndarray, " positions"]
) -> Float[np.ndarray, " positions"]:
    """The winner's logit from two columns of the table: ``logsumexp + log(confidence)``."""
    sure = np.maximum(confidence.astype(np.float64), np.finfo(np.float32).tiny)
    found: Float[np.ndarray, " positions"] = logsumexp.astype(np.float64) + np.log(sure)
    return found


def _rounded(logits: Float[np.ndarray, " positions"]) -> Float[np.ndarray, " positions"]:
    """To the nearest bfloat16 number, halves to even, by way of float32."""
    nearest = torch.from_numpy(logits.astype(np.float32)).bfloat16().float()
    found: Float[np.ndarray, " positions"] = nearest.numpy()
    return found
