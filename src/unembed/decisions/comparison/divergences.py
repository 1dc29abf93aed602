"""How far two models' distributions are apart over a text, from their divergences by position."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from unembed.decisions.comparison.flips import COMPARISON_RESAMPLES
from unembed.short_repr import ShortRepr
from unembed.stats.bootstrap import cluster, ratio_of_totals, sums_by_document, totals_and_resamples
from unembed.stats.concentration import largest_share
from unembed.stats.estimate import Estimate
from unembed.stats.studentised import mean_estimates, tail_quantile_estimates

KL_THRESHOLDS_NATS = tuple(10.0 ** (step / 4) for step in range(-24, 5))
"""Where the share of positions with a larger divergence is taken: 1e-6 to 10, four a decade."""

TV_THRESHOLDS = tuple(10.0 ** (step / 6) for step in range(-24, 1))
"""The same of the total variation: 1e-4 to 1, six a decade."""

TOP_PART = 0.01
"""The part of the positions whose share of the total KL is given."""


@dataclass(frozen=True)
class DivergenceColumns:
    """Divergences by position: KL in nats, total variation and overlap as shares."""

    kl_forward: Float[np.ndarray, " positions"]
    kl_backward: Float[np.ndarray, " positions"]
    total_variation: Float[np.ndarray, " positions"]
    overlap: Float[np.ndarray, " positions"]


@dataclass(frozen=True)
class Exceedance(ShortRepr):
    """The share of positions whose divergence is greater than ``threshold``."""

    threshold: float
    share: Estimate


@dataclass(frozen=True)
class DivergenceStatistics(ShortRepr):
    """Mean, median and 99 % quantile of a divergence, and its survival curve on a fixed grid."""

    mean: Estimate
    median: Estimate
    high: Estimate
    above: tuple[Exceedance, ...]


@dataclass(frozen=True)
class DivergenceGroup(ShortRepr):
    """Means over the ``n`` positions of one group: KL(before‖after) in nats, the others shares."""

    name: str
    n: int
    kl_forward: Estimate
    total_variation: Estimate
    acceptance: Estimate


@dataclass(frozen=True)
class DivergenceSummary(ShortRepr):
    """``kl_forward`` is KL(before‖after), ``kl_backward`` KL(after‖before), in nats.

    ``acceptance`` is the mean of the sum of min(p, q): the chance that speculative decoding accepts
    a token that one model drafts for the other. ``overlap`` is the mean share of the top-k that
    both have. ``top_share`` is the share of the total KL(before‖after) that the ``TOP_PART`` of the
    positions with the largest carry, undefined where the total is 0. ``groups`` has the means in
    the groups of each grouping given.
    """

    kl_forward: DivergenceStatistics
    kl_backward: DivergenceStatistics
    total_variation: DivergenceStatistics
    acceptance: Estimate
    overlap: Estimate
    top_share: Estimate
    groups: dict[str, tuple[DivergenceGroup, ...]]


@dataclass(frozen=True)
class Grouping:
    """Each position's group, as an index into the names."""

    index: Int[np.ndarray, " positions"]
    names: Sequence[str]


def summarise_divergences(
    columns: DivergenceColumns,
    doc: Int[np.ndarray, " positions"],
    groupings: Mapping[str, Grouping],
    *,
    resamples: int = COMPARISON_RESAMPLES,
    seed: int = 0,
) -> DivergenceSummary:
    """Means, quantiles and survival curves with intervals over documents (theory §4).

    Divergences are skewed and a few documents carry much of them: means, quantiles and the top
    share have studentised intervals, curves and groups percentile ones.

    Two equal models give zeros, an acceptance and an overlap of 1, and no ``top_share``.
    """
    inverse, documents = cluster(doc)
    how = {"resamples": resamples, "seed": seed}
    names = ("kl_forward", "kl_backward", "total_variation", "overlap")
    values = {name: getattr(columns, name).astype(np.float64) for name in names}
    values["acceptance"] = 1 - values["total_variation"]
    sizes = np.bincount(inverse, minlength=documents).astype(np.float64)
    sums = np.stack([sums_by_document(value, inverse, documents) for value in values.values()])
    limits = [(0.0, math.inf if name.startswith("kl") else 1.0) for name in values]
    means = dict(zip(values, mean_estimates(sums, sizes, limits, **how), strict=True))

    def statistics(name: str, thresholds: Sequence[float]) -> DivergenceStatistics:
        levels = (0.5, 0.99)
        median, high = tail_quantile_estimates(values[name], inverse, documents, levels, **how)
        curve = survival(values[name], thresholds, inverse, documents, **how)
        return DivergenceStatistics(means[name], median, high, curve)

    return DivergenceSummary(
        statistics("kl_forward", KL_THRESHOLDS_NATS),
        statistics("kl_backward", KL_THRESHOLDS_NATS),
        statistics("total_variation", TV_THRESHOLDS),
        means["acceptance"],
        means["overlap"],
        largest_share(values["kl_forward"], inverse, documents, TOP_PART, **how),
        {
            name: _means_by_group(columns, grouping, inverse, documents, **how)
            for name, grouping in groupings.items()
        },
    )


def survival(
    values: Float[np.ndarray, " positions"],
    thresholds: Sequence[float],
    inverse: Int[np.ndarray, " positions"],
    documents: int,
    *,
    resamples: int = COMPARISON_RESAMPLES,
    seed: int = 0,
) -> tuple[Exceedance, ...]:
    """Estimate the share of values above each of ascending thresholds, ``(values > x).mean()``.

    ``inverse`` numbers the documents from 0 as ``bootstrap.cluster`` does.
    """
    width = len(thresholds) + 1
    passed = np.searchsorted(np.array(thresholds), values, side="left")
    cells = np.bincount(inverse * width + passed, minlength=documents * width)
    # Row t counts the values that passed t thresholds or more; row 0 counts all of them.
    counts = np.cumsum(cells.reshape(documents, width).T[::-1], axis=0)[::-1].astype(np.float64)
    n, *totals = totals_and_resamples(counts, resamples=resamples, seed=seed).T
    return tuple(
        Exceedance(threshold, ratio_of_totals(total, n, documents))
        for threshold, total in zip(thresholds, totals, strict=True)
    )


def _means_by_group(
    columns: DivergenceColumns,
    grouping: Grouping,
    inverse: Int[np.ndarray, " positions"],
    documents: int,
    *,
    resamples: int,
    seed: int,
) -> tuple[DivergenceGroup, ...]:
    groups = len(grouping.names)
    cells = grouping.index.astype(np.intp) * documents + inverse
    variation = columns.total_variation.astype(np.float64)
    sums = [
        np.bincount(cells, weights=one, minlength=groups * documents).reshape(groups, documents)
        for one in (None, columns.kl_forward, variation, 1 - variation)
    ]
    totals = totals_and_resamples(
        np.concatenate(sums).astype(np.float64), resamples=resamples, seed=seed
    )
    found = []
    for g, name in enumerate(grouping.names):
        n, *measures = (totals[:, g + groups * i] for i in range(len(sums)))
        estimates = [ratio_of_totals(total, n, documents) for total in measures]
        found.append(DivergenceGroup(name, int(n[0]), *estimates))
    return tuple(found)
