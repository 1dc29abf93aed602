"""How well scores chose sources: first choices, gains, regret and rank correlation, with errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from unembed.errors import UnembedError
from unembed.selection.transfer.records import Scores, Transfer, Verdict
from unembed.stats.estimate import Estimate

DRAWS = 4_000
PERMUTATIONS = 4_000
SEED = 0
TIE = 1e-7
"""Scores this close to the largest share the first place."""

HIT, CHOSEN, BEST, RHO = range(4)
NO_GAIN = "the best sources' summed gain is not surely positive, so that it has no shares"
SAME = "every source has the same score, so that there is no order"


@dataclass(frozen=True)
class Difference:
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
    has what choosing at random has on average. Intervals are a bootstrap that draws seeds and
    targets, both with replacement. A permutation gives a target's sources another order, the same
    one in every seed, as a source is one source in all of them; ``p`` counts the order found among
    them. A target whose scores are all alike counts as a correlation of 0. Gains that are NaN are
    no candidates.
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
    tables = [_table(transfer.gains, known[name].values) for name in (first, second)]
    ours, theirs = (_draws(table) for table in tables)
    n = _cells(tables[0])
    shares = [_shares(draws) for draws in (ours, theirs)]
    share = Estimate(None, n=n, reason=NO_GAIN)
    if shares[0] is not None and shares[1] is not None:
        share = _estimate(shares[0] - shares[1], n)
    top1, spearman = (_estimate(ours[:, i] - theirs[:, i], n) for i in (HIT, RHO))
    # What is best is the same for both, so that regrets differ by what was chosen.
    regret = _estimate(theirs[:, CHOSEN] - ours[:, CHOSEN], n)
    return Difference(first, second, top1, share, regret, spearman)


def _verdict(gains: Float[np.ndarray, "seeds sources targets"], scores: Scores) -> Verdict:
    table = _table(gains, scores.values)
    draws, n = _draws(table), _cells(table)
    shares = _shares(draws)
    apart = ~np.eye(gains.shape[1], dtype=bool)
    unknown = int((np.isnan(scores.values) & apart & ~np.isnan(gains)).sum())
    spearman, p = _estimate(draws[:, RHO], n), _permuted(gains, scores.values)
    if not table[RHO][~np.isnan(table[RHO])].any() and _all_tied(gains, scores.values):
        spearman, p = Estimate(None, n=n, reason=SAME), 1.0
    return Verdict(
        scores.method,
        _estimate(draws[:, HIT], n),
        Estimate(None, n=n, reason=NO_GAIN) if shares is None else _estimate(shares, n),
        _estimate(draws[:, BEST] - draws[:, CHOSEN], n),
        spearman,
        p,
        unknown,
    )


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
) -> Float[np.ndarray, "4 seeds targets"]:
    """What each choice came to; NaN where a target has fewer than two candidates."""
    seeds, _, targets = gains.shape
    table = np.full((4, seeds, targets), np.nan)
    for s in range(seeds):
        for t in range(targets):
            gain, score = _candidates(gains[s, :, t], scores[s, :, t], t)
            if len(gain) > 1:
                # Equality first: -inf - TIE is itself, but inf - inf is no number.
                first = (score == score.max()) | (score > score.max() - TIE)
                table[HIT, s, t] = (gain[first] == gain.max()).mean()
                table[CHOSEN, s, t] = gain[first].mean()
                table[BEST, s, t] = gain.max()
                table[RHO, s, t] = _standard_ranks(score) @ _standard_ranks(gain)
    return table


def _standard_ranks(values: Float[np.ndarray, " values"]) -> Float[np.ndarray, " values"]:
    """Ranks less their mean, of length 1, ties averaged; all 0 where every value is the same."""
    _, group, size = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(size) - (size + 1) / 2)[group]
    ranks -= ranks.mean()
    norm = float(np.sqrt(ranks @ ranks))
    standard: Float[np.ndarray, " values"] = ranks / norm if norm > 0 else ranks
    return standard


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
            score = _standard_ranks(np.where(np.isnan(score), -np.inf, score))
            gain = _standard_ranks(gains[s, known, t])
            found += float(score @ gain)
            drawn += gain[orders] @ score
            cells += 1
    # Equal correlations must count as equal whatever their last digit.
    return float((1 + (drawn >= found - 1e-9 * max(cells, 1)).sum()) / (1 + PERMUTATIONS))


def _draws(table: Float[np.ndarray, "4 seeds targets"]) -> Float[np.ndarray, "draws 4"]:
    """Means over all seeds and targets, then over those of each draw."""
    _, seeds, targets = table.shape
    rng = np.random.default_rng(SEED)
    rows, columns = (
        np.concatenate([np.ones((1, n)), rng.multinomial(n, np.full(n, 1 / n), DRAWS)])
        for n in (seeds, targets)
    )
    there = ~np.isnan(table)
    summed = np.einsum("ds,qst,dt->dq", rows, np.where(there, table, 0.0), columns, optimize=True)
    count = np.einsum("ds,st,dt->d", rows, there[0].astype(float), columns, optimize=True)
    # A draw of targets without candidates alone says nothing.
    means: Float[np.ndarray, "draws 4"] = summed[count > 0] / count[count > 0, None]
    return means


def _cells(table: Float[np.ndarray, "4 seeds targets"]) -> int:
    return int((~np.isnan(table[HIT])).sum())


def _shares(draws: Float[np.ndarray, "draws 4"]) -> Float[np.ndarray, " draws"] | None:
    if not (draws[:, BEST] > 0).all():
        return None
    shares: Float[np.ndarray, " draws"] = draws[:, CHOSEN] / draws[:, BEST]
    return shares


def _estimate(draws: Float[np.ndarray, " draws"], n: int) -> Estimate:
    """The first draw, which is of all there is, and a 95 % interval from the others."""
    if n < 2:
        return Estimate(float(draws[0]), n=n)
    low, high = np.quantile(draws[1:], (0.025, 0.975)).tolist()
    return Estimate(float(draws[0]), low, high, n=n)


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
