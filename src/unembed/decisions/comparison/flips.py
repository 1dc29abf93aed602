"""Which decisions changed between two audits of the same positions, and which became right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from unembed.decisions.audit.finite_rows import FiniteRows
from unembed.runs.record import check_columns
from unembed.short_repr import ShortRepr
from unembed.stats.bootstrap import interval, resample_weights
from unembed.stats.estimate import Estimate
from unembed.stats.forms import whole

COMPARISON_RESAMPLES = 10_000
"""Default number of resamples of a comparison: interval ends known to 0.03 standard errors."""

MINIMUM_FLIPS = 10
"""Flips that a ratio needs in each direction, and the least net whose shares are given.

With ten flips one way, however many the other way, and independent positions, the 95 % interval of
the ratio spans a factor of ``exp(1.96 / sqrt(10)) = 1.9`` each way; with fewer it says little.
"""

FLIP_COLUMNS = ("target", "before_top1", "after_top1")
"""Columns that say what happened at a position."""

KEPT_RIGHT, KEPT_WRONG, WRONG_TO_RIGHT, RIGHT_TO_WRONG, WRONG_TO_WRONG = KINDS = range(5)
"""What happened at a position: the same top-1, right or wrong, or one of three kinds of change."""


@dataclass(frozen=True)
class FlipColumns:
    """Two audits of the same positions, row for row: both top-1 ids, the target, the document.

    Raises ``ValueError`` where the columns differ in length.
    """

    doc: Int[np.ndarray, " positions"]
    target: Int[np.ndarray, " positions"]
    before_top1: Int[np.ndarray, " positions"]
    after_top1: Int[np.ndarray, " positions"]

    def __post_init__(self) -> None:
        check_columns(self)

    def rows(self, **more: Int[np.ndarray, " positions"]) -> FiniteRows:
        """These columns and others, as ``read_flips`` reads them."""
        return FiniteRows.held(**vars(self), **more)


@dataclass(frozen=True)
class Flips(ShortRepr):
    """The flips of some positions: plain counts, and shares of those positions with intervals.

    ``changed = wrong_to_right + right_to_wrong + wrong_to_wrong`` and
    ``net = wrong_to_right - right_to_wrong``; net as a share of the positions is
    ``accuracy_difference``, after minus before. ``documents`` counts the documents that the
    positions lie in. ``mcnemar_p`` takes the positions for independent;
    ``clustered_mcnemar_p`` only the documents; with several seeds neither exists.
    """

    n: int
    documents: int
    changed: int
    wrong_to_right: int
    right_to_wrong: int
    wrong_to_wrong: int
    net: int
    churn: Estimate
    wrong_to_right_share: Estimate
    right_to_wrong_share: Estimate
    wrong_to_wrong_share: Estimate
    accuracy_before: Estimate
    accuracy_after: Estimate
    accuracy_difference: Estimate
    flip_ratio: Estimate
    mcnemar_p: float | None
    clustered_mcnemar_p: Estimate


@dataclass(frozen=True)
class FlipGroup(ShortRepr):
    """The flips of one group: ``share`` of all positions, ``share_of_net`` of the total net.

    A ``share_of_net`` may lie outside [0, 1]: groups may lose what others gain.
    """

    name: str
    share: Estimate
    share_of_net: Estimate
    flips: Flips


@dataclass(frozen=True)
class TokenFlips(ShortRepr):
    """The flips at the ``n`` positions whose target is ``token``, with the sign test's p.

    None with several seeds, for the same positions are then counted several times.
    """

    token: int
    n: int
    wrong_to_right: int
    right_to_wrong: int
    net: int
    sign_p: float | None


@dataclass(frozen=True)
class TokenExtremes(ShortRepr):
    """The targets that gained and that lost most, out of ``tokens`` targets with a flip."""

    tokens: int
    gaining: tuple[TokenFlips, ...]
    losing: tuple[TokenFlips, ...]


def flips(columns: FlipColumns, *, resamples: int = COMPARISON_RESAMPLES, seed: int = 0) -> Flips:
    """Count the flips of columns in memory, see ``read_flips``."""
    return read_flips(columns.rows(), resamples=resamples, seed=seed)


def read_flips(rows: FiniteRows, *, resamples: int = COMPARISON_RESAMPLES, seed: int = 0) -> Flips:
    """Count the flips between two audits, with intervals clustered by document (theory §4).

    A position is right where top-1 is the target and changed where the two top-1 differ. Churn is
    the share changed; the flip ratio is wrong-to-right over right-to-wrong, undefined with fewer
    than ``MINIMUM_FLIPS`` of either. A share's interval holds no flip that the audits do not: that
    of a count of zero is [0, 0]. Two equal audits give zeros and an undefined ratio. The columns
    ``target``, ``before_top1`` and ``after_top1`` are read.
    """
    sums = _sums(rows, None, ())
    return _flips(_tallies(sums, resamples=resamples, seed=seed)[:, :, 0], sums[:, 0])


def flip_table(
    columns: FlipColumns,
    group: Int[np.ndarray, " positions"],
    names: Sequence[str],
    *,
    resamples: int = COMPARISON_RESAMPLES,
    seed: int = 0,
) -> tuple[FlipGroup, ...]:
    """Count the flips of each group of columns in memory, see ``read_flip_table``."""
    rows = columns.rows(group=group)
    return read_flip_table(rows, "group", names, resamples=resamples, seed=seed)


def read_flip_table(
    rows: FiniteRows,
    group: str,
    names: Sequence[str],
    *,
    resamples: int = COMPARISON_RESAMPLES,
    seed: int = 0,
) -> tuple[FlipGroup, ...]:
    """Count the flips of each group of positions, in the order of ``names`` (theory §4).

    The column ``group`` is the index in ``names`` of a position's group, or -1 for a position of
    none, which still counts among all positions and in the total net. Every group sees the same
    resamples. ``share_of_net`` is undefined where the total net is under ``MINIMUM_FLIPS`` or its
    interval holds zero, for a ratio to what may be zero has no bounds (Fieller). Raises
    ``ValueError`` where a group has no name.
    """
    sums = _sums(rows, group, names)
    tallies = _tallies(sums, resamples=resamples, seed=seed)
    overall = tallies.sum(axis=2)
    total = _flips(overall, sums.sum(axis=1))
    n, net = overall.sum(axis=1), overall[:, WRONG_TO_RIGHT] - overall[:, RIGHT_TO_WRONG]
    unshared = _net_unshared(total)
    table = []
    for g, name in enumerate(names):
        tally = tallies[:, :, g]
        found = _flips(tally, sums[:, g])
        share = _ratio(tally.sum(axis=1), n, total.documents, total.n)
        own_net = tally[:, WRONG_TO_RIGHT] - tally[:, RIGHT_TO_WRONG]
        if unshared is None:
            share_of_net = _ratio(own_net, net, total.documents, found.n)
        else:
            share_of_net = Estimate(None, n=found.n, reason=unshared)
        table.append(FlipGroup(name, share, share_of_net, found))
    return tuple(table)


def gaining_and_losing_tokens(columns: FlipColumns, *, top: int = 20) -> TokenExtremes:
    """The extremes of columns in memory, see ``read_gaining_and_losing_tokens``."""
    return read_gaining_and_losing_tokens(columns.rows(), top=top)


def read_gaining_and_losing_tokens(rows: FiniteRows, *, top: int = 20) -> TokenExtremes:
    """The targets with the largest positive and the most negative net, ``top`` each (theory §4).

    Ties go to the lowest id; a token of net zero is in neither list. ``sign_p`` is
    ``mcnemar_p(wrong_to_right, right_to_wrong)`` of one token: the lists hold the extremes of
    ``tokens`` candidates, so that only a p well below ``0.05 / tokens`` is news.
    """
    cells = np.zeros(0, dtype=np.int64)
    for _, target, before, after in rows.parts(*FLIP_COLUMNS):
        found = np.bincount(target.astype(np.int64) * len(KINDS) + _kinds(target, before, after))
        longer, shorter = sorted((cells, found), key=len, reverse=True)
        longer[: len(shorter)] += shorter
        cells = longer
    cells = np.append(cells, np.zeros(-len(cells) % len(KINDS), dtype=np.int64))
    counts = cells.reshape(-1, len(KINDS))
    ids = np.flatnonzero(counts.any(axis=1))
    counts = counts[ids]
    gained, lost = counts[:, WRONG_TO_RIGHT], counts[:, RIGHT_TO_WRONG]

    def first(net: Int[np.ndarray, " tokens"]) -> tuple[TokenFlips, ...]:
        order = np.argsort(-net, kind="stable")[: max(top, 0)]
        return tuple(
            TokenFlips(
                token=int(ids[i]),
                n=int(counts[i].sum()),
                wrong_to_right=int(gained[i]),
                right_to_wrong=int(lost[i]),
                net=int(gained[i] - lost[i]),
                sign_p=mcnemar_p(int(gained[i]), int(lost[i])),
            )
            for i in order
            if net[i] > 0
        )

    flipped = int(np.count_nonzero(gained + lost))
    return TokenExtremes(flipped, first(gained - lost), first(lost - gained))


def mcnemar_p(wrong_to_right: int, right_to_wrong: int) -> float:
    """McNemar's exact two-sided p: the sign test of W→R against R→W (McNemar 1947; theory §4).

    ``min(1, 2 Pr(X <= min(b, c)))`` with X binomial(b + c, 1/2), to 11 digits down to 1e-300,
    for counts of any size in O(sqrt(b + c)). Without flips it is 1; far below 1e-300 it is 0. It
    takes the positions for independent; those of one document are not, and it is then too small.
    Raises ``ValueError`` for a negative count.
    """
    fewer = min(wrong_to_right, right_to_wrong)
    if fewer < 0:
        raise ValueError(f"counts must be >= 0, got {wrong_to_right} and {right_to_wrong}")
    n = wrong_to_right + right_to_wrong
    middle = n // 2
    # Pr(X = middle - t) <= exp(-2 t^2 / n) Pr(X = middle): past 20 sqrt(n) it is no float.
    reach = min(middle, 20 * math.isqrt(n) + 20)
    outcome = np.arange(middle, middle - reach, -1, dtype=np.float64)
    relative = np.concatenate([[1.0], np.cumprod(outcome / (n - outcome + 1))])
    total = 2 * relative.sum() - (n % 2 == 0)
    return min(1.0, 2 * float(relative[middle - fewer :].sum() / total))


def clustered_mcnemar_p(net_by_document: Float[np.ndarray, " documents"]) -> Estimate:
    """P of McNemar's test for documents whose own positions may depend on one another (theory §4).

    ``chi^2 = (sum_d net_d)^2 / sum_d net_d^2`` with one degree of freedom, ``net_d`` the W→R less
    R→W of document d: Obuchowski's test (1998) without its factor ``(D - 1) / D``, the modified
    form of Yang, Sun and Hardin (2010), which suits 50 documents and more. The statistic is at most
    the number of documents with a net, which is ``n``. Undefined with fewer than two of them.
    """
    documents = int(np.count_nonzero(net_by_document))
    if documents < 2:
        reason = f"{documents} documents with unequal flips; the clustered test needs 2"
        return Estimate(None, n=documents, reason=reason)
    net, squares = float(net_by_document.sum()), float((net_by_document**2).sum())
    p = math.erfc(abs(net) / math.sqrt(2 * squares))
    return Estimate(p, n=documents, documents=documents)


def _kinds(
    target: Int[np.ndarray, " positions"],
    before_top1: Int[np.ndarray, " positions"],
    after_top1: Int[np.ndarray, " positions"],
) -> Int[np.ndarray, " positions"]:
    before, after = before_top1 == target, after_top1 == target
    wrong_after = np.where(before_top1 == after_top1, KEPT_WRONG, WRONG_TO_WRONG)
    return np.where(
        before,
        np.where(after, KEPT_RIGHT, RIGHT_TO_WRONG),
        np.where(after, WRONG_TO_RIGHT, wrong_after),
    )


def _sums(
    rows: FiniteRows, group: str | None, names: Sequence[str]
) -> Float[np.ndarray, "kinds groups documents"]:
    """How many positions of each kind each group has in each document.

    Positions of no group are in one behind the named ones.
    """
    groups, documents = len(names) + 1, rows.documents
    counts = np.zeros(len(KINDS) * groups * documents, dtype=np.int64)
    for inverse, target, before, after, *held in rows.parts(
        *FLIP_COLUMNS, *(() if group is None else (group,))
    ):
        cell = _kinds(target, before, after) * groups
        for index in held:
            if index.size and not -1 <= int(index.min()) <= int(index.max()) < len(names):
                raise ValueError(
                    f"groups run from {index.min()} to {index.max()}, names from 0 to "
                    f"{len(names) - 1}; mark a position of no group with -1"
                )
            cell += np.where(index < 0, len(names), index)
        np.add.at(counts, cell * documents + inverse, 1)
    return counts.reshape(len(KINDS), groups, documents).astype(np.float64)


def _tallies(
    sums: Float[np.ndarray, "kinds groups documents"], *, resamples: int, seed: int
) -> Float[np.ndarray, "draws kinds groups"]:
    """Totals over the documents: first the observed ones, then those of each resample."""
    kinds, groups, documents = sums.shape
    cells = sums.reshape(kinds * groups, documents)
    resampled = resamples if documents >= 2 else 0
    tallies = np.empty((1 + resampled, kinds * groups))
    tallies[0], start = cells.sum(axis=1), 1
    for weights in resample_weights(max(1, documents), resamples=resampled, seed=seed):
        # Sums of whole numbers below 2**53: the product is exact in any order of summation.
        np.matmul(weights, cells.T, out=tallies[start : start + len(weights)])
        start += len(weights)
    return tallies.reshape(1 + resampled, kinds, groups)


def _ratio(
    numerator: Float[np.ndarray, " draws"],
    denominator: Float[np.ndarray, " draws"],
    documents: int,
    n: int,
) -> Estimate:
    """The first ratio, with the interval of the others; those of another sign do not exist."""
    observed = denominator[0]
    if observed == 0:
        return Estimate(None, reason="no position to average over")
    exists = denominator[1:] * observed > 0
    draws = np.where(exists, numerator[1:] / np.where(exists, denominator[1:], 1), np.nan)
    bounds = interval(draws, documents)
    return Estimate(float(numerator[0] / observed), *bounds, n=n, documents=documents)


def _flips(
    tally: Float[np.ndarray, "draws kinds"], sums: Float[np.ndarray, "kinds documents"]
) -> Flips:
    kept_right, _, gained, lost, moved = tally.T
    n, changed, net = tally.sum(axis=1), gained + lost + moved, gained - lost
    documents = int(np.count_nonzero(sums.sum(axis=0)))

    def share(count: Float[np.ndarray, " draws"]) -> Estimate:
        return _ratio(count, n, documents, int(n[0]))

    w2r, r2w = int(gained[0]), int(lost[0])
    if min(w2r, r2w) < MINIMUM_FLIPS:
        reason = f"{w2r} wrong-to-right and {r2w} right-to-wrong flips; a ratio needs "
        flip_ratio = Estimate(None, n=w2r + r2w, reason=f"{reason}{MINIMUM_FLIPS} of each")
    else:
        flip_ratio = _ratio(gained, lost, documents, w2r + r2w)
    return Flips(
        n=int(n[0]),
        documents=documents,
        changed=int(changed[0]),
        wrong_to_right=w2r,
        right_to_wrong=r2w,
        wrong_to_wrong=int(moved[0]),
        net=w2r - r2w,
        churn=share(changed),
        wrong_to_right_share=share(gained),
        right_to_wrong_share=share(lost),
        wrong_to_wrong_share=share(moved),
        accuracy_before=share(kept_right + lost),
        accuracy_after=share(kept_right + gained),
        accuracy_difference=share(net),
        flip_ratio=flip_ratio,
        mcnemar_p=mcnemar_p(w2r, r2w),
        clustered_mcnemar_p=clustered_mcnemar_p(sums[WRONG_TO_RIGHT] - sums[RIGHT_TO_WRONG]),
    )


def _net_unshared(total: Flips) -> str | None:
    """Why shares of the total net mean nothing, or None where they do."""
    net = whole(float(total.net))
    if abs(total.net) < MINIMUM_FLIPS:
        return f"the total net is {net}; sharing it out needs {MINIMUM_FLIPS} either way"
    low, high = total.accuracy_difference.low, total.accuracy_difference.high
    if low is not None and high is not None and low <= 0 <= high:
        return f"the total net is {net}, and its interval holds zero"
    return None
