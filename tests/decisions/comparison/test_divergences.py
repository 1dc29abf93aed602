from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import pytest

from reference import studentised
from unembed.decisions.audit.finite_rows import FiniteRows
from unembed.decisions.comparison.divergences import (
    KL_THRESHOLDS_NATS,
    TOP_PART,
    TV_THRESHOLDS,
    DivergenceColumns,
    DivergenceSummary,
    Grouping,
    read_divergences,
    summarise_divergences,
    survival,
)
from unembed.runs.record import record_from_json, record_to_json
from unembed.stats.bootstrap import cluster, interval, sums_by_document
from unembed.stats.concentration import largest_share
from unembed.stats.estimate import Estimate
from unembed.stats.student import student_t
from unembed.stats.studentised import mean_estimates, tail_quantile_estimates

NAMES = ("one", "two", "none", "four")
RESAMPLES = 60


def clustered(
    rng: np.random.Generator, documents: int, *, size: float = 3.0, effect: float = 0.3
) -> tuple[np.ndarray, np.ndarray]:
    """Lognormal values with an effect of their document, in documents of uneven sizes."""
    sizes = np.maximum(2, rng.lognormal(size, 0.8, documents)).astype(int)
    doc = np.repeat(np.arange(documents), sizes)
    return np.exp(-6 + rng.normal(0, effect, documents)[doc] + rng.normal(0, 1.0, doc.size)), doc


def example(seed: int = 0) -> tuple[DivergenceColumns, np.ndarray, Grouping]:
    rng = np.random.default_rng(seed)
    kl, doc = clustered(rng, 9)
    kl = kl.astype(np.float32)
    kl[:7] = [0, 1e-6, 1e-4, 1e-4, 30, 0.1, 1]
    columns = DivergenceColumns(
        kl,
        (kl * rng.uniform(0.5, 2, kl.size)).astype(np.float32),
        np.minimum(1, np.sqrt(kl / 2)).astype(np.float32),
        rng.integers(0, 9, kl.size).astype(np.float32) / 8,
    )
    shuffled = rng.permutation(kl.size)
    columns = DivergenceColumns(**{k: v[shuffled] for k, v in vars(columns).items()})
    return columns, 5 * doc[shuffled] + 3, Grouping(rng.choice([0, 1, 3], kl.size), NAMES)


def naive_top(values: list[float], part: float = TOP_PART) -> float:
    room, top = part * len(values), 0.0
    for i, value in enumerate(sorted(values, reverse=True)):
        top += value * min(max(room - i, 0), 1)
    return top / math.fsum(values)


def resampled(doc: np.ndarray, resamples: int, seed: int) -> list[list[int]]:
    """The positions of every resample, its documents drawn one after the other."""
    names = sorted(set(doc.tolist()))
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(resamples):
        drawn = rng.integers(len(names), size=len(names))
        found.append([i for d in drawn for i in np.flatnonzero(doc == names[d]).tolist()])
    return found


def check(got: Estimate, doc: np.ndarray, statistic, *, seed: int = 0) -> None:  # type: ignore[no-untyped-def]
    """Value and interval against a statistic of a list of positions, None where undefined."""
    assert got.value == pytest.approx(statistic(range(doc.size)), abs=1e-12)
    draws = [statistic(rows) for rows in resampled(doc, RESAMPLES, seed)]
    numbers = np.array([math.nan if one is None else one for one in draws])
    wanted = interval(numbers, len(set(doc.tolist())))
    assert (got.low, got.high) == pytest.approx(wanted, rel=1e-9, abs=1e-15)


@pytest.fixture(scope="module")
def summary() -> DivergenceSummary:
    columns, doc, grouping = example()
    return summarise_divergences(columns, doc, {"kind": grouping}, resamples=RESAMPLES, seed=0)


@pytest.mark.parametrize(
    ("name", "grid"),
    [
        ("kl_forward", KL_THRESHOLDS_NATS),
        ("kl_backward", KL_THRESHOLDS_NATS),
        ("total_variation", TV_THRESHOLDS),
    ],
)
def test_curves_are_those_of_plain_loops(
    summary: DivergenceSummary, name: str, grid: tuple[float, ...]
) -> None:
    columns, doc, _grouping = example()
    values = getattr(columns, name).astype(np.float64).tolist()
    above = getattr(summary, name).above
    assert tuple(one.threshold for one in above) == grid
    for one in above:

        def exceeding(rows, x=one.threshold):  # type: ignore[no-untyped-def]
            return sum(values[i] > x for i in rows) / len(rows)

        check(one.share, doc, exceeding)
    assert all(a.share.value >= b.share.value for a, b in pairwise(above))


def test_a_value_on_a_threshold_is_not_above_it() -> None:
    kl = np.array([1e-4, 1e-4, 2e-4])
    assert 1e-4 in KL_THRESHOLDS_NATS
    columns = DivergenceColumns(kl, kl, kl, kl)
    above = summarise_divergences(columns, np.arange(3), {}, resamples=2).kl_forward.above
    (share,) = (one.share.value for one in above if one.threshold == 1e-4)
    assert share == pytest.approx(1 / 3)


def test_means_in_groups_are_those_of_plain_loops(summary: DivergenceSummary) -> None:
    columns, doc, grouping = example()
    variation = columns.total_variation.astype(np.float64)
    measures = {
        "kl_forward": columns.kl_forward,
        "total_variation": variation,
        "acceptance": 1 - variation,
    }
    (groups,) = summary.groups.values()
    assert [group.name for group in groups] == list(NAMES)
    for g, group in enumerate(groups):
        assert group.n == (grouping.index == g).sum()
        for name, values in measures.items():

            def mean(rows, values=values, g=g):  # type: ignore[no-untyped-def]
                inside = [float(values[i]) for i in rows if grouping.index[i] == g]
                return sum(inside) / len(inside) if inside else None

            got = getattr(group, name)
            if NAMES[g] == "none":
                assert (got.value, got.reason) == (None, "no position to average over")
            else:
                assert got.n == group.n
                check(got, doc, mean)


@pytest.mark.parametrize("part", [0.01, 0.1, 0.5, 0.999])
def test_the_largest_share_is_that_of_a_plain_loop(part: float) -> None:
    columns, doc, _grouping = example(2)
    values = columns.kl_forward.astype(np.float64)
    inverse, documents = cluster(doc)
    got = largest_share(values, inverse, documents, part, resamples=RESAMPLES, seed=4)
    assert got.value == pytest.approx(naive_top(values.tolist(), part), abs=1e-12)
    following = sorted(values.tolist(), reverse=True)[int(part * values.size)]
    largest, total = [0.0] * documents, [0.0] * documents
    for value, document in zip(values.tolist(), inverse.tolist(), strict=True):
        largest[document] += max(value - following, 0) + part * following
        total[document] += value
    how = {"resamples": RESAMPLES, "seed": 4}
    low, high = studentised.interval(largest, total, student_t(documents - 1), **how)
    assert (got.low, got.high) == pytest.approx((max(low, part), min(high, 1)), rel=1e-6)


def test_means_and_quantiles_are_bounded_by_plain_loops(summary: DivergenceSummary) -> None:
    columns, doc, _grouping = example()
    names = sorted(set(doc.tolist()))
    t = student_t(len(names) - 1)
    how = {"resamples": RESAMPLES, "seed": 0}
    sizes = [float((doc == name).sum()) for name in names]
    for name in ("kl_forward", "kl_backward", "total_variation"):
        values, got = getattr(columns, name).astype(np.float64), getattr(summary, name)
        sums = [float(values[doc == one].sum()) for one in names]
        low, high = studentised.interval(sums, sizes, t, **how)
        most = 1.0 if name == "total_variation" else math.inf
        assert got.mean.value == pytest.approx(values.mean())
        assert (got.mean.low, got.mean.high) == pytest.approx((max(low, 0), min(high, most)))
        median = float(np.quantile(values, 0.5))
        below = [float((values[doc == one] <= median).sum()) for one in names]
        _, error = studentised.ratio(below, sizes)
        bounds = studentised.bounds(studentised.distances(below, sizes, **how), t)
        ends = np.quantile(values, np.clip([0.5 + one * error for one in bounds], 0, 1))
        assert got.median.value == median
        assert (got.median.low, got.median.high) == pytest.approx(tuple(ends), rel=1e-6)


@pytest.mark.parametrize(
    ("values", "share"),
    [([5.0], 0.01), ([2.0] * 40, 0.01), ([1.0, 0.0, 0.0], 0.03), ([0.0] * 98 + [1, 3], 0.75)],
)
def test_the_largest_share_of_simple_values(values: list[float], share: float) -> None:
    doc = np.zeros(len(values), dtype=np.intp)
    got = largest_share(np.array(values), doc, 1, 0.01)
    assert got.value == pytest.approx(share)
    assert got.value == pytest.approx(naive_top(values))
    assert (got.low, got.high, got.n) == (None, None, len(values))


def test_two_equal_models_are_zero_throughout() -> None:
    _columns, doc, grouping = example()
    nothing, one = np.zeros(doc.size, np.float32), np.ones(doc.size, np.float32)
    columns = DivergenceColumns(nothing, nothing, nothing, one)
    got = summarise_divergences(columns, doc, {"kind": grouping}, resamples=RESAMPLES)
    zero = Estimate(0.0, 0.0, 0.0, doc.size, documents=9)
    for measure in (got.kl_forward, got.kl_backward, got.total_variation):
        assert (measure.mean, measure.median, measure.high) == (zero, zero, zero)
        assert all(point.share == zero for point in measure.above)
    assert got.acceptance == got.overlap == replace(zero, value=1.0, low=1.0, high=1.0)
    assert got.top_share == Estimate(None, n=doc.size, reason="the total is 0")
    for group in got.groups["kind"]:
        if group.n:
            assert group.kl_forward == group.total_variation == replace(zero, n=group.n)
            assert (group.acceptance.value, group.acceptance.low) == (1.0, 1.0)


@pytest.mark.parametrize("documents", [0, 1])
def test_without_documents_to_resample_there_is_no_interval(documents: int) -> None:
    values = np.linspace(0.1, 1, 5 * documents)
    doc = np.zeros(values.size, dtype=np.int32)
    columns = DivergenceColumns(values, values, values, values)
    got = summarise_divergences(columns, doc, {"kind": Grouping(doc, NAMES)})
    for one in (got.kl_forward.mean, got.top_share, got.kl_forward.above[0].share):
        assert (one.low, one.high) == (None, None)
        assert (one.value is None) == (documents == 0)


def test_the_record_survives_json(summary: DivergenceSummary) -> None:
    text = json.dumps(record_to_json(summary), allow_nan=False)
    assert record_from_json(DivergenceSummary, json.loads(text)) == summary


def test_the_same_input_gives_the_same_bits(summary: DivergenceSummary) -> None:
    columns, doc, grouping = example()
    again = summarise_divergences(columns, doc, {"kind": grouping}, resamples=RESAMPLES, seed=0)
    assert again == summary


@pytest.mark.parametrize("size", [1, 13, 64])
def test_positions_read_in_parts_give_the_same_bits(summary: DivergenceSummary, size: int) -> None:
    columns, doc, grouping = example()
    table = {"doc": doc, "kind": grouping.index, **vars(columns)}

    def read(names: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
        for start in range(0, doc.size, size):
            yield {name: table[name][start : start + size] for name in names}

    rows = FiniteRows.of(read, ())
    assert read_divergences(rows, {"kind": NAMES}, resamples=RESAMPLES, seed=0) == summary


@pytest.mark.slow
def test_intervals_cover_the_truth() -> None:
    """Nominal 95 %, of 200 runs; three standard errors below 94 % are 89 %."""
    normal, effect, runs = NormalDist(), 0.3, 200
    spread = math.hypot(effect, 1.0)
    z = normal.inv_cdf(0.99)
    threshold = KL_THRESHOLDS_NATS[14]
    truth = {
        "mean": math.exp(-6 + spread**2 / 2),
        "median": math.exp(-6),
        "high": math.exp(-6 + z * spread),
        "top": normal.cdf(spread - z),
        "above": normal.cdf((-6 - math.log(threshold)) / spread),
    }
    hits = dict.fromkeys(truth, 0)
    rng = np.random.default_rng(7)
    for run in range(runs):
        kl, doc = clustered(rng, 60, size=4.0, effect=effect)
        how = {"resamples": 400, "seed": run}
        sums = sums_by_document(kl, doc, 60)[None]
        [mean] = mean_estimates(sums, np.bincount(doc).astype(float), [(0.0, math.inf)], **how)
        median, high = tail_quantile_estimates(kl, doc, 60, (0.5, 0.99), **how)
        top = largest_share(kl, doc, 60, TOP_PART, **how)
        [above] = survival(kl, (threshold,), doc, 60, **how)
        found = zip(truth, (mean, median, high, top, above.share), strict=True)
        for name, one in found:
            hits[name] += one.low <= truth[name] <= one.high
    for name, hit in hits.items():
        least = 0.86 if name == "above" else 0.89  # curves have percentile intervals
        assert least <= hit / runs <= 0.99, (name, hit / runs)
