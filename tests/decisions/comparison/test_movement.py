from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from unembed.decisions.audit.summary import MARGIN_BANDS
from unembed.decisions.comparison.movement import MarginColumns, Movement, compare_margins
from unembed.runs.record import record_from_json, record_to_json
from unembed.stats.bootstrap import cluster, interval_levels, resample_weights
from unembed.stats.quantiles import resample, resampled_quantiles, sort_sample
from unembed.stats.resampled import Sample, quantile_draws


def audits(n=300, documents=7, seed=0):
    """Two audits of the same positions in which a part of the candidates changed places."""
    generator = np.random.default_rng(seed)
    columns = []
    for _ in range(2):
        margin = generator.integers(0, 30, n) / 4 + generator.choice([0, 0.01], n)
        columns.append(
            MarginColumns(
                top1=generator.integers(0, 2, n),
                top2=generator.integers(2, 4, n),
                right=generator.random(n) < 0.5,
                margin=margin.astype(np.float32),
                relative_distance=(margin * generator.random(n) / 50).astype(np.float32),
            )
        )
    return *columns, generator.integers(0, documents, n).astype(np.int32)


def scaled(columns, factor=1.3, twist=1.0):
    """All logits times ``factor``, the distances times ``twist``."""
    return dataclasses.replace(
        columns,
        margin=(columns.margin * factor).astype(np.float32),
        relative_distance=(columns.relative_distance * twist).astype(np.float32),
    )


def smooth(n=4000, documents=20, seed=0):
    generator = np.random.default_rng(seed)
    margin = generator.exponential(2, n)
    return MarginColumns(
        top1=generator.integers(0, 9, n),
        top2=generator.integers(9, 18, n),
        right=generator.random(n) < 0.5,
        margin=margin.astype(np.float32),
        relative_distance=(margin * (1 + generator.random(n)) / 99).astype(np.float32),
    ), generator.integers(0, documents, n)


def mean(values):
    return math.fsum(values) / len(values) if values else None


def same(estimate, expected, n=None):
    if expected is None:
        assert estimate.value is None
        assert estimate.reason
    else:
        assert estimate.value == pytest.approx(expected, rel=1e-10, abs=1e-12)
        assert n is None or estimate.n == n


def recount(before, after):
    """Every figure of a comparison but the histograms, one position at a time."""
    rows = [
        {
            field.name: (
                getattr(before, field.name)[i].item(),
                getattr(after, field.name)[i].item(),
            )
            for field in dataclasses.fields(before)
        }
        for i in range(len(before.margin))
    ]
    unchanged = [r for r in rows if r["top1"][0] == r["top1"][1]]
    rotated = [r for r in unchanged if r["top2"][0] != r["top2"][1]]
    kept = [r for r in unchanged if r["top2"][0] == r["top2"][1]]
    return rows, unchanged, rotated, kept


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 120), documents=st.integers(1, 6), seed=st.integers(0, 2**32 - 1))
@example(n=115, documents=3, seed=1685)  # the median margin is unchanged, its interval excludes it
def test_every_figure_is_the_naive_recount(n, documents, seed):
    before, after, doc = audits(n, documents, seed)
    found = compare_margins(before, after, doc, resamples=5)
    rows, unchanged, rotated, kept = recount(before, after)
    assert found.rotation.n == len(rotated)
    same(found.rotation.share, len(rotated) / n, n)
    for measure in ("margin", "relative_distance"):
        groups = (
            (getattr(found.rotation, measure), rotated),
            (getattr(found.everywhere, measure), rows),
            (getattr(found.unchanged, measure), unchanged),
        )
        for change, group in groups:
            deltas = [r[measure][1] - r[measure][0] for r in group]
            same(change.wider, mean([d > 0 for d in deltas]), len(group))
            same(change.mean, mean(deltas), len(group))
            if change is not groups[0][0]:
                for q, estimate in change.quantiles.items():
                    same(estimate, float(np.quantile(deltas, int(q) / 100)) if deltas else None)
                assert change.median == change.quantiles["50"]
                drawn = change.histogram
                in_bins = sum(drawn.right) + sum(drawn.wrong) + drawn.below + drawn.above
                assert in_bins == len(group)
                for i, count in enumerate(drawn.right):
                    low, high = drawn.edges[i : i + 2]
                    inside = [
                        r["right"][0] and low <= d < high
                        for r, d in zip(group, deltas, strict=True)
                    ]
                    assert count == sum(inside)
                assert drawn.edges == tuple(-edge for edge in reversed(drawn.edges))
    for low, high, band in zip(MARGIN_BANDS, MARGIN_BANDS[1:], found.bands, strict=False):
        was = [r["right"] for r in rows if low <= r["margin"][0] < high]
        now = [r["right"][1] for r in rows if low <= r["margin"][1] < high]
        assert (band.low, band.high) == (low, None if math.isinf(high) else high)
        assert (band.n_before, band.n_after) == (len(was), len(now))
        same(band.accuracy_before, mean([r for r, _ in was]), len(was))
        same(band.paired_after, mean([r for _, r in was]), len(was))
        same(band.paired_difference, mean([b - a for a, b in was]), len(was))
        same(band.accuracy_after, mean(now), len(now))
    check = found.sharpening
    assert check.n == len(kept)
    if kept:
        m, r = (
            [float(np.median([row[name][side] for row in kept])) for side in (0, 1)]
            for name in ("margin", "relative_distance")
        )
        if min(*m, *r) > 0:
            same(check.temperature, m[0] / m[1])
            same(check.raw_change, m[1] / m[0] - 1)
            same(check.scale_free_change, r[1] / r[0] - 1)
            if check.share_left.value is not None:
                same(check.share_left, math.log(r[1] / r[0]) / math.log(m[1] / m[0]))


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(0, 80),
    documents=st.integers(1, 7),
    seed=st.integers(0, 2**32 - 1),
    tied=st.booleans(),
    part=st.floats(0.1, 1),
)
def test_draws_of_quantiles_are_those_of_the_sorted_sample(n, documents, seed, tied, part):
    generator = np.random.default_rng(seed)
    values = generator.integers(0, 4, n) / 4 if tied else generator.normal(size=n)
    doc, count = cluster(generator.integers(0, documents, n))
    held = generator.random(n) < part
    levels = (0.0, 0.05, 0.5, 0.77, 1.0)
    pair = [Sample(values[held], doc[held], levels), Sample(values, doc, (0.5,))]
    if count == 0:
        return
    found = quantile_draws(pair, count, resamples=6, seed=seed)
    for sample, draws in zip(pair, found, strict=True):
        if sample.values.size == 0:
            assert np.isnan(draws).all()
            continue
        sorted_sample = sort_sample(sample.values, sample.inverse, count)
        for row, drawn in zip(draws, resample(sorted_sample, resamples=6, seed=seed), strict=True):
            expected = resampled_quantiles(sorted_sample, drawn, np.array(sample.levels))
            if drawn.cumulative[-1] == 0:
                expected = np.full(len(sample.levels), np.nan)
            np.testing.assert_array_equal(row, expected)


@pytest.mark.parametrize("limit", [1, 50, 1 << 20])
def test_quantiles_far_from_the_blocks_are_found_too(limit, monkeypatch):
    monkeypatch.setattr("unembed.stats.resampled.LOOK_UP_ELEMENTS", limit)
    generator = np.random.default_rng(3)
    doc = np.repeat(np.arange(40), 50)
    # Values that follow their document: a resample's quantile moves far.
    values = generator.normal(size=2000) + 3 * generator.standard_t(1, 40)[doc]
    (draws,) = quantile_draws([Sample(values, doc, (0.05, 0.5))], 40, resamples=3000, seed=1)
    times = np.concatenate(list(resample_weights(40, resamples=3000, seed=1)))
    for row in range(0, 3000, 50):
        written = np.repeat(values, times[row].astype(int)[doc])
        np.testing.assert_array_equal(draws[row], np.quantile(written, [0.05, 0.5]))


def test_intervals_are_those_of_written_out_resamples():
    before, after, doc = audits(300, 6, seed=5)
    found = compare_margins(before, after, doc, resamples=40, seed=2)
    levels = interval_levels(6)
    drawn = {"median": [], "wider": [], "paired": [], "raw": [], "scale_free": [], "rotated": []}
    unchanged = before.top1 == after.top1
    kept = unchanged & (before.top2 == after.top2)
    for draws in np.concatenate(list(resample_weights(6, resamples=40, seed=2))):
        at = np.repeat(np.arange(300), draws[doc].astype(int))
        m, m2 = (c.margin[at].astype(float) for c in (before, after))
        r, r2 = (c.relative_distance[at].astype(float) for c in (before, after))
        drawn["median"].append(np.median((m2 - m)[unchanged[at]]))
        drawn["wider"].append((r2 > r).mean())
        band = (m >= 1) & (m < 2)
        gained = after.right[at].astype(float) - before.right[at]
        drawn["paired"].append(gained[band].mean())
        k = kept[at]
        drawn["raw"].append(np.median(m2[k]) / np.median(m[k]) - 1)
        drawn["scale_free"].append(np.median(r2[k]) / np.median(r[k]) - 1)
        drawn["rotated"].append((unchanged & ~kept)[at].mean())
    for estimate, values in (
        (found.unchanged.margin.median, drawn["median"]),
        (found.everywhere.relative_distance.wider, drawn["wider"]),
        (found.bands[2].paired_difference, drawn["paired"]),
        (found.sharpening.raw_change, drawn["raw"]),
        (found.sharpening.scale_free_change, drawn["scale_free"]),
        (found.rotation.share, drawn["rotated"]),
    ):
        expected = np.quantile(values, levels)
        assert (estimate.low, estimate.high) == pytest.approx(tuple(expected), rel=1e-9)


def test_a_temperature_is_called_sharpening():
    before, doc = smooth()
    found = compare_margins(before, scaled(before), doc, resamples=200)
    check = found.sharpening
    assert check.raw_change.value == pytest.approx(0.3, abs=1e-6)
    assert check.temperature.value == pytest.approx(1 / 1.3, abs=1e-6)
    assert check.scale_free_change == dataclasses.replace(
        check.scale_free_change, value=0.0, low=0.0, high=0.0
    )
    assert check.share_left.value == 0
    assert check.verdict == "sharpening"
    assert found.everywhere.margin.wider.value > 0.99
    assert found.everywhere.relative_distance.wider.value == 0
    assert found.everywhere.relative_distance.median.value == 0
    blunt = compare_margins(before, scaled(before, 0.8), doc, resamples=200).sharpening
    assert blunt.verdict == "softening"
    assert blunt.temperature.value == pytest.approx(1.25, abs=1e-6)


@pytest.mark.parametrize(
    ("factor", "twist", "verdict"),
    [(1.3, 1.3, "geometry"), (1.3, 1.14, "both"), (1.3, 0.8, "opposed")],
)
def test_rows_that_move_apart_are_not_called_sharpening(factor, twist, verdict):
    before, doc = smooth()
    check = compare_margins(before, scaled(before, factor, twist), doc, resamples=200).sharpening
    assert check.raw_change.value == pytest.approx(factor - 1, abs=1e-6)
    assert check.scale_free_change.value == pytest.approx(twist - 1, abs=1e-6)
    share = math.log(twist) / math.log(factor)
    assert check.share_left.value == pytest.approx(share, abs=1e-5)
    assert check.verdict == verdict


def test_a_change_that_is_not_told_from_nothing_has_no_share():
    before, doc = smooth()
    noise = np.random.default_rng(1).normal(size=doc.size) * 0.3
    after = dataclasses.replace(
        before,
        margin=np.abs(before.margin + noise - noise.mean()).astype(np.float32),
        relative_distance=before.relative_distance,
    )
    check = compare_margins(before, after, doc, resamples=200).sharpening
    assert check.raw_change.low < 0 < check.raw_change.high
    assert check.share_left.reason == "the median margin's change is not told from 0"
    assert check.verdict == "none"


@pytest.mark.parametrize("documents", [1, 2, 7])
def test_an_audit_compared_with_itself_moves_by_exactly_nothing(documents):
    before, _, doc = audits(documents=documents)
    found = compare_margins(before, before, doc, resamples=50)
    ends = (None, None) if documents == 1 else (0, 0)
    assert found.rotation.n == 0
    assert found.rotation.share.value == 0
    assert found.rotation.margin.mean.value is None
    for group in (found.everywhere, found.unchanged):
        for spread in (group.margin, group.relative_distance):
            for estimate in (spread.wider, spread.mean, *spread.quantiles.values()):
                assert (estimate.value, estimate.low, estimate.high) == (0, *ends)
    for band in found.bands:
        assert (band.paired_difference.value, band.paired_difference.low) == (0, ends[0])
        assert band.accuracy_before == band.paired_after == band.accuracy_after
    for estimate in (found.sharpening.raw_change, found.sharpening.scale_free_change):
        assert (estimate.value, estimate.low, estimate.high) == (0, *ends)
    assert found.sharpening.temperature.value == 1
    assert found.sharpening.share_left.reason == "the median margin did not change"
    assert found.sharpening.verdict == "none"


def test_nothing_to_compare_has_reasons():
    before, after, doc = audits(0)
    found = compare_margins(before, after, doc)
    assert found.everywhere.margin.median.reason == "no position to take a quantile of"
    assert found.rotation.share.reason == "no position to average over"
    assert found.sharpening.temperature.reason == (
        "no position kept both its top-1 and its runner-up"
    )
    before, doc = smooth(50)
    flat = scaled(before, 0.0)
    check = compare_margins(before, flat, doc, resamples=20).sharpening
    assert check.raw_change.reason == "half of the margins are 0"


def test_bad_columns_are_refused_and_json_returns_the_record():
    before, after, doc = audits(50)
    with pytest.raises((ValueError, TypeError), match="margin"):
        dataclasses.replace(before, margin=before.margin[1:])
    with pytest.raises(ValueError, match="margin holds nan"):
        dataclasses.replace(before, margin=np.full(50, np.nan, dtype=np.float32))
    with pytest.raises(ValueError, match=r"doc has 49 .* 50"):
        compare_margins(before, after, doc[1:])
    found = compare_margins(before, after, doc, resamples=20)
    text = json.dumps(record_to_json(found), allow_nan=False)
    assert record_from_json(Movement, json.loads(text)) == found
    assert compare_margins(before, after, doc, resamples=20) == found
