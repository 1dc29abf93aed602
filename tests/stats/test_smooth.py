from __future__ import annotations

import numpy as np
import pytest

from unembed.stats.smooth import smooth_estimates
from unembed.stats.studentised import mean_estimates

HOW = {"resamples": 200, "seed": 1}


def figures(totals):
    """A mean, and the product of two."""
    with np.errstate(invalid="ignore", divide="ignore"):
        means = totals[:, :2] / totals[:, 2:]
    return np.column_stack([means[:, 0], means[:, 0] * means[:, 1]])


def made(documents, seed=0):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 30, documents).astype(float)
    shift = rng.normal(size=documents)
    return np.stack([(2 + shift) * sizes, (3 + shift) * sizes, sizes]), sizes


def test_a_mean_is_as_wide_as_its_own_interval_and_a_little_wider():
    sums, sizes = made(40)
    [mean, product] = smooth_estimates(sums, sizes, figures, **HOW)
    [alone] = mean_estimates(sums[:1], sizes, [(-np.inf, np.inf)], **HOW)
    assert mean.value == pytest.approx(alone.value)
    assert 1.0 < (mean.high - mean.low) / (alone.high - alone.low) < 1.15
    assert product.value == pytest.approx(mean.value * sums[1].sum() / sizes.sum())
    assert product.low < product.value < product.high
    assert (product.n, product.documents) == (sizes.sum(), 40)


def test_the_bias_of_a_product_is_left_out_as_leaving_one_out_has_it():
    rng = np.random.default_rng(5)
    x = rng.normal(size=12)
    sums, sizes = np.stack([x, x, np.ones(12)]), np.ones(12)
    [_, square] = smooth_estimates(sums, sizes, figures, **HOW)
    # Of documents of one size it is exact: the mean's square is too large by the mean's variance.
    corrected = x.mean() ** 2 - x.var(ddof=1) / 12
    low, high = (corrected - square.low, square.high - corrected)
    assert min(low, high) > 0
    shifted = x + 100
    [_, far] = smooth_estimates(np.stack([shifted, shifted, np.ones(12)]), sizes, figures, **HOW)
    assert (far.low + far.high) / 2 == pytest.approx(far.value, rel=0.01)


def test_without_documents_or_a_figure_there_is_no_interval():
    sums, sizes = made(1)
    [mean, _] = smooth_estimates(sums, sizes, figures, **HOW)
    assert mean.value is not None
    assert mean.low is None
    sums, sizes = made(5)
    sums[2, 1:] = 0
    [gone, _] = smooth_estimates(sums, sizes, figures, **HOW)
    assert gone.value is not None
    assert gone.low is None
    sums[2] = 0
    [nothing, _] = smooth_estimates(sums * 0, sizes, figures, **HOW)
    assert nothing is None


@pytest.mark.slow
def test_intervals_of_a_product_hold_the_truth():
    held, runs = 0, 400
    for seed in range(runs):
        [_, one] = smooth_estimates(*made(20, seed), figures, resamples=300, seed=seed)
        # E[(2 + s) sizes] E[(3 + s) sizes] / E[sizes]**2, shifts independent of the sizes.
        held += one.low <= 6 <= one.high
    assert 0.92 <= held / runs <= 0.985, held / runs
