"""The expressibility gap: how the share of narrow decisions grows with the width asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from unembed.short_repr import ShortRepr
from unembed.stats.bootstrap import RESAMPLES, cluster, interval, interval_levels, resample_weights
from unembed.stats.density import density_at_zero
from unembed.stats.estimate import Estimate
from unembed.stats.quantiles import (
    SortedSample,
    resample,
    resampled_quantiles,
    sort_sample,
    weight_before,
)

POINTS = 32
"""Points of a fit, and the fewest distinct margins that one is made from."""

FIXED_WINDOW = (0.01, 0.5)
"""Window of the fixed fit, in logits.

The published window follows the quantiles of the run, so that two runs are fitted over different
widths of a curve that bends, and part of a difference in beta is the bend. This window stays. It
ends at the 0.5 logits (odds of 1.65 between the two tokens) of the share that is reported beside it
and of the lowest margin band; it starts where a hundredth of the positions lay below in the
published runs (0.011 to 0.03 logits), a hundred times the error allowed in a float32 margin.
"""

STEPS_PER_DECADE = 20
"""Local slopes stand on the lattice ``epsilon = 10 ** (k / 20)``, the same in every run."""

SLOPE_REACH = 3
"""A local slope is fitted to this many lattice points on either side: a factor 2 in epsilon."""

SLOPE_COUNT = 100
"""Fewest margins below the lowest epsilon of a local slope: eta is then known to about 10 %."""


TIE_REACH = 1e-5
"""Margins this near to each other, in logits, are taken as one: a tenth of the error allowed in a
float32 margin. Rounding decides on which side of a window's end they fall."""

TIE_EFFECT = 0.002
"""Least effect on the slope that margins at the window's end are told for."""


class GapUndefined(ValueError):
    """The margins do not determine a gap fit; the message says why."""


@dataclass(frozen=True)
class FittedLine:
    """A least-squares line through ``(log10 epsilon, log10 eta)``, see ``fit_line``."""

    slope: float
    intercept: float
    r_squared: float
    alpha: float


@dataclass(frozen=True)
class LineFit(ShortRepr):
    """Least squares of ``log10 eta`` on ``log10 epsilon`` over one window (theory §2).

    ``alpha`` is the coefficient at slope 1, ``10 ** mean(log10 eta - log10 epsilon)``.
    """

    epsilon_min: float
    epsilon_max: float
    points: int
    beta: Estimate
    intercept: Estimate
    r_squared: float
    alpha: Estimate


@dataclass(frozen=True)
class TiedEnd(ShortRepr):
    """Equal margins on which the published window begins, so that rounding decides the fit.

    ``margins`` is how many lie within TIE_REACH of the lower end, ``epsilon`` in logits;
    ``beta_above`` and ``beta_below`` are the slopes where all of them fall above or below it.
    """

    margins: int
    epsilon: float
    beta_above: float
    beta_below: float

    @property
    def in_words(self) -> str:
        """What to mind, beside the slope."""
        low, high = sorted((self.beta_above, self.beta_below))
        return (
            f"{self.margins:,} equal margins at the window's lower end, {self.epsilon:.3g} logits: "
            f"rounding decides between {low:.3f} and {high:.3f}; the fixed window has no such end"
        )


@dataclass(frozen=True)
class GapFit(ShortRepr):
    """The gap curve with its fits.

    ``epsilon``, ``eta`` the 32-point curve of the published window, with pointwise interval
    ``eta_low``, ``eta_high``; ``published`` the published protocol's fit, ``fixed`` the same fit
    over a window that does not move with the run; ``slope_epsilon``, ``local_slope`` the derivative
    d log eta / d log epsilon; ``density_at_zero`` the density of the margin at 0+, which is the
    true linear coefficient of eta at small epsilon. ``tied`` says where the published fit hangs on
    how equal margins are rounded, as those of documents with a shared beginning are.
    """

    n: int
    epsilon: tuple[float, ...]
    eta: tuple[float, ...]
    eta_low: tuple[float, ...] | None
    eta_high: tuple[float, ...] | None
    published: LineFit
    fixed: LineFit | None
    slope_epsilon: tuple[float, ...]
    local_slope: tuple[float, ...]
    density_at_zero: Estimate
    tied: TiedEnd | None = None


def fit_line(
    epsilon: Float[np.ndarray, " points"], eta: Float[np.ndarray, " points"]
) -> FittedLine:
    """Fit ``log10 eta = slope * log10 epsilon + intercept`` by ordinary least squares (theory §2).

    ``epsilon`` in logits, ``eta`` a share; points with ``eta`` of 0 or 1 are left out.
    ``alpha = 10 ** mean(log10 eta - log10 epsilon)`` over the points kept. Naive equivalent:
    ``np.polyfit(np.log10(epsilon), np.log10(eta), 1)``. Raises ``GapUndefined`` where fewer than
    two points are usable or eta is the same at all of them.
    """
    rows = fit_rows(np.log10(epsilon)[None, :], np.asarray(eta, dtype=np.float64)[None, :])
    usable = int(((eta > 0) & (eta < 1)).sum())
    if usable < 2:
        raise GapUndefined(f"a line needs 2 points with 0 < eta < 1, got {usable}")
    if not np.isfinite(rows).all():
        raise GapUndefined(f"eta is {np.max(eta):.4g} at every usable point: no line to fit")
    return FittedLine(*(float(number) for number in rows[0]))


def fit_rows(
    log_epsilon: Float[np.ndarray, "#rows points"], eta: Float[np.ndarray, "rows points"]
) -> Float[np.ndarray, "rows 4"]:
    """Fit a line to each row: slope, intercept, R squared, alpha; NaN where there is none."""
    usable: Bool[np.ndarray, "rows points"] = (eta > 0) & (eta < 1)
    count = np.maximum(usable.sum(axis=1), 1)
    x = np.where(usable, log_epsilon, 0.0)
    y = np.log10(np.where(usable, eta, 1.0))
    x_mean, y_mean = x.sum(axis=1) / count, y.sum(axis=1) / count
    x_off = np.where(usable, x - x_mean[:, None], 0.0)
    y_off = np.where(usable, y - y_mean[:, None], 0.0)
    spread, total = (x_off**2).sum(axis=1), (y_off**2).sum(axis=1)
    exists = (spread > 0) & (total > 0)
    slope = (x_off * y_off).sum(axis=1) / np.where(exists, spread, 1)
    residual = ((y_off - slope[:, None] * x_off) ** 2).sum(axis=1)
    r_squared = 1 - residual / np.where(exists, total, 1)
    fits = np.stack([slope, y_mean - slope * x_mean, r_squared, 10 ** (y_mean - x_mean)], axis=1)
    lines: Float[np.ndarray, "rows 4"] = np.where(exists[:, None], fits, np.nan)
    return lines


def fit_gap(
    margins: Float[np.ndarray, " positions"],
    documents: Int[np.ndarray, " positions"],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> GapFit:
    """Fit the expressibility gap ``eta(epsilon) = mean(margins < epsilon)`` (theory §2).

    The published protocol: 32 log-spaced epsilon from ``max(quantile(margins[margins > 0], .01),
    1e-6)`` to ``quantile(margins, .25)``, then ``fit_line``. The two ends are the quantiles to the
    last bit: where margins are tied, rounding there would move eta. Every interval comes from
    resampling whole documents, and a resample draws its own window, as a new run would. ``margins``
    are in logits, finite and not negative; ``documents`` holds each position's document id.
    Raises ``GapUndefined`` for fewer than 100 margins or 32 distinct ones, and where the window is
    empty; ``ValueError`` for a negative or non-finite margin.
    """
    if margins.size and not (np.isfinite(margins).all() and margins.min() >= 0):
        bad = margins[~(np.isfinite(margins) & (margins >= 0))][0]
        raise ValueError(f"margins must be finite and not negative, got {bad}; leave such rows out")
    if margins.size < 100:
        raise GapUndefined(f"{margins.size} margins are too few for a fit: it takes 100")
    inverse, clusters = cluster(documents)
    sample = sort_sample(margins, inverse, clusters)
    low, high = _window(sample.values)
    epsilon = np.geomspace(low, high, POINTS)
    fixed_epsilon = np.geomspace(*FIXED_WINDOW, POINTS)
    moving, still = np.full((0, 4), np.nan), np.full((0, 4), np.nan)
    eta_low = eta_high = None
    if clusters >= 2:
        moving = _refit(sample, resamples=resamples, seed=seed)
        both = np.concatenate([epsilon, fixed_epsilon])
        draws = _resample_shares(sample, both, resamples=resamples, seed=seed)
        still = fit_rows(np.log10(fixed_epsilon)[None, :], draws[:, POINTS:])
        bounds = np.quantile(draws[:, :POINTS], interval_levels(clusters), axis=0)
        eta_low, eta_high = (tuple(bound.tolist()) for bound in bounds)
    eta = _shares_below(sample.values, epsilon)
    published = _line_fit((low, high), epsilon, eta, moving, sample)
    try:
        fixed_eta = _shares_below(sample.values, fixed_epsilon)
        fixed = _line_fit(FIXED_WINDOW, fixed_epsilon, fixed_eta, still, sample)
    except GapUndefined:
        fixed = None
    slope_epsilon, slopes = local_slopes(sample.values)
    return GapFit(
        n=margins.size,
        epsilon=tuple(epsilon.tolist()),
        eta=tuple(eta.tolist()),
        eta_low=eta_low,
        eta_high=eta_high,
        published=published,
        fixed=fixed,
        slope_epsilon=tuple(slope_epsilon.tolist()),
        local_slope=tuple(slopes.tolist()),
        density_at_zero=density_at_zero(margins, inverse, clusters, resamples=resamples, seed=seed),
        tied=_tied_end(sample.values, epsilon, eta),
    )


def local_slopes(
    values: Float[np.ndarray, " positions"],
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """Estimate ``d log eta / d log epsilon`` on a lattice of epsilon (theory §2, beyond the paper).

    The least-squares slope of ``log10 eta`` over seven neighbouring points of
    ``epsilon = 10 ** (k / 20)``, from where 100 margins lie below the first of them up to where
    margins still lie above the last. ``values`` ascending, in logits; the slope has no unit, and is
    1 where eta is proportional to epsilon. Returns the epsilon and the slopes, of length 0 where
    there are too few margins.
    """
    none = np.zeros(0)
    n = values.size
    if n < SLOPE_COUNT or values[-1] <= 0:
        return none, none
    start = max(float(values[SLOPE_COUNT - 1]), 1e-12)
    first = int(np.floor(STEPS_PER_DECADE * np.log10(start)))
    last = int(np.ceil(STEPS_PER_DECADE * np.log10(values[-1])))
    lattice = 10.0 ** (np.arange(first, last + 1) / STEPS_PER_DECADE)
    counts = np.searchsorted(values, lattice, side="left")
    enough = (counts >= SLOPE_COUNT) & (counts < n)
    lattice, logs = lattice[enough], np.log10(counts[enough] / n)
    if len(logs) < 2 * SLOPE_REACH + 1:
        return none, none
    offset = np.arange(-SLOPE_REACH, SLOPE_REACH + 1)
    around = np.lib.stride_tricks.sliding_window_view(logs, len(offset))
    slopes = (around * offset).sum(axis=1) * STEPS_PER_DECADE / (offset**2).sum()
    return lattice[SLOPE_REACH:-SLOPE_REACH], slopes


def _window(values: Float[np.ndarray, " positions"]) -> tuple[float, float]:
    """The published window of ascending margins; raises where there is none."""
    distinct = 1 + int((np.diff(values) > 0).sum())
    positive = values[np.searchsorted(values, 0.0, side="right") :]
    if positive.size == 0:
        raise GapUndefined(f"all {values.size} margins are 0")
    if distinct < POINTS:
        raise GapUndefined(f"{distinct} distinct margins are too few for a fit: it takes {POINTS}")
    low = max(float(np.quantile(positive, 0.01)), 1e-6)
    high = float(np.quantile(values, 0.25))
    if not low < high:
        raise GapUndefined(
            f"the window is empty: the 25 % quantile of the margins, {high:.4g}, is not above "
            f"its lower end, {low:.4g}"
        )
    return low, high


def _tied_end(
    values: Float[np.ndarray, " positions"],
    epsilon: Float[np.ndarray, " points"],
    eta: Float[np.ndarray, " points"],
) -> TiedEnd | None:
    """The equal margins at the window's lower end, where the slope depends on them."""
    ends = epsilon[0] + np.array([-TIE_REACH, TIE_REACH])
    below, upto = np.searchsorted(values, ends, side="left")
    if upto - below < 2:
        return None
    shares = np.stack([eta, eta])
    shares[:, 0] = below / values.size, upto / values.size
    # Points further on that are as near to the end hold at least as much.
    shares = np.maximum.accumulate(shares, axis=1)
    above, under = fit_rows(np.log10(epsilon)[None, :], shares)[:, 0]
    if not abs(above - under) > TIE_EFFECT:
        return None
    return TiedEnd(int(upto - below), float(epsilon[0]), float(above), float(under))


def _shares_below(
    values: Float[np.ndarray, " positions"], epsilon: Float[np.ndarray, " points"]
) -> Float[np.ndarray, " points"]:
    shares: Float[np.ndarray, " points"] = (
        np.searchsorted(values, epsilon, side="left") / values.size
    )
    return shares


def _line_fit(
    window: tuple[float, float],
    epsilon: Float[np.ndarray, " points"],
    eta: Float[np.ndarray, " points"],
    draws: Float[np.ndarray, "resamples 4"],
    sample: SortedSample,
) -> LineFit:
    """The fit of one curve, with the intervals that the refitted resamples give it."""
    line = fit_line(epsilon, eta)
    slope, intercept, _, alpha = (interval(column, sample.documents) for column in draws.T)
    n = sample.values.size
    return LineFit(
        epsilon_min=window[0],
        epsilon_max=window[1],
        points=int(((eta > 0) & (eta < 1)).sum()),
        beta=Estimate(line.slope, *slope, n=n, documents=sample.documents),
        intercept=Estimate(line.intercept, *intercept, n=n, documents=sample.documents),
        r_squared=line.r_squared,
        alpha=Estimate(line.alpha, *alpha, n=n, documents=sample.documents),
    )


def _refit(sample: SortedSample, *, resamples: int, seed: int) -> Float[np.ndarray, "resamples 4"]:
    """The published protocol on every resample, its window drawn anew; NaN where it has none."""
    zeros = np.searchsorted(sample.values, [0.0], side="right")
    levels = np.array([0.01, 0.25])
    steps = np.linspace(0.0, 1.0, POINTS)
    log_epsilon = np.zeros((resamples, POINTS))
    eta = np.zeros((resamples, POINTS))
    for row, drawn in enumerate(resample(sample, resamples=resamples, seed=seed)):
        skip = np.array([weight_before(sample, drawn, zeros)[0], 0.0])
        low, high = resampled_quantiles(sample, drawn, levels, skip)
        low = max(low, 1e-6)
        if not low < high:
            continue
        start, stop = np.log10(low), np.log10(high)
        log_epsilon[row] = start + steps * (stop - start)
        epsilon = 10 ** log_epsilon[row]
        epsilon[0], epsilon[-1] = low, high
        index = np.searchsorted(sample.values, epsilon, side="left")
        eta[row] = weight_before(sample, drawn, index) / drawn.cumulative[-1]
    return fit_rows(log_epsilon, eta)


def _resample_shares(
    sample: SortedSample, epsilon: Float[np.ndarray, " points"], *, resamples: int, seed: int
) -> Float[np.ndarray, "resamples points"]:
    """Shares below a few fixed epsilon in every resample."""
    owners = sample.blocks.ravel()
    index = np.searchsorted(sample.values, epsilon, side="left")
    below = np.stack([np.bincount(owners[:i], minlength=sample.documents) for i in index], axis=1)
    size = sample.counts.sum(axis=1)
    counts = np.concatenate([below, size[:, None]], axis=1).astype(np.float64)
    chunks = resample_weights(sample.documents, resamples=resamples, seed=seed)
    # Whole numbers: exact in any order of summation.
    totals = np.concatenate([weights @ counts for weights in chunks])
    shares: Float[np.ndarray, "resamples points"] = totals[:, :-1] / totals[:, -1:]
    return shares
