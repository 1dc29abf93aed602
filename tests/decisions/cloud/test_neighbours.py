"""Nearest neighbours: exact far from the origin, in blocks, without what equals another point."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unembed.decisions.cloud import neighbours
from unembed.decisions.cloud.neighbours import neighbours_of


def by_pairs(states: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    wide = states.astype(np.longdouble)
    apart = np.sqrt(((wide[:, None] - wide) ** 2).sum(axis=2))
    np.fill_diagonal(apart, np.inf)
    index = np.argsort(apart, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(apart, index, axis=1), index


@pytest.mark.parametrize("held", [1, 700, 1 << 22])
@pytest.mark.parametrize(
    ("spread", "origin", "k"), [(1.0, 0.0, 7), (1e-3, 1e3, 129), (1e-20, 0.0, 129), (1e12, 1e12, 2)]
)
def test_they_are_those_of_every_pair(
    spread: float, origin: float, k: int, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "BLOCK_ELEMENTS", held)
    generator = np.random.default_rng(1)
    states = (origin + spread * generator.standard_normal((130, 5))).astype(np.float32)
    found = neighbours_of(states, k)
    distance, index = by_pairs(states[found.kept], k)
    np.testing.assert_allclose(found.distance, distance.astype(float), rtol=1e-9)
    if origin == 0:  # else float32 leaves ties
        np.testing.assert_array_equal(found.index, index)


@pytest.mark.parametrize("held", [300, 1 << 22])
def test_tight_clusters_far_apart_are_told_from_differences(
    held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Products of float64 are off by 1e-4 of these distances."""
    monkeypatch.setattr(neighbours, "BLOCK_ELEMENTS", held)
    generator = np.random.default_rng(2)
    centres = 1e6 * generator.standard_normal((3, 8))
    states = np.repeat(centres, 20, axis=0) + 1e-4 * generator.standard_normal((60, 8))
    found = neighbours_of(states, 19)
    distance, index = by_pairs(states, 19)
    np.testing.assert_allclose(found.distance, distance.astype(float), rtol=1e-9)
    np.testing.assert_array_equal(found.index, index)


def test_one_pair_that_is_near_among_many_is_told_from_differences() -> None:
    generator = np.random.default_rng(3)
    states = generator.standard_normal((40, 6)) + 100
    states[17] = states[4] + np.array([0, 3e-9, 0, 0, 0, 0])
    found = neighbours_of(states, 1)
    assert found.index[17, 0] == 4
    assert found.distance[17, 0] == pytest.approx(states[17, 1] - states[4, 1], rel=1e-12)


def test_copies_are_counted_and_the_first_is_kept() -> None:
    states = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    states[0, 1] = 0.0
    given = states[[0, 1, 0, 2, 3, 1, 1, 4, 5]]
    given[2, 1] = -0.0
    found = neighbours_of(given, 2)
    assert found.kept.tolist() == [0, 1, 3, 4, 7, 8]
    assert found.point.tolist() == [0, 1, 0, 2, 3, 1, 1, 4, 5]
    assert (found.copies, found.underflows) == (3, 0)


def test_rows_that_are_not_finite_are_left_out() -> None:
    states = np.random.default_rng(0).standard_normal((6, 3))
    states[1, 0], states[3, 2], states[4, 1] = np.nan, -np.inf, 1e200
    found = neighbours_of(states, 5)
    assert found.kept.tolist() == [0, 2, 5]
    assert found.point.tolist() == [0, -1, 1, -1, -1, 2]
    assert found.distance.shape == (3, 2)


def test_distances_that_underflow_are_counted_apart_from_copies() -> None:
    states = np.array([[0.0], [1e-170], [1e-170], [2e-170], [3.0], [3e-3]])
    found = neighbours_of(states, 2)
    assert found.kept.tolist() == [0, 4, 5]
    assert (found.copies, found.underflows) == (1, 2)


@pytest.mark.parametrize("rows", [0, 1])
def test_no_point_has_no_neighbour(rows: int) -> None:
    found = neighbours_of(np.ones((rows, 4), dtype=np.float32), 3)
    assert found.points == rows
    assert found.distance.shape == (rows, 0)


value = st.sampled_from([0.0, -0.0, 1.0, 1 + 1e-7, 1e-170, 2e-170, 1e-30, 1e30, 1e149, np.nan])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(value, min_size=2, max_size=2), min_size=1, max_size=12))
def test_distances_are_positive_and_ascend_whatever_the_states(rows: list[list[float]]) -> None:
    found = neighbours_of(np.array(rows), 4)
    finite = sum(np.isfinite(row).all() for row in rows)
    assert found.points + found.copies + found.underflows == finite
    assert np.isfinite(found.distance).all()
    assert (found.distance > 0).all()
    assert (np.diff(found.distance, axis=1) >= 0).all()
