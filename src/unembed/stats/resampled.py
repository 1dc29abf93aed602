"""Quantiles of every resample of the documents, from values that are read a part at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int

from unembed.stats.bootstrap import RESAMPLES, interval, resample_weights
from unembed.stats.estimate import Estimate
from unembed.stats.quantiles import COUNTS_ELEMENTS, interpolate

LADDER_STEPS = 24
"""Blocks in which to look for a quantile of a resample; changes time, never a result."""

FARTHEST = 20.0
"""Standard errors from a quantile at which its outermost blocks end, where there are enough."""

STEP_POSITIONS = 1 << 20
"""Values from which on there are more blocks; changes memory and time, never a result."""

LOOK_UP_ELEMENTS = 1 << 20
"""Weights gathered at a time, 8 MiB of float64; changes memory, never a result."""

THINNED = 1 << 18
"""Values by which the blocks are chosen, every k-th of all; changes time, never a result."""

Rows = tuple[Float[np.ndarray, " n"], Int[np.ndarray, " n"]]
"""Values, with the number of each one's document."""

RowsReader = Callable[[], Iterable[Rows]]
"""Reads all positions from the first on, a part at a time."""

Reader = Callable[[], Iterable[Sequence[Rows]]]
"""Reads all positions from the first on: a part at a time, and of each the rows of every sample."""


@dataclass(frozen=True)
class Sample:
    """Values with the number of each one's document, and the levels of the quantiles asked for."""

    values: Float[np.ndarray, " n"]
    inverse: Int[np.ndarray, " n"]
    levels: tuple[float, ...]


@dataclass(frozen=True)
class Quantiles:
    """Quantiles of the ``n`` values in the first row, and in the rows below of each resample.

    A row is NaN where there is no value. The first row is alone where there are fewer than two
    documents to resample.
    """

    rows: Float[np.ndarray, "rows k"]
    n: int
    documents: int

    def estimates(self) -> tuple[Estimate, ...]:
        """Each quantile with its document-bootstrap interval (theory §2, §4)."""
        if self.n == 0:
            return tuple(
                Estimate(None, reason="no position to take a quantile of") for _ in self.rows.T
            )
        return tuple(
            Estimate(
                float(found[0]),
                *interval(found[1:], self.documents),
                n=self.n,
                documents=self.documents,
            )
            for found in self.rows.T
        )


def quantile_estimates(
    values: Float[np.ndarray, " positions"],
    inverse: Int[np.ndarray, " positions"],
    documents: int,
    levels: Sequence[float],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[Estimate, ...]:
    """Estimate quantiles, each with its document-bootstrap interval (theory §2, §4).

    ``np.quantile(values, levels)`` in float64, in the unit of the values, which must be finite.
    ``inverse`` numbers the documents from 0 as ``bootstrap.cluster`` does.
    """
    rows = [(values, inverse)]
    how = {"resamples": resamples, "seed": seed}
    [found] = read_quantiles(lambda: [rows], [tuple(levels)], documents, **how)
    return found.estimates()


def quantile_draws(
    samples: Sequence[Sample], documents: int, *, resamples: int = RESAMPLES, seed: int = 0
) -> list[Float[np.ndarray, "resamples k"]]:
    """Quantiles of every resample of values in memory, NaN where it holds no value.

    The draws of ``quantiles.resampled_quantiles`` on the resamples of ``resample_weights``, to the
    last bit.
    """
    rows = [(sample.values, sample.inverse) for sample in samples]
    levels = [sample.levels for sample in samples]
    found = read_quantiles(lambda: [rows], levels, documents, resamples=resamples, seed=seed)
    # Every resample of one document is that document.
    return [one.rows[1:] if documents >= 2 else one.rows.repeat(resamples, axis=0) for one in found]


def read_quantiles(
    read: Reader,
    levels: Sequence[tuple[float, ...]],
    documents: int,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Quantiles]:
    """Quantiles of several samples and of every resample of their documents, in three readings.

    A row is ``np.quantile(np.repeat(values, weights[document]), levels)``, to the last bit, and
    all weights are 1 in the first. The first reading chooses blocks of values, narrow only where a
    quantile of a resample is likely to lie; the second counts the values of each document in each
    block, which says in what block each quantile lies; the third keeps the values of those blocks.
    What is held grows with the documents, and with the values only as their standard error does.
    """
    resamples = resamples if documents >= 2 else 0
    # Many samples share what two may take.
    room = 2 * COUNTS_ELEMENTS // max(2, len(levels))
    edges = [_edges(*one, room) for one in _thinned(read, levels, documents)]
    ladders = _counted(read, edges, documents)
    places = [
        _Places(ladder, at, 1 + resamples) for ladder, at in zip(ladders, levels, strict=True)
    ]
    for rows, weights in _weights(documents, resamples, seed):
        for one in places:
            one.locate(rows, weights)
    stores = _gathered(read, ladders, [one.wanted() for one in places], documents)
    for rows, weights in _weights(documents, resamples, seed):
        padded = np.concatenate([weights, np.zeros((len(weights), 1))], axis=1)
        for one, store in zip(places, stores, strict=True):
            one.look_up(rows, padded, store)
    return [Quantiles(one.found, one.ladder.n, documents) for one in places]


def plain_quantiles(read: RowsReader, *levels: float) -> Float[np.ndarray, " k"]:
    """``np.quantile(values, levels)`` of values that are read a part at a time; NaN of none."""

    def as_one_document() -> Iterable[Sequence[Rows]]:
        for values, _ in read():
            yield [(values, np.zeros(len(values), dtype=np.intp))]

    found: Float[np.ndarray, " k"] = read_quantiles(as_one_document, [levels], 1)[0].rows[0]
    return found


def _weights(
    documents: int, resamples: int, seed: int
) -> Iterable[tuple[slice, Float[np.ndarray, "rows documents"]]]:
    """Weight 1 for each document, then the resamples."""
    yield slice(0, 1), np.ones((1, documents))
    start = 1
    if resamples:
        for weights in resample_weights(documents, resamples=resamples, seed=seed):
            yield slice(start, start + len(weights)), weights
            start += len(weights)


@dataclass
class _Thinned:
    """Every k-th value that was read, k a power of two such that at most twice THINNED are held."""

    step: int = 1
    n: int = 0
    held: list[Rows] = field(default_factory=list)
    size: int = 0

    def read(self, rows: Rows) -> None:
        values, inverse = (column[-self.n % self.step :: self.step].copy() for column in rows)
        self.n += len(rows[0])
        self.held.append((values, inverse))
        self.size += len(values)
        while self.size > 2 * THINNED:
            values, inverse = (column[::2].copy() for column in self.columns())
            self.held, self.size, self.step = [(values, inverse)], len(values), 2 * self.step

    def columns(self) -> Rows:
        if not self.held:
            return np.zeros(0), np.zeros(0, dtype=np.intp)
        values, inverse = (np.concatenate(column) for column in zip(*self.held, strict=True))
        return values, inverse


def _thinned(
    read: Reader, levels: Sequence[tuple[float, ...]], documents: int
) -> list[tuple[_Thinned, tuple[float, ...], int]]:
    samples = [_Thinned() for _ in levels]
    for part in read():
        for sample, rows in zip(samples, part, strict=True):
            sample.read(rows)
    return [(sample, at, documents) for sample, at in zip(samples, levels, strict=True)]


def _edges(
    sample: _Thinned, levels: tuple[float, ...], documents: int, room: int
) -> Float[np.ndarray, " _"]:
    """Ascending values that part the blocks; a block begins with the value that is its edge.

    There are at most about ``room`` counts of a block and a document.
    """
    values, inverse = sample.columns()
    m = len(values)
    if m == 0:
        return np.zeros(0)
    order = np.argsort(values, kind="stable")
    owners = inverse[order]
    size = np.bincount(owners, minlength=documents)
    most = LADDER_STEPS * max(1, sample.n // STEP_POSITIONS)
    steps = int(np.clip(room // max(1, documents) // (len(levels) + 1), 1, most))
    cuts = [np.linspace(0, m, min(steps, LADDER_STEPS) // 4 + 2)]
    for level in levels:
        middle = level * m
        below = np.bincount(owners[: int(middle)], minlength=documents)
        # Square of the standard error of how many values of a resample lie below the quantile, less
        # what thinning adds to it.
        square = float(((below - level * size) ** 2).sum())
        chance = m * level * (1 - level)
        error = math.sqrt(max(square - chance * (1 - 1 / sample.step), square / sample.step))
        cuts.append(middle + error * _spread(steps))
    at = np.clip(np.rint(np.concatenate(cuts)), 0, m - 1).astype(np.intp)
    return np.unique(values[order[np.unique(at)]])


def _spread(steps: int) -> Float[np.ndarray, " _"]:
    """Ends of so many blocks about a quantile, in standard errors: narrow near it, and far out.

    Of thousands of resamples some quantile lies past four standard errors. Did no block end there,
    all values up to the next level would be kept for it.
    """
    reach = min(max(3.5, 2.5 * steps), FARTHEST)
    ends: Float[np.ndarray, " _"] = np.sinh(np.linspace(-4, 4, steps + 1)) * (reach / np.sinh(4))
    return ends


@dataclass(frozen=True)
class _Ladder:
    """``counts[d, b]`` is how many values of document d lie in block b, of n values in all.

    Block b holds the values from ``edges[b - 1]`` on and below ``edges[b]``.
    """

    edges: Float[np.ndarray, " edges"]
    counts: Float[np.ndarray, "documents blocks"]
    n: int

    def block_of(self, values: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        found: Int[np.ndarray, " n"] = np.searchsorted(self.edges, values, side="right")
        return found


def _counted(
    read: Reader, edges: Sequence[Float[np.ndarray, " _"]], documents: int
) -> list[_Ladder]:
    counts = [np.zeros(documents * (len(one) + 1), dtype=np.int64) for one in edges]
    for part in read():
        for (values, inverse), cut, count in zip(part, edges, counts, strict=True):
            if len(values):
                first, last = int(inverse.min()), int(inverse.max())
                width = len(cut) + 1
                cell = (inverse - first) * width + np.searchsorted(cut, values, side="right")
                some = np.bincount(cell, minlength=(last - first + 1) * width)
                count[first * width : (last + 1) * width] += some
    ladders = []
    for cut, count in zip(edges, counts, strict=True):
        table = count.reshape(documents, len(cut) + 1)
        most = int(table.sum(axis=1).max(initial=0))
        exact = np.float32 if documents * most < 1 << 24 else np.float64
        ladders.append(_Ladder(cut, table.astype(exact), int(table.sum())))
    return ladders


@dataclass(frozen=True)
class _Store:
    """The values of some blocks, ascending; ``times`` how often each is there, if not once.

    ``first`` and ``width`` are those of each block of the ladder, a width of 0 of one not kept.
    ``owners`` is padded with the number ``documents``, which every resample weighs 0.
    """

    values: Float[np.ndarray, " kept"]
    owners: Int[np.ndarray, " padded"]
    times: Float[np.ndarray, " padded"] | None
    first: Int[np.ndarray, " blocks"]
    width: Int[np.ndarray, " blocks"]


def _gathered(
    read: Reader,
    ladders: Sequence[_Ladder],
    wanted: Sequence[Bool[np.ndarray, " _"]],
    documents: int,
) -> list[_Store]:
    piles = [_Pile() for _ in ladders]
    for part in read():
        for (values, inverse), ladder, some, pile in zip(part, ladders, wanted, piles, strict=True):
            held = some[ladder.block_of(values)]
            pile.add(values[held], inverse[held])
    return [_store(pile, ladder, documents) for pile, ladder in zip(piles, ladders, strict=True)]


@dataclass
class _Pile:
    """Values and documents that were kept; many equal ones of a document are kept as one."""

    pieces: list[tuple[np.ndarray, ...]] = field(default_factory=list)
    size: int = 0
    limit: int = 1 << 20

    def add(self, values: Float[np.ndarray, " n"], owners: Int[np.ndarray, " n"]) -> None:
        if len(values):
            times = np.ones(len(values), dtype=np.int32)
            self.pieces.append((values, owners.astype(np.int32), times))
            self.size += len(values)
        if self.size > self.limit:
            self.sort()
            self.limit = max(self.limit, 2 * self.size)

    def sort(self) -> None:
        """Bring the pieces in order, equal values of a document in one."""
        if not self.pieces:
            return
        values, owners, times = (np.concatenate(one) for one in zip(*self.pieces, strict=True))
        self.pieces = []
        order = np.lexsort((owners, values))
        values, owners, times = values[order], owners[order], times[order]
        new = np.concatenate([[True], (values[1:] != values[:-1]) | (owners[1:] != owners[:-1])])
        if not new.all():
            first = np.flatnonzero(new)
            values, owners, times = values[first], owners[first], np.add.reduceat(times, first)
        self.pieces, self.size = [(values, owners, times)], len(values)


def _store(pile: _Pile, ladder: _Ladder, documents: int) -> _Store:
    pile.sort()
    blocks = len(ladder.edges) + 1
    if not pile.pieces:
        nothing = np.zeros(blocks, dtype=np.intp)
        return _Store(np.zeros(0), np.zeros(0, dtype=np.int32), None, nothing, nothing)
    [(values, owners, times)] = pile.pieces
    width = np.bincount(ladder.block_of(values), minlength=blocks)
    padding = int(width.max())
    once = bool((times == 1).all())
    return _Store(
        values=values.astype(np.float64),
        owners=np.concatenate([owners, np.full(padding, documents, dtype=np.int32)]),
        times=None if once else np.concatenate([times, np.zeros(padding)]).astype(np.float64),
        first=np.cumsum(width) - width,
        width=width,
    )


class _Places:
    """Where the quantiles of each row lie: a block, and how many values of it come before."""

    def __init__(self, ladder: _Ladder, levels: tuple[float, ...], rows: int) -> None:
        shape = (rows, len(levels))
        self.ladder, self.levels = ladder, levels
        self.block = np.zeros((2, *shape), dtype=np.int32)
        self.left = np.zeros((2, *shape))
        self.part = np.zeros(shape)
        self.exists = np.zeros(rows, dtype=np.bool_)
        self.found = np.full(shape, np.nan)

    def locate(self, rows: slice, weights: Float[np.ndarray, "rows documents"]) -> None:
        """Find the blocks of the two order statistics that each quantile lies between."""
        counts = self.ladder.counts
        # Sums of whole numbers that the dtype holds: exact in any order of summation.
        drawn = weights.astype(counts.dtype, copy=False) @ counts
        cumulative = np.zeros((len(weights), counts.shape[1] + 1))
        np.cumsum(drawn, axis=1, out=cumulative[:, 1:])
        self.exists[rows] = cumulative[:, -1] > 0
        last = np.maximum(cumulative[:, -1] - 1, 0)
        each = np.arange(len(weights))
        for k, level in enumerate(self.levels):
            position = last * level
            whole = np.floor(position)
            self.part[rows, k] = position - whole
            for end, rank in enumerate((whole, np.minimum(whole + 1, last))):
                block = np.minimum(
                    (cumulative <= rank[:, None]).sum(axis=1) - 1, counts.shape[1] - 1
                )
                self.block[end, rows, k] = block
                self.left[end, rows, k] = rank - cumulative[each, block]

    def wanted(self) -> Bool[np.ndarray, " blocks"]:
        """The blocks in which some quantile lies."""
        some = np.zeros(self.ladder.counts.shape[1], dtype=np.bool_)
        some[self.block[:, self.exists].ravel()] = True
        return some

    def look_up(
        self, rows: slice, weights: Float[np.ndarray, "rows documents_1"], store: _Store
    ) -> None:
        """Find the quantiles of these rows among the values of their blocks."""
        some = np.flatnonzero(self.exists[rows])
        whole = rows.start + some
        for k in range(len(self.levels)):
            block, left = self.block[:, whole, k], self.left[:, whole, k]
            low, high = _at(store, weights[some], block[0], left[0], left[1])
            beyond = np.flatnonzero(block[1] != block[0])
            if beyond.size:
                ranks = left[1, beyond]
                high[beyond] = _at(store, weights[some[beyond]], block[1, beyond], ranks, ranks)[0]
            self.found[whole, k] = interpolate(low, high, self.part[whole, k])


def _at(
    store: _Store,
    weights: Float[np.ndarray, "rows documents_1"],
    block: Int[np.ndarray, " rows"],
    lower: Float[np.ndarray, " rows"],
    upper: Float[np.ndarray, " rows"],
) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
    """Two order statistics of each row, by how many values of the block come before them."""
    width = store.width[block]
    found = np.empty((2, len(block)))
    order = np.argsort(width, kind="stable")
    done = 0
    while done < len(order):
        cost = np.arange(1, len(order) - done + 1) * width[order[done:]]
        fits = max(1, int(np.searchsorted(cost, LOOK_UP_ELEMENTS, side="right")))
        some = order[done : done + fits]
        done += fits
        first = store.first[block[some]]
        reach = first[:, None] + np.arange(width[some[-1]])
        inside = weights[some[:, None], store.owners[reach]]
        if store.times is not None:
            inside *= store.times[reach]
        np.cumsum(inside, axis=1, out=inside)
        for into, ranks in zip(found, (lower, upper), strict=True):
            offset = (inside <= ranks[some, None]).sum(axis=1)
            into[some] = store.values[first + np.minimum(offset, width[some] - 1)]
    return found[0], found[1]
