from __future__ import annotations

import numpy as np
import pytest

from unembed.stats.bootstrap import resample_weights
from unembed.stats.rank_correlation import average_ranks
from unembed.stats.rank_correlations import RankCorrelations

HOW = {"resamples": 300, "seed": 2}


def columns(documents=30, seed=0, size=12):
    """Four columns and what they are set beside, in documents of uneven sizes."""
    rng = np.random.default_rng(seed)
    doc = np.repeat(np.arange(documents), rng.integers(2, 2 * size, documents))
    shift = rng.normal(size=(2, documents))[:, doc]
    y = rng.normal(size=doc.size) + shift[0]
    parts = (0.0, -0.4, 1.0, 3.0)
    x = [part * y + rng.normal(size=doc.size) + 0.5 * shift[1] for part in parts]
    return x, y, doc, documents


def rho_of(x, y):
    return np.corrcoef(average_ranks(x), average_ranks(y))[0, 1]


def test_each_rho_is_the_correlation_of_ranks_inside_its_interval():
    x, y, doc, documents = columns()
    found = RankCorrelations.of([(one, y) for one in x], doc, documents)
    alone, together = found.estimates(**HOW), found.together(**HOW)
    for one, single, joint in zip(x, alone, together, strict=True):
        assert single.value == pytest.approx(rho_of(one, y))
        assert joint.value == single.value
        assert joint.low <= single.low < single.value < single.high <= joint.high
        assert joint.high - joint.low > single.high - single.low
        assert (single.n, single.documents) == (doc.size, documents)
    assert [one.value for one in found.rows([2, 0]).estimates(**HOW)] == [
        alone[2].value,
        alone[0].value,
    ]


def test_moves_are_nearly_those_of_leaving_each_document_out():
    x, y, doc, documents = columns()
    found = RankCorrelations.of([(one, y) for one in x], doc, documents)
    for one, rho, moves in zip(x, found.rho, found.moves, strict=True):
        z = np.arctanh(rho)
        out = [np.arctanh(rho_of(one[doc != d], y[doc != d])) for d in range(documents)]
        left = (z - np.array(out)) * doc.size
        # To first order: what is of second order is a few percent of it.
        assert np.abs(moves - left).max() < 0.15 * np.abs(left).max()
        assert moves.sum() == pytest.approx(0, abs=1e-9)


def test_a_large_document_moves_more_than_its_influence():
    rng = np.random.default_rng(3)
    doc = np.repeat(np.arange(6), [600, 120, 120, 120, 120, 120])
    y = rng.normal(size=doc.size)
    x = 0.8 * y * (doc == 0) + rng.normal(size=doc.size)
    found = RankCorrelations.of([(x, y)], doc, 6)
    z, n = np.arctanh(rho_of(x, y)), doc.size
    left = (z - np.arctanh(rho_of(x[doc != 0], y[doc != 0]))) * n
    # Without the factor n / (n - m) it would be half of that.
    assert found.moves[0, 0] == pytest.approx(left, rel=0.3)


def test_draws_are_close_to_ranking_every_resample_anew():
    x, y, doc, documents = columns(documents=60)
    found = RankCorrelations.of([(one, y) for one in x], doc, documents)
    drawn = found.draws(**HOW)
    weights = np.concatenate(list(resample_weights(documents, **HOW)))
    anew = []
    for times in weights[:100]:
        some = np.repeat(np.arange(doc.size), times[doc].astype(int))
        anew.append([rho_of(one[some], y[some]) for one in x])
    for k in range(len(x)):
        assert np.corrcoef(drawn[:100, k], np.array(anew)[:, k])[0, 1] > 0.98


def test_what_does_not_exist_or_does_not_move():
    x, y, doc, documents = columns(documents=5)
    pairs = [(np.ones_like(y), y), (y, 3 * y), (-y, y), (x[1], np.zeros_like(y)), (x[1], y)]
    found = RankCorrelations.of(pairs, doc, documents)
    for estimates in (found.estimates(**HOW), found.together(**HOW)):
        still, perfect, opposite, flat, plain = estimates
        assert still.value is None
        assert "the same at every position" in still.reason
        assert flat.value is None
        assert (perfect.low, perfect.high) == (perfect.value,) * 2 == pytest.approx((1, 1))
        assert opposite.value == pytest.approx(-1)
        assert plain.low < plain.value < plain.high
    drawn = found.draws(**HOW)
    assert np.isnan(drawn[:, [0, 3]]).all()
    assert np.allclose(drawn[:, 1], 1)


def test_one_document_one_position_and_no_pair():
    x, y, doc, _ = columns(documents=5)
    alone = RankCorrelations.of([(x[1], y)], np.zeros_like(doc), 1)
    for [one] in (alone.estimates(**HOW), alone.together(**HOW)):
        assert one.value == pytest.approx(rho_of(x[1], y))
        assert one.low is None
    assert alone.draws(**HOW).shape == (0, 1)
    lone = RankCorrelations.of([(y[:1], y[:1])], doc[:1], 1)
    assert "needs 2 positions, got 1" in lone.estimates(**HOW)[0].reason
    none = RankCorrelations.of([], doc, 5)
    assert none.estimates(**HOW) == none.together(**HOW) == ()


@pytest.mark.slow
@pytest.mark.parametrize("documents", [20, 80])
@pytest.mark.parametrize("r", [0.0, -0.3, 0.85])
def test_intervals_hold_the_truth_of_clustered_positions(documents, r):
    """Normal pairs, a third of whose variance is their document's: rho is 6 / pi asin(r / 2)."""
    truth, runs, held = 6 / np.pi * np.arcsin(r / 2), 300, 0
    for seed in range(runs):
        rng = np.random.default_rng([seed, documents])
        sizes = np.maximum(2, rng.lognormal(3.0, 0.8, documents)).astype(int)
        doc = np.repeat(np.arange(documents), sizes)
        shift, own = rng.normal(size=(2, documents))[:, doc], rng.normal(size=(2, doc.size))
        pairs = (np.sqrt(1 / 3) * shift + np.sqrt(2 / 3) * own) * 1.0
        x, y = pairs[0], r * pairs[0] + np.sqrt(1 - r**2) * pairs[1]
        [one] = RankCorrelations.of([(x, y)], doc, documents).estimates(resamples=300, seed=seed)
        held += one.low <= truth <= one.high
    # 93 to 97 % and two standard errors of 300 runs on either side.
    assert 0.905 <= held / runs <= 0.995, held / runs
