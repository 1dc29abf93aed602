"""Whether the probabilities that a head states are the frequencies with which it is right."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from unembed.runs.record import check_columns
from unembed.short_repr import ShortRepr
from unembed.stats.bootstrap import (
    RESAMPLES,
    cluster,
    interval,
    interval_levels,
    ratio_of_totals,
    sums_by_document,
    totals_and_resamples,
)
from unembed.stats.estimate import Estimate

BINS = 15
"""Equal-width bins of confidence on [0, 1], the usual number."""

EDGES = tuple(i / BINS for i in range(BINS + 1))
"""Edges of the bins ``low <= confidence < high``; the last bin holds its upper edge, 1, too."""

ROUNDING = 1e-6
"""How far a float32 probability may lie outside [0, 1] and still be put in the bin at that end."""


@dataclass(frozen=True)
class CalibrationColumns:
    """The columns of one audit that its calibration reads, one row a position, all finite.

    ``confidence`` the probability of top-1, ``right`` whether top-1 is the target, ``nll`` of the
    target in nats, ``sum_p2`` the sum of the squared probabilities. Raises ``ValueError`` where
    lengths differ, a number is not finite, or a confidence is no probability.
    """

    confidence: Float[np.ndarray, " positions"]
    right: Bool[np.ndarray, " positions"]
    nll: Float[np.ndarray, " positions"]
    sum_p2: Float[np.ndarray, " positions"]

    def __post_init__(self) -> None:
        check_columns(self, finite=True)
        outside = np.abs(self.confidence - 0.5) > 0.5 + ROUNDING
        if outside.any():
            raise ValueError(f"a confidence lies in [0, 1], got {self.confidence[outside][0]}")


@dataclass(frozen=True)
class ReliabilityBin(ShortRepr):
    """Positions with ``low <= confidence < high``: their mean confidence and their accuracy."""

    low: float
    high: float
    n: int
    confidence: Estimate
    accuracy: Estimate


@dataclass(frozen=True)
class Calibration(ShortRepr):
    """Calibration of one audit; ``ece``, ``mce`` and ``brier`` have no unit.

    ``mce.n`` counts the positions of the bin in which the maximum lies, and ``ece_by_chance`` is
    what the ECE of a perfectly calibrated head would be on average with as many positions, equally
    clustered: an ECE near it says nothing. None with fewer than two documents.
    """

    ece: Estimate
    ece_by_chance: float | None
    mce: Estimate
    brier: Estimate
    nll_nats: Estimate
    bins: tuple[ReliabilityBin, ...]


@dataclass(frozen=True)
class CalibrationComparison(ShortRepr):
    """Calibration before and after, and the paired differences after - before."""

    before: Calibration
    after: Calibration
    ece_difference: Estimate
    brier_difference: Estimate
    nll_difference_nats: Estimate


@dataclass(frozen=True)
class _Totals:
    """Totals of one audit in each resample; of the documents as they are in the first row."""

    n: Float[np.ndarray, "rows bins"]
    right: Float[np.ndarray, "rows bins"]
    confidence: Float[np.ndarray, "rows bins"]
    brier: Float[np.ndarray, " rows"]
    nll: Float[np.ndarray, " rows"]

    @property
    def size(self) -> Float[np.ndarray, " rows"]:
        """Positions in all bins."""
        size: Float[np.ndarray, " rows"] = self.n.sum(axis=1)
        return size

    @property
    def ece(self) -> Float[np.ndarray, " rows"]:
        """Expected calibration error."""
        share = np.abs(_divide(self.right - self.confidence, self.size[:, None]))
        ece: Float[np.ndarray, " rows"] = share.sum(axis=1)
        return ece


def calibrate(
    columns: CalibrationColumns,
    doc: Int[np.ndarray, " positions"],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Calibration:
    """Measure the calibration of one audit, each figure with its interval (theory §4).

    Over 15 bins b of confidence, ``ECE = sum(n_b / n * abs(acc_b - conf_b))`` and ``MCE =
    max(abs(acc_b - conf_b))`` over the bins that hold a position; ``Brier = mean(sum_p2 - 2 p_y +
    1)``, ``p_y = exp(-nll)``. The MCE is dominated by the smallest bins: read it beside ``mce.n``.

    Both are norms of the vector of gaps, so noise in the gaps biases them upward, the more the
    fewer the positions, and a resample adds the noise a second time: the percentile interval of a
    calibrated head's ECE never holds its true value, 0, and the basic interval two times in five.
    The interval here ends above at the percentile, where that bias is on the safe side, and below
    at ``value - q`` (or 0), q the 97.5 % quantile of the norm of how far the resampled gaps lie
    from the measured ones: by the triangle inequality no true value lies lower unless the noise is
    larger than that. Its coverage is at least the nominal one; it reaches 0 exactly where the
    hypothesis of perfect calibration stands.
    Raises ``ValueError`` where ``doc`` has another length than the columns.
    """
    (totals,) = _resampled((columns,), doc, resamples=resamples, seed=seed)
    return _calibration(totals, cluster(doc)[1])


def compare_calibration(
    before: CalibrationColumns,
    after: CalibrationColumns,
    doc: Int[np.ndarray, " positions"],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> CalibrationComparison:
    """Compare the calibration of two audits of the same positions, row for row (theory §4).

    Each as ``calibrate``; the differences are paired, for both are resampled together. The upward
    bias of an ECE cancels in a difference only as far as the two are alike, so that its interval is
    the basic one, ``2 value - percentile``, which undoes part of the rest. It covers the truth 9
    times in 10 where the two are alike or positions are many; where only one of them is calibrated
    and positions are few, half the time (the percentile interval once in ten). The difference of
    the Brier scores has no such bias. Raises ``ValueError`` where lengths differ.
    """
    one, two = _resampled((before, after), doc, resamples=resamples, seed=seed)
    documents = cluster(doc)[1]
    ece = two.ece - one.ece
    low, high = interval(ece[1:], documents)
    difference = ratio_of_totals(ece, (one.size > 0).astype(np.float64), documents)
    if difference.value is not None and low is not None and high is not None:
        twice = 2 * difference.value
        difference = dataclasses.replace(difference, low=twice - high, high=twice - low)
    return CalibrationComparison(
        before=_calibration(one, documents),
        after=_calibration(two, documents),
        ece_difference=_counted(difference, one.size[0]),
        brier_difference=ratio_of_totals(two.brier - one.brier, one.size, documents),
        nll_difference_nats=ratio_of_totals(two.nll - one.nll, one.size, documents),
    )


def _resampled(
    audits: tuple[CalibrationColumns, ...],
    doc: Int[np.ndarray, " positions"],
    *,
    resamples: int,
    seed: int,
) -> tuple[_Totals, ...]:
    inverse, documents = cluster(doc)
    rows = []
    for columns in audits:
        if columns.confidence.shape != doc.shape:
            raise ValueError(f"doc has {doc.size} rows, an audit {columns.confidence.size}")
        confidence = columns.confidence.astype(np.float64)
        within = np.searchsorted(EDGES, confidence, side="right") - 1
        cell = inverse * BINS + np.clip(within, 0, BINS - 1)
        for values in (np.ones(doc.size), columns.right.astype(np.float64), confidence):
            rows.append(sums_by_document(values, cell, documents * BINS).reshape(-1, BINS).T)
        nll = columns.nll.astype(np.float64)
        brier = columns.sum_p2.astype(np.float64) - 2 * np.exp(-nll) + 1
        rows += [sums_by_document(values, inverse, documents)[None] for values in (brier, nll)]
    totals = totals_and_resamples(np.concatenate(rows), resamples=resamples, seed=seed)
    return tuple(
        _Totals(
            n=part[:, :BINS],
            right=part[:, BINS : 2 * BINS],
            confidence=part[:, 2 * BINS : 3 * BINS],
            brier=part[:, -2],
            nll=part[:, -1],
        )
        for part in np.split(totals, len(audits), axis=1)
    )


def _calibration(totals: _Totals, documents: int) -> Calibration:
    size = totals.size
    share = _divide(totals.right - totals.confidence, size[:, None])
    gap = _divide(totals.right - totals.confidence, totals.n)
    # Of a bin without a position there is no gap to measure, in any resample.
    measured = gap[:, totals.n[0] > 0]
    noise = np.abs(share[1:] - share[0]).sum(axis=1)
    ece = _norm(totals.ece, noise, documents, int(size[0]))
    mce = Estimate(None, reason="no position to average over")
    if measured.size:
        worst = int(np.argmax(np.where(totals.n[0] > 0, np.abs(gap[0]), -1.0)))
        largest = np.abs(measured).max(axis=1)
        noise_max = np.abs(measured[1:] - measured[0]).max(axis=1)
        mce = _norm(largest, noise_max, documents, int(totals.n[0, worst]))
        if mce.low is None and documents >= 2:
            reason = "no interval: a bin of this audit is found in very few documents"
            mce = dataclasses.replace(mce, reason=reason)
    bins = tuple(
        ReliabilityBin(
            low=EDGES[b],
            high=EDGES[b + 1],
            n=int(totals.n[0, b]),
            confidence=ratio_of_totals(totals.confidence[:, b], totals.n[:, b], documents),
            accuracy=ratio_of_totals(totals.right[:, b], totals.n[:, b], documents),
        )
        for b in range(BINS)
    )
    return Calibration(
        ece=ece,
        ece_by_chance=float(noise.mean()) if noise.size else None,
        mce=mce,
        brier=ratio_of_totals(totals.brier, size, documents),
        nll_nats=ratio_of_totals(totals.nll, size, documents),
        bins=bins,
    )


def _norm(
    norms: Float[np.ndarray, " rows"],
    noise: Float[np.ndarray, " resamples"],
    documents: int,
    n: int,
) -> Estimate:
    """A norm of gaps with the interval that ``calibrate`` describes."""
    if n == 0:
        return Estimate(None, reason="no position to average over")
    value, high = float(norms[0]), interval(norms[1:], documents)[1]
    if high is None:
        return Estimate(value, n=n, documents=documents)
    reach = float(np.quantile(noise[np.isfinite(noise)], interval_levels(documents)[1]))
    low, high = max(0.0, value - reach), max(value, high)
    return Estimate(value, low, high, n=n, documents=documents)


def _counted(estimate: Estimate, n: float) -> Estimate:
    return estimate if estimate.value is None else dataclasses.replace(estimate, n=int(n))


def _divide(
    sums: Float[np.ndarray, "..."], counts: Float[np.ndarray, "..."]
) -> Float[np.ndarray, "..."]:
    """The ratio, NaN where it is over nothing."""
    ratio: Float[np.ndarray, "..."] = np.where(
        counts > 0, sums / np.where(counts > 0, counts, 1), np.nan
    )
    return ratio
