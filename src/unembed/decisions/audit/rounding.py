"""What the checkpoint's own precision makes of the decisions that float32 tells apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from unembed.decisions.audit.gap import GapFit, GapUndefined, fit_gap
from unembed.short_repr import ShortRepr
from unembed.stats.bootstrap import RESAMPLES, cluster, ratio_estimates, sums_by_document
from unembed.stats.estimate import Estimate


@dataclass(frozen=True)
class NativeColumns:
    """The same positions under the head in its native precision, row for row with the audit.

    ``margin`` is between the two largest native logits; ``rounding_step`` is the spacing of
    ``dtype`` at the top logit's magnitude, in logits; ``top2_float32`` is the runner-up of the
    float32 head. A row whose native margin is not finite (an overflow) is left out of the figures.
    """

    dtype: str
    top1: Int[np.ndarray, " positions"]
    top2: Int[np.ndarray, " positions"]
    margin: Float[np.ndarray, " positions"]
    rounding_step: Float[np.ndarray, " positions"]
    top2_float32: Int[np.ndarray, " positions"]

    def rows(self, kept: Bool[np.ndarray, " positions"]) -> NativeColumns:
        """The columns at some of the rows."""
        return NativeColumns(
            self.dtype,
            self.top1[kept],
            self.top2[kept],
            self.margin[kept],
            self.rounding_step[kept],
            self.top2_float32[kept],
        )


@dataclass(frozen=True)
class NativeHead(ShortRepr):
    """What the head in the checkpoint's own precision makes of the same positions (theory §1)."""

    dtype: str
    distinct_margins: int
    distinct_margins_float32: int
    changed_top1: Estimate
    changed_top1_untied: Estimate
    changed_order: Estimate
    tied_top2: Estimate
    below_rounding_step: Estimate
    gap: GapFit | None
    gap_float32: GapFit | None


def native_head(
    native: NativeColumns,
    documents: Int[np.ndarray, " positions"],
    top1: Int[np.ndarray, " positions"],
    margin: Float[np.ndarray, " positions"],
    gap: GapFit | None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> NativeHead:
    """Compare the native head with the float32 head on the same positions (theory §1).

    ``changed_top1`` is the share whose greedy token differs, ``changed_top1_untied`` that share
    among positions with a native margin above 0, ``changed_order`` the share whose ordered pair
    (top-1, top-2) differs, ``tied_top2`` the share with a native margin of exactly 0,
    ``below_rounding_step`` the share whose float32 margin is below the native rounding step.
    ``documents``, ``top1`` and ``margin`` are the float32 head's, row for row, and ``gap`` their
    fit, which is made again where native rows are left out. A gap that is undefined is None.
    """
    kept = np.isfinite(native.margin) & np.isfinite(native.rounding_step)
    if not kept.all():
        native, documents = native.rows(kept), documents[kept]
        top1, margin = top1[kept], margin[kept]
    inverse, clusters = cluster(documents)
    changed = native.top1 != top1
    untied = native.margin > 0
    everything = np.ones(len(documents), dtype=np.bool_)
    shares = (
        (changed, everything),
        (changed & untied, untied),
        (changed | (native.top2 != native.top2_float32), everything),
        (~untied, everything),
        (margin < native.rounding_step, everything),
    )
    numerators, denominators = (
        np.stack(
            [sums_by_document(pair[i].astype(np.float64), inverse, clusters) for pair in shares]
        )
        for i in (0, 1)
    )
    estimates = ratio_estimates(numerators, denominators, resamples=resamples, seed=seed)
    if not kept.all():
        gap = _fit_or_none(margin, documents, resamples=resamples, seed=seed)
    changed_top1, changed_untied, changed_order, tied, below = estimates
    return NativeHead(
        dtype=native.dtype,
        distinct_margins=len(np.unique(native.margin)),
        distinct_margins_float32=len(np.unique(margin)),
        changed_top1=changed_top1,
        changed_top1_untied=changed_untied,
        changed_order=changed_order,
        tied_top2=tied,
        below_rounding_step=below,
        gap=_fit_or_none(native.margin, documents, resamples=resamples, seed=seed),
        gap_float32=gap,
    )


def _fit_or_none(
    margin: Float[np.ndarray, " positions"],
    documents: Int[np.ndarray, " positions"],
    *,
    resamples: int,
    seed: int,
) -> GapFit | None:
    try:
        return fit_gap(margin, documents, resamples=resamples, seed=seed)
    except GapUndefined:
        return None
