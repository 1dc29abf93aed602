from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from places import FIXTURES
from unembed.decisions.audit.gap import FIXED_WINDOW, GapUndefined, fit_gap, fit_line, local_slopes
from unembed.stats.bootstrap import interval_levels, resample_weights
from unembed.stats.density import bandwidth, density_at_zero

PUBLISHED = json.loads((FIXTURES / "published_gap_curves.json").read_text())


def line_oracle(epsilon, eta):
    """Least squares by the normal equations, in exact sums."""
    pairs = [(math.log10(e), math.log10(s)) for e, s in zip(epsilon, eta, strict=True) if 0 < s < 1]
    n = len(pairs)
    mean_x = math.fsum(x for x, _ in pairs) / n
    mean_y = math.fsum(y for _, y in pairs) / n
    slope = math.fsum((x - mean_x) * (y - mean_y) for x, y in pairs) / math.fsum(
        (x - mean_x) ** 2 for x, _ in pairs
    )
    intercept = mean_y - slope * mean_x
    residual = math.fsum((y - slope * x - intercept) ** 2 for x, y in pairs)
    r_squared = 1 - residual / math.fsum((y - mean_y) ** 2 for _, y in pairs)
    return slope, intercept, r_squared, 10 ** (math.fsum(y - x for x, y in pairs) / n)


def gap_oracle(margins):
    """The published protocol, written as its code is described."""
    margins = np.asarray(margins, dtype=np.float64)
    low = max(float(np.quantile(margins[margins > 0], 0.01)), 1e-6)
    high = float(np.quantile(margins, 0.25))
    epsilon = np.geomspace(low, high, 32)
    eta = [sum(1 for m in margins if m < e) / len(margins) for e in epsilon]
    return epsilon, eta, line_oracle(epsilon, eta)


def gap_bootstrap_oracle(margins, documents, resamples, seed):
    """The protocol refitted on every resample, written out position by position."""
    margins = np.asarray(margins, dtype=np.float64)
    ids = np.unique(documents)
    lines, curves = [], []
    epsilon = gap_oracle(margins)[0]
    for draws in np.concatenate(list(resample_weights(len(ids), resamples=resamples, seed=seed))):
        times = dict(zip(ids.tolist(), draws.astype(int).tolist(), strict=True))
        written = np.repeat(margins, [times[d] for d in documents.tolist()])
        lines.append(gap_oracle(written)[2])
        curves.append([(written < e).mean() for e in epsilon])
    levels = interval_levels(len(ids))
    return np.quantile(lines, levels, axis=0), np.quantile(curves, levels, axis=0)


def clustered(documents, seed, low=10, high=60):
    generator = np.random.default_rng(seed)
    doc = np.repeat(np.arange(documents), generator.integers(low, high, documents))
    scale = generator.gamma(8, 1 / 8, documents)
    return (generator.exponential(size=len(doc)) * scale[doc]).astype(np.float32), doc


@pytest.mark.parametrize("name", PUBLISHED["audits"])
def test_published_curves_refit_to_the_published_figures(name):
    audit = PUBLISHED["audits"][name]
    eta = np.array(audit["counts"]) / audit["n_positions"]
    line = fit_line(np.array(audit["epsilon"]), eta)
    fit = audit["fit"]
    assert line.slope == pytest.approx(fit["beta"], abs=1e-12)
    assert line.intercept == pytest.approx(fit["intercept"], abs=1e-12)
    assert line.r_squared == pytest.approx(fit["r_squared"], abs=1e-12)
    assert line.alpha == pytest.approx(fit["alpha"], abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), tied=st.booleans(), zeros=st.sampled_from([0.0, 0.1]))
def test_fit_equals_the_naive_protocol(seed, tied, zeros):
    generator = np.random.default_rng(seed)
    margins = generator.exponential(size=300)
    if tied:
        margins = np.round(margins * 64) / 64
    margins[generator.random(300) < zeros] = 0
    fit = fit_gap(margins.astype(np.float32), np.zeros(300, dtype=np.int32))
    epsilon, eta, line = gap_oracle(margins.astype(np.float32))
    np.testing.assert_allclose(fit.epsilon, epsilon, rtol=1e-14)
    np.testing.assert_array_equal(fit.eta, eta)
    assert (fit.published.epsilon_min, fit.published.epsilon_max) == (
        pytest.approx(epsilon[0], rel=1e-14),
        pytest.approx(epsilon[-1], rel=1e-14),
    )
    figures = (fit.published.beta, fit.published.intercept, fit.published.alpha)
    expected = (line[0], line[1], line[3])
    assert [f.value for f in figures] == pytest.approx(expected, abs=1e-10)
    assert fit.published.r_squared == pytest.approx(line[2], abs=1e-10)
    assert fit.published.points == sum(0 < s < 1 for s in eta)
    assert (np.diff(fit.eta) >= 0).all()
    assert fit.eta_low is None
    assert fit.published.beta.low is None


@pytest.mark.parametrize("zeros", [0, 40])
def test_intervals_equal_the_written_out_bootstrap(zeros):
    margins, doc = clustered(9, seed=4)
    margins[np.random.default_rng(0).permutation(len(margins))[:zeros]] = 0
    fit = fit_gap(margins, doc * 3 + 5, resamples=25, seed=2)
    lines, curves = gap_bootstrap_oracle(margins, doc, 25, 2)
    for k, estimate in ((0, fit.published.beta), (1, fit.published.intercept)):
        assert (estimate.low, estimate.high) == pytest.approx(tuple(lines[:, k]), abs=1e-9)
    alpha = fit.published.alpha
    assert (alpha.low, alpha.high) == pytest.approx(tuple(lines[:, 3]), abs=1e-9)
    np.testing.assert_allclose([fit.eta_low, fit.eta_high], curves, atol=1e-14)


def test_the_fixed_window_stays_and_takes_the_same_line():
    margins, doc = clustered(30, seed=5)
    fit = fit_gap(margins, doc, resamples=100)
    epsilon = np.geomspace(0.01, 0.5, 32)
    line = line_oracle(epsilon, [(margins.astype(float) < e).mean() for e in epsilon])
    assert (fit.fixed.epsilon_min, fit.fixed.epsilon_max) == FIXED_WINDOW
    assert fit.fixed.beta.value == pytest.approx(line[0], abs=1e-10)
    assert fit.fixed.beta.low < fit.fixed.beta.value < fit.fixed.beta.high
    assert fit_gap(margins + 3, doc, resamples=10).fixed is None


def test_scaling_the_margins_moves_the_window_and_not_the_slope():
    margins, doc = clustered(20, seed=6)
    one = fit_gap(margins.astype(np.float64), doc, resamples=50)
    four = fit_gap(margins.astype(np.float64) * 4, doc, resamples=50)
    assert four.published.beta.value == pytest.approx(one.published.beta.value, abs=1e-9)
    assert four.published.alpha.value == pytest.approx(one.published.alpha.value / 4, rel=1e-9)
    assert four.published.beta.low == pytest.approx(one.published.beta.low, abs=1e-9)


def test_a_power_law_has_its_slope_everywhere():
    margins = np.linspace(0, 1, 40_001)[1:] ** (1 / 0.7)
    fit = fit_gap(margins, np.arange(40_000) % 50, resamples=20)
    assert fit.published.beta.value == pytest.approx(0.7, abs=0.005)
    assert fit.fixed.beta.value == pytest.approx(0.7, abs=0.005)
    assert fit.published.r_squared > 0.9999
    assert np.abs(np.array(fit.local_slope) - 0.7).max() < 0.02
    assert min(fit.slope_epsilon) < fit.epsilon[0]
    assert max(fit.slope_epsilon) > 2 * fit.epsilon[-1]


def one_part(values):
    return lambda: [(values, np.zeros(len(values), dtype=np.intp))]


def test_local_slopes_equal_a_fit_of_seven_points():
    values = np.sort(np.random.default_rng(7).exponential(size=2_000))
    epsilon, slopes = local_slopes(one_part(values))
    for e, slope in zip(epsilon, slopes, strict=True):
        around = 10 ** (math.log10(e) + np.arange(-3, 4) / 20)
        eta = [(values < a).mean() for a in around]
        assert slope == pytest.approx(line_oracle(around, eta)[0], abs=1e-9)
        assert sum(values < around[0]) >= 100
    assert np.abs(np.log10(epsilon) * 20 - np.round(np.log10(epsilon) * 20)).max() < 1e-9
    assert len(local_slopes(one_part(values[:50]))[0]) == 0
    assert len(local_slopes(one_part(np.zeros(500)))[0]) == 0


@pytest.mark.parametrize(
    ("draw", "truth"),
    [
        (lambda g, n: g.exponential(size=n), 1.0),
        (lambda g, n: np.abs(g.normal(size=n)), math.sqrt(2 / math.pi)),
        (lambda g, n: g.random(n) * 2, 0.5),
        # A tenth of the margins crowd at 0, as those of language models do.
        (lambda g, n: g.exponential(size=n) * np.where(g.random(n) < 0.1, 0.1, 1.5), 1.6),
    ],
)
def test_density_at_zero_finds_the_true_coefficient(draw, truth):
    margins = draw(np.random.default_rng(8), 200_000)
    doc = np.arange(200_000) % 100
    estimate = density_at_zero(lambda: [(margins, doc)], 100, resamples=200)
    assert estimate.value == pytest.approx(truth, rel=0.08)
    assert estimate.low < estimate.value < estimate.high
    assert estimate.high - estimate.low < 0.2 * truth


def test_density_is_the_kernel_sum_and_scales_inversely():
    margins, doc = clustered(12, seed=9)
    h = bandwidth(lambda: [(margins, doc)])
    inside = [float(m) / h for m in margins if m < h]
    naive = sum(6 * (1 - 2 * u) * (1 - u) for u in inside) / (len(margins) * h)
    value = density_at_zero(lambda: [(margins, doc)], 12, resamples=10).value
    assert value == pytest.approx(naive, rel=1e-10)
    doubled = density_at_zero(lambda: [(margins * 2, doc)], 12, resamples=10).value
    assert doubled == pytest.approx(value / 2, rel=1e-6)


def test_an_atom_at_zero_or_an_empty_edge_has_no_density():
    margins, doc = clustered(12, seed=10)
    margins[:5] = 0
    estimate = density_at_zero(lambda: [(margins, doc)], 12)
    assert estimate.value is None
    assert estimate.reason == f"5 of {len(margins)} margins are exactly 0: no density there"
    far = np.random.default_rng(0).gamma(4, size=20_000)
    assert density_at_zero(lambda: [(far, np.arange(20_000) % 9)], 9, resamples=10).value in (
        None,
        pytest.approx(0, abs=0.01),
    )


@pytest.mark.parametrize(
    ("margins", "reason"),
    [
        (np.linspace(0.1, 1, 99), "99 margins are too few"),
        (np.zeros(200), "all 200 margins are 0"),
        (np.full(200, 1.5), "1 distinct margins are too few"),
        (np.arange(310) % 31 / 31, "31 distinct margins are too few"),
        (np.concatenate([np.zeros(200), np.linspace(0.1, 1, 100)]), "the window is empty"),
        (np.concatenate([np.full(300, 0.5), np.linspace(1, 2, 50)]), "the window is empty"),
    ],
)
def test_degenerate_margins_are_refused_with_a_reason(margins, reason):
    with pytest.raises(GapUndefined, match=reason):
        fit_gap(margins, np.arange(len(margins)) % 7, resamples=5)


@pytest.mark.parametrize("bad", [-0.5, np.nan, np.inf])
def test_impossible_margins_are_an_error_of_the_caller(bad):
    margins = np.linspace(0, 1, 200)
    margins[3] = bad
    with pytest.raises(ValueError, match=f"got {bad}") as caught:
        fit_gap(margins, np.zeros(200, dtype=int))
    assert not isinstance(caught.value, GapUndefined)


def test_a_line_needs_two_points_that_differ():
    epsilon = np.array([0.1, 0.2, 0.3])
    with pytest.raises(GapUndefined, match="0 < eta < 1, got 1"):
        fit_line(epsilon, np.array([0.0, 0.5, 1.0]))
    with pytest.raises(GapUndefined, match=r"eta is 0\.5 at every usable point"):
        fit_line(epsilon, np.array([0.5, 0.5, 0.5]))


def test_points_where_eta_is_0_or_1_are_left_out():
    epsilon = np.array([0.01, 0.1, 0.2, 0.4, 0.8])
    with_ends = fit_line(epsilon, np.array([0.0, 0.1, 0.3, 0.5, 1.0]))
    assert with_ends == fit_line(epsilon[1:4], np.array([0.1, 0.3, 0.5]))


def test_the_same_input_gives_the_same_bits_and_another_seed_other_intervals():
    margins, doc = clustered(15, seed=11)
    assert fit_gap(margins, doc, resamples=40) == fit_gap(margins, doc, resamples=40)
    other = fit_gap(margins, doc, resamples=40, seed=1)
    assert other.published.beta != fit_gap(margins, doc, resamples=40).published.beta
    assert other.eta == fit_gap(margins, doc, resamples=40).eta


@pytest.mark.slow
def test_intervals_cover_the_slope_of_clustered_data():
    big, doc = clustered(10_000, seed=999)
    truth = fit_gap(big, doc, resamples=2).published.beta.value
    runs, hits = 50, 0
    for seed in range(runs):
        beta = fit_gap(*clustered(60, seed), resamples=100, seed=seed).published.beta
        hits += beta.low <= truth <= beta.high
    # 95 % nominal, with a standard error of 3 % over 50 runs.
    assert hits / runs >= 0.85, hits


def test_equal_margins_at_the_window_s_end_are_told():
    """Documents with a shared beginning: rounding decides what the published fit says."""
    rng = np.random.default_rng(0)
    margins, documents = rng.gamma(0.9, 2.0, 6000), np.repeat(np.arange(60), 100)
    assert fit_gap(margins, documents, resamples=20).tied is None
    margins[::100] = np.quantile(margins, 0.004)
    jittered = [margins.copy() for _ in range(2)]
    for moved, step in zip(jittered, (-1e-6, 1e-6), strict=True):
        moved[::100] += step * np.arange(60) / 60
    fits = [fit_gap(some, documents, resamples=20) for some in (margins, *jittered)]
    betas = [fit.published.beta.value for fit in fits]
    assert max(betas) - min(betas) > 0.005
    for fit in fits:
        assert fit.tied is not None
        assert 60 <= fit.tied.margins <= 62
        ends = sorted((fit.tied.beta_above, fit.tied.beta_below))
        assert ends[0] - 0.002 <= min(betas)
        assert max(betas) <= ends[1] + 0.002
        assert "equal margins at the window's lower end" in fit.tied.in_words
    assert len({fit.fixed.beta.value for fit in fits}) == 1


def test_one_decision_that_is_asked_again_and_again_is_told():
    """The first of every row behind one token: the rest of the curve has a slope of 1."""
    rng = np.random.default_rng(0)
    margins, documents = rng.exponential(1.0, 8000), np.repeat(np.arange(1000), 8)
    plain = fit_gap(margins, documents, resamples=20)
    assert plain.step is None
    assert plain.to_mind == ""
    margins[::8] = 0.055
    fit = fit_gap(margins, documents, resamples=20)
    assert fit.step is not None
    assert fit.step.low < 0.055 <= fit.step.high
    # Those of one decision, and the few others that lie between the same two points.
    assert 1000 <= fit.step.margins <= 1100
    assert fit.published.beta.value > 1.2 > 1.1 > plain.published.beta.value
    assert "the slope is largely theirs" in fit.to_mind
    few = fit_gap(margins[:240], documents[:240], resamples=20)
    assert few.step is None
