"""Every number that an audit prints or draws, computed once from its table."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from unembed.decisions.audit.batch_noise import BatchNoise, batch_noise
from unembed.decisions.audit.bfloat16 import Bfloat16Rounding, bfloat16_rounding
from unembed.decisions.audit.finite_rows import ColumnReader, FiniteRows
from unembed.decisions.audit.gap import GapFit, GapUndefined, read_gap
from unembed.decisions.audit.logprob_gap import (
    ENGINE_NLL,
    NATIVE_NLL,
    LogprobGap,
    logprob_gap,
)
from unembed.decisions.audit.rounding import NativeColumns, NativeHead, native_head
from unembed.decisions.names import MARGIN_BANDS
from unembed.runs.frames import Figures
from unembed.runs.record import check_columns, record_from_json, record_to_json
from unembed.short_repr import ShortRepr
from unembed.stats.bootstrap import RESAMPLES, add_by_document, ratio_estimates
from unembed.stats.estimate import Estimate, exponential
from unembed.stats.forms import full, share
from unembed.stats.histogram import Density, Histogram, added, density, histogram, round_edges
from unembed.stats.rank_correlation import spearman_estimates
from unembed.stats.resampled import Rows, plain_quantiles, read_quantiles

__all__ = [
    "MARGIN_BANDS",
    "AuditColumns",
    "AuditSummary",
    "Band",
    "Bfloat16Rounding",
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

FINITE = ("margin", "relative_distance", "nll", "entropy", "confidence", "logsumexp")
"""Columns that are numbers at every position that enters the figures."""


NOT_MEASURED = Estimate(None, reason="an earlier version did not measure it")


@dataclass(frozen=True)
class AuditColumns:
    """The columns of an audit's table that its summary reads, one row a position.

    ``margin`` and ``logsumexp`` in logits, ``relative_distance`` without unit, ``nll`` and
    ``entropy`` in nats, ``confidence`` the probability of top-1. ``finite`` marks the rows whose
    statistics exist.
    """

    doc: Int[np.ndarray, " positions"]
    target: Int[np.ndarray, " positions"]
    top1: Int[np.ndarray, " positions"]
    top2: Int[np.ndarray, " positions"]
    margin: Float[np.ndarray, " positions"]
    relative_distance: Float[np.ndarray, " positions"]
    nll: Float[np.ndarray, " positions"]
    entropy: Float[np.ndarray, " positions"]
    confidence: Float[np.ndarray, " positions"]
    logsumexp: Float[np.ndarray, " positions"]
    finite: Bool[np.ndarray, " positions"]

    def __post_init__(self) -> None:
        check_columns(self)

    def reader(self, native: NativeColumns | None = None) -> ColumnReader:
        """Reads these columns by the names that they have in an audit's table, as one part."""
        columns = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        columns["margin"] = np.where(self.finite, self.margin, np.float32(np.nan))
        if native is not None:
            columns |= {
                "native_top1": native.top1,
                "native_top2": native.top2,
                "native_margin": native.margin,
                "native_step": native.rounding_step,
                "top2": native.top2_float32,
                NATIVE_NLL: native.nll,
            }
        return lambda names: [{name: columns[name] for name in names}]


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
    them enter no other figure. ``overconfidence`` is the mean confidence less the accuracy.
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
    overconfidence: Estimate = NOT_MEASURED
    bfloat16: Bfloat16Rounding | None = None
    engine: LogprobGap | None = None
    batching: BatchNoise | None = None

    @property
    def median_odds(self) -> Estimate:
        """How many times as likely as the runner-up: ``exp(median_margin)``, and its interval's."""
        return exponential(self.median_margin)

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
    """The figures of columns in memory, see ``read_summary``.

    ``native`` is row for row with ``columns``. Raises ``ValueError`` where columns differ in
    length.
    """
    if native is not None and native.margin.shape != columns.doc.shape:
        raise ValueError(f"native has {native.margin.size} rows, the audit {columns.doc.size}")
    return read_summary(
        columns.reader(native),
        native_dtype=None if native is None else native.dtype,
        native_logprobs=native is not None,
        row_norm_cv=row_norm_cv,
        resamples=resamples,
        seed=seed,
    )


def read_summary(
    read: ColumnReader,
    *,
    native_dtype: str | None = None,
    native_logprobs: bool = False,
    engine: str | None = None,
    plans: int = 0,
    dtype: str = "float32",
    row_norm_cv: float | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> AuditSummary:
    """The figures of an audit, each with its interval clustered by document (theory §1, §2).

    Rows that hold a non-finite number are counted and left out. A statistic that does not exist has
    value None and a reason. The same columns, ``resamples`` and ``seed`` give the same figures to
    the last bit, whatever the parts. ``native_dtype`` is that of the native head's columns, where
    they are there, with ``native_logprobs`` if its losses are among them; ``engine`` names what
    gave the column ``engine_nll``, and ``plans`` counts the batch plans of a model in ``dtype``;
    ``row_norm_cv``, the coefficient of variation of the head's row norms, is passed through. The
    columns are read a part at a time, many times over: what is held grows with the documents, and
    by some 40 bytes a position, most of them while positions are ranked.
    Raises ``ValueError`` where a margin is negative.
    """
    rows = FiniteRows.of(read, FINITE)
    documents = rows.documents
    how = {"resamples": resamples, "seed": seed}
    both = ("margin", "relative_distance")
    shares = tuple(q / 100 for q in QUANTILES)

    def samples() -> Iterator[list[Rows]]:
        for inverse, *columns in rows.parts(*both):
            yield [(values, inverse) for values in columns]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # Array operations run side by side; each figure is computed as it would be alone.
        fitted = pool.submit(read_gap, rows.column("margin"), documents, **how)
        quantiles = pool.submit(read_quantiles, samples, [shares, shares], documents, **how)
        correlations = pool.submit(_correlations, rows, both, **how)
        accuracy, nll, entropy, confidence, below_half, surer, *in_bands = _means(rows, **how)
        shapes = _shapes(rows)
    margin_quantiles, distance_quantiles = (
        {str(q): e for q, e in zip(QUANTILES, found.estimates(), strict=True)}
        for found in quantiles.result()
    )
    spearman_margin, spearman_distance = correlations.result()
    gap, gap_reason, native = None, None, None
    try:
        gap = fitted.result()
    except GapUndefined as reason:
        gap_reason = str(reason)
    if native_dtype is not None:
        native = native_head(rows, native_dtype, gap, logprobs=native_logprobs, **how)
    return AuditSummary(
        n_positions=rows.n_positions,
        n_documents=rows.n_documents,
        n_nonfinite=rows.n_positions - rows.n,
        accuracy=accuracy,
        nll_nats=nll,
        perplexity=exponential(nll),
        entropy_nats=entropy,
        confidence=confidence,
        median_margin=margin_quantiles["50"],
        median_relative_distance=distance_quantiles["50"],
        share_margin_below_half=below_half,
        spearman_margin_entropy=spearman_margin,
        spearman_relative_distance_entropy=spearman_distance,
        margin_quantiles=margin_quantiles,
        relative_distance_quantiles=distance_quantiles,
        bands=_bands(in_bands),
        margin_histogram=shapes[0],
        relative_distance_histogram=shapes[1],
        entropy_margin=shapes[2],
        gap=gap,
        gap_reason=gap_reason,
        row_norm_cv=row_norm_cv,
        native=native,
        overconfidence=surer,
        bfloat16=bfloat16_rounding(rows, **how),
        batching=batch_noise(rows, dtype, plans, **how) if plans else None,
        engine=None if engine is None else logprob_gap(rows, ENGINE_NLL, engine, **how),
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


def _correlations(
    rows: FiniteRows, names: Sequence[str], *, resamples: int, seed: int
) -> tuple[Estimate, ...]:
    """Spearman's correlation of each of these columns with the entropy."""
    return spearman_estimates(
        (rows.whole(name) for name in names),
        rows.whole("entropy"),
        rows.whole_documents(),
        rows.documents,
        resamples=resamples,
        seed=seed,
    )


def _shapes(rows: FiniteRows) -> tuple[Histogram, Histogram, Density]:
    """Histograms of margins and relative distances, and entropies against margins."""
    limit = plain_quantiles(rows.column("relative_distance"), 0.995)[0] if rows.n else 0.0
    edges = (MARGIN_EDGES, round_edges(max(float(limit), 0.0)))
    both = [
        [histogram(values, target == top1, at) for values, at in zip(columns, edges, strict=True)]
        for _, target, top1, *columns in rows.parts("target", "top1", "margin", "relative_distance")
    ]
    margins, distances = (added(parts) for parts in zip(*both, strict=True))
    pairs = ((entropy, margin) for _, entropy, margin in rows.parts("entropy", "margin"))
    return margins, distances, density(pairs, GRID_ENTROPY_EDGES, GRID_MARGIN_EDGES)


def _means(rows: FiniteRows, *, resamples: int, seed: int) -> tuple[Estimate, ...]:
    """Accuracy, nll, entropy, confidence, share below 0.5, confidence less accuracy; then bands'.

    The three figures of a band are its share, its accuracy and its confidence.
    """
    bands = list(itertools.pairwise(MARGIN_BANDS))
    sums = np.zeros((7 + 3 * len(bands), rows.documents))
    everything, fixed, in_bands = sums[0], sums[1:7], sums[7:].reshape(len(bands), 3, -1)
    names = ("target", "top1", "nll", "entropy", "confidence", "margin")
    for inverse, target, top1, nll, entropy, confidence, margin in rows.parts(*names):
        hit = (target == top1).astype(np.float64)
        add_by_document(everything, np.ones(len(hit)), inverse)
        values = (hit, nll, entropy, confidence, margin < 0.5, confidence - hit)
        for total, one in zip(fixed, values, strict=True):
            add_by_document(total, one, inverse)
        for (low, high), totals in zip(bands, in_bands, strict=True):
            inside = (margin >= low) & (margin < high)
            some = inverse[inside]
            for total, one in zip(totals, (np.ones(len(hit)), hit, confidence), strict=True):
                add_by_document(total, one[inside], some)
    numerators, denominators = list(fixed), [everything] * len(fixed)
    for totals in in_bands:
        numerators += list(totals)
        denominators += [everything, totals[0], totals[0]]
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
