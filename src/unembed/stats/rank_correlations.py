"""Many rank correlations of the same positions: intervals for each, for all at once, and draws."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from unembed.stats.bootstrap import RESAMPLES, bootstrap_sums
from unembed.stats.estimate import Estimate
from unembed.stats.rank_correlation import influence
from unembed.stats.simultaneous import Sums, simultaneous_means
from unembed.stats.studentised import studentised

PERFECT = 1e-12
"""How near to 1 the square of a correlation is taken for 1, which no resample moves."""


@dataclass(frozen=True)
class RankCorrelations:
    """Spearman's rho of k pairs of columns over the same positions, NaN where one is constant.

    ``moves`` is what each document moves in ``atanh(rho)``, times the number of positions: with m
    of n positions in a document, ``I / (1 - rho**2) / (1 - m / n)``, I from
    ``rank_correlation.influence``, less their mean. The last factor is that of a jackknife: a
    document is part of the ranks that it is compared with, the more so the larger it is. ``sizes``
    counts the positions of each document.
    """

    rho: Float[np.ndarray, " k"]
    moves: Float[np.ndarray, "k documents"]
    sizes: Float[np.ndarray, " documents"]

    @staticmethod
    def of(
        pairs: Iterable[tuple[Float[np.ndarray, " positions"], Float[np.ndarray, " positions"]]],
        inverse: Int[np.ndarray, " positions"],
        documents: int,
    ) -> RankCorrelations:
        """``inverse`` numbers the documents from 0 as ``bootstrap.cluster`` does; all finite."""
        sizes = np.bincount(inverse, minlength=documents).astype(np.float64)
        rho, moves = [], []
        for x, y in pairs:
            one, of_documents = float("nan"), np.zeros(documents)
            if x.size > 1 and x.min() < x.max() and y.min() < y.max():
                one, of_documents = influence(x, y, inverse, documents)
            rho.append(one)
            moves.append(_moves(one, of_documents, sizes))
        return RankCorrelations(
            np.array(rho), np.stack(moves) if moves else np.zeros((0, documents)), sizes
        )

    def rows(self, chosen: Sequence[int] | slice) -> RankCorrelations:
        """Some of the pairs."""
        return RankCorrelations(self.rho[chosen], self.moves[chosen], self.sizes)

    def estimates(self, *, resamples: int = RESAMPLES, seed: int = 0) -> tuple[Estimate, ...]:
        """Each rho with its own interval, ``tanh(atanh(rho) - t * error)`` (theory §2).

        The error and its t are the studentised bootstrap's of ``moves`` over the documents.
        """
        over = np.broadcast_to(self.sizes, self.moves.shape)
        some = self._moved
        found = studentised(self.moves[some], over[some], resamples=resamples, seed=seed)
        ends = [found.ends(i) for i in range(int(some.sum()))]
        return self._with_ends(ends)

    def together(self, *, resamples: int = RESAMPLES, seed: int = 0) -> tuple[Estimate, ...]:
        """Each rho with intervals that hold all their truths at once in 95 %.

        See ``simultaneous.simultaneous_means``; the same scale and errors as ``estimates``, and no
        end nearer than there.
        """
        some, alone = self._moved, self.estimates(resamples=resamples, seed=seed)
        ends: list[tuple[float | None, float | None]] = []
        if some.any():
            shift = self._scaled[some]
            sums = Sums(self.moves[some] + shift[:, None] * self.sizes, self.sizes)
            means = simultaneous_means([sums], resamples=resamples, seed=seed)
            ends = [
                (None, None) if one.low is None or one.high is None else (one.low - z, one.high - z)
                for one, z in zip(means, shift.tolist(), strict=True)
            ]
        found = self._with_ends(ends)
        return tuple(map(_hull, found, alone))

    def draws(
        self, *, resamples: int = RESAMPLES, seed: int = 0
    ) -> Float[np.ndarray, "resamples k"]:
        """All rhos in each resample of the documents, to first order; none of fewer than two."""
        if len(self.sizes) < 2:
            return np.zeros((0, len(self.rho)))
        sums = np.concatenate([self.moves, self.sizes[None]])
        drawn = bootstrap_sums(sums, resamples=resamples, seed=seed)
        moved = np.tanh(self._scaled + drawn[:, :-1] / drawn[:, -1:])
        return np.where(self._moved, moved, self.rho)

    @property
    def _moved(self) -> Bool[np.ndarray, " k"]:
        """Which pairs have a correlation that documents move."""
        moved: Bool[np.ndarray, " k"] = 1 - self.rho**2 >= PERFECT
        return moved

    @property
    def _scaled(self) -> Float[np.ndarray, " k"]:
        """Fisher's z of the rhos that documents move."""
        scaled: Float[np.ndarray, " k"] = np.arctanh(np.where(self._moved, self.rho, 0.0))
        return scaled

    def _with_ends(self, ends: Sequence[tuple[float | None, float | None]]) -> tuple[Estimate, ...]:
        """The estimates, from how far the ends of those that documents move lie from Fisher's z."""
        n, documents = int(self.sizes.sum()), len(self.sizes)
        reason = "one of the two is the same at every position"
        if n < 2:
            reason = f"a correlation needs 2 positions, got {n}"
        found, left = [], iter(ends)
        for rho, moved in zip(self.rho.tolist(), self._moved.tolist(), strict=True):
            low: float | None = rho
            high: float | None = rho
            if np.isnan(rho):
                found.append(Estimate(None, n=n, reason=reason))
                continue
            if moved:
                low, high = next(left)
            if documents < 2 or low is None or high is None:
                low = high = None
            elif moved:
                z = np.arctanh(rho)
                low, high = float(np.tanh(z + low)), float(np.tanh(z + high))
            found.append(Estimate(rho, low, high, n=n, documents=documents))
        return tuple(found)


def _moves(
    rho: float, moves: Float[np.ndarray, " documents"], sizes: Float[np.ndarray, " documents"]
) -> Float[np.ndarray, " documents"]:
    """``RankCorrelations.moves`` of one pair, 0 where no document moves anything."""
    if not 1 - rho**2 >= PERFECT or len(sizes) < 2:
        return np.zeros_like(moves)
    part = sizes / sizes.sum()
    found = moves / (1 - rho**2) / (1 - part)
    centred: Float[np.ndarray, " documents"] = found - found.sum() * part
    return centred


def _hull(one: Estimate, other: Estimate) -> Estimate:
    """An estimate with the farther ends of two, where both have them."""
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return one
    return replace(one, low=min(one.low, other.low), high=max(one.high, other.high))
