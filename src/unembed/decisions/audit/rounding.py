"""What the checkpoint's own precision makes of the decisions that float32 tells apart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from unembed.decisions.audit.finite_rows import FiniteRows
from unembed.decisions.audit.gap import GapFit, GapUndefined, read_gap
from unembed.decisions.audit.logprob_gap import NATIVE_NLL, LogprobGap, logprob_gap
from unembed.short_repr import ShortRepr
from unembed.stats.bootstrap import RESAMPLES, add_by_document, ratio_estimates
from unembed.stats.estimate import Estimate

NATIVE_FINITE = ("native_margin", "native_step")
"""Columns that are not finite where a native logit overflowed."""
HELD_VALUES = 1 << 20
"""Values that are looked through at a time, or twice the different ones if those are more."""


@dataclass(frozen=True)
class NativeColumns:
    """The same positions under the head in its native precision, row for row with the audit.

    ``margin`` is between the two largest native logits; ``rounding_step`` is the spacing of
    ``dtype`` at the top logit's magnitude, in logits; ``top2_float32`` is the runner-up of the
    float32 head. A row whose native margin is not finite (an overflow) is left out of the figures.
    ``nll`` is the native loss of the target in nats.
    """

    dtype: str
    top1: Int[np.ndarray, " positions"]
    top2: Int[np.ndarray, " positions"]
    margin: Float[np.ndarray, " positions"]
    rounding_step: Float[np.ndarray, " positions"]
    top2_float32: Int[np.ndarray, " positions"]
    nll: Float[np.ndarray, " positions"]


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
    logprobs: LogprobGap | None = None


def native_head(
    rows: FiniteRows,
    dtype: str,
    gap: GapFit | None,
    *,
    logprobs: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> NativeHead:
    """Compare the native head with the float32 head on the same positions (theory §1).

    ``changed_top1`` is the share whose greedy token differs, ``changed_top1_untied`` that share
    among positions with a native margin above 0, ``changed_order`` the share whose ordered pair
    (top-1, top-2) differs, ``tied_top2`` the share with a native margin of exactly 0,
    ``below_rounding_step`` the share whose float32 margin is below the native rounding step.
    ``gap`` is the fit of the float32 margins of ``rows``, which is made again where native rows are
    left out. A gap that is undefined is None. ``logprobs`` says that the column ``native_nll`` is
    there.
    """
    every, rows = rows, rows.also(NATIVE_FINITE)
    how = {"resamples": resamples, "seed": seed}
    numerators, denominators = np.zeros((5, rows.documents)), np.zeros((5, rows.documents))
    names = ("top1", "top2", "margin", "native_top1", "native_top2", "native_margin", "native_step")
    for inverse, top1, top2, margin, native_top1, native_top2, native_margin, step in rows.parts(
        *names
    ):
        changed, untied = native_top1 != top1, native_margin > 0
        everything = np.ones(len(inverse), dtype=np.bool_)
        shares = (
            (changed, everything),
            (changed & untied, untied),
            (changed | (native_top2 != top2), everything),
            (~untied, everything),
            (margin < step, everything),
        )
        for i, pair in enumerate(shares):
            for sums, values in zip((numerators, denominators), pair, strict=True):
                add_by_document(sums[i], values, inverse)
    changed_top1, changed_untied, changed_order, tied, below = ratio_estimates(
        numerators, denominators, **how
    )
    if rows.n != every.n:
        gap = _fit_or_none(rows, "margin", **how)
    return NativeHead(
        dtype=dtype,
        distinct_margins=_distinct(values for _, values in rows.parts("native_margin")),
        distinct_margins_float32=_distinct(values for _, values in rows.parts("margin")),
        changed_top1=changed_top1,
        changed_top1_untied=changed_untied,
        changed_order=changed_order,
        tied_top2=tied,
        below_rounding_step=below,
        gap=_fit_or_none(rows, "native_margin", **how),
        gap_float32=gap,
        logprobs=logprob_gap(rows, NATIVE_NLL, f"{dtype} head", **how) if logprobs else None,
    )


def _distinct(parts: Iterable[Float[np.ndarray, " _"]]) -> int:
    """How many different values there are, ``len(np.unique(values))``."""
    found: list[np.ndarray] = []
    limit = HELD_VALUES
    for values in parts:
        found.append(values)
        if sum(map(len, found)) > limit:
            found = [np.unique(np.concatenate(found))]
            limit = max(limit, 2 * len(found[0]))
    return len(np.unique(np.concatenate(found))) if found else 0


def _fit_or_none(rows: FiniteRows, name: str, *, resamples: int, seed: int) -> GapFit | None:
    try:
        return read_gap(rows.column(name), rows.documents, resamples=resamples, seed=seed)
    except GapUndefined:
        return None
