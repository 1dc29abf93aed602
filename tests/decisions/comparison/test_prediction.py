from __future__ import annotations

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unembed.decisions.comparison.movement import MarginColumns
from unembed.decisions.comparison.prediction import (
    CHANCE_EDGES,
    FlipPrediction,
    flip_chance,
    predict_flips,
)
from unembed.runs.record import record_from_json, record_to_json
from unembed.stats.bootstrap import interval_levels, resample_weights


def phi(x):
    return math.erfc(-x / math.sqrt(2)) / 2


def union_oracle(gaps, s):
    """The chance by a fine Riemann sum over the noise of the top logit."""
    s1, step = s / math.sqrt(2), 0.01
    total = 0.0
    for i in range(-1000, 1001):
        z = i * step
        stays = math.prod(phi(z + gap / s1) for gap in gaps)
        total += math.exp(-z * z / 2) / math.sqrt(2 * math.pi) * step * (1 - stays)
    return total


def audit(logits):
    """The columns of an audit of these logits, and the logits in descending order."""
    order = np.argsort(-logits, axis=1, kind="stable")
    top = np.take_along_axis(logits, order, axis=1)
    margin = top[:, 0] - top[:, 1]
    zeros = np.zeros(len(logits), dtype=np.bool_)
    return MarginColumns(order[:, 0], order[:, 1], zeros, margin, margin / 99), top


def noisy(n=2000, documents=40, vocab=4, noise=0.2, seed=0, scale=1.0):
    """Two audits, the second with normal noise on every logit, and then all logits scaled."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(n, vocab)) * 3
    moved = scale * (logits + noise * generator.normal(size=logits.shape))
    doc = np.sort(generator.integers(0, documents, n))
    before, top = audit(logits)
    return before, audit(moved)[0], top, doc


@pytest.mark.parametrize("gaps", [[0.5, 0.7], [0.0, 0.0, 0.0], [1.0, 1.5, 4.0], [3.0, 3.1], [0.1]])
@pytest.mark.parametrize("s", [0.3, 1.0, 4.0])
def test_the_chance_of_a_flip_is_the_integral(gaps, s):
    found = flip_chance(np.array([gaps, [9e9] * len(gaps)]), s)
    assert found[0] == pytest.approx(union_oracle(gaps, s), abs=1e-5)
    assert found[1] == 0


@settings(max_examples=50, deadline=None)
@given(
    gaps=st.lists(st.floats(0, 20), min_size=1, max_size=5),
    s=st.floats(0.01, 5),
    add=st.floats(0, 9),
)
def test_a_chance_grows_with_candidates_and_noise(gaps, s, add):
    one = flip_chance(np.array([gaps]), s)[0]
    assert 0 <= one <= len(gaps) / (len(gaps) + 1) + 1e-4
    assert flip_chance(np.array([[*gaps, add]]), s)[0] >= one - 1e-4
    assert flip_chance(np.array([gaps]), 2 * s)[0] >= one - 1e-4
    single = flip_chance(np.array([gaps[:1]]), s)[0]
    assert single == pytest.approx(phi(-gaps[0] / s), abs=1e-12)
    # Two candidates, of which one has no chance: the integral is the runner-up's closed form.
    assert flip_chance(np.array([[gaps[0], 1e9]]), s)[0] == pytest.approx(single, abs=1e-5)
    assert flip_chance(np.array([gaps]), 0.0)[0] == 0


def test_chunks_change_memory_and_not_the_chances(monkeypatch):
    gaps = np.random.default_rng(0).exponential(size=(100, 3))
    whole = flip_chance(gaps, 0.5)
    monkeypatch.setattr("unembed.decisions.comparison.prediction.CHUNK_ROWS", 7)
    np.testing.assert_allclose(flip_chance(gaps, 0.5), whole, rtol=1e-14)


def recount(before, after, top):
    """Scale, s, the rate predicted and observed, and the bins, one position at a time."""
    n = len(before.margin)
    gaps = [[float(before.margin[i])] for i in range(n)]
    if top is not None:
        gaps = [[float(top[i, 0] - x) for x in top[i, 1:]] for i in range(n)]
    middle = np.median(before.margin)
    leads = [g[1] - g[0] for g in gaps] if len(gaps[0]) > 1 else [0.0] * n
    used = [
        i
        for i in range(n)
        if before.top1[i] == after.top1[i]
        and before.top2[i] == after.top2[i]
        and before.margin[i] >= middle
        and leads[i] >= np.median(leads)
    ]
    if len(used) < 10:
        return None
    scale = np.median([after.margin[i] for i in used]) / np.median([before.margin[i] for i in used])
    s = 1.482602218505602 * np.median(
        [abs(after.margin[i] / scale - before.margin[i]) for i in used]
    )
    if len(gaps[0]) == 1:
        chances = [phi(-g[0] / s) for g in gaps]
    else:
        chances = [union_oracle(g, s) for g in gaps]
    flips = [bool(a != b) for a, b in zip(before.top1, after.top1, strict=True)]
    return len(used), scale, s, chances, flips


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 120),
    documents=st.integers(1, 6),
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([0.7, 1.0, 1.3]),
)
def test_every_figure_is_the_naive_recount(n, documents, seed, scale):
    before, after, _, doc = noisy(n, documents, seed=seed, noise=0.5, scale=scale)
    found = predict_flips(before, after, doc, resamples=5)
    expected = recount(before, after, None)
    assert found.observed.value == pytest.approx((before.top1 != after.top1).mean(), rel=1e-12)
    if expected is None:
        assert found.predicted.value is None
        assert found.predicted.reason.startswith("the noise is unknown")
        assert found.bins == ()
        return
    used, factor, s, chances, flips = expected
    assert found.noise.n == used
    assert found.scale.value == pytest.approx(factor, rel=1e-12)
    assert found.noise.value == pytest.approx(s, rel=1e-9, abs=1e-12)
    assert found.predicted.value == pytest.approx(math.fsum(chances) / n, rel=1e-9)
    assert found.difference.value == pytest.approx((sum(flips) - math.fsum(chances)) / n, abs=1e-9)
    assert sum(row.n for row in found.bins) == n
    for (low, high), row in zip(itertools.pairwise(CHANCE_EDGES), found.bins, strict=True):
        inside = [i for i in range(n) if low <= chances[i] < high]
        assert (row.low, row.high, row.n) == (low, high, len(inside))
        if inside:
            chance = math.fsum(chances[i] for i in inside) / len(inside)
            assert row.predicted.value == pytest.approx(chance, rel=1e-9)
            assert row.observed.value == pytest.approx(
                sum(flips[i] for i in inside) / len(inside), rel=1e-12
            )


def test_with_all_candidates_every_chance_is_the_integral():
    before, after, top, doc = noisy(60, 5, noise=0.6, seed=3)
    found = predict_flips(before, after, doc, topk_logits=top, resamples=5)
    used, factor, s, chances, _ = recount(before, after, top)
    assert (found.noise.n, found.candidates) == (used, 3)
    assert found.scale.value == pytest.approx(factor, rel=1e-12)
    assert found.noise.value == pytest.approx(s, rel=1e-12)
    assert found.predicted.value == pytest.approx(np.mean(chances), abs=1e-5)


def test_the_interval_resamples_documents_and_the_noise_with_them():
    before, after, _, doc = noisy(400, 12, noise=0.4, seed=1)
    doc = np.unique(doc, return_inverse=True)[1]
    documents = int(doc.max()) + 1
    found = predict_flips(before, after, doc, resamples=60, seed=7)
    kept = (before.top1 == after.top1) & (before.top2 == after.top2)
    wide = kept & (before.margin >= np.median(before.margin))
    change = np.abs(after.margin / found.scale.value - before.margin)
    drawn = {"noise": [], "predicted": [], "observed": []}
    for draws in np.concatenate(list(resample_weights(documents, resamples=60, seed=7))):
        at = np.repeat(np.arange(400), draws[doc].astype(int))
        s = 1.482602218505602 * np.median(change[at][wide[at]])
        drawn["noise"].append(s)
        drawn["predicted"].append(flip_chance(before.margin[at][:, None], s).mean())
        drawn["observed"].append((before.top1 != after.top1)[at].mean())
    levels = interval_levels(documents)
    for name, rel in (("noise", 1e-9), ("predicted", 0.005), ("observed", 1e-9)):
        estimate, expected = getattr(found, name), np.quantile(drawn[name], levels)
        assert (estimate.low, estimate.high) == pytest.approx(tuple(expected), rel=rel)
    fixed = [
        flip_chance(before.margin[np.isin(doc, d)][:, None], found.noise.value).sum()
        for d in range(documents)
    ]
    assert found.predicted.value == pytest.approx(sum(fixed) / 400)


def test_gaussian_noise_flips_as_many_as_predicted():
    before, after, top, doc = noisy(60_000, 600, vocab=2, noise=0.3)
    two = predict_flips(before, after, doc, resamples=200)
    assert two.noise.value == pytest.approx(0.3 * math.sqrt(2), rel=0.02)
    assert two.difference.low < 0 < two.difference.high
    for row in two.bins:
        if row.n > 500:
            error = math.sqrt(row.predicted.value * (1 - row.predicted.value) / row.n)
            assert abs(row.observed.value - row.predicted.value) < 4.5 * error + 0.02 * error**0.5

    before, after, top, doc = noisy(60_000, 600, vocab=8, noise=0.1)
    union = predict_flips(before, after, doc, topk_logits=top[:, :5], resamples=200)
    runner_up = predict_flips(before, after, doc, resamples=200)
    assert union.noise.value == pytest.approx(0.1 * math.sqrt(2), rel=0.03)
    assert union.difference.low < 0 < union.difference.high
    assert runner_up.predicted.value < union.predicted.value
    assert (runner_up.candidates, union.candidates) == (1, 4)


def test_a_temperature_is_no_noise():
    before, _, _, doc = noisy(500, 9)
    after = dataclasses.replace(before, margin=before.margin * 1.3)
    found = predict_flips(before, after, doc, resamples=20)
    assert found.scale.value == pytest.approx(1.3)
    assert found.noise.value < 1e-12
    assert found.predicted.value == found.observed.value == 0


@pytest.mark.parametrize("documents", [1, 2, 9])
def test_an_audit_compared_with_itself_has_no_noise_and_no_flips(documents):
    before, _, top, doc = noisy(200, documents)
    for logits in (None, top):
        found = predict_flips(before, before, doc, topk_logits=logits, resamples=20)
        ends = (None, None) if documents == 1 else (0, 0)
        assert found.scale.value == 1
        for estimate in (found.noise, found.predicted, found.observed, found.difference):
            assert (estimate.value, estimate.low, estimate.high) == (0, *ends)
        assert found.bins == ()
        assert found.bins_reason.startswith("without noise every chance is 0")


def test_what_cannot_be_known_has_a_reason():
    before, _, _, doc = noisy(50, 3)
    after = dataclasses.replace(before, top1=before.top1 + 9)
    found = predict_flips(before, after, doc, resamples=10)
    assert found.observed.value == 1
    assert found.predicted.reason == found.bins_reason == found.noise.reason
    reason = "the noise is unknown: 0 wide margins kept top-1 and top-2, it takes 10"
    assert found.predicted.reason == reason
    flat = dataclasses.replace(before, margin=np.zeros(50))
    found = predict_flips(flat, flat, doc, resamples=10)
    assert found.noise.reason.endswith("half of the margins are 0")
    nothing = noisy(0)
    found = predict_flips(nothing[0], nothing[1], nothing[3])
    assert found.observed.reason == "no position to average over"
    assert found.predicted.value is None


def test_bad_logits_are_refused_and_json_returns_the_record():
    before, after, top, doc = noisy(50, 4)
    for logits in (top[:, :1], top[1:]):
        with pytest.raises((ValueError, TypeError), match="topk_logits"):
            predict_flips(before, after, doc, topk_logits=logits)
    with pytest.raises(ValueError, match="descending order"):
        predict_flips(before, after, doc, topk_logits=top[:, ::-1])
    with pytest.raises(ValueError, match=r"doc has 49 .* 50"):
        predict_flips(before, after, doc[1:])
    found = predict_flips(before, after, doc, resamples=20)
    text = json.dumps(record_to_json(found), allow_nan=False)
    assert record_from_json(FlipPrediction, json.loads(text)) == found
