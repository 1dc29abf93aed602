"""Spearman's rank correlation with an interval clustered by document."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int

from unembed.stats.bootstrap import RESAMPLES, add_by_document, bootstrap_sums, interval
from unembed.stats.estimate import Estimate

CHUNK = 1 << 18
"""Positions whose sums are taken at a time; changes memory, and sums by their rounding alone."""


def average_ranks(values: Float[np.ndarray, " positions"]) -> Float[np.ndarray, " positions"]:
    """Rank the values from 0, equal values sharing the mean of their ranks.

    Naive equivalent: ``[(values < v).sum() + ((values == v).sum() - 1) / 2 for v in values]``.
    """
    ranks: Float[np.ndarray, " positions"] = _Ranked(values).doubled / 2
    return ranks


def standard_ranks(values: Float[np.ndarray, " values"]) -> Float[np.ndarray, " values"]:
    """Average ranks less their mean, of length 1; all 0 where every value is the same.

    Spearman's rho of x and y is ``standard_ranks(x) @ standard_ranks(y)``.
    """
    ranks = average_ranks(values)
    ranks -= ranks.mean()
    length = float(np.sqrt(ranks @ ranks))
    return ranks / length if length > 0 else ranks


def spearman_estimates(
    columns: Iterable[Float[np.ndarray, " positions"]],
    y: Float[np.ndarray, " positions"],
    inverse: Int[np.ndarray, " positions"],
    documents: int,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[Estimate, ...]:
    """Estimate Spearman's rho of each column with y, the correlation of average ranks (theory §2).

    The interval resamples documents to first order: a resample with document weights w has
    ``atanh(rho) + sum(w I) / (n (1 - rho**2))``, I from ``influence``, so that none is ranked
    anew. Holding the ranks instead, and resampling their correlation, ignores that the ranks move
    too: measured on clustered data at rho = -.66 it is 14 % too narrow and covers 89 %, not 93 %.
    All finite; ``inverse`` numbers the documents from 0 as ``bootstrap.cluster`` does. The value is
    None where a column or y is constant. The columns are taken one after another; of y, and of one
    of them, 8 bytes a position are held, and 20 more while a column is sorted.
    """
    n = y.size
    if n < 2:
        reason = f"a correlation needs 2 positions, got {n}"
        return tuple(Estimate(None, n=n, reason=reason) for _ in columns)
    constant, ranked = _constant(y), _Ranked(y)
    del y
    found = []
    for x in columns:
        if constant or _constant(x):
            reason = "one of the two is the same at every position"
            found.append(Estimate(None, n=n, reason=reason))
            continue
        rho, moves = _influence(_Ranked(x), ranked, inverse, documents)
        if documents < 2:
            found.append(Estimate(rho, n=n, documents=documents))
        elif 1 - rho**2 < 1e-12:
            found.append(Estimate(rho, rho, rho, n=n, documents=documents))
        else:
            sizes = np.bincount(inverse, minlength=documents).astype(np.float64)
            sums = np.stack([moves, sizes])
            moved, size = bootstrap_sums(sums, resamples=resamples, seed=seed).T
            draws = np.tanh(np.arctanh(rho) + moved / size / (1 - rho**2))
            found.append(Estimate(rho, *interval(draws, documents), n=n, documents=documents))
    return tuple(found)


def influence(
    x: Float[np.ndarray, " positions"],
    y: Float[np.ndarray, " positions"],
    inverse: Int[np.ndarray, " positions"],
    documents: int,
) -> tuple[float, Float[np.ndarray, " documents"]]:
    """Spearman's rho, and n times its derivative in a position's weight, summed by document.

    With centred average ranks u, v in [-1/2, 1/2] and ``C = mean(u v)``, ``A = mean(u u)``,
    ``B = mean(v v)``: ``rho = C / sqrt(A B)``, ``I = dC / sqrt(A B) - rho (dA / A + dB / B) / 2``,
    ``dC = u v + above(x, v) + above(y, u) - 3 C`` and likewise dA, dB. ``above(x, v)`` at i is the
    mean over j of ``v_j (1[x_j > x_i] + 1[x_j = x_i] / 2)``: a position moves the ranks of those
    above it. Neither x nor y may be constant.
    """
    return _influence(_Ranked(x), _Ranked(y), inverse, documents)


def _constant(values: Float[np.ndarray, " positions"]) -> bool:
    return bool((values == values[0]).all())


class _Ranked:
    """Values by rank: ``order`` sorts them, ``doubled`` is twice the average rank of each, from 0.

    Whole numbers of 4 bytes, where the values are fewer than 2^30.
    """

    def __init__(self, values: Float[np.ndarray, " positions"]) -> None:
        n = values.size
        whole = np.int32 if n < 1 << 30 else np.int64
        self.order = np.argsort(values, kind="stable").astype(whole)
        ascending = values[self.order]
        new = np.ones(n, dtype=np.bool_)
        np.not_equal(ascending[1:], ascending[:-1], out=new[1:])
        first = np.flatnonzero(new).astype(whole)
        del ascending
        size = np.diff(first, append=whole(n))
        self.doubled: Int[np.ndarray, " positions"] = np.empty(n, dtype=whole)
        self.doubled[self.order] = np.repeat(2 * first + size - 1, size)

    def centred(
        self, rows: Int[np.ndarray, " rows"] | slice = slice(None)
    ) -> Float[np.ndarray, " rows"]:
        """The average ranks of some positions in [-1/2, 1/2], less their mean."""
        n = self.doubled.size
        ranks: Float[np.ndarray, " rows"] = (self.doubled[rows] / 2 + 0.5) / n - 0.5
        return ranks

    def groups(self) -> Iterator[Int[np.ndarray, " rows"]]:
        """All positions from the highest values down, many at a time; equal ones come together.

        Those of one time are in ascending order.
        """
        end = self.order.size
        while end > 0:
            start = max(0, end - CHUNK)
            # Twice the average rank is that of the first equal value plus that of the last.
            rank = self.doubled[self.order[start]]
            while start > 0 and self.doubled[self.order[start - 1]] == rank:
                start = max(0, start - CHUNK)
                start += int(np.searchsorted(self.doubled[self.order[start:end]], rank))
            yield self.order[start:end]
            end = start


def _influence(
    x: _Ranked, y: _Ranked, inverse: Int[np.ndarray, " positions"], documents: int
) -> tuple[float, Float[np.ndarray, " documents"]]:
    n = inverse.size
    products = np.zeros((3, documents))
    for start in range(0, n, CHUNK):
        rows = slice(start, start + CHUNK)
        u, v = x.centred(rows), y.centred(rows)
        for total, values in zip(products, (u * v, u * u, v * v), strict=True):
            add_by_document(total, values, inverse[rows])
    c, a, b = products.sum(axis=1) / n
    sizes = np.bincount(inverse, minlength=documents)
    above_xv, above_xu = _above(x, (y, x), inverse, documents)
    above_yu, above_yv = _above(y, (x, y), inverse, documents)
    dc = products[0] + above_xv + above_yu - 3 * c * sizes
    da = products[1] + 2 * above_xu - 3 * a * sizes
    db = products[2] + 2 * above_yv - 3 * b * sizes
    scale = np.sqrt(a) * np.sqrt(b)
    # Only rounding takes rho past 1.
    rho = float(np.clip(c / scale, -1.0, 1.0))
    return rho, dc / scale - rho * (da / a + db / b) / 2


def _above(
    key: _Ranked,
    columns: Sequence[_Ranked],
    inverse: Int[np.ndarray, " positions"],
    documents: int,
) -> Float[np.ndarray, "columns documents"]:
    """Sums by document of the mean of each column's centred ranks above a position's own key."""
    sums, higher = np.zeros((len(columns), documents)), np.zeros(len(columns))
    for rows in key.groups():
        rank = key.doubled[rows]
        first = np.flatnonzero(np.concatenate([[True], rank[1:] != rank[:-1]]))
        size = np.diff(first, append=rank.size)
        for i, column in enumerate(columns):
            groups = np.add.reduceat(column.centred(rows), first)
            at_least = np.cumsum(groups[::-1])[::-1] + higher[i]
            above = np.repeat(at_least - groups / 2, size)
            add_by_document(sums[i], above, inverse[rows])
            higher[i] += groups.sum()
    return sums / inverse.size
