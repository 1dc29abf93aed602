"""Balanced halves of documents, and the intervals that they give."""

from __future__ import annotations

import math

import numpy as np
import pytest

from unembed.stats.half_samples import balanced_halves, half_sample_estimate
from unembed.stats.student import student_t


@pytest.mark.parametrize(
    ("documents", "groups"), [(2, 2), (3, 2), (16, 16), (31, 16), (32, 32), (500, 32)]
)
def test_groups_are_together_half_of_the_time(documents: int, groups: int) -> None:
    split = balanced_halves(np.ones(documents, dtype=int), seed=1)
    assert split.shape == (groups - 1, documents)
    assert len(np.unique(split.T, axis=0)) == groups
    signs = np.unique(2 * split.T.astype(int) - 1, axis=0)
    # Rows of a Hadamard matrix without its first column.
    np.testing.assert_array_equal(signs @ signs.T, groups * np.eye(groups) - 1)


def test_groups_are_of_like_size() -> None:
    sizes = np.random.default_rng(0).integers(1, 400, size=300)
    split = balanced_halves(sizes, seed=2)
    shares = (split * sizes).sum(axis=1) / sizes.sum()
    np.testing.assert_allclose(shares, 0.5, atol=0.02)
    assert (balanced_halves(sizes, seed=3) != split).any()


@pytest.mark.parametrize("documents", [0, 1])
def test_there_is_no_half_of_one(documents: int) -> None:
    assert balanced_halves(np.ones(documents, dtype=int)).shape == (0, documents)
    one = half_sample_estimate(2.0, np.zeros((0, 2)), np.zeros(0), n=9, documents=documents)
    assert (one.value, one.low, one.high) == (2.0, None, None)


def test_the_error_of_a_mean_is_that_of_its_groups() -> None:
    """Balanced over all splits, cross products vanish: exactly the variance between groups."""
    values = np.random.default_rng(1).uniform(0.99, 1.01, size=32)
    split = balanced_halves(np.ones(32, dtype=int))
    halves = np.array([[values[one].mean(), values[~one].mean()] for one in split])
    found = half_sample_estimate(values.mean(), halves, np.full(31, 0.5), n=32, documents=32)
    error = values.std(ddof=1) / math.sqrt(32) / values.mean()
    reach = student_t(31) * error
    assert found.high == pytest.approx(values.mean() * math.exp(reach), rel=1e-5)
    assert found.low == pytest.approx(values.mean() * math.exp(-reach), rel=1e-5)


def test_halves_without_a_value_leave_none_or_are_left_out() -> None:
    halves = np.tile([1.0, 1.1], (31, 1))
    halves[4, 1] = np.nan
    how = {"shares": np.full(31, 0.5), "n": 5, "documents": 40}
    whole = half_sample_estimate(1.0, np.tile([1.0, 1.1], (31, 1)), **how)
    assert half_sample_estimate(1.0, halves, **how) == whole
    halves[:2] = np.nan
    assert half_sample_estimate(1.0, halves, **how).low is None


def test_an_interval_beyond_floats_is_none() -> None:
    halves = np.array([[1e-300, 1e300]])
    assert half_sample_estimate(1.0, halves, np.array([0.5]), n=5, documents=2).high is None
