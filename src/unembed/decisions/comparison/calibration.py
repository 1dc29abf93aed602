"""Whether the probabilities that a head states are the frequencies with which it is right."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from unembed.decisions.audit.finite_rows import FiniteRows
from unembed.runs.record import check_columns
from unembed.short_repr import ShortRepr
from unembed.stats.bootstrap import (
    RESAMPLES,
    add_by_document,
    interval,
    interval_levels,
    ratio_of_totals,
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

    def named(self, side: str) -> dict[str, Shaped[np.ndarray, " positions"]]:
        """The columns by the names that they have in a comparison's table."""
        return {f"{side}_{name}": column for name, column in vars(self).items()}


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
    rows = _held(doc, before=columns)
    (totals,) = _resampled(rows, ("before",), resamples=resamples, seed=seed)
    return _calibration(totals, rows.documents)


def compare_calibration(
    before: CalibrationColumns,
    after: CalibrationColumns,
    doc: Int[np.ndarray, " positions"],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> CalibrationComparison:
    """Compare the calibration of columns in memory, see ``read_calibration``.

    Raises ``ValueError`` where lengths differ.
    """
    rows = _held(doc, before=before, after=after)
    return read_calibration(rows, resamples=resamples, seed=seed)


def read_calibration(
    rows: FiniteRows, *, resamples: int = RESAMPLES, seed: int = 0
) -> CalibrationComparison:
    """Compare the calibration of two audits of the same positions, row for row (theory §4).

    Each as ``calibrate``; the differences are paired, for both are resampled together. The upward
    bias of an ECE cancels in a difference only as far as the two are alike, so that its interval is
    the basic one, ``2 value - percentile``, which undoes part of the rest. It covers the truth 9
    times in 10 where the two are alike or positions are many; where only one of them is calibrated
    and positions are few, half the time (the percentile interval once in ten). The difference of
    the Brier scores has no such bias. Columns are named as ``CalibrationColumns.named`` does.
    """
    one, two = _resampled(rows, ("before", "after"), resamples=resamples, seed=seed)
    documents = rows.documents
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


def _held(doc: Int[np.ndarray, " positions"], **audits: CalibrationColumns) -> FiniteRows:
    for columns in audits.values():
        if columns.confidence.shape != doc.shape:
            raise ValueError(f"doc has {doc.size} rows, an audit {columns.confidence.size}")
    named: dict[str, np.ndarray] = {}
    for side, columns in audits.items():
        named |= columns.named(side)
    return FiniteRows.held(doc, **named)


def _resampled(
    rows: FiniteRows, sides: Sequence[str], *, resamples: int, seed: int
) -> tuple[_Totals, ...]:
    documents = rows.documents
    binned = np.zeros((len(sides), 3, documents * BINS))
    whole = np.zeros((len(sides), 2, documents))
    names = [field.name for field in dataclasses.fields(CalibrationColumns)]
    for inverse, *both in rows.parts(*(f"{side}_{name}" for side in sides for name in names)):
        for i, start in enumerate(range(0, len(both), len(names))):
            columns = CalibrationColumns(*both[start : start + len(names)])
            confidence = columns.confidence.astype(np.float64)
            within = np.searchsorted(EDGES, confidence, side="right") - 1
            cell = inverse * BINS + np.clip(within, 0, BINS - 1)
            for sums, values in zip(
                binned[i], (np.ones(len(cell)), columns.right, confidence), strict=True
            ):
                add_by_document(sums, values, cell)
            nll = columns.nll.astype(np.float64)
            brier = columns.sum_p2.astype(np.float64) - 2 * np.exp(-nll) + 1
            for sums, values in zip(whole[i], (brier, nll), strict=True):
                add_by_document(sums, values, inverse)
    columns_of_sums: list[np.ndarray] = []
    for in_bins, in_all in zip(binned, whole, strict=True):
        columns_of_sums += [sums.reshape(-1, BINS).T for sums in in_bins]
        columns_of_sums.append(in_all)
    totals = totals_and_resamples(np.concatenate(columns_of_sums), resamples=resamples, seed=seed)
    return tuple(
        _Totals(
            n=part[:, :BINS],
            right=part[:, BINS : 2 * BINS],
            confidence=part[:, 2 * BINS : 3 * BINS],
            brier=part[:, -2],
            nll=part[:, -1],
        )
        for part in np.split(totals, len(sides), axis=1)
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
