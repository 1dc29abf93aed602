from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unembed.decisions.comparison.calibration import (
    CalibrationColumns,
    CalibrationComparison,
    calibrate,
    compare_calibration,
)
from unembed.runs.record import record_from_json, record_to_json
from unembed.stats.bootstrap import interval_levels, resample_weights


def random_columns(n=300, documents=7, seed=0, ends=0.1):
    generator = np.random.default_rng(seed)
    confidence = generator.random(n)
    at_end = generator.random(n) < ends
    confidence[at_end] = generator.integers(0, 16, int(at_end.sum())) / 15
    columns = CalibrationColumns(
        confidence=confidence.astype(np.float32),
        right=generator.random(n) < confidence,
        nll=generator.exponential(2, n).astype(np.float32),
        sum_p2=generator.random(n).astype(np.float32),
    )
    return columns, generator.integers(0, documents, n).astype(np.int32)


def recount(columns, times=None):
    """ECE, MCE, Brier, NLL and the bins, one position at a time."""
    bins = [[] for _ in range(15)]
    brier, nll = [], []
    times = np.ones(len(columns.nll), dtype=int) if times is None else times
    for c, right, loss, p2, count in zip(
        columns.confidence, columns.right, columns.nll, columns.sum_p2, times, strict=True
    ):
        for _ in range(int(count)):
            which = max(b for b in range(15) if float(c) >= b / 15 or b == 0)
            bins[which].append((float(c), float(right)))
            brier.append(float(p2) - 2 * math.exp(-float(loss)) + 1)
            nll.append(float(loss))
    n = len(nll)
    gaps = [
        (len(b), abs(math.fsum(r for _, r in b) - math.fsum(c for c, _ in b)) / len(b))
        for b in bins
        if b
    ]
    ece = math.fsum(size / n * gap for size, gap in gaps)
    mce_n, mce = max(gaps, key=lambda pair: pair[1])
    return ece, mce, mce_n, math.fsum(brier) / n, math.fsum(nll) / n, bins


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 200),
    documents=st.integers(1, 6),
    seed=st.integers(0, 2**32 - 1),
    ends=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_every_figure_is_the_naive_recount(n, documents, seed, ends):
    columns, doc = random_columns(n, documents, seed, ends)
    found = calibrate(columns, doc, resamples=5)
    ece, mce, mce_n, brier, nll, bins = recount(columns)
    assert found.ece.value == pytest.approx(ece, rel=1e-11, abs=1e-14)
    assert found.mce.value == pytest.approx(mce, rel=1e-11, abs=1e-14)
    assert found.brier.value == pytest.approx(brier, rel=1e-11)
    assert found.nll_nats.value == pytest.approx(nll, rel=1e-11)
    assert found.ece.n == found.brier.n == found.nll_nats.n == n
    assert found.mce.n == mce_n
    for expected, row in zip(bins, found.bins, strict=True):
        assert row.n == len(expected)
        if expected:
            confidence, right = (math.fsum(column) for column in zip(*expected, strict=True))
            assert row.confidence.value == pytest.approx(confidence / row.n, rel=1e-11)
            assert row.accuracy.value == pytest.approx(right / row.n, rel=1e-11)
        else:
            assert row.accuracy.value is None
            assert row.accuracy.reason == "no position to average over"


def test_ends_of_bins():
    confidence = np.array([0.0, 1.0, 1 + 1e-7, 1 / 15, np.nextafter(1 / 15, 0), 14 / 15])
    rows = len(confidence)
    columns = CalibrationColumns(confidence, np.ones(rows, bool), np.ones(rows), np.ones(rows))
    found = calibrate(columns, np.arange(rows), resamples=5)
    assert [row.n for row in found.bins] == [2, 1, *[0] * 11, 0, 3]
    assert (found.bins[0].low, found.bins[-1].high) == (0.0, 1.0)


def test_intervals_are_those_of_written_out_resamples():
    before, doc = random_columns(200, 5, seed=1)
    after, _ = random_columns(200, 5, seed=2)
    found = compare_calibration(before, after, doc, resamples=30, seed=4)
    levels = interval_levels(5)
    drawn = []
    for draws in np.concatenate(list(resample_weights(5, resamples=30, seed=4))):
        times = draws[doc].astype(int)
        drawn.append([recount(before, times), recount(after, times)])
    for k, one in enumerate((found.before, found.after)):
        for estimate, column in ((one.brier, 3), (one.nll_nats, 4)):
            expected = np.quantile([row[k][column] for row in drawn], levels)
            assert (estimate.low, estimate.high) == pytest.approx(tuple(expected), rel=1e-10)
        assert one.ece.high == pytest.approx(
            np.quantile([row[k][0] for row in drawn], levels[1]), rel=1e-10
        )
    ece = [two[0] - one[0] for one, two in drawn]
    low, high = np.quantile(ece, levels)
    twice = 2 * found.ece_difference.value
    assert found.ece_difference.low == pytest.approx(twice - high, rel=1e-9)
    assert found.ece_difference.high == pytest.approx(twice - low, rel=1e-9)
    for estimate, column in ((found.brier_difference, 3), (found.nll_difference_nats, 4)):
        expected = np.quantile([two[column] - one[column] for one, two in drawn], levels)
        assert (estimate.low, estimate.high) == pytest.approx(tuple(expected), rel=1e-9)
    for name in ("ece", "brier"):
        change = getattr(found.after, name).value - getattr(found.before, name).value
        assert getattr(found, f"{name}_difference").value == pytest.approx(change, abs=1e-12)
    assert found.ece_difference.n == found.brier_difference.n == 200


def simulated(documents, tilt, seed, per=10):
    """Documents of a head that is right with probability c - 4 tilt c (1 - c) at confidence c."""
    generator = np.random.default_rng(seed)
    confidence = generator.beta(2, 1.2, documents * per)
    chance = confidence - 4 * tilt * confidence * (1 - confidence)
    zeros = np.zeros(confidence.size)
    right = generator.random(confidence.size) < chance
    return CalibrationColumns(confidence, right, zeros, zeros), np.repeat(np.arange(documents), per)


def test_a_calibrated_head_has_no_more_than_the_error_of_chance():
    columns, doc = simulated(20_000, 0.0, seed=0)
    found = calibrate(columns, doc, resamples=200)
    assert found.ece.value < 0.006
    assert found.ece.low == 0
    assert 0.5 < found.ece.value / found.ece_by_chance < 2
    over, _ = simulated(20_000, 0.1, seed=0)
    assert calibrate(over, doc, resamples=200).ece.low > 0.05


@pytest.mark.slow
def test_the_interval_of_an_ece_covers_it_where_the_percentile_does_not():
    runs = 60
    for tilt in (0.0, 0.1):
        big, _ = simulated(100_000, tilt, seed=99)
        chance = big.confidence - 4 * tilt * big.confidence * (1 - big.confidence)
        truth = float(np.abs(np.mean(chance - big.confidence)))
        covered, percentile = 0, 0
        for seed in range(runs):
            columns, doc = simulated(60, tilt, seed)
            ece = calibrate(columns, doc, resamples=200, seed=seed).ece
            covered += ece.low <= truth <= ece.high
            within = np.clip((columns.confidence * 15).astype(int), 0, 14)
            gaps = np.zeros((60, 15))
            np.add.at(gaps, (doc, within), columns.right - columns.confidence)
            weights = np.concatenate(list(resample_weights(60, resamples=200, seed=seed)))
            draws = np.abs(weights @ gaps).sum(axis=1) / doc.size
            low, high = np.quantile(draws, interval_levels(60))
            percentile += low <= truth <= high
        assert covered >= 0.92 * runs
        if tilt == 0:
            assert truth == 0
            assert percentile == 0


@pytest.mark.parametrize("documents", [2, 3, 7, 31])
def test_an_audit_compared_with_itself_differs_by_exactly_nothing(documents):
    columns, doc = random_columns(documents=documents)
    found = compare_calibration(columns, columns, doc, resamples=50)
    assert found.before == found.after
    for estimate in (found.ece_difference, found.brier_difference, found.nll_difference_nats):
        assert (estimate.value, estimate.low, estimate.high) == (0, 0, 0)


def test_a_comparison_holds_the_calibrations_of_each():
    before, doc = random_columns(seed=1)
    after, _ = random_columns(seed=2)
    found = compare_calibration(before, after, doc, resamples=20, seed=3)
    assert found.before == calibrate(before, doc, resamples=20, seed=3)
    assert found.after == calibrate(after, doc, resamples=20, seed=3)


def test_one_document_has_no_interval_and_nothing_has_no_value():
    columns, doc = random_columns(documents=1)
    found = compare_calibration(columns, columns, doc)
    for estimate in (found.before.ece, found.before.mce, found.ece_difference, found.before.brier):
        assert estimate.value is not None
        assert (estimate.low, estimate.high) == (None, None)
    assert found.before.ece_by_chance is None
    columns, doc = random_columns(n=0)
    found = compare_calibration(columns, columns, doc)
    for estimate in (found.after.ece, found.after.mce, found.ece_difference, found.after.nll_nats):
        assert estimate.value is None
        assert estimate.reason == "no position to average over"


def test_a_bin_of_one_document_leaves_the_maximum_without_an_interval():
    columns, doc = random_columns(n=200, documents=8)
    columns.confidence[:] = 0.5 + columns.confidence / 4
    columns.confidence[0] = 0.0
    mce = calibrate(columns, doc, resamples=100).mce
    assert mce.value is not None
    assert mce.low is None
    assert mce.reason == "no interval: a bin of this audit is found in very few documents"


def test_bad_columns_are_refused_and_json_returns_the_record():
    columns, doc = random_columns(50)
    with pytest.raises((ValueError, TypeError), match="nll"):
        dataclasses.replace(columns, nll=columns.nll[1:])
    with pytest.raises(ValueError, match="nll holds inf"):
        dataclasses.replace(columns, nll=np.full(50, np.inf))
    with pytest.raises(ValueError, match=r"confidence .*\[0, 1\], got 1\.5"):
        dataclasses.replace(columns, confidence=np.full(50, 1.5))
    with pytest.raises(ValueError, match=r"doc has 49 .* 50"):
        calibrate(columns, doc[1:])
    found = compare_calibration(columns, columns, doc, resamples=20)
    text = json.dumps(record_to_json(found), allow_nan=False)
    assert record_from_json(CalibrationComparison, json.loads(text)) == found
