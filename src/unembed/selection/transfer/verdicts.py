"""How well scores chose sources: first choices, gains, regret and rank correlation, with errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from unembed.errors import UnembedError
from unembed.selection.transfer.records import Scores, Transfer, Verdict
from unembed.short_repr import ShortRepr
from unembed.stats.bootstrap import bootstrap_sums
from unembed.stats.estimate import Estimate
from unembed.stats.rank_correlation import standard_ranks
from unembed.stats.studentised import studentised

RESAMPLES = 4_000
"""Resamples of the targets."""
PERMUTATIONS = 4_000
SEED = 0
TIE = 1e-7
"""Scores this close to the largest share the first place."""

HIT, CHOSEN, BEST, RHO, MEAN, WORST = range(6)
"""Of a target: whether the choice was best, its gain, the best gain, the rank correlation; then the
mean and the least of the candidates' gains."""
NO_GAIN = "the best sources' summed gain is not surely positive, so that it has no shares"
SAME = "every source has the same score, so that there is no order"


@dataclass(frozen=True)
class Difference(ShortRepr):
    """What choosing by one method gains over choosing by another: first minus second, in pairs.

    Each is a mean over targets and seeds with a 95 % interval. A ``regret`` below 0 speaks for the
    first; of the other three a value above 0 does.
    """

    first: str
    second: str
    top1: Estimate
    share: Estimate
    regret: Estimate
    spearman: Estimate


def judge(transfer: Transfer) -> tuple[Verdict, ...]:
    """How well each method chose, in the order of ``transfer.scores``.

    Naively, for every seed and target, with the target itself left out::

        first = argmax(scores[:, target]); best = max(gains[:, target])
        top1 = mean(gains[first] == best); regret = mean(best - gains[first])
        share = sum(gains[first]) / sum(best); spearman = mean(corr(ranks(scores), ranks(gains)))

    Scores that tie for the first place share it, so that a method which scores all sources alike
    has what choosing at random has on average. Targets are independent units of which the figures
    are ratios of sums, bounded by the studentised bootstrap; what the seeds' means differ by beyond
    the spread between single cells is added to their variance, and what no target can come to is
    cut off. Where so few targets have any spread that a resample may have none (6 that nearly all
    chose the best), the interval is Student's t with two more targets, one chosen right and the
    other wrong, or for gains and ranks at random. A permutation gives a target's sources another
    order, the same one in every seed, as a source is one source in all of them; ``p`` counts the
    order found among them. A target whose scores are all alike counts as a correlation of 0. Gains
    that are NaN are no candidates.
    Raises UnembedError for fewer than three tasks, two methods of one name, scores of another shape
    than the gains, and no target with two candidates. Source: theory §13.
    """
    _check(transfer)
    return tuple(_verdict(transfer.gains, one) for one in transfer.scores)


def compared(transfer: Transfer, first: str, second: str) -> Difference:
    """Two methods on the same targets and seeds, by the draws of ``judge``.

    Raises UnembedError as ``judge`` does, and for a name that no method has.
    """
    _check(transfer)
    known = {one.method: one for one in transfer.scores}
    for name in (first, second):
        if name not in known:
            raise UnembedError(f"no method is named {name!r}: there are {', '.join(known)}")
    ours, theirs = (_table(transfer.gains, known[name].values) for name in (first, second))
    n = _cells(ours)
    same = np.array_equal(known[first].values, known[second].values, equal_nan=True)
    found = []
    for one, two in zip(_figures(ours), _figures(theirs), strict=True):
        (low, high), right, wrong = one.limits, one.right, one.wrong
        limits = (0.0, 0.0) if same else (low - high, high - low)
        parts = one.parts - two.parts
        found.append(_Figure(parts, one.whole, limits, right - wrong, wrong - right))
    top1, share, regret, spearman = (_estimate(figure, n) for figure in found)
    return Difference(first, second, top1, share, regret, spearman)


def _verdict(gains: Float[np.ndarray, "seeds sources targets"], scores: Scores) -> Verdict:
    table = _table(gains, scores.values)
    n = _cells(table)
    others = ~np.eye(gains.shape[1], dtype=bool)
    unknown = int((np.isnan(scores.values) & others & ~np.isnan(gains)).sum())
    top1, share, regret, spearman = (_estimate(figure, n) for figure in _figures(table))
    p = _permuted(gains, scores.values)
    if not table[RHO][~np.isnan(table[RHO])].any() and _all_tied(gains, scores.values):
        spearman, p = Estimate(None, n=n, reason=SAME), 1.0
    return Verdict(scores.method, top1, share, regret, spearman, p, unknown)


def _candidates(
    gains: Float[np.ndarray, " sources"], scores: Float[np.ndarray, " sources"], target: int
) -> tuple[Float[np.ndarray, " some"], Float[np.ndarray, " some"]]:
    """Gains and scores of the sources that may be chosen; an unknown score is the least."""
    kept = ~np.isnan(gains)
    kept[target] = False
    return gains[kept], np.where(np.isnan(scores), -np.inf, scores)[kept]


def _table(
    gains: Float[np.ndarray, "seeds sources targets"],
    scores: Float[np.ndarray, "seeds sources targets"],
) -> Float[np.ndarray, "6 seeds targets"]:
    """What each choice came to and could have; NaN where a target has under two candidates."""
    seeds, _, targets = gains.shape
    table = np.full((6, seeds, targets), np.nan)
    for s in range(seeds):
        for t in range(targets):
            gain, score = _candidates(gains[s, :, t], scores[s, :, t], t)
            if len(gain) > 1:
                # Equality first: -inf - TIE is itself, but inf - inf is no number.
                first = (score == score.max()) | (score > score.max() - TIE)
                table[HIT, s, t] = (gain[first] == gain.max()).mean()
                table[CHOSEN, s, t] = gain[first].mean()
                table[BEST, s, t] = gain.max()
                table[RHO, s, t] = standard_ranks(score) @ standard_ranks(gain)
                table[MEAN, s, t], table[WORST, s, t] = gain.mean(), gain.min()
    return table


def _all_tied(
    gains: Float[np.ndarray, "seeds sources targets"],
    scores: Float[np.ndarray, "seeds sources targets"],
) -> bool:
    seeds, _, targets = gains.shape
    return all(
        len(np.unique(_candidates(gains[s, :, t], scores[s, :, t], t)[1])) < 2
        for s in range(seeds)
        for t in range(targets)
    )


def _permuted(
    gains: Float[np.ndarray, "seeds sources targets"],
    scores: Float[np.ndarray, "seeds sources targets"],
) -> float:
    """The share of permutations whose mean correlation is as large, the one found among them."""
    seeds, _, targets = gains.shape
    rng = np.random.default_rng(SEED)
    found, drawn, cells = 0.0, np.zeros(PERMUTATIONS), 0
    for t in range(targets):
        # One order for all seeds needs the same candidates in each.
        known = ~np.isnan(gains[:, :, t]).any(0)
        known[t] = False
        if known.sum() < 2:
            continue
        orders = rng.permuted(np.tile(np.arange(known.sum()), (PERMUTATIONS, 1)), axis=1)
        for s in range(seeds):
            score = scores[s, known, t]
            score = standard_ranks(np.where(np.isnan(score), -np.inf, score))
            gain = standard_ranks(gains[s, known, t])
            found += float(score @ gain)
            drawn += gain[orders] @ score
            cells += 1
    # Equal correlations must count as equal whatever their last digit.
    return float((1 + (drawn >= found - 1e-9 * max(cells, 1)).sum()) / (1 + PERMUTATIONS))


@dataclass(frozen=True)
class _Figure:
    """A ratio ``parts.sum() / whole.sum()`` over cells, the least and largest that it can be, and
    what it is where the right source is chosen and where a wrong or random one is."""

    parts: Float[np.ndarray, "seeds targets"]
    whole: Float[np.ndarray, "seeds targets"]
    limits: tuple[float, float]
    right: float
    wrong: float


def _figures(table: Float[np.ndarray, "6 seeds targets"]) -> tuple[_Figure, ...]:
    """Top-1, share, regret and rank correlation."""
    there = ~np.isnan(table[HIT])
    hit, chosen, best, rho, *_ = np.where(there, table, 0.0)
    mean, worst = table[MEAN:, there].mean(1)
    most = table[BEST, there].mean()
    cells = there.astype(float)
    shares = (worst / most, 1.0) if most else (-np.inf, np.inf)
    return (
        _Figure(hit, cells, (0.0, 1.0), 1.0, 0.0),
        _Figure(chosen, best, shares, 1.0, mean / most if most else 0.0),
        _Figure(best - chosen, cells, (0.0, most - worst), 0.0, most - mean),
        _Figure(rho, cells, (-1.0, 1.0), 1.0, 0.0),
    )


def _cells(table: Float[np.ndarray, "6 seeds targets"]) -> int:
    return int((~np.isnan(table[HIT])).sum())


def _estimate(figure: _Figure, n: int) -> Estimate:
    """A figure with its interval; a share of gains that may not be positive has no value."""
    some = figure.whole.any(0)
    parts, whole = figure.parts.sum(0)[some], figure.whole.sum(0)[some]
    if not _surely_positive(whole):
        return Estimate(None, n=n, reason=NO_GAIN)
    bounds = studentised(parts[None], whole[None], resamples=RESAMPLES, seed=SEED)
    value = float(bounds.value[0])
    if not bounds.bounded[0] and figure.limits[0] < figure.limits[1]:
        more_whole = np.append(whole, [whole.mean()] * 2)
        more_parts = np.append(parts, np.array([figure.right, figure.wrong]) * whole.mean())
        bounds = studentised(more_parts[None], more_whole[None], resamples=0)
    low, high = bounds.ends(0, figure.limits, _seed_error(figure, value))
    if len(whole) < 2 or low is None or high is None:
        return Estimate(value, n=n)
    return Estimate(value, min(low, value), max(high, value), n=n)


def _surely_positive(sums: Float[np.ndarray, " targets"]) -> bool:
    """Whether the total is positive in every resample of the targets."""
    if (sums > 0).all():
        return True
    return bool((bootstrap_sums(sums[None], resamples=RESAMPLES, seed=SEED) > 0).all())


def _seed_error(figure: _Figure, value: float) -> float:
    """What the choice of seeds adds to the standard error, beyond the spread between cells.

    Variances of seeds' means less that of cells, as in two-way clustering (Cameron, Gelbach and
    Miller 2011); 0 where that is negative.
    """
    off = (figure.parts - value * figure.whole) / figure.whole.sum()
    seeds, cells = len(off), int((figure.whole != 0).sum())
    if seeds < 2:
        return 0.0
    of_seeds = np.square(off.sum(1)).sum() * seeds / (seeds - 1)
    of_cells = np.square(off).sum() * cells / (cells - 1)
    return float(np.sqrt(max(of_seeds - of_cells, 0.0)))


def _check(transfer: Transfer) -> None:
    tasks, shape = len(transfer.tasks), transfer.gains.shape
    if tasks < 3:
        raise UnembedError(f"{tasks} tasks leave a target no two sources: give three or more")
    if shape[1:] != (tasks, tasks) or shape[0] < 1:
        raise UnembedError(f"gains of shape {shape} do not fit {tasks} tasks: measure every pair")
    names = [one.method for one in transfer.scores]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UnembedError(f"two methods are named {min(twice)!r}: give each a name of its own")
    for one in transfer.scores:
        if one.values.shape != shape:
            raise UnembedError(
                f"the scores of {one.method!r} have shape {one.values.shape} and the gains "
                f"{shape}: score every pair in every seed"
            )
    unmeasured = np.isnan(transfer.gains) | np.eye(tasks, dtype=bool)
    if ((~unmeasured).sum(1) < 2).all():
        raise UnembedError("no target has the gains of two sources: measure more pairs")
