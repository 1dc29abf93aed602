"""Whether the margins of one audit foretell which decisions another head will flip."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from unembed.decisions.audit.finite_rows import FiniteRows
from unembed.decisions.comparison.movement import (
    MarginColumns,
    MarginPair,
    held_margins,
    margin_pairs,
)
from unembed.short_repr import ShortRepr
from unembed.stats.bootstrap import (
    RESAMPLES,
    add_by_document,
    interval,
    ratio_of_totals,
    totals_and_resamples,
)
from unembed.stats.estimate import Estimate
from unembed.stats.resampled import Rows, read_quantiles

GapReader = Callable[[], Iterable[tuple[MarginPair, np.ndarray]]]
"""Reads positions with how far each candidate lies behind top-1 before, in logits."""
WideReader = Callable[[], Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]]
"""Reads margins before and after, and the number of each one's document."""

CHANCE_EDGES = (0.0, 1e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 1.0)
"""Bins of the predicted chance of a flip, ``low <= chance < high``; the last holds 1 too.

Most chances are small: tenths of the positions would all but one lie near 0. A runner-up alone has
a chance of at most 1/2, which only a margin of 0 reaches.
"""

NODES = 16
"""Nodes of the quadrature over the noise of the top logit: error below 1e-5 in the chance with the
five candidates that an audit keeps by default, up to 1e-3 with 64."""

NEGLIGIBLE = 6.5
"""Where all candidates lie this many s behind, the chance, below 1e-10 for each, is taken as 0."""

FEWEST = 10
"""Fewest positions to take s from: of one alone, the common factor leaves no noise."""

CHUNK_ROWS = 1 << 15
"""Positions whose chances are computed at a time; changes memory, never a result."""

MAD_TO_DEVIATION = 1.482602218505602
"""Standard deviation of a normal distribution over its median absolute deviation."""


@dataclass(frozen=True)
class ChanceBin(ShortRepr):
    """Positions with ``low <= chance < high``: the mean predicted chance, and the share flipped."""

    low: float
    high: float
    n: int
    predicted: Estimate
    observed: Estimate


@dataclass(frozen=True)
class FlipPrediction(ShortRepr):
    """Predicted and observed share of positions with another top-1, see ``predict_flips``.

    ``noise`` is s, in logits of the audit before, ``scale`` the common factor of the margins;
    ``noise.n`` counts the positions that both come from. ``candidates`` is how many tokens could
    overtake: 1, the runner-up, or k - 1. ``bins`` is empty where ``bins_reason`` says why.
    """

    scale: Estimate
    noise: Estimate
    candidates: int
    predicted: Estimate
    observed: Estimate
    difference: Estimate
    bins: tuple[ChanceBin, ...]
    bins_reason: str | None


def flip_chance(
    gaps: Float[np.ndarray, "positions candidates"], noise: float
) -> Float[np.ndarray, " positions"]:
    """Chance that normal noise on the logits makes one of the candidates overtake top-1.

    ``gaps[:, j] >= 0`` is how far candidate j lies behind, in logits; ``noise`` the standard
    deviation s of the noise in the difference of two logits. One candidate: ``Phi(-gap / s)``.
    More: independent noise of variance ``s ** 2 / 2`` on each logit, ``s1 = s / sqrt(2)`` and
    ``1 - E_z[prod_j Phi(z + gap_j / s1)]``, z standard normal, by Gauss-Hermite quadrature. Without
    noise the chance is 0. Source: theory §6, flips under Gaussian logit noise.
    """
    if noise == 0 or gaps.shape[1] == 0:
        return np.zeros(len(gaps))
    chance = np.empty(len(gaps))
    for start in range(0, len(gaps), CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        behind = torch.from_numpy(gaps[rows].astype(np.float64) / noise)
        if gaps.shape[1] == 1:
            chance[rows] = torch.special.ndtr(-behind[:, 0]).numpy()
        else:
            chance[rows] = _union(behind * math.sqrt(2))
    return chance


def predict_flips(
    before: MarginColumns,
    after: MarginColumns,
    doc: Int[np.ndarray, " positions"],
    *,
    topk_logits: Float[np.ndarray, "positions k"] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> FlipPrediction:
    """Predict the flips of columns in memory, see ``read_prediction``.

    ``topk_logits`` are the k largest logits of the audit before. Raises ``ValueError`` where
    lengths differ, k < 2 or logits ascend.
    """
    more = {}
    if topk_logits is not None:
        more["topk_logits"] = topk_logits
        if topk_logits.ndim != 2 or len(topk_logits) != doc.size or topk_logits.shape[1] < 2:
            raise ValueError(
                f"topk_logits must be [{doc.size}, k] with k of 2 or more, got {topk_logits.shape}"
            )
    rows = held_margins(before, after, doc, **more)
    k = 0 if topk_logits is None else topk_logits.shape[1]
    return read_prediction(rows, k, resamples=resamples, seed=seed)


def read_prediction(
    rows: FiniteRows, k: int, *, resamples: int = RESAMPLES, seed: int = 0
) -> FlipPrediction:
    """Predict from the margins before and one number how many top-1 flip, and count (theory §4).

    The number is s, the size of the logit noise between the two audits. The prediction for a
    position is ``flip_chance`` of its margin: a lower bound, for others than the runner-up may
    overtake too. With k of 2 or more, and the k largest logits of the audit before in the column
    ``topk_logits``, in descending order, each of the k - 1 candidates may, and the bound is closer.

    s is estimated where margins are wide: flips are where noise was large, so that what is left of
    the narrow margins has little of it. Of the positions whose margin before is the median or more
    and whose top-1 and top-2 kept their places, with the common factor ``scale = median(after) /
    median(before)``, which flips nothing, taken out: ``s = 1.4826 median(abs(after / scale -
    before))``. It is robust: rare large changes do not move it, and flips that they make are not
    predicted. It is biased downward where s is not small beside the median margin, and, by some
    percent, for a runner-up that keeps its place before a close third is one that noise favoured:
    with three logits or more, only positions count whose runner-up leads by the median or more.

    The interval of the prediction resamples documents and, with them, s; ``scale`` is held, and
    between the least, the measured and the largest s the prediction is interpolated. ``difference``
    is observed - predicted.
    Raises ``ValueError`` where logits ascend.
    """
    how = {"resamples": resamples, "seed": seed}
    documents, candidates = rows.documents, max(1, k - 1)

    def gaps() -> Iterator[tuple[MarginPair, Float[np.ndarray, "_ candidates"]]]:
        if k < 2:
            for pair in margin_pairs(rows):
                yield pair, pair.before.margin.astype(np.float64)[:, None]
            return
        for pair, (_, logits) in zip(margin_pairs(rows), rows.parts("topk_logits"), strict=True):
            yield pair, _gaps(logits[:, :k])

    scale, noise, draws = _noise(_wide(gaps, candidates), documents, **how)
    if noise.value is None:
        sums = np.zeros((2, documents))
        for pair in margin_pairs(rows):
            add_by_document(sums[0], ~pair.same, pair.inverse)
            add_by_document(sums[1], np.ones(pair.inverse.size), pair.inverse)
        totals = totals_and_resamples(sums, **how)
        observed = ratio_of_totals(totals[:, 0], totals[:, 1], documents)
        nothing = Estimate(None, n=observed.n, reason=noise.reason)
        return FlipPrediction(
            scale, noise, candidates, nothing, observed, nothing, (), noise.reason
        )
    known = draws[np.isfinite(draws)]
    grid = np.unique([noise.value, known.min(initial=noise.value), known.max(initial=noise.value)])
    count = len(CHANCE_EDGES) - 1
    sums = np.zeros((2 + len(grid), documents))
    binned = np.zeros((3, documents * count))
    for pair, behind in gaps():
        chance = flip_chance(behind, noise.value)
        flipped, ones = (~pair.same).astype(np.float64), np.ones(len(chance))
        predicted = [chance if s == noise.value else flip_chance(behind, s) for s in grid.tolist()]
        for total, values in zip(sums, (flipped, ones, *predicted), strict=True):
            add_by_document(total, values, pair.inverse)
        within = np.clip(np.searchsorted(CHANCE_EDGES, chance, side="right") - 1, 0, count - 1)
        for total, values in zip(binned, (ones, chance, flipped), strict=True):
            add_by_document(total, values, pair.inverse * count + within)
    in_columns = [total.reshape(documents, count).T for total in binned]
    totals = totals_and_resamples(np.concatenate([sums, *in_columns]), **how)
    flips, size = totals[:, 0], totals[:, 1]
    at_grid, in_bins = totals[:, 2 : 2 + len(grid)], totals[:, 2 + len(grid) :]
    own = at_grid[:1, np.searchsorted(grid, noise.value)]
    expected = np.concatenate([own, _interpolated(at_grid[1:], grid, draws)])
    bins = _bins(in_bins, documents) if noise.value > 0 else ()
    reason = "without noise every chance is 0: there is nothing to put in bins"
    return FlipPrediction(
        scale=scale,
        noise=noise,
        candidates=candidates,
        predicted=ratio_of_totals(expected, size, documents),
        observed=ratio_of_totals(flips, size, documents),
        difference=ratio_of_totals(flips - expected, size, documents),
        bins=bins,
        bins_reason=None if bins else reason,
    )


def _bins(totals: Float[np.ndarray, "rows columns"], documents: int) -> tuple[ChanceBin, ...]:
    counts, chances, hits = np.split(totals, 3, axis=1)
    return tuple(
        ChanceBin(
            low=low,
            high=high,
            n=int(counts[0, b]),
            predicted=ratio_of_totals(chances[:, b], counts[:, b], documents),
            observed=ratio_of_totals(hits[:, b], counts[:, b], documents),
        )
        for b, (low, high) in enumerate(itertools.pairwise(CHANCE_EDGES))
    )


def _gaps(logits: Float[np.ndarray, "_ k"]) -> Float[np.ndarray, "_ candidates"]:
    exact = logits.astype(np.float64)
    if not (np.diff(exact, axis=1) <= 0).all():
        raise ValueError("topk_logits must be numbers in descending order in every row")
    return exact[:, :1] - exact[:, 1:]


def _wide(gaps: GapReader, candidates: int) -> WideReader:
    """Reads the margins, before and after, and the documents of the positions that s is from."""

    def leads() -> Iterator[list[Rows]]:
        for pair, behind in gaps():
            nowhere = np.zeros(len(behind), dtype=np.intp)
            columns = [pair.before.margin.astype(np.float64)]
            if candidates >= 2:
                columns.append(behind[:, 1] - behind[:, 0])
            yield [(values, nowhere) for values in columns]

    found = read_quantiles(leads, [(0.5,)] * min(2, candidates), 1)
    middle = [one.rows[0, 0] for one in found]

    def read() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for pair, behind in gaps():
            margin, moved = pair.measures[0]
            wide = pair.kept & (margin >= middle[0])
            if candidates >= 2:
                wide &= behind[:, 1] - behind[:, 0] >= middle[1]
            yield margin[wide], moved[wide], pair.inverse[wide]

    return read


def _noise(
    read: WideReader, documents: int, *, resamples: int, seed: int
) -> tuple[Estimate, Estimate, Float[np.ndarray, " resamples"]]:
    """Scale, s, and s in every resample, from positions with wide margins."""

    def both() -> Iterator[list[Rows]]:
        for margin, moved, inverse in read():
            nowhere = np.zeros(len(inverse), dtype=np.intp)
            yield [(margin, nowhere), (moved, nowhere)]

    medians = read_quantiles(both, [(0.5,)] * 2, 1)
    n, (before, after) = medians[0].n, (float(one.rows[0, 0]) for one in medians)
    if n < FEWEST:
        reason = f"the noise is unknown: {n} wide margins kept top-1 and top-2, it takes {FEWEST}"
        nothing = Estimate(None, n=n, reason=reason)
        return nothing, nothing, np.zeros(0)
    if not (before > 0 and after > 0):
        nothing = Estimate(None, n=n, reason="the noise is unknown: half of the margins are 0")
        return nothing, nothing, np.zeros(0)
    factor = after / before

    def columns() -> Iterator[list[Rows]]:
        for margin, moved, inverse in read():
            change = np.abs(moved / factor - margin)
            yield [(change, inverse), (moved, inverse), (margin, inverse)]

    how = {"resamples": resamples, "seed": seed}
    spread, above, below = (
        one.rows[:, 0] for one in read_quantiles(columns, [(0.5,)] * 3, documents, **how)
    )
    draws = MAD_TO_DEVIATION * spread
    factors = above[1:] / np.where(below[1:] > 0, below[1:], np.nan)
    return (
        Estimate(factor, *interval(factors, documents), n=n, documents=documents),
        Estimate(float(draws[0]), *interval(draws[1:], documents), n=n, documents=documents),
        draws[1:],
    )


def _union(behind: torch.Tensor) -> Float[np.ndarray, " positions"]:
    """``1 - E_z[prod_j Phi(z + behind_j)]`` for rows of gaps in units of one logit's noise."""
    chance = torch.zeros(len(behind), dtype=torch.float64)
    near = behind.min(dim=1).values < NEGLIGIBLE * math.sqrt(2)
    close = behind[near]
    points, weights = np.polynomial.hermite_e.hermegauss(NODES)
    total = torch.zeros(len(close), dtype=torch.float64)
    for point, weight in zip(points.tolist(), (weights / weights.sum()).tolist(), strict=True):
        total += weight * (1 - torch.special.ndtr(point + close).prod(dim=1))
    chance[near] = total
    found: Float[np.ndarray, " positions"] = chance.numpy()
    return found


def _interpolated(
    totals: Float[np.ndarray, "resamples columns"],
    grid: Float[np.ndarray, " grid"],
    at: Float[np.ndarray, " resamples"],
) -> Float[np.ndarray, " resamples"]:
    """The total of each resample at its own s, between the totals at the values of the grid."""
    if len(grid) == 1:
        alone: Float[np.ndarray, " resamples"] = np.where(np.isfinite(at), totals[:, 0], np.nan)
        return alone
    index = np.clip(np.searchsorted(grid, np.nan_to_num(at)) - 1, 0, len(grid) - 2)
    rows = np.arange(at.size)
    t = (at - grid[index]) / (grid[index + 1] - grid[index])
    lower, upper = totals[rows, index], totals[rows, index + 1]
    between: Float[np.ndarray, " resamples"] = lower + t * (upper - lower)
    return between
