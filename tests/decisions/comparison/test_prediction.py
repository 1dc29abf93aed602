from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference.flip_prediction import Position, predict

from unembed.decisions.audit.finite_rows import FiniteRows
from unembed.decisions.comparison import flip_chances
from unembed.decisions.comparison.flip_chances import LikeChanges, changed_gaps, lead_parts
from unembed.decisions.comparison.prediction import (
    CHANCE_EDGES,
    FEWEST_FLIPS,
    FlipPrediction,
    read_prediction,
)
from unembed.runs.record import record_from_json, record_to_json
from unembed.stats.bootstrap import interval_levels, resample_weights
from unembed.stats.estimate import Estimate


def side(logits, k, name):
    """The columns of an audit of these logits that keeps k candidates."""
    order = np.argsort(-logits, axis=1, kind="stable")
    top = np.take_along_axis(logits, order, axis=1)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    columns = {
        "top1": order[:, 0],
        "top2": order[:, 1],
        "margin": top[:, 0] - top[:, 1],
        "entropy": -(p * np.log(p)).sum(axis=1),
        "topk_ids": order[:, :k],
        "topk_logits": top[:, :k],
    }
    return {f"{name}_{key}": column for key, column in columns.items()}


def noisy(n=2000, documents=40, vocab=8, noise=0.3, seed=0, scale=1.0, k=5):
    """Two audits, the second with normal noise on every logit, and then all logits scaled."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(n, vocab)) * 2
    moved = scale * (logits + noise * generator.normal(size=logits.shape))
    doc = np.sort(generator.integers(0, documents, n))
    return doc, side(logits, k, "before") | side(moved, k, "after")


def read(doc, columns, k=5, **how):
    return read_prediction(FiniteRows.held(doc, **columns), k, **{"resamples": 20} | how)


def positions(doc, columns, k):
    """The same rows for the loop; with k of 0 what top-1, top-2 and margin alone say."""
    found = []
    for i in range(len(doc)):
        sides = []
        for name in ("before", "after"):
            if k:
                pair = (columns[f"{name}_topk_ids"][i, :k], columns[f"{name}_topk_logits"][i, :k])
            else:
                pair = (
                    [columns[f"{name}_top1"][i], columns[f"{name}_top2"][i]],
                    [columns[f"{name}_margin"][i], 0.0],
                )
            sides.append(tuple((int(t), float(x)) for t, x in zip(*pair, strict=True)))
        found.append(Position(int(doc[i]), float(columns["before_entropy"][i]), *sides))
    return found


@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(2, 150),
    documents=st.integers(2, 9),
    vocab=st.integers(2, 9),
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([0.7, 1.0, 1.3]),
    stored=st.booleans(),
)
def test_every_figure_is_the_naive_recount(n, documents, vocab, seed, scale, stored):
    k = min(5, vocab) if stored else 0
    doc, columns = noisy(n, documents, vocab, noise=0.7, seed=seed, scale=scale, k=k or 2)
    found = read(doc, columns, k)
    if len(set(doc.tolist())) < 2:
        assert found.predicted.value is None
        return
    loop = positions(doc, columns, k)
    same_as_the_loop(found, loop)
    assert found.candidates == max(1, k - 1)


def same_as_the_loop(found, loop):
    expected, n = predict(loop), len(loop)
    flips = [one.flipped for one in loop]
    assert found.observed.value == pytest.approx(sum(flips) / n, abs=1e-12)
    assert found.scale.value == pytest.approx(expected.scale, rel=1e-10)
    assert found.noise.value == pytest.approx(expected.noise, rel=1e-6, abs=1e-9)
    assert found.predicted.value == pytest.approx(sum(expected.chances) / n, abs=1e-12)
    assert found.difference.value == pytest.approx(
        (sum(flips) - sum(expected.chances)) / n, abs=1e-12
    )
    assert sum(row.n for row in found.bins) == (n if any(expected.chances) else 0)
    for row in found.bins:
        inside = [
            i
            for i, chance in enumerate(expected.chances)
            if row.low <= chance < row.high or chance == row.high == 1
        ]
        assert row.n == len(inside)
        if inside:
            told = sum(expected.chances[i] for i in inside) / len(inside)
            assert row.predicted.value == pytest.approx(told, abs=1e-12)
            assert row.observed.value == pytest.approx(sum(flips[i] for i in inside) / row.n)


def test_positions_of_like_entropy_are_told_apart_where_there_are_enough():
    doc, columns = noisy(6000, 30, noise=0.4, seed=2)
    found = read(doc, columns)
    assert found.difference.low < 0 < found.difference.high
    part = next(lead_parts(FiniteRows.held(doc, **columns), 5, True))
    others = part.rows(np.flatnonzero(doc % 5 != 0))
    lead, moved = others.gaps[:, 0], others.moved[:, 0]
    model = LikeChanges.of(others, float((lead * moved).sum() / (lead**2).sum()))
    assert model.entropies.shape[1] == 3
    # A few of a group are enough for the loop.
    few = np.flatnonzero(doc % 5 == 0)[::100]
    kept = np.flatnonzero((doc % 5 != 0) | np.isin(np.arange(6000), few))
    loop = positions(doc[kept], {name: column[kept] for name, column in columns.items()}, 5)
    chances = np.array(predict(loop, only=0).chances, dtype=float)[np.isin(kept, few)]
    assert chances.max() > 0.1
    np.testing.assert_allclose(model.chances(part.rows(few)), chances, atol=1e-12)


def test_what_the_gaps_are():
    ids = np.array([[3, 7, 1]])
    before = np.array([[5.0, 4.0, 2.0]])
    after_ids, after = np.array([[7, 9, 3]]), np.array([[6.0, 5.5, 5.0]])
    gaps, moved = changed_gaps(ids, before, after_ids, after)
    np.testing.assert_array_equal(gaps, [[1, 3, 3]])
    # Token 1 is not listed after: it has at most the last logit, 5. Token 9 is the best of others.
    np.testing.assert_array_equal(moved, [[-1, 0, -0.5]])
    with pytest.raises(ValueError, match="descending order"):
        changed_gaps(ids, before[:, ::-1], after_ids, after)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(2, 6), vocab=st.integers(2, 12))
def test_a_lead_below_zero_is_a_flip_of_that_position(seed, k, vocab):
    k = min(k, vocab)
    _, columns = noisy(50, 3, vocab, noise=2.0, seed=seed, k=k)
    before, after = (
        [columns[f"{name}_topk_{what}"] for what in ("ids", "logits")]
        for name in ("before", "after")
    )
    _, moved = changed_gaps(*before, *after)
    flipped = columns["before_top1"] != columns["after_top1"]
    np.testing.assert_array_equal((moved < 0).any(axis=1), flipped)


def test_the_interval_holds_the_error_of_the_changes_too():
    """It is that of a refit in every resample, to first order."""
    doc, columns = noisy(1200, 24, noise=0.5, seed=1)
    doc = np.unique(doc, return_inverse=True)[1]
    documents = int(doc.max()) + 1
    found = read(doc, columns, resamples=400, seed=7)
    loop = predict(positions(doc, columns, 5))
    flips = columns["before_top1"] != columns["after_top1"]
    cell = np.array([len(one) for one in loop.cells])
    who, held = np.zeros((2, 1200, cell.max()), dtype=int)
    for i in range(1200):
        who[i, : cell[i]], held[i, : cell[i]] = loop.cells[i], loop.hits[i]
    filled = np.arange(cell.max()) < cell[:, None]
    told, apart, alone = [], [], []
    for draws in np.concatenate(list(resample_weights(documents, resamples=400, seed=7))):
        weights = draws[doc]
        inside = weights[who] * filled
        chance = (inside * held).sum(axis=1) / np.maximum(inside.sum(axis=1), 1)
        told.append((weights * chance).sum() / weights.sum())
        apart.append((weights * (flips - chance)).sum() / weights.sum())
        alone.append((weights * loop.chances).sum() / weights.sum())
    for estimate, drawn in ((found.predicted, told), (found.difference, apart)):
        low, high = np.quantile(drawn, interval_levels(documents))
        width = high - low
        assert estimate.low == pytest.approx(low, abs=0.12 * width)
        assert estimate.high == pytest.approx(high, abs=0.12 * width)
    low, high = np.quantile(alone, interval_levels(documents))
    assert found.predicted.high - found.predicted.low > 1.2 * (high - low)


def test_noise_flips_as_many_as_predicted_whatever_its_size():
    """Where it grows with the margin, and is not normal, too."""
    for noise, how in ((0.05, "normal"), (0.6, "normal"), (0.4, "heavy"), (0.3, "growing")):
        generator = np.random.default_rng(3)
        logits = generator.normal(size=(30_000, 8)) * 2
        added = generator.normal(size=logits.shape) * noise
        if how == "heavy":
            added = generator.standard_t(3, size=logits.shape) * noise
        if how == "growing":
            added *= logits.max(axis=1, keepdims=True)
        doc = np.sort(generator.integers(0, 300, 30_000))
        found = read(doc, side(logits, 5, "before") | side(logits + added, 5, "after"))
        assert found.predicted.low <= found.observed.value <= found.predicted.high
        assert abs(found.difference.value) < 0.05 * found.observed.value
        for row in found.bins:
            assert row.n < 200 or 1 / 1.5 < row.predicted.value / row.observed.value < 1.5


def test_it_disagrees_where_both_intervals_say_so():
    found = read(*noisy(2000, 100, noise=0.05, seed=4))
    assert not found.disagrees
    told = dataclasses.replace(found.predicted, low=0.1, high=0.2)
    for seen, apart, disagrees in (
        (Estimate(0.3), Estimate(0.1, 0.05, 0.2), True),
        (Estimate(0.05), Estimate(-0.1, -0.2, -0.05), True),
        (Estimate(0.3), Estimate(0.1, -0.05, 0.2), False),
        (Estimate(0.15), Estimate(0.1, 0.05, 0.2), False),
        (Estimate(0.3), Estimate(0.1), False),
    ):
        one = dataclasses.replace(found, predicted=told, observed=seen, difference=apart)
        assert one.disagrees == disagrees


def test_bins_hold_enough_flips_to_be_told_from_chance():
    doc, columns = noisy(20_000, 100, noise=0.3)
    found = read(doc, columns)
    assert len(found.bins) >= 5
    assert (found.bins[0].low, found.bins[-1].high) == (0, 1)
    for row, following in itertools.pairwise(found.bins):
        assert row.high == following.low
        assert row.n * row.predicted.value >= FEWEST_FLIPS
    assert {row.low for row in found.bins} <= set(CHANCE_EDGES)
    assert len(read(*noisy(300, 10)).bins) == 1


def test_parts_chunks_and_what_is_held(monkeypatch):
    """The parts change nothing; of many positions some changes are enough."""
    doc, columns = noisy(4000, 40, noise=0.4)
    whole = read(doc, columns)
    cuts = [0, 1, 700, 701, 2500, 4000]

    def parts(names):
        for start, end in itertools.pairwise(cuts):
            yield {name: (columns | {"doc": doc})[name][start:end] for name in names}

    monkeypatch.setattr(flip_chances, "CHUNK_ROWS", 7)
    assert read_prediction(FiniteRows.of(parts, ()), 5, resamples=20) == whole
    monkeypatch.setattr(flip_chances, "MOST_HELD", 500)
    thinned = read_prediction(FiniteRows.of(parts, ()), 5, resamples=20)
    assert thinned == read(doc, columns)
    assert thinned != whole
    assert thinned.predicted.value == pytest.approx(whole.predicted.value, rel=0.1)


@pytest.mark.parametrize("factor", [0.6, 1.3])
def test_a_temperature_flips_nothing(factor):
    doc, columns = noisy(500, 9, noise=0.0, scale=factor)
    found = read(doc, columns)
    assert found.scale.value == pytest.approx(factor)
    assert found.noise.value < 1e-6
    assert found.predicted.value == found.observed.value == 0


@pytest.mark.parametrize("documents", [2, 9])
@pytest.mark.parametrize("k", [0, 5])
def test_an_audit_compared_with_itself_has_no_noise_and_no_flips(documents, k):
    doc, columns = noisy(200, documents, noise=0.0)
    found = read(doc, columns, k)
    assert found.scale.value == 1
    for estimate in (found.noise, found.predicted, found.observed, found.difference):
        assert (estimate.value, estimate.low, estimate.high) == (0, 0, 0)
    assert found.bins == ()
    assert found.bins_reason == "every chance of a flip is 0"
    assert not found.disagrees


def test_what_cannot_be_known_has_a_reason():
    doc, columns = noisy(50, 1)
    found = read(doc, columns)
    assert found.observed.value > 0
    reason = "it takes two documents, one to learn from and one to predict"
    assert found.predicted.reason == found.difference.reason == found.bins_reason == reason
    assert not found.disagrees
    nothing = read(*noisy(0))
    assert nothing.observed.reason == nothing.predicted.reason == "no position to average over"
    assert nothing.noise.value is None
    flat = columns | {"before_margin": np.zeros(50)}
    two = np.arange(50) // 25
    assert read(two, flat, 0).scale.reason == "all margins are 0"


def test_bad_logits_are_refused_and_json_returns_the_record():
    doc, columns = noisy(50, 4)
    upward = columns | {"before_topk_logits": columns["before_topk_logits"][:, ::-1]}
    with pytest.raises(ValueError, match="descending order"):
        read(doc, upward)
    found = read(doc, columns)
    text = json.dumps(record_to_json(found), allow_nan=False)
    assert record_from_json(FlipPrediction, json.loads(text)) == found
