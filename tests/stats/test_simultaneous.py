"""Simultaneous intervals: against written-out resamples, at their edges, how often all hold."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from reference import simultaneous as reference
from unembed.stats.simultaneous import Sums, simultaneous_means
from unembed.stats.student import student_t
from unembed.stats.studentised import mean_estimates


def made_up(rng: np.random.Generator, measures: int, documents: int) -> Sums:
    counts = rng.integers(3, 40, documents).astype(float)
    return Sums(rng.normal(size=(measures, documents)) * counts**0.5 + 0.1 * counts, counts)


@pytest.mark.parametrize("documents", [(7,), (25,), (6, 11)])
def test_intervals_are_those_of_written_out_resamples(documents: tuple[int, ...]) -> None:
    rng = np.random.default_rng(sum(documents))
    texts = [made_up(rng, 3, n) for n in documents]
    texts[0].values[2] = 0.0  # a pair that never differs on this text
    got = simultaneous_means(texts, resamples=60, seed=4)
    plain = [(one.values.tolist(), one.counts.tolist()) for one in texts]
    want = reference.intervals(plain, student_t(min(documents) - 1), resamples=60, seed=4)
    for one, (value, low, high) in zip(got, want, strict=True):
        assert (one.value, one.low, one.high) == pytest.approx((value, low, high), rel=1e-9)
        assert one.documents == sum(documents)


def test_they_are_wider_than_one_alone_and_hold_what_never_differs() -> None:
    text = made_up(np.random.default_rng(1), 6, 40)
    text.values[5] = 0.0
    found = simultaneous_means([text], resamples=400)
    alone = mean_estimates(text.values[:5], text.counts, [(-np.inf, np.inf)] * 5, resamples=400)
    for one, other in zip(found, alone, strict=False):
        assert other.low is not None
        assert other.high is not None
        assert one.high - one.low > 1.1 * (other.high - other.low)
    assert (found[5].value, found[5].low, found[5].high) == (0.0, 0.0, 0.0)


def test_without_documents_to_resample_there_is_no_interval() -> None:
    [one] = simultaneous_means([Sums(np.ones((1, 1)), np.full(1, 4.0))], resamples=20)
    assert (one.value, one.low, one.high) == (0.25, None, None)
    [none] = simultaneous_means([Sums(np.zeros((1, 3)), np.zeros(3))], resamples=20)
    assert none.value is None


def test_a_measure_that_few_documents_move_takes_students_t() -> None:
    """A resample without the one document that differs has no spread."""
    text = made_up(np.random.default_rng(2), 2, 12)
    text.values[1] = 0.0
    text.values[1, 3] = 1.0
    few, plain = simultaneous_means([text], resamples=200)[::-1]
    [alone] = mean_estimates(text.values[1:], text.counts, [(-np.inf, np.inf)], resamples=0)
    assert alone.low is not None
    assert alone.high is not None
    assert few.high - few.low > alone.high - alone.low
    assert np.isfinite([plain.low, plain.high]).all()


AT = [(a, b) for a in range(5) for b in range(a)]


def flips(rng: np.random.Generator, documents: int) -> tuple[Sums, np.ndarray]:
    """Net flips of five variants: few to many, in documents of uneven sizes and rates."""
    rates = np.array([0.002, 0.005, 0.01, 0.03, 0.05])
    counts = rng.lognormal(5, 0.6, documents).round() + 1
    here = rates[:, None] * np.exp(0.4 * rng.normal(size=documents) - 0.08) * counts
    net = rng.poisson(0.5 * here) - rng.poisson(0.6 * here)
    return Sums(np.stack([net[a] - net[b] for a, b in AT]).astype(float), counts), -0.1 * rates


def divergences(rng: np.random.Generator, documents: int) -> tuple[Sums, np.ndarray]:
    """Mean divergences of five variants, lognormal, with an effect of the document on all."""
    means = np.array([1, 1.2, 2, 5, 6]) * 1e-3
    counts = rng.lognormal(4, 0.6, documents).round() + 1
    effect = 0.3 * rng.normal(size=documents) + 0.1 * rng.normal(size=(5, documents))
    kl = means[:, None] * np.exp(effect - 0.05) * counts
    return Sums(np.stack([kl[a] - kl[b] for a, b in AT]), counts), means


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "documents"), [(flips, (60,)), (divergences, (60,)), (flips, (40, 80))]
)
def test_all_pairs_hold_their_truths_in_95_of_100(
    kind: Callable[..., tuple[Sums, np.ndarray]], documents: tuple[int, ...]
) -> None:
    rng, held, runs = np.random.default_rng(5), 0, 800
    for run in range(runs):
        made = [kind(rng, n) for n in documents]
        found = simultaneous_means([sums for sums, _truth in made], resamples=500, seed=run)
        truth = made[0][1]
        held += all(
            one.low <= truth[a] - truth[b] <= one.high
            for one, (a, b) in zip(found, AT, strict=True)
            if one.low is not None and one.high is not None
        )
    assert 0.93 <= held / runs <= 0.97
