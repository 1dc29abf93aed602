"""How far two models' distributions are apart over a text, from their divergences by position."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float, Int

from unembed.decisions.audit.finite_rows import FiniteRows
from unembed.decisions.comparison.flips import COMPARISON_RESAMPLES
from unembed.short_repr import ShortRepr
from unembed.stats.bootstrap import add_by_document, ratio_of_totals, totals_and_resamples
from unembed.stats.concentration import read_largest_share
from unembed.stats.estimate import Estimate
from unembed.stats.resampled import Rows
from unembed.stats.studentised import mean_estimates, read_tail_quantiles

KL_THRESHOLDS_NATS = tuple(10.0 ** (step / 4) for step in range(-24, 5))
"""Where the share of positions with a larger divergence is taken: 1e-6 to 10, four a decade."""

TV_THRESHOLDS = tuple(10.0 ** (step / 6) for step in range(-24, 1))
"""The same of the total variation: 1e-4 to 1, six a decade."""

THRESHOLDS = {
    "kl_forward": KL_THRESHOLDS_NATS,
    "kl_backward": KL_THRESHOLDS_NATS,
    "total_variation": TV_THRESHOLDS,
}
"""The divergences that have quantiles and a survival curve, and its grid."""

GROUP_MEASURES = ("kl_forward", "total_variation", "acceptance")
"""The means that are taken in groups."""

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
    """Mean, median and 99 % quantile of a divergence, and its survival curve on a fixed grid.

    ``extreme`` is the 99.9 % quantile and ``largest`` the largest of all positions.
    """

    mean: Estimate
    median: Estimate
    high: Estimate
    above: tuple[Exceedance, ...]
    extreme: Estimate | None = None
    largest: float | None = None


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
    rows = FiniteRows.held(
        doc, **vars(columns), **{name: one.index for name, one in groupings.items()}
    )
    names = {name: one.names for name, one in groupings.items()}
    return read_divergences(rows, names, resamples=resamples, seed=seed)


def read_divergences(
    rows: FiniteRows,
    groupings: Mapping[str, Sequence[str]],
    *,
    resamples: int = COMPARISON_RESAMPLES,
    seed: int = 0,
) -> DivergenceSummary:
    """``summarise_divergences`` of positions that are read a part at a time.

    Columns are named as those of ``DivergenceColumns``; a grouping is a column of indices into its
    names.
    """
    how = {"resamples": resamples, "seed": seed}
    found = _Sums.of(rows, groupings)
    limits = [(0.0, math.inf if name.startswith("kl") else 1.0) for name in found.measures]
    estimates = mean_estimates(np.stack(list(found.measures.values())), found.sizes, limits, **how)
    means = dict(zip(found.measures, estimates, strict=True))

    def samples() -> Iterator[list[Rows]]:
        for inverse, *columns in rows.parts(*THRESHOLDS):
            yield [(values, inverse) for values in columns]

    quantiles = read_tail_quantiles(
        samples, [(0.5, 0.99, 0.999, 1.0)] * len(THRESHOLDS), rows.documents, **how
    )
    measures = {}
    for (name, thresholds), (median, high, extreme, largest) in zip(
        THRESHOLDS.items(), quantiles, strict=True
    ):
        curve = _exceedances(thresholds, found.passed[name], **how)
        measures[name] = DivergenceStatistics(
            means[name], median, high, curve, extreme, largest.value
        )
    return DivergenceSummary(
        **measures,
        acceptance=means["acceptance"],
        overlap=means["overlap"],
        top_share=read_largest_share(rows.column("kl_forward"), rows.documents, TOP_PART, **how),
        groups={
            name: _means_by_group(found.groups[name], names, **how)
            for name, names in groupings.items()
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
    passed = np.zeros((documents, len(thresholds) + 1))
    _count_passed(passed, values, thresholds, inverse)
    return _exceedances(thresholds, passed, resamples=resamples, seed=seed)


@dataclass(frozen=True)
class _Sums:
    """What the means, the curves and the groups need of each document.

    ``measures`` are sums over its positions, ``passed`` counts them by how many thresholds they
    pass, and ``groups`` has their number, KL, total variation and acceptance in each group.
    """

    sizes: Float[np.ndarray, " documents"]
    measures: dict[str, Float[np.ndarray, " documents"]]
    passed: dict[str, Float[np.ndarray, "documents counted"]]
    groups: dict[str, Float[np.ndarray, "four groups documents"]]

    @staticmethod
    def of(rows: FiniteRows, groupings: Mapping[str, Sequence[str]]) -> _Sums:
        documents, names = rows.documents, [field.name for field in fields(DivergenceColumns)]
        found = _Sums(
            np.zeros(documents),
            {name: np.zeros(documents) for name in (*names, "acceptance")},
            {name: np.zeros((documents, len(at) + 1)) for name, at in THRESHOLDS.items()},
            {name: np.zeros((4, len(groups), documents)) for name, groups in groupings.items()},
        )
        for inverse, *columns in rows.parts(*names, *groupings):
            values = {
                name: column.astype(np.float64)
                for name, column in zip(names, columns, strict=False)
            }
            values["acceptance"] = 1 - values["total_variation"]
            ones = np.ones(len(inverse))
            add_by_document(found.sizes, ones, inverse)
            for name, column in values.items():
                add_by_document(found.measures[name], column, inverse)
            for name, thresholds in THRESHOLDS.items():
                _count_passed(found.passed[name], values[name], thresholds, inverse)
            in_group = [ones, *(values[name] for name in GROUP_MEASURES)]
            for name, group in zip(groupings, columns[len(names) :], strict=True):
                cells = group.astype(np.intp) * documents + inverse
                for totals, column in zip(found.groups[name], in_group, strict=True):
                    add_by_document(totals.reshape(-1), column, cells)
        return found


def _count_passed(
    counts: Float[np.ndarray, "documents counted"],
    values: Float[np.ndarray, " positions"],
    thresholds: Sequence[float],
    inverse: Int[np.ndarray, " positions"],
) -> None:
    """Count the positions of each document by how many thresholds their value passes."""
    passed = np.searchsorted(np.array(thresholds), values, side="left")
    cells = inverse * counts.shape[1] + passed
    add_by_document(counts.reshape(-1), np.ones(len(values)), cells)


def _exceedances(
    thresholds: Sequence[float],
    passed: Float[np.ndarray, "documents counted"],
    *,
    resamples: int,
    seed: int,
) -> tuple[Exceedance, ...]:
    # Row t counts the values that passed t thresholds or more; row 0 counts all of them.
    counts = np.cumsum(passed.T[::-1], axis=0)[::-1]
    n, *totals = totals_and_resamples(counts, resamples=resamples, seed=seed).T
    return tuple(
        Exceedance(threshold, ratio_of_totals(total, n, len(passed)))
        for threshold, total in zip(thresholds, totals, strict=True)
    )


def _means_by_group(
    sums: Float[np.ndarray, "four groups documents"],
    names: Sequence[str],
    *,
    resamples: int,
    seed: int,
) -> tuple[DivergenceGroup, ...]:
    documents = sums.shape[2]
    totals = totals_and_resamples(np.concatenate(sums), resamples=resamples, seed=seed)
    found = []
    for g, name in enumerate(names):
        n, *measures = (totals[:, g + len(names) * i] for i in range(len(sums)))
        estimates = [ratio_of_totals(total, n, documents) for total in measures]
        found.append(DivergenceGroup(name, int(n[0]), *estimates))
    return tuple(found)
