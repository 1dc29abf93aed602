from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unembed.decisions.audit.gap import fit_gap
from unembed.decisions.audit.summary import (
    MARGIN_BANDS,
    AuditColumns,
    NativeColumns,
    read_summary,
    summarise,
    summary_from_json,
    summary_to_json,
)
from unembed.stats.bootstrap import interval_levels, resample_weights
from unembed.stats.histogram import density, histogram, round_edges
from unembed.stats.rank_correlation import average_ranks, influence, spearman_estimates


def average_ranks_oracle(values):
    """The rank of a value is how many are smaller, plus half of the others equal to it."""
    return [sum(u < v for u in values) + (sum(u == v for u in values) - 1) / 2 for v in values]


def pearson_oracle(x, y):
    mean_x, mean_y = math.fsum(x) / len(x), math.fsum(y) / len(y)
    xy = math.fsum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    xx = math.fsum((a - mean_x) ** 2 for a in x)
    yy = math.fsum((b - mean_y) ** 2 for b in y)
    return xy / math.sqrt(xx * yy)


def audit_columns(n=400, documents=8, seed=0, vocab=5):
    generator = np.random.default_rng(seed)
    margin = generator.exponential(2, n).astype(np.float32)
    return AuditColumns(
        doc=generator.integers(0, documents, n).astype(np.int32),
        target=generator.integers(0, vocab, n).astype(np.int32),
        top1=generator.integers(0, vocab, n).astype(np.int32),
        top2=generator.integers(0, vocab, n).astype(np.int32),
        margin=margin,
        relative_distance=(margin * 0.01 * generator.random(n)).astype(np.float32),
        nll=generator.exponential(3, n).astype(np.float32),
        entropy=(4 / (1 + margin) + generator.random(n)).astype(np.float32),
        confidence=generator.random(n).astype(np.float32),
        logsumexp=generator.normal(12, 6, n).astype(np.float32),
        finite=np.ones(n, dtype=np.bool_),
    )


def native_columns(columns, seed=0):
    generator = np.random.default_rng(seed)
    n = len(columns.doc)
    moved = generator.random(n) < 0.1
    return NativeColumns(
        dtype="bfloat16",
        top1=np.where(moved, columns.top1 + 1, columns.top1).astype(np.int32),
        top2=generator.integers(5, 7, n).astype(np.int32),
        margin=(np.round(columns.margin * 8) / 8).astype(np.float32),
        rounding_step=np.where(moved, columns.margin, 0.125).astype(np.float32),
        top2_float32=np.full(n, 5, dtype=np.int32),
        nll=(columns.nll + generator.normal(0, 0.01, n)).astype(np.float32),
    )


def test_every_mean_and_share_is_the_naive_one():
    columns = audit_columns()
    summary = summarise(columns, resamples=50, row_norm_cv=0.25)
    margin = columns.margin.astype(np.float64)
    right = columns.target == columns.top1
    assert (summary.n_positions, summary.n_documents, summary.n_nonfinite) == (400, 8, 0)
    assert summary.row_norm_cv == 0.25
    assert summary.native is None
    for estimate, values in (
        (summary.accuracy, right),
        (summary.nll_nats, columns.nll),
        (summary.entropy_nats, columns.entropy),
        (summary.confidence, columns.confidence),
        (summary.share_margin_below_half, margin < 0.5),
        (summary.overconfidence, columns.confidence - right.astype(np.float64)),
    ):
        assert estimate.value == pytest.approx(values.astype(np.float64).mean(), rel=1e-12)
        assert estimate.n == 400
        assert estimate.low < estimate.value < estimate.high
    assert summary.perplexity.value == pytest.approx(math.exp(summary.nll_nats.value), rel=1e-12)
    assert summary.perplexity.low == pytest.approx(math.exp(summary.nll_nats.low), rel=1e-12)
    assert summary.perplexity.high == pytest.approx(math.exp(summary.nll_nats.high), rel=1e-12)
    for key, estimate in summary.margin_quantiles.items():
        assert estimate.value == np.quantile(margin, int(key) / 100)
    assert list(summary.margin_quantiles) == ["5", "25", "50", "75", "95"]
    assert summary.median_margin == summary.margin_quantiles["50"]
    assert summary.median_relative_distance == summary.relative_distance_quantiles["50"]
    assert summary.gap == fit_gap(columns.margin, columns.doc, resamples=50)
    for low, band in zip(MARGIN_BANDS, summary.bands, strict=False):
        inside = (margin >= low) & (margin < (band.high or np.inf))
        assert (band.low, band.n) == (low, inside.sum())
        assert band.share.value == pytest.approx(inside.mean(), rel=1e-12)
        assert band.accuracy.value == pytest.approx(right[inside].mean(), rel=1e-12)
        assert band.confidence.value == pytest.approx(columns.confidence[inside].mean(), rel=1e-6)
    assert summary.bands[-1].high is None


def test_intervals_are_those_of_written_out_resamples():
    columns = audit_columns(n=150, documents=5)
    summary = summarise(columns, resamples=30, seed=3)
    ids = np.unique(columns.doc)
    drawn = {"margin_quantiles": [], "nll_nats": [], "band": []}
    for draws in np.concatenate(list(resample_weights(len(ids), resamples=30, seed=3))):
        times = draws[np.searchsorted(ids, columns.doc)].astype(int)
        margin, nll = (np.repeat(v.astype(float), times) for v in (columns.margin, columns.nll))
        right = np.repeat(columns.target == columns.top1, times)
        drawn["margin_quantiles"].append(np.quantile(margin, 0.75))
        drawn["nll_nats"].append(nll.mean())
        drawn["band"].append(right[(margin >= 1) & (margin < 2)].mean())
    for estimate, values in (
        (summary.margin_quantiles["75"], drawn["margin_quantiles"]),
        (summary.nll_nats, drawn["nll_nats"]),
        (summary.bands[2].accuracy, drawn["band"]),
    ):
        expected = np.quantile(values, interval_levels(len(ids)))
        assert (estimate.low, estimate.high) == pytest.approx(tuple(expected), rel=1e-10)


@settings(max_examples=12, deadline=None)
@given(
    n=st.integers(1, 150),
    documents=st.integers(1, 6),
    seed=st.integers(0, 2**32 - 1),
    bad=st.sampled_from([0.0, 0.2, 1.0]),
)
def test_counts_and_shares_add_up(n, documents, seed, bad):
    columns = audit_columns(n, documents, seed)
    lost = np.random.default_rng(seed).random(n) < bad
    columns.margin[lost] = np.nan
    summary = summarise(columns, native=native_columns(columns, seed), resamples=5)
    kept = n - int(lost.sum())
    assert summary.n_positions == n
    assert summary.n_nonfinite == n - kept
    assert sum(band.n for band in summary.bands) == kept
    if kept:
        shares = [band.share.value for band in summary.bands]
        assert sum(shares) == pytest.approx(1, abs=1e-12)
    for counts in (summary.margin_histogram, summary.relative_distance_histogram):
        total = sum(counts.right) + sum(counts.wrong) + counts.below + counts.above
        assert total == kept
        assert len(counts.edges) == len(counts.right) + 1 == len(counts.wrong) + 1
    assert sum(map(sum, summary.entropy_margin.counts)) <= kept
    assert (summary.gap is None) == (summary.gap_reason is not None)
    text = json.dumps(summary_to_json(summary), allow_nan=False)
    assert summary_from_json(json.loads(text)) == summary


@pytest.mark.parametrize("sizes", [[700], [1, 0, 299, 400], [350, 350]])
def test_parts_change_no_figure(sizes, monkeypatch):
    monkeypatch.setattr("unembed.stats.resampled.THINNED", 64)
    columns = audit_columns(n=700, documents=9)
    columns = dataclasses.replace(columns, doc=np.sort(columns.doc))
    columns.nll[[3, 320]] = np.nan
    native = native_columns(columns)
    native.margin[650] = np.inf
    whole = columns.reader(native)

    def read(names):
        [held] = whole(names)
        pieces = {name: np.split(held[name], np.cumsum(sizes)[:-1]) for name in names}
        for i in range(len(sizes)):
            yield {name: pieces[name][i] for name in names}

    how = {"resamples": 30, "seed": 5}
    expected = summarise(columns, native=native, **how)
    found = read_summary(read, native_dtype="bfloat16", native_logprobs=True, **how)
    assert found == expected
    assert expected.native.changed_top1.n == 697


@pytest.mark.parametrize("flagged", [True, False])
def test_nonfinite_rows_are_counted_and_change_nothing_else(flagged):
    clean = audit_columns(n=300)
    extra = np.array([0, 17, 300])
    columns = {}
    for field in dataclasses.fields(clean):
        values = getattr(clean, field.name)
        filler = np.nan if values.dtype.kind == "f" and not flagged else values[0]
        columns[field.name] = np.insert(values, extra, filler)
    if flagged:
        columns["finite"][[0, 18, 302]] = False
    dirty = AuditColumns(**columns)
    native, rows = native_columns(clean), native_columns(dirty)
    rows = dataclasses.replace(
        rows,
        **{
            field.name: np.insert(getattr(native, field.name), extra, 1)
            for field in dataclasses.fields(native)
            if field.name != "dtype"
        },
    )
    with_them = summarise(dirty, native=rows, resamples=30)
    without = summarise(clean, native=native, resamples=30)
    assert with_them.n_nonfinite == 3
    assert dataclasses.replace(with_them, n_positions=300, n_nonfinite=0) == without


def test_no_finite_row_leaves_reasons_and_no_numbers():
    columns = dataclasses.replace(audit_columns(n=20), finite=np.zeros(20, dtype=np.bool_))
    summary = summarise(columns, native=native_columns(columns))
    assert summary.n_nonfinite == summary.n_positions == 20
    assert summary.accuracy.value is None
    assert summary.accuracy.reason == "no position to average over"
    assert summary.median_margin.reason == "no position to take a quantile of"
    assert summary.spearman_margin_entropy.reason == "a correlation needs 2 positions, got 0"
    assert summary.gap_reason == "0 margins are too few for a fit: it takes 100"
    assert summary.perplexity.value is None
    assert summary.native.changed_top1.value is None
    assert summary.native.distinct_margins == 0


def test_one_document_has_no_interval():
    columns = audit_columns(documents=1)
    summary = summarise(columns)
    for estimate in (summary.accuracy, summary.median_margin, summary.spearman_margin_entropy):
        assert estimate.value is not None
        assert (estimate.low, estimate.high) == (None, None)
    assert summary.gap.published.beta.low is None
    assert summary.gap.density_at_zero.low is None
    assert summary.bands[0].accuracy.low is None


def test_the_native_head_is_compared_position_by_position():
    columns = audit_columns(n=500)
    native = native_columns(columns)
    head = summarise(columns, native=native, resamples=40).native
    changed = native.top1 != columns.top1
    order = changed | (native.top2 != native.top2_float32)
    tied = native.margin == 0
    assert 0 < tied.sum() < 500
    assert head.dtype == "bfloat16"
    assert head.distinct_margins == len(set(native.margin.tolist()))
    assert head.distinct_margins_float32 == len(set(columns.margin.tolist()))
    for estimate, share in (
        (head.changed_top1, changed.mean()),
        (head.changed_top1_untied, changed[~tied].mean()),
        (head.changed_order, order.mean()),
        (head.tied_top2, tied.mean()),
        (head.below_rounding_step, ((columns.margin < 0.125) & ~changed).mean()),
    ):
        assert estimate.value == pytest.approx(share, rel=1e-12)
    assert head.changed_top1_untied.n == 500 - tied.sum()
    assert head.gap == fit_gap(native.margin, columns.doc, resamples=40)
    assert head.gap_float32 == fit_gap(columns.margin, columns.doc, resamples=40)


def test_overflowed_native_rows_are_left_out_of_the_comparison_only():
    columns = audit_columns(n=500)
    native = native_columns(columns)
    native.margin[:7] = np.inf
    summary = summarise(columns, native=native, resamples=10)
    assert summary.native.changed_top1.n == 493
    assert summary.accuracy.n == 500
    assert summary.native.gap_float32.n == 493


def test_a_loss_too_large_for_a_perplexity_says_so():
    columns = audit_columns(n=50)
    columns.nll[:] = 800
    perplexity = summarise(columns, resamples=10).perplexity
    assert perplexity.value is None
    assert perplexity.reason == "exp(800) is too large to represent"


def test_columns_of_different_lengths_are_refused():
    columns = audit_columns(n=10)
    # The shape check of the test run, which comes first, raises a TypeError.
    with pytest.raises((ValueError, TypeError), match="margin"):
        dataclasses.replace(columns, margin=columns.margin[:9])
    with pytest.raises(ValueError, match="native has 9 rows, the audit 10"):
        summarise(columns, native=native_columns(audit_columns(n=9)))


def test_the_same_columns_give_the_same_bytes_and_json_returns_the_record():
    columns = audit_columns()
    native = native_columns(columns)
    one = summarise(columns, native=native, resamples=30)
    two = summarise(columns, native=native, resamples=30)
    assert json.dumps(summary_to_json(one)) == json.dumps(summary_to_json(two))
    plain = summary_to_json(one)
    assert summary_from_json(json.loads(json.dumps(plain, allow_nan=False))) == one
    assert list(plain) == [field.name for field in dataclasses.fields(one)]
    assert plain["accuracy"]["value"] == one.accuracy.value
    del plain["gap"]["fixed"]
    with pytest.raises(ValueError, match=r"AuditSummary\.gap has missing or unknown .*'fixed'"):
        summary_from_json(plain)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-3, 3).map(lambda i: i / 2), max_size=30))
def test_average_ranks_equal_the_naive_ones(values):
    assert average_ranks(np.array(values, dtype=float)).tolist() == average_ranks_oracle(values)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(2, 40), levels=st.integers(2, 50), seed=st.integers(0, 2**32 - 1))
def test_spearman_is_the_correlation_of_average_ranks(n, levels, seed):
    generator = np.random.default_rng(seed)
    x, y = generator.integers(0, levels, (2, n)).astype(np.float32)
    doc = np.arange(n) % 2
    [rho] = spearman_estimates([x], y, doc, 2, resamples=10)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert rho.value is None
        assert rho.reason == "one of the two is the same at every position"
        return
    expected = pearson_oracle(average_ranks_oracle(x.tolist()), average_ranks_oracle(y.tolist()))
    assert rho.value == pytest.approx(expected, abs=1e-9)
    [opposite] = spearman_estimates([-x], np.exp(y / 10), doc, 2, resamples=10)
    assert opposite.value == pytest.approx(-expected, abs=1e-9)


def weighted_spearman_oracle(x, y, weights):
    """Spearman's rho of weighted positions, from the weighted average ranks."""

    def ranks(values):
        below = [sum(w for u, w in zip(values, weights, strict=True) if u < v) for v in values]
        equal = [sum(w for u, w in zip(values, weights, strict=True) if u == v) for v in values]
        return [b + e / 2 for b, e in zip(below, equal, strict=True)]

    total = math.fsum(weights)
    centred = []
    for values in (ranks(x), ranks(y)):
        mean = math.fsum(w * r for w, r in zip(weights, values, strict=True)) / total
        centred.append([r - mean for r in values])
    products = [
        math.fsum(w * a * b for w, a, b in zip(weights, one, two, strict=True))
        for one, two in ((centred[0], centred[1]), (centred[0], centred[0]), (centred[1],) * 2)
    ]
    return products[0] / math.sqrt(products[1] * products[2])


@pytest.mark.parametrize("chunk", [None, 7])
@pytest.mark.parametrize("tied", [False, True])
def test_influence_is_the_derivative_in_a_position_s_weight(tied, chunk, monkeypatch):
    if chunk is not None:
        monkeypatch.setattr("unembed.stats.rank_correlation.CHUNK", chunk)
    generator = np.random.default_rng(4)
    x = generator.normal(size=30)
    y = x + generator.normal(size=30)
    if tied:
        x, y = np.round(x), np.round(y * 2)
    rho, moves = influence(x, y, np.arange(30), 30)
    assert rho == pytest.approx(weighted_spearman_oracle(x, y, [1.0] * 30), abs=1e-12)
    for i in range(30):
        sides = []
        for step in (1e-5, -1e-5):
            weights = [1.0] * 30
            weights[i] += step
            sides.append(weighted_spearman_oracle(x, y, weights))
        assert moves[i] == pytest.approx((sides[0] - sides[1]) / 2e-5 * 30, abs=1e-6)


def test_spearman_interval_is_close_to_ranking_every_resample_anew():
    generator = np.random.default_rng(4)
    doc = np.repeat(np.arange(40), 10)
    shift = generator.normal(size=40)[doc]
    x = generator.normal(size=400) + shift
    y = x + generator.normal(size=400)
    [rho] = spearman_estimates([x], y, doc, 40, resamples=200, seed=6)
    drawn = []
    for draws in np.concatenate(list(resample_weights(40, resamples=200, seed=6))):
        times = draws[doc].astype(int)
        ranks = [average_ranks(np.repeat(values, times)) for values in (x, y)]
        drawn.append(np.corrcoef(*ranks)[0, 1])
    low, high = np.quantile(drawn, interval_levels(40))
    assert (rho.low, rho.high) == pytest.approx((low, high), abs=0.15 * (high - low))
    [perfect] = spearman_estimates([x], x * 2, doc, 40, resamples=5)
    assert (perfect.low, perfect.high) == (perfect.value, perfect.value)
    assert perfect.value == pytest.approx(1, abs=1e-12)


def test_histogram_bins_hold_their_lower_edge():
    values = np.array([-0.1, 0.0, 0.25, 0.49, 0.5, 1.0, 7.0])
    right = np.array([True, True, False, True, True, False, True])
    counts = histogram(values, right, (0.0, 0.25, 0.5, 1.0))
    assert counts.right == (1, 1, 1)
    assert counts.wrong == (0, 1, 0)
    assert (counts.below, counts.above) == (1, 2)


def test_density_counts_cells_and_leaves_out_the_rest():
    x, y = np.array([0.0, 0.5, 1.0, 1.5, 2.0, -1.0]), np.array([0.0, 0.9, 1.0, 5.0, 0.0, 0.0])
    grid = density([(x, y)], (0.0, 1.0, 2.0), (0.0, 1.0, 2.0, 3.0))
    assert grid.counts == ((2, 0, 0), (0, 1, 0))


@settings(max_examples=100, deadline=None)
@given(st.floats(1e-9, 1e9))
def test_round_edges_reach_the_limit_in_few_even_steps(limit):
    edges = round_edges(limit)
    assert edges[0] == 0
    assert edges[-1] >= limit * (1 - 1e-9)
    assert 20 <= len(edges) - 1 <= 51
    step = edges[1] / 10 ** math.floor(math.log10(edges[1]) + 1e-9)
    assert min(abs(step - nice) for nice in (1, 2, 2.5, 5)) < 1e-6
    np.testing.assert_allclose(np.diff(edges), edges[1], rtol=1e-6)


def test_round_edges_show_as_short_decimals_and_refuse_impossible_limits():
    assert round_edges(0.0) == (0.0, 1.0)
    assert round_edges(0.1)[:4] == (0.0, 0.002, 0.004, 0.006)
    assert max(len(repr(edge)) for edge in round_edges(0.0437)) <= 5
    with pytest.raises(ValueError, match="got -1"):
        round_edges(-1.0)
