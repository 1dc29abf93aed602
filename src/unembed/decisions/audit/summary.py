"""Every number that an audit prints or draws, computed once from its table."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from unembed.decisions.audit.gap import GapFit, GapUndefined, fit_gap
from unembed.decisions.audit.rounding import NativeColumns, NativeHead, native_head
from unembed.decisions.names import MARGIN_BANDS
from unembed.runs.frames import Figures
from unembed.runs.record import check_columns, record_from_json, record_to_json
from unembed.short_repr import ShortRepr
from unembed.stats.bootstrap import RESAMPLES, cluster, ratio_estimates, sums_by_document
from unembed.stats.estimate import Estimate
from unembed.stats.forms import full, share
from unembed.stats.histogram import Density, Histogram, density, histogram, round_edges
from unembed.stats.rank_correlation import spearman_estimate
from unembed.stats.resampled import quantile_estimates

__all__ = [
    "MARGIN_BANDS",
    "AuditColumns",
    "AuditSummary",
    "Band",
    "Density",
    "Histogram",
    "NativeColumns",
    "NativeHead",
    "summarise",
    "summary_from_json",
    "summary_to_json",
]

QUANTILES = (5, 25, 50, 75, 95)
"""Reported quantiles, in percent."""

MARGIN_EDGES = tuple(i / 4 for i in range(81))
"""Bins of the margin's histogram: 0 to 20 logits by 0.25, so that 0.5, 1, 2 and 5 are edges."""

GRID_ENTROPY_EDGES = tuple(i / 5 for i in range(41))
"""Entropy bins of the grid: 0 to 8 nats by 0.2."""

GRID_MARGIN_EDGES = tuple(i / 4 for i in range(41))
"""Margin bins of the grid: 0 to 10 logits by 0.25."""


@dataclass(frozen=True)
class AuditColumns:
    """The columns of an audit's table that its summary reads, one row a position.

    ``margin`` in logits, ``relative_distance`` without unit, ``nll`` and ``entropy`` in nats,
    ``confidence`` the probability of top-1. ``finite`` marks the rows whose statistics exist.
    """

    doc: Int[np.ndarray, " positions"]
    target: Int[np.ndarray, " positions"]
    top1: Int[np.ndarray, " positions"]
    margin: Float[np.ndarray, " positions"]
    relative_distance: Float[np.ndarray, " positions"]
    nll: Float[np.ndarray, " positions"]
    entropy: Float[np.ndarray, " positions"]
    confidence: Float[np.ndarray, " positions"]
    finite: Bool[np.ndarray, " positions"]

    def __post_init__(self) -> None:
        check_columns(self)


@dataclass(frozen=True)
class Band(ShortRepr):
    """Positions with ``low <= margin < high`` (``high`` is None for the last, open band)."""

    low: float
    high: float | None
    n: int
    share: Estimate
    accuracy: Estimate
    confidence: Estimate


@dataclass(frozen=True)
class AuditSummary(ShortRepr, Figures):
    """The figures of one audit. Margins are in logits, entropies and losses in nats.

    ``n_positions`` and ``n_documents`` count every row of the table; the ``n_nonfinite`` rows among
    them enter no other figure.
    """

    n_positions: int
    n_documents: int
    n_nonfinite: int
    accuracy: Estimate
    nll_nats: Estimate
    perplexity: Estimate
    entropy_nats: Estimate
    confidence: Estimate
    median_margin: Estimate
    median_relative_distance: Estimate
    share_margin_below_half: Estimate
    spearman_margin_entropy: Estimate
    spearman_relative_distance_entropy: Estimate
    margin_quantiles: dict[str, Estimate]
    relative_distance_quantiles: dict[str, Estimate]
    bands: tuple[Band, ...]
    margin_histogram: Histogram
    relative_distance_histogram: Histogram
    entropy_margin: Density
    gap: GapFit | None
    gap_reason: str | None
    row_norm_cv: float | None
    native: NativeHead | None

    def _phrases(self) -> Iterator[str]:
        yield f"{self.n_positions:,} positions in {self.n_documents:,} documents"
        yield f"median margin {self.median_margin}"
        yield f"accuracy {full(self.accuracy, share)}"
        yield f"loss {self.nll_nats} nats"


def summarise(
    columns: AuditColumns,
    *,
    native: NativeColumns | None = None,
    row_norm_cv: float | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> AuditSummary:
    """The figures of an audit, each with its interval clustered by document (theory §1, §2).

    Rows that ``finite`` does not mark, or that hold a non-finite number, are counted and left out.
    A statistic that does not exist has value None and a reason. The same columns, ``resamples`` and
    ``seed`` give the same figures to the last bit. ``native`` is row for row with ``columns``;
    ``row_norm_cv``, the coefficient of variation of the head's row norms, is passed through.
    Raises ``ValueError`` where columns differ in length or a margin is negative.
    """
    if native is not None and native.margin.shape != columns.doc.shape:
        raise ValueError(f"native has {native.margin.size} rows, the audit {columns.doc.size}")
    n_positions, n_documents = columns.doc.size, cluster(columns.doc)[1]
    kept = _finite_rows(columns)
    if not kept.all():
        native = None if native is None else native.rows(kept)
        columns = AuditColumns(
            **{
                field.name: getattr(columns, field.name)[kept]
                for field in dataclasses.fields(columns)
            }
        )
    inverse, documents = cluster(columns.doc)
    right = columns.target == columns.top1
    accuracy, nll, entropy, confidence, below_half, *in_bands = _means(
        columns, right, inverse, documents, resamples=resamples, seed=seed
    )
    both = (columns.margin, columns.relative_distance)
    shares = [q / 100 for q in QUANTILES]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # Array operations run side by side; each figure is computed as it would be alone.
        fitted = pool.submit(fit_gap, columns.margin, columns.doc, resamples=resamples, seed=seed)
        quantiles = [
            pool.submit(
                quantile_estimates,
                *(values, inverse, documents, shares),
                resamples=resamples,
                seed=seed,
            )
            for values in both
        ]
        correlations = [
            pool.submit(
                spearman_estimate,
                *(values, columns.entropy, inverse, documents),
                resamples=resamples,
                seed=seed,
            )
            for values in both
        ]
    margin_quantiles, distance_quantiles = (future.result() for future in quantiles)
    spearman_margin, spearman_distance = (future.result() for future in correlations)
    gap, gap_reason = None, None
    try:
        gap = fitted.result()
    except GapUndefined as reason:
        gap_reason = str(reason)
    distances = columns.relative_distance
    limit = float(np.quantile(distances, 0.995)) if distances.size else 0.0
    return AuditSummary(
        n_positions=n_positions,
        n_documents=n_documents,
        n_nonfinite=n_positions - columns.doc.size,
        accuracy=accuracy,
        nll_nats=nll,
        perplexity=_exponential(nll),
        entropy_nats=entropy,
        confidence=confidence,
        median_margin=margin_quantiles[QUANTILES.index(50)],
        median_relative_distance=distance_quantiles[QUANTILES.index(50)],
        share_margin_below_half=below_half,
        spearman_margin_entropy=spearman_margin,
        spearman_relative_distance_entropy=spearman_distance,
        margin_quantiles={str(q): e for q, e in zip(QUANTILES, margin_quantiles, strict=True)},
        relative_distance_quantiles={
            str(q): e for q, e in zip(QUANTILES, distance_quantiles, strict=True)
        },
        bands=_bands(in_bands),
        margin_histogram=histogram(columns.margin, right, MARGIN_EDGES),
        relative_distance_histogram=histogram(distances, right, round_edges(max(limit, 0.0))),
        entropy_margin=density(
            columns.entropy, columns.margin, GRID_ENTROPY_EDGES, GRID_MARGIN_EDGES
        ),
        gap=gap,
        gap_reason=gap_reason,
        row_norm_cv=row_norm_cv,
        native=None
        if native is None
        else native_head(
            native, columns.doc, columns.top1, columns.margin, gap, resamples=resamples, seed=seed
        ),
    )


def summary_to_json(summary: AuditSummary) -> dict[str, Any]:
    """The summary as dictionaries, lists and scalars, for ``json.dumps(..., allow_nan=False)``."""
    plain: dict[str, Any] = record_to_json(summary)
    return plain


def summary_from_json(data: dict[str, Any]) -> AuditSummary:
    """Rebuild a summary from ``summary_to_json``'s value.

    Raises ``ValueError`` where a field is missing or unknown.
    """
    return record_from_json(AuditSummary, data)


def _finite_rows(columns: AuditColumns) -> Bool[np.ndarray, " positions"]:
    kept = columns.finite.copy()
    for values in (
        columns.margin,
        columns.relative_distance,
        columns.nll,
        columns.entropy,
        columns.confidence,
    ):
        kept &= np.isfinite(values)
    return kept


def _means(
    columns: AuditColumns,
    right: Bool[np.ndarray, " positions"],
    inverse: Int[np.ndarray, " positions"],
    documents: int,
    *,
    resamples: int,
    seed: int,
) -> tuple[Estimate, ...]:
    """Accuracy, nll, entropy, confidence, share below 0.5; then three figures of each band.

    A band's figures are its share, its accuracy and its confidence.
    """

    def total(values: Float[np.ndarray, " positions"]) -> Float[np.ndarray, " documents"]:
        return sums_by_document(values, inverse, documents)

    hit = right.astype(np.float64)
    everything = total(np.ones(hit.size))
    numerators = [total(hit)]
    numerators += [total(v) for v in (columns.nll, columns.entropy, columns.confidence)]
    numerators.append(total((columns.margin < 0.5).astype(np.float64)))
    denominators = [everything] * len(numerators)
    for low, high in itertools.pairwise(MARGIN_BANDS):
        inside = ((columns.margin >= low) & (columns.margin < high)).astype(np.float64)
        size = total(inside)
        numerators += [size, total(inside * hit), total(inside * columns.confidence)]
        denominators += [everything, size, size]
    return ratio_estimates(
        np.stack(numerators), np.stack(denominators), resamples=resamples, seed=seed
    )


def _bands(estimates: list[Estimate]) -> tuple[Band, ...]:
    bands = []
    for i, (low, high) in enumerate(itertools.pairwise(MARGIN_BANDS)):
        share, accuracy, confidence = estimates[3 * i : 3 * i + 3]
        top = high if math.isfinite(high) else None
        bands.append(Band(low, top, accuracy.n, share, accuracy, confidence))
    return tuple(bands)


def _exponential(estimate: Estimate) -> Estimate:
    """Exp of a mean in nats, with exp of its interval; None where that overflows a float."""
    if estimate.value is None:
        return estimate
    if max(estimate.value, estimate.high or 0.0) > 700:
        reason = f"exp({estimate.value:.4g}) is too large to represent"
        return replace(estimate, value=None, low=None, high=None, reason=reason)
    low, high = (None if end is None else math.exp(end) for end in (estimate.low, estimate.high))
    return replace(estimate, value=math.exp(estimate.value), low=low, high=high)
