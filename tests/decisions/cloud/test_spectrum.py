"""The spectrum of a cloud against singular values, its derivatives, and its intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest

import reference.cloud
from unembed.decisions.cloud.spectrum import Spectrum, figures_of, spectrum

NAMES = (
    "entropy_nats",
    "effective_rank",
    "participation_ratio",
    "leading_share",
    "mean_cosine",
    "mean_norm",
    "mean_share",
)


def made_up(points: int, width: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    scale = np.exp(-np.arange(width) / 3)
    return generator.standard_normal((points, width)) * scale + 0.4


def figures(states: np.ndarray, documents: np.ndarray | None = None, **how: int) -> Spectrum:
    numbers = np.arange(len(states)) if documents is None else documents
    return spectrum(states, numbers, **({"resamples": 200} | how))[0]


@pytest.mark.parametrize(("points", "width"), [(40, 6), (9, 30), (2, 3)])
def test_figures_are_those_of_plain_code(points: int, width: int) -> None:
    states = made_up(points, width)
    found = figures(states)
    centred = states - states.mean(axis=0)
    shares = np.linalg.svd(centred, compute_uv=False) ** 2
    shares /= shares.sum()
    norms = np.linalg.norm(states, axis=1)
    assert float(found.entropy_nats) == pytest.approx(reference.cloud.entropy(states), abs=1e-10)
    assert float(found.effective_rank) == pytest.approx(math.exp(float(found.entropy_nats)))
    assert float(found.participation_ratio) == pytest.approx(1 / (shares**2).sum())
    assert float(found.leading_share) == pytest.approx(shares[0])
    assert float(found.mean_cosine) == pytest.approx(reference.cloud.mean_cosine(states))
    assert float(found.mean_norm) == pytest.approx(norms.mean())
    share = np.linalg.norm(states.mean(axis=0)) ** 2 / (norms**2).mean()
    assert float(found.mean_share) == pytest.approx(share)


@pytest.mark.parametrize(("points", "width"), [(50, 5), (12, 40)])
def test_variances_are_those_of_the_covariance(points: int, width: int) -> None:
    states = made_up(points, width).astype(np.float32)
    _, variances = spectrum(states, np.arange(points), resamples=50)
    covariance = np.cov(states.astype(np.float64).T, bias=True)
    expected = np.linalg.eigvalsh(covariance)[::-1][: len(variances)]
    np.testing.assert_allclose(variances, expected, atol=1e-12)


def weighted(states: np.ndarray, weights: np.ndarray) -> list[float]:
    """The figures where a position counts as often as its weight says."""
    w = weights / weights.sum()
    mean = w @ states
    centred = states - mean
    shares = np.linalg.eigvalsh((centred * w[:, None]).T @ centred)
    shares = shares[shares > 1e-12] / shares.sum()
    norms = np.linalg.norm(states, axis=1)
    units = states / norms[:, None]
    pairs = np.outer(weights, weights) * (1 - np.eye(len(states)))
    return [
        -(shares * np.log(shares)).sum(),
        1 / (shares**2).sum(),
        shares.max(),
        (pairs * (units @ units.T)).sum() / pairs.sum(),
        w @ norms,
        mean @ mean / (w @ norms**2),
    ]


@pytest.mark.parametrize(("points", "width"), [(30, 6), (9, 20)])
def test_derivatives_are_those_of_weighted_positions(points: int, width: int) -> None:
    states = made_up(points, width)
    found, _ = figures_of(states)
    step = 1e-5
    for i in range(points):
        moved = step * (np.arange(points) == i)
        up, down = (weighted(states, 1 + sign * moved) for sign in (1, -1))
        expected = points * (np.array(up) - np.array(down)) / (2 * step)
        np.testing.assert_allclose([one.influence[i] for one in found], expected, atol=1e-6)


def test_intervals_resample_documents() -> None:
    """Pairs of copies in a document are as uncertain as one of each, and say how many there are."""
    states, documents = made_up(60, 5), np.arange(60)
    one = figures(states, documents, resamples=2000)
    twice = figures(np.repeat(states, 2, axis=0), np.repeat(documents, 2), resamples=2000)
    for name in NAMES:
        single, double = getattr(one, name), getattr(twice, name)
        assert (double.n, double.documents) == (120, 60)
        width = single.high - single.low
        assert width > 0
        assert double.high - double.low == pytest.approx(width, rel=0.1), name


def test_scaling_and_turning_change_what_they_should() -> None:
    states = made_up(80, 7)
    turn, _ = np.linalg.qr(np.random.default_rng(5).standard_normal((7, 7)))
    one, other = figures(states), figures(10 * states @ turn)
    for name in NAMES:
        ratio = 10 if name == "mean_norm" else 1
        assert float(getattr(other, name)) == pytest.approx(ratio * float(getattr(one, name)))


@pytest.mark.parametrize(
    ("states", "reason"),
    [
        (np.ones((5, 3)), "every state is the same"),
        (np.zeros((5, 3)), "every state is the same"),
        (
            np.eye(2) * 1e-170 + [1, 0],
            "the states differ by so little that their variance underflows",
        ),
        (np.ones((1, 3)), "a covariance needs 2 states, got 1"),
        (np.ones((0, 3)), "a covariance needs 2 states, got 0"),
    ],
)
def test_a_cloud_without_variance_has_no_spectrum_and_says_why(
    states: np.ndarray, reason: str
) -> None:
    found = figures(states)
    for name in NAMES[:4]:
        estimate = getattr(found, name)
        assert estimate.value is None
        assert estimate.reason == reason


def test_states_of_norm_0_have_no_cosine_and_count_otherwise() -> None:
    states = made_up(9, 4)
    states[3] = 0
    found = figures(states)
    expected = reference.cloud.mean_cosine(np.delete(states, 3, axis=0))
    assert float(found.mean_cosine) == pytest.approx(expected)
    assert found.mean_norm.n == 9
    nothing = figures(np.zeros((4, 3)))
    assert nothing.mean_cosine.reason == "a cosine needs 2 states that are not 0, got 0"
    assert nothing.mean_share.reason == "every state is 0"


def test_one_document_has_no_interval() -> None:
    found = figures(made_up(30, 4), np.zeros(30, dtype=int))
    assert all(getattr(found, name).low is None for name in NAMES)
