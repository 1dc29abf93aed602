"""The expressibility gap: how the share of narrow decisions grows with the width asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from unembed.short_repr import ShortRepr
from unembed.stats.bootstrap import (
    RESAMPLES,
    add_by_document,
    cluster,
    interval,
    interval_levels,
    resample_weights,
)
from unembed.stats.density import density_at_zero
from unembed.stats.estimate import Estimate
from unembed.stats.quantiles import SortedSample, resample, sort_sample, weight_before
from unembed.stats.resampled import Rows, RowsReader, read_quantiles

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

STEP_GROWTH, STEP_SHARE, STEP_MARGINS = 1.5, 0.02, 50
"""A step is where the curve grows by this factor from one of its points to the next, and by this
share of all margins and so many of them; a curve of slope 1 grows by 1.1."""


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
class GapStep(ShortRepr):
    """So many margins, a ``share`` of all, between two neighbours of the curve's points.

    A decision that is asked again and again has one margin: the first of every row, where each
    begins with the same token. No power of epsilon has a step, and a slope across it is the step's.
    """

    margins: int
    share: float
    low: float
    high: float

    @property
    def in_words(self) -> str:
        """What to mind, beside the slope."""
        return (
            f"{self.margins:,} margins, {self.share:.0%} of all, lie between {self.low:.3g} and "
            f"{self.high:.3g} logits, as those of one decision that is asked again and again do (a "
            "row's first): the slope is largely theirs"
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

    @property
    def step(self) -> GapStep | None:
        """The largest step of the curve, None where it has none."""
        eta = np.array(self.eta)
        grown = np.diff(eta)
        steep = (eta[1:] >= STEP_GROWTH * eta[:-1]) & (grown >= STEP_SHARE)
        if not steep.any():
            return None
        at = int(np.argmax(np.where(steep, grown, 0.0)))
        share = float(grown[at])
        if round(share * self.n) < STEP_MARGINS:
            return None
        return GapStep(round(share * self.n), share, self.epsilon[at], self.epsilon[at + 1])

    @property
    def to_mind(self) -> str:
        """What to mind with the published fit, empty where there is nothing."""
        return "; ".join(one.in_words for one in (self.step, self.tied) if one is not None)


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
    """Fit the expressibility gap of margins in memory, see ``read_gap``.

    ``documents`` holds each position's document id.
    """
    inverse, clusters = cluster(documents)
    return read_gap(lambda: [(margins, inverse)], clusters, resamples=resamples, seed=seed)


def read_gap(
    read: RowsReader, documents: int, *, resamples: int = RESAMPLES, seed: int = 0
) -> GapFit:
    """Fit the expressibility gap ``eta(epsilon) = mean(margins < epsilon)`` (theory §2).

    The published protocol: 32 log-spaced epsilon from ``max(quantile(margins[margins > 0], .01),
    1e-6)`` to ``quantile(margins, .25)``, then ``fit_line``. The two ends are the quantiles to the
    last bit: where margins are tied, rounding there would move eta. Every interval comes from
    resampling whole documents, and a resample draws its own window, as a new run would. ``read``
    gives the margins, in logits, finite and not negative, with their documents, numbered from 0 as
    ``bootstrap.cluster`` does. What is kept of them is their lowest quarter, which every resample
    looks at.
    Raises ``GapUndefined`` for fewer than 100 margins or 32 distinct ones, and where the window is
    empty; ``ValueError`` for a negative or non-finite margin.
    """
    facts = _facts(read)
    if facts.n < 100:
        raise GapUndefined(f"{facts.n} margins are too few for a fit: it takes 100")
    ends = _window_ends(read, documents, resamples=resamples, seed=seed)
    low, high = _window(facts, *ends[0].tolist())
    epsilon = np.geomspace(low, high, POINTS)
    fixed_epsilon = np.geomspace(*FIXED_WINDOW, POINTS)
    both = np.concatenate([epsilon, fixed_epsilon])
    below, sizes = _counts_below(read, both, documents)
    shares = below.sum(axis=0) / facts.n
    moving, still = np.full((0, 4), np.nan), np.full((0, 4), np.nan)
    eta_low = eta_high = None
    if documents >= 2:
        how = {"resamples": resamples, "seed": seed}
        moving = _refit(_lowest(read, sizes, ends[1:, 1].max(initial=0.0)), ends[1:], **how)
        draws = _resample_shares(below, sizes, **how)
        still = fit_rows(np.log10(fixed_epsilon)[None, :], draws[:, POINTS:])
        bounds = np.quantile(draws[:, :POINTS], interval_levels(documents), axis=0)
        eta_low, eta_high = (tuple(bound.tolist()) for bound in bounds)
    eta = shares[:POINTS]
    about = facts.n, documents
    published = _line_fit((low, high), epsilon, eta, moving, *about)
    try:
        fixed = _line_fit(FIXED_WINDOW, fixed_epsilon, shares[POINTS:], still, *about)
    except GapUndefined:
        fixed = None
    tie_ends = _totals_below(read, epsilon[0] + np.array([-TIE_REACH, TIE_REACH]))
    slope_epsilon, slopes = local_slopes(read)
    return GapFit(
        n=facts.n,
        epsilon=tuple(epsilon.tolist()),
        eta=tuple(eta.tolist()),
        eta_low=eta_low,
        eta_high=eta_high,
        published=published,
        fixed=fixed,
        slope_epsilon=tuple(slope_epsilon.tolist()),
        local_slope=tuple(slopes.tolist()),
        density_at_zero=density_at_zero(read, documents, resamples=resamples, seed=seed),
        tied=_tied_end(tie_ends, facts.n, epsilon, eta),
    )


@dataclass
class _Facts:
    """What decides whether there is a fit, and where its local slopes stand.

    ``lowest`` are the ``SLOPE_COUNT`` lowest margins, ``distinct`` those of the first that were
    read, until there are ``POINTS`` of them.
    """

    n: int
    positive: int
    highest: float
    lowest: Float[np.ndarray, " lowest"]
    distinct: Float[np.ndarray, " distinct"]


def _facts(read: RowsReader) -> _Facts:
    """Raises ValueError for a margin that is negative or not finite."""
    found = _Facts(0, 0, 0.0, np.zeros(0), np.zeros(0))
    for margins, _ in read():
        if margins.size == 0:
            continue
        if not (np.isfinite(margins).all() and margins.min() >= 0):
            bad = margins[~(np.isfinite(margins) & (margins >= 0))][0]
            raise ValueError(
                f"margins must be finite and not negative, got {bad}; leave such rows out"
            )
        found.n += margins.size
        found.positive += int(np.count_nonzero(margins))
        found.highest = max(found.highest, float(margins.max()))
        few = min(SLOPE_COUNT, margins.size)
        lowest = np.concatenate([found.lowest, np.partition(margins, few - 1)[:few]])
        found.lowest = np.sort(lowest)[:SLOPE_COUNT]
        if len(found.distinct) < POINTS:
            found.distinct = np.union1d(found.distinct, margins)
    return found


def _window_ends(
    read: RowsReader, documents: int, *, resamples: int, seed: int
) -> Float[np.ndarray, "rows 2"]:
    """The quantiles that end the window: 1 % of the positive margins, 25 % of all."""

    def both() -> Iterator[list[Rows]]:
        for margins, inverse in read():
            positive = margins > 0
            yield [(margins[positive], inverse[positive]), (margins, inverse)]

    found = read_quantiles(both, [(0.01,), (0.25,)], documents, resamples=resamples, seed=seed)
    return np.concatenate([one.rows for one in found], axis=1)


def _counts_below(
    read: RowsReader, epsilon: Float[np.ndarray, " points"], documents: int
) -> tuple[Float[np.ndarray, "documents points"], Float[np.ndarray, " documents"]]:
    """How many margins of each document lie below each epsilon, and how many it has."""
    order = np.argsort(epsilon)
    width = len(epsilon) + 1
    counts = np.zeros(documents * width)
    for margins, inverse in read():
        passed = np.searchsorted(epsilon[order], margins, side="right")
        add_by_document(counts, np.ones(margins.size), inverse * width + passed)
    upto = np.cumsum(counts.reshape(documents, width), axis=1)
    below = np.empty((documents, len(epsilon)))
    below[:, order] = upto[:, :-1]
    return below, upto[:, -1]


def _totals_below(
    read: RowsReader, epsilon: Float[np.ndarray, " points"]
) -> Int[np.ndarray, " points"]:
    """How many margins lie below each epsilon."""
    one_document = ((margins, np.zeros(margins.size, dtype=np.intp)) for margins, _ in read())
    below, _ = _counts_below(lambda: one_document, epsilon, 1)
    totals: Int[np.ndarray, " points"] = below[0].astype(np.intp)
    return totals


def _lowest(read: RowsReader, sizes: Float[np.ndarray, " documents"], end: float) -> SortedSample:
    """The margins up to ``end``, sorted; the others by document alone."""
    kept: list[Rows] = []
    for margins, inverse in read():
        low = margins <= end
        kept.append((margins[low], inverse[low].astype(np.int32)))
    margins, inverse = (np.concatenate(columns) for columns in zip(*kept, strict=True))
    above = sizes - np.bincount(inverse, minlength=len(sizes))
    return sort_sample(margins, inverse, len(sizes), above=above)


def local_slopes(
    read: RowsReader,
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """Estimate ``d log eta / d log epsilon`` on a lattice of epsilon (theory §2, beyond the paper).

    The least-squares slope of ``log10 eta`` over seven neighbouring points of
    ``epsilon = 10 ** (k / 20)``, from where 100 margins lie below the first of them up to where
    margins still lie above the last. ``read`` gives the margins, in logits; the slope has no unit,
    and is 1 where eta is proportional to epsilon. Returns the epsilon and the slopes, of length 0
    where there are too few margins.
    """
    none = np.zeros(0)
    facts = _facts(read)
    if facts.n < SLOPE_COUNT or facts.highest <= 0:
        return none, none
    start = max(float(facts.lowest[SLOPE_COUNT - 1]), 1e-12)
    first = int(np.floor(STEPS_PER_DECADE * np.log10(start)))
    last = int(np.ceil(STEPS_PER_DECADE * np.log10(facts.highest)))
    lattice = 10.0 ** (np.arange(first, last + 1) / STEPS_PER_DECADE)
    counts = _totals_below(read, lattice)
    enough = (counts >= SLOPE_COUNT) & (counts < facts.n)
    lattice, logs = lattice[enough], np.log10(counts[enough] / facts.n)
    if len(logs) < 2 * SLOPE_REACH + 1:
        return none, none
    offset = np.arange(-SLOPE_REACH, SLOPE_REACH + 1)
    around = np.lib.stride_tricks.sliding_window_view(logs, len(offset))
    slopes = (around * offset).sum(axis=1) * STEPS_PER_DECADE / (offset**2).sum()
    return lattice[SLOPE_REACH:-SLOPE_REACH], slopes


def _window(facts: _Facts, percent: float, quarter: float) -> tuple[float, float]:
    """The published window of margins with these quantiles; raises where there is none."""
    if facts.positive == 0:
        raise GapUndefined(f"all {facts.n} margins are 0")
    distinct = len(facts.distinct)
    if distinct < POINTS:
        raise GapUndefined(f"{distinct} distinct margins are too few for a fit: it takes {POINTS}")
    low, high = max(percent, 1e-6), quarter
    if not low < high:
        raise GapUndefined(
            f"the window is empty: the 25 % quantile of the margins, {high:.4g}, is not above "
            f"its lower end, {low:.4g}"
        )
    return low, high


def _tied_end(
    counts: Int[np.ndarray, " two"],
    n: int,
    epsilon: Float[np.ndarray, " points"],
    eta: Float[np.ndarray, " points"],
) -> TiedEnd | None:
    """The equal margins at the window's lower end, where the slope depends on them.

    ``counts`` of n margins lie below the two ends of its reach.
    """
    below, upto = counts.tolist()
    if upto - below < 2:
        return None
    shares = np.stack([eta, eta])
    shares[:, 0] = below / n, upto / n
    # Points further on that are as near to the end hold at least as much.
    shares = np.maximum.accumulate(shares, axis=1)
    above, under = fit_rows(np.log10(epsilon)[None, :], shares)[:, 0]
    if not abs(above - under) > TIE_EFFECT:
        return None
    return TiedEnd(upto - below, float(epsilon[0]), float(above), float(under))


def _line_fit(
    window: tuple[float, float],
    epsilon: Float[np.ndarray, " points"],
    eta: Float[np.ndarray, " points"],
    draws: Float[np.ndarray, "resamples 4"],
    n: int,
    documents: int,
) -> LineFit:
    """The fit of one curve, with the intervals that the refitted resamples give it."""
    line = fit_line(epsilon, eta)
    slope, intercept, _, alpha = (interval(column, documents) for column in draws.T)
    return LineFit(
        epsilon_min=window[0],
        epsilon_max=window[1],
        points=int(((eta > 0) & (eta < 1)).sum()),
        beta=Estimate(line.slope, *slope, n=n, documents=documents),
        intercept=Estimate(line.intercept, *intercept, n=n, documents=documents),
        r_squared=line.r_squared,
        alpha=Estimate(line.alpha, *alpha, n=n, documents=documents),
    )


def _refit(
    sample: SortedSample,
    ends: Float[np.ndarray, "resamples 2"],
    *,
    resamples: int,
    seed: int,
) -> Float[np.ndarray, "resamples 4"]:
    """The published protocol on every resample, in its own window; NaN where it has none."""
    steps = np.linspace(0.0, 1.0, POINTS)
    log_epsilon = np.zeros((resamples, POINTS))
    eta = np.zeros((resamples, POINTS))
    lows, highs = np.maximum(ends[:, 0], 1e-6).tolist(), ends[:, 1].tolist()
    for row, drawn in enumerate(resample(sample, resamples=resamples, seed=seed)):
        low, high = lows[row], highs[row]
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
    below: Float[np.ndarray, "documents points"],
    sizes: Float[np.ndarray, " documents"],
    *,
    resamples: int,
    seed: int,
) -> Float[np.ndarray, "resamples points"]:
    """Shares below a few fixed epsilon in every resample, from the counts of each document."""
    counts = np.concatenate([below, sizes[:, None]], axis=1)
    chunks = resample_weights(len(sizes), resamples=resamples, seed=seed)
    # Whole numbers: exact in any order of summation.
    totals = np.concatenate([weights @ counts for weights in chunks])
    shares: Float[np.ndarray, "resamples points"] = totals[:, :-1] / totals[:, -1:]
    return shares
