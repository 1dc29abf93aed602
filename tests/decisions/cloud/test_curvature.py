"""Tangent planes of local neighbours: plain code, flat clouds, spheres and tori."""

from __future__ import annotations

import math

import numpy as np
import pytest

import reference.cloud
from made_up.manifolds import manifold
from unembed.decisions.cloud import curvature as module
from unembed.decisions.cloud.curvature import curvature
from unembed.decisions.cloud.neighbours import neighbours_of


@pytest.mark.parametrize("held", [1, 1 << 22])
@pytest.mark.parametrize(("kind", "dimension"), [("sphere", 2), ("torus", 3)])
def test_it_is_that_of_plain_code(
    kind: str, dimension: int, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", held)
    states = manifold(kind, dimension, 60, np.random.default_rng(1), width=8)
    found = curvature(neighbours_of(states, 20), np.arange(60), dimension + 0.4, resamples=100)
    off, turning = reference.cloud.local_planes(states, 16, dimension)
    assert found.tangent == dimension
    assert float(found.off_plane) == pytest.approx(off, rel=1e-8)
    assert float(found.turning) == pytest.approx(turning, rel=1e-6)
    assert (found.turning.n, found.turning.documents) == (60, 60)


def test_a_flat_cloud_does_not_bend() -> None:
    states = manifold("ball", 3, 1500, np.random.default_rng(2))
    found = curvature(neighbours_of(states, 16), np.arange(1500), 3.0, resamples=100)
    assert float(found.off_plane) < 1e-12
    assert float(found.turning) < 1e-5
    assert found.turning.n == 1000


@pytest.mark.parametrize(("kind", "dimension"), [("sphere", 1), ("sphere", 2), ("torus", 2)])
def test_spheres_and_tori_bend_as_they_should(kind: str, dimension: int) -> None:
    """A sphere turns by 1 / sqrt(dimension) a radius, this torus by 1; 6 % less is found."""
    states = manifold(kind, dimension, 2000, np.random.default_rng(3), width=12)
    one = curvature(neighbours_of(states, 16), np.arange(2000), float(dimension), resamples=100)
    whole = 1.0 if kind == "torus" else 1 / math.sqrt(dimension)
    assert 0.90 * whole < float(one.turning) < whole
    far = curvature(neighbours_of(7 * states, 16), np.arange(2000), float(dimension), resamples=100)
    assert float(far.turning) == pytest.approx(float(one.turning))


def test_planes_have_8_dimensions_at_most_and_less_than_the_space() -> None:
    states = np.random.default_rng(4).standard_normal((50, 20))
    found = neighbours_of(states, 16)
    assert curvature(found, None, 17.0).tangent == 8
    assert curvature(neighbours_of(states[:, :3], 16), None, 5.0).tangent == 2
    assert curvature(found, None, 0.2).tangent == 1


def test_too_few_points_and_no_dimension_have_reasons() -> None:
    states = np.random.default_rng(5).standard_normal((40, 4))
    few = curvature(neighbours_of(states[:16], 16), np.arange(16), 3.0)
    assert few.off_plane.reason == "tangent planes need 17 points that differ, got 16"
    for found, dimension in (
        (neighbours_of(states, 16), None),
        (neighbours_of(states[:, :1], 16), 1.0),
    ):
        one = curvature(found, np.arange(40), dimension)
        assert one.turning.value is None
        assert str(one.turning.reason).startswith("tangent planes need a dimension, and states")


def test_without_documents_there_is_no_interval() -> None:
    states = np.random.default_rng(6).standard_normal((40, 4))
    found = curvature(neighbours_of(states, 16), None, 3.0)
    assert (found.off_plane.low, found.off_plane.documents, found.off_plane.n) == (None, None, 40)
    assert (found.turning.low, found.turning.documents, found.turning.n) == (None, None, 40)


def test_points_on_a_line_through_many_dimensions_have_planes_without_variance() -> None:
    states = np.linspace(0, 1, 40)[:, None] ** 2 * np.arange(1, 6)
    found = curvature(neighbours_of(states, 16), np.arange(40), 3.0, resamples=100)
    assert float(found.off_plane) < 1e-9
    assert math.isfinite(float(found.turning))
