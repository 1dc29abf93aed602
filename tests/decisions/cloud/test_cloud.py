"""A row a depth: the text's cloud, its Gaussian, its shuffled text, and what has no value."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from made_up.manifolds import manifold
from unembed.decisions.cloud.cloud import HEAD_INPUT, Cloud, cloud
from unembed.decisions.cloud.controls import gaussian_cloud
from unembed.decisions.cloud.dimensions import dimensions
from unembed.decisions.cloud.neighbours import neighbours_of
from unembed.decisions.cloud.spectrum import spectrum
from unembed.runs.record import record_from_json, record_to_json
from unembed.stats.estimate import Estimate

DOCUMENTS = np.arange(240) // 30
HOW = {"seed": 3, "resamples": 200}


def states_at(depth: int) -> np.ndarray:
    """Width 30 at the head's input, one state everywhere at depth 2, some copies at depth 1."""
    generator = np.random.default_rng(depth + 5)
    if depth == 2:
        return np.full((240, 40), 0.1, dtype=np.float32)
    width = 30 if depth == HEAD_INPUT else 40
    states = manifold("ball", 4, 240, generator, width=width).astype(np.float32)
    if depth == 1:
        states[100:130] = states[:30]
        states[7] = np.nan
    return states


@pytest.fixture(scope="module")
def found() -> Cloud:
    return cloud(
        states_at, (0, 1, 2, HEAD_INPUT), DOCUMENTS, shuffled=lambda _: states_at(9), **HOW
    )


def test_a_row_a_depth(found: Cloud) -> None:
    assert [row.depth for row in found.rows] == [0, 1, 2, HEAD_INPUT]
    assert (found.points, found.documents, found.seed) == (240, 8, 3)
    assert found.at(1) is found.rows[1]
    for depth in (0, HEAD_INPUT):
        row, states = found.at(depth), states_at(depth)
        assert row.spectrum == spectrum(states, DOCUMENTS, **HOW)[0]
        alone = dimensions(neighbours_of(states, 239), DOCUMENTS, seed=3)
        assert row.geometry.dimensions == alone
        assert row.shuffled is not None
        assert row.shuffled.dimensions.two_nn == found.rows[1].shuffled.dimensions.two_nn  # type: ignore[union-attr]


def test_positions_left_out_are_counted(found: Cloud) -> None:
    row = found.at(1)
    assert row.not_finite == 1
    assert row.spectrum.n == 239
    # row 107 equals row 7, which is not finite
    assert (row.geometry.points, row.geometry.copies, row.geometry.underflows) == (210, 29, 0)
    assert row.gaussian.points == 210
    assert row.geometry.dimensions.two_nn.n == 210


def test_a_constant_depth_has_reasons_and_no_numbers(found: Cloud) -> None:
    row = found.at(2)
    assert row.spectrum.entropy_nats.reason == "every state is the same"
    assert float(row.spectrum.mean_cosine) == pytest.approx(1.0)
    for geometry in (row.geometry, row.gaussian):
        assert "points that differ, got 1" in str(geometry.dimensions.two_nn.reason)
        assert geometry.curvature.turning.value is None
    assert row.geometry.copies == 239


def test_the_gaussian_has_the_covariance_and_no_interval(found: Cloud) -> None:
    _, variances = spectrum(states_at(0), DOCUMENTS, resamples=50)
    alike = gaussian_cloud(variances, 20_000, seed=1)
    np.testing.assert_allclose(np.var(alike[:, :4], axis=0), variances[:4], rtol=0.05)
    assert np.var(alike[:, 4:], axis=0).max(initial=0.0) < 1e-12 * variances[3]
    exact = gaussian_cloud(np.array([4.0, 1.0, 0.0, 1e-30]), 50)
    assert exact.shape == (50, 2)
    gaussian = found.at(0).gaussian
    assert gaussian.dimensions.two_nn.low is None
    assert 3 < float(gaussian.dimensions.two_nn) < 5
    again = cloud(states_at, (0,), DOCUMENTS, **HOW).rows[0]
    assert again.gaussian == gaussian
    assert again.shuffled is None
    assert again.shuffled_spectrum is None


def test_records_survive_being_written(found: Cloud) -> None:
    assert record_from_json(Cloud, record_to_json(found)) == found


def test_one_depth_is_held_at_a_time() -> None:
    import gc
    import weakref

    alive: list[weakref.ref[np.ndarray]] = []

    def read(depth: int) -> np.ndarray:
        gc.collect()
        assert all(one() is None for one in alive)
        states = states_at(depth)
        alive.append(weakref.ref(states))
        return states

    cloud(read, (0, 3, 4), DOCUMENTS, **HOW)
    assert len(alive) == 3


value = st.sampled_from([0.0, 1.0, 1 + 1e-7, 2.0, 1e-170, 1e30, 1e160, np.nan, -np.inf])


def test_states_whose_squares_underflow_have_reasons_or_figures() -> None:
    """At 1e-165 every distance underflows, at 1e-162 some, at 1e-158 none."""
    generator = np.random.default_rng(1)
    for scale in 10.0 ** np.arange(-165, -155):
        states = scale * generator.standard_normal((30, 3))
        found = cloud(lambda _, states=states: states, (0,), np.arange(30) % 3, resamples=50)
        row = found.rows[0]
        assert row.geometry.points + row.geometry.underflows == 30
        for one in every_estimate(found):
            assert one.value is not None or one.reason


def every_estimate(record: object) -> list[Estimate]:
    if isinstance(record, Estimate):
        return [record]
    if isinstance(record, float):
        assert math.isfinite(record)
    inside = record if isinstance(record, tuple) else getattr(record, "__dict__", {}).values()
    return [one for item in inside for one in every_estimate(item)]


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.lists(value, min_size=2, max_size=3), min_size=1, max_size=25), st.integers(1, 4)
)
def test_every_figure_is_a_number_or_has_a_reason(rows: list[list[float]], documents: int) -> None:
    states = np.array([row[:2] for row in rows])
    numbers = np.arange(len(rows)) % documents
    found = cloud(lambda _: states, (0,), numbers, shuffled=lambda _: states, resamples=50)
    every = every_estimate(found)
    assert len(every) == 2 * (7 + 10 + 2) + 12
    assert all(one.value is not None or one.reason for one in every)
