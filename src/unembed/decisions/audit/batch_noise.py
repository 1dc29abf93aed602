"""What other batches change: flips of the greedy token, foretold by margin and rounding step."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from unembed.decisions.audit.finite_rows import FiniteRows
from unembed.decisions.audit.recompute import Flips, RecomputeBelow, recompute_below
from unembed.decisions.audit.rounding import NATIVE_FINITE
from unembed.decisions.names import MARGIN_BANDS
from unembed.short_repr import ShortRepr
from unembed.stats.bootstrap import RESAMPLES, add_by_document, ratio_estimates
from unembed.stats.estimate import Estimate
from unembed.stats.studentised import studentised

COLUMNS = ("batch_top1", "batch_change")
STEP_EDGES = (0.0, 0.5, 1.0, 2.0, 4.0, math.inf)
"""Bins of the margin in rounding steps of the top logit."""
DRAWN = 256
"""Changes that are tried at a position at least, where there are so many."""
PAIRS = 1 << 18
"""Pairs of a position and a change that are tried at a time; changes memory, never a result."""


@dataclass(frozen=True)
class NoiseBin(ShortRepr):
    """Decisions whose float32 margin is ``low`` to ``high`` rounding steps, and their flips.

    ``high`` is None for the last, open bin.
    """

    low: float
    high: float | None
    n: int
    observed: Estimate
    predicted: Estimate


@dataclass(frozen=True)
class BatchNoise(ShortRepr):
    """What ``plans`` further batch plans make of each position's greedy token (theory §1).

    Figures count decisions, one of a position in a plan. ``moved``: the logits are others than in
    the audit's own batch. ``flips``: the greedy token of the model's own logits in ``dtype`` is
    another; ``ever``: the share of positions at which it is in some plan. ``predicted`` is what the
    rule foretells of documents by the others, ``difference`` is flips less predicted, both with
    intervals that hold the rule's own error. ``recompute`` says which margins catch the flips;
    empty where there is none.
    """

    dtype: str
    plans: int
    moved: Estimate
    flips: Estimate
    ever: Estimate
    predicted: Estimate
    difference: Estimate
    bins: tuple[NoiseBin, ...]
    recompute: tuple[RecomputeBelow, ...]

    @property
    def judged(self) -> Literal["as foretold", "more", "fewer", "unknown"]:
        """Whether flips and prediction agree within their interval."""
        low, high = self.difference.low, self.difference.high
        if low is None or high is None:
            return "unknown"
        return "more" if low > 0 else "fewer" if high < 0 else "as foretold"


def batch_noise(
    every: FiniteRows, dtype: str, plans: int, *, resamples: int = RESAMPLES, seed: int = 0
) -> BatchNoise:
    """Count the flips of the further plans, and foretell them from half of the documents.

    The rule: a decision's logits move with the chance with which they do in the other documents,
    and then by the changes of all candidates' logits that some decision there had, drawn together
    from decisions in the same band of margins; the greedy token flips where the moved logits,
    rounded to ``dtype``, have another largest one. Equivalent to::

        for i in positions:
            pool = [v for j in positions if fold(j) != fold(i) and band(j) == band(i)
                    for v in changes[j]]
            predicted[i] = mean(winner(round(logits[i] + v)) != winner(round(logits[i]))
                                for v in pool)

    with ``DRAWN`` to twice as many of the changes other than 0. Documents are in turn in one fold
    and the other. A decision hangs on few of the others' documents, so that the interval adds, to
    each document's own predictions, what it moves in those of others (the linear term of its
    weight). Intervals are studentised over documents.
    """
    rows = every if dtype == "float32" else every.also(NATIVE_FINITE)
    read = _Reading(rows, dtype, plans)
    documents, found = rows.documents, tallied(read)
    how = {"resamples": resamples, "seed": seed}
    moved, flips, ever, predicted, difference = _ratios(found, plans, **how)
    counts = np.tile(found.counts, (2, 1))
    in_bins = ratio_estimates(np.concatenate([found.flips, found.told]), counts, **how)
    bins = len(STEP_EDGES) - 1
    if documents < 2:
        predicted = difference = Estimate(
            None, n=flips.n, reason="one document foretells no other: give a text of several"
        )
        in_bins = (*in_bins[:bins], *[predicted] * bins)
    gates = ("float32",) if dtype == "float32" else ("float32", dtype)
    return BatchNoise(
        dtype=dtype,
        plans=plans,
        moved=moved,
        flips=flips,
        ever=ever,
        predicted=predicted,
        difference=difference,
        bins=tuple(
            NoiseBin(low, high if math.isfinite(high) else None, one.n, one, told)
            for (low, high), one, told in zip(
                itertools.pairwise(STEP_EDGES),
                in_bins[:bins],
                map(_not_negative, in_bins[bins:]),
                strict=True,
            )
        ),
        recompute=recompute_below(found.flipped, read.margins, gates, documents, **how),
    )


def _not_negative(estimate: Estimate) -> Estimate:
    """An interval cut at 0, below which its linear terms may reach."""
    return estimate if estimate.low is None else replace(estimate, low=max(0.0, estimate.low))


@dataclass(frozen=True)
class Tally:
    """Sums by document: positions, decisions moved, positions that flip in some plan; and by bin
    decisions, flips, and those foretold, with what a document moves in the others' predictions.
    """

    positions: Float[np.ndarray, " documents"]
    moved: Float[np.ndarray, " documents"]
    ever: Float[np.ndarray, " documents"]
    counts: Float[np.ndarray, "bins documents"]
    flips: Float[np.ndarray, "bins documents"]
    told: Float[np.ndarray, "bins documents"]
    flipped: Flips


def tallied(read: _Reading) -> Tally:
    """Count what happened and what was foretold, document by document."""
    documents, plans = read.rows.documents, read.plans
    pools = _pools(read)
    alone, in_bins = np.zeros((3, documents)), np.zeros((3, len(STEP_EDGES) - 1, documents))
    found: list[Flips] = []
    for part in read:
        flipped, chance = part.flipped.sum(axis=1), np.zeros(len(part))
        for (fold, band), pool in pools.items():
            some = np.flatnonzero((part.doc % 2 != fold) & (part.band == band))
            chance[some] = pool.chances(part, some, read.dtype)
        ones = np.ones(len(part))
        for total, values in zip(alone, (ones, part.moved.sum(axis=1), flipped > 0), strict=True):
            add_by_document(total, values, part.doc)
        cells = part.steps * documents + part.doc
        for total, values in zip(in_bins, (plans * ones, flipped, plans * chance), strict=True):
            add_by_document(total.reshape(-1), values, cells)
        found.append(Flips.of(flipped, part.doc, part.margin, part.native_margin))
    for pool in pools.values():
        in_bins[2] += plans * pool.influence(documents)
    positions, moved, ever = alone
    counts, flips, told = in_bins
    return Tally(positions, moved, ever, counts, flips, told, Flips.joined(found))


def _ratios(found: Tally, plans: int, *, resamples: int, seed: int) -> list[Estimate]:
    """Shares of decisions that moved and that flipped, of positions that flip in some plan, of
    decisions foretold to flip; and flips less those."""
    flips, told = found.flips.sum(axis=0), found.told.sum(axis=0)
    over = np.tile(plans * found.positions, (5, 1))
    over[2] = found.positions
    if not over.any():
        return [Estimate(None, reason="no position to average over")] * 5
    sums = np.stack([found.moved, flips, found.ever, told, flips - told])
    share = studentised(sums, over, resamples=resamples, seed=seed)
    documents = int(np.count_nonzero(found.positions))
    return [
        Estimate(
            float(share.value[i]),
            *share.ends(i, (-1.0, 1.0) if i == 4 else (0.0, 1.0)),
            n=int(over[i].sum()),
            documents=documents,
        )
        for i in range(5)
    ]


@dataclass(frozen=True)
class _Part:
    """Positions of one part: ``logits`` and ``ids`` of the candidates, best first."""

    doc: Int[np.ndarray, " n"]
    margin: Float[np.ndarray, " n"]
    native_margin: Float[np.ndarray, " n"]
    ids: Int[np.ndarray, "n k"]
    logits: Float[np.ndarray, "n k"]
    changes: Float[np.ndarray, "n plans k"]
    flipped: Bool[np.ndarray, "n plans"]
    step: Float[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.doc)

    @property
    def moved(self) -> Bool[np.ndarray, "n plans"]:
        """Whether any candidate's logit is another in a plan."""
        found: Bool[np.ndarray, "n plans"] = (self.changes != 0).any(axis=2)
        return found

    @property
    def band(self) -> Int[np.ndarray, " n"]:
        """The number of each margin's band."""
        return np.searchsorted(MARGIN_BANDS[1:-1], self.margin, side="right")

    @property
    def steps(self) -> Int[np.ndarray, " n"]:
        """The number of each margin's bin in rounding steps."""
        found: Int[np.ndarray, " n"] = np.searchsorted(
            STEP_EDGES[1:-1], self.margin / self.step, side="right"
        )
        return found


@dataclass(frozen=True)
class _Reading:
    """Reads the columns of the further plans, a part at a time, as often as it is asked."""

    rows: FiniteRows
    dtype: str
    plans: int

    def __iter__(self) -> Iterator[_Part]:
        own = ("top1", "margin") if self.dtype == "float32" else ("native_top1", "native_margin")
        names = ("margin", *own, "topk_ids", "topk_logits", *COLUMNS)
        for doc, margin, top1, native, ids, logits, tops, changes in self.rows.parts(*names):
            k = changes.shape[1] // self.plans
            step = np.exp2(np.floor(np.log2(np.maximum(np.abs(logits[:, 0]), 1e-30))))
            yield _Part(
                doc=doc,
                margin=margin,
                native_margin=native,
                ids=ids[:, :k],
                logits=logits[:, :k],
                changes=changes.reshape(len(doc), self.plans, k),
                flipped=tops != top1[:, None],
                step=step * torch.finfo(getattr(torch, self.dtype)).eps,
            )

    def margins(self, gate: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The margins by which a gate decides, and each one's document."""
        column = "margin" if gate == "float32" else "native_margin"
        for doc, values in self.rows.parts(column):
            yield values, doc


@dataclass
class _Pool:
    """The changes of one fold's decisions in one band, of those whose logits moved.

    ``moved`` and ``counts`` are by document. ``tried[i, v]`` adds up, for the bin i of the
    positions they were tried at, the flips that change v made.
    """

    documents: int
    step: int = 1
    seen: int = 0
    held: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    moved: np.ndarray = field(init=False)
    counts: np.ndarray = field(init=False)
    tried: np.ndarray | None = None

    def __post_init__(self) -> None:
        self.moved, self.counts = np.zeros(self.documents), np.zeros(self.documents)

    def add(self, doc: np.ndarray, moved: np.ndarray, changes: np.ndarray) -> None:
        """Take in positions: every ``step``-th of the changes that are not 0."""
        add_by_document(self.moved, moved.sum(axis=1), doc)
        add_by_document(self.counts, np.full(len(doc), moved.shape[1]), doc)
        owners, vectors = np.broadcast_to(doc[:, None], moved.shape)[moved], changes[moved]
        kept = slice(-self.seen % self.step, None, self.step)
        self.seen += len(owners)
        self.held.append((owners[kept], vectors[kept]))
        while sum(len(one) for one, _ in self.held) > 2 * DRAWN:
            owners, vectors = self.columns
            self.held, self.step = [(owners[::2], vectors[::2])], 2 * self.step

    @property
    def columns(self) -> tuple[np.ndarray, np.ndarray]:
        """The documents of the changes that are held, and the changes."""
        owners, vectors = zip(*self.held, strict=True)
        return np.concatenate(owners), np.concatenate(vectors)

    @property
    def share(self) -> float:
        """The share of decisions whose logits moved."""
        return float(self.moved.sum() / self.counts.sum())

    def chances(self, part: _Part, some: np.ndarray, dtype: str) -> Float[np.ndarray, " some"]:
        """The chance of a flip at these positions."""
        vectors = self.columns[1]
        if self.tried is None:
            self.tried = np.zeros((len(STEP_EDGES) - 1, len(vectors)))
        chance = np.zeros(len(some))
        if not (len(vectors) and len(some)):
            return chance
        gain = float((vectors - vectors[:, :1]).max())
        near = np.flatnonzero(part.margin[some] <= gain + 2 * part.step[some])
        steps = part.steps
        for start in range(0, len(near), max(1, PAIRS // len(vectors))):
            at = near[start : start + max(1, PAIRS // len(vectors))]
            rows = some[at]
            logits = part.logits[rows].astype(np.float64)
            before = _winner(logits, part.ids[rows], dtype)
            after = _winner(logits[:, None] + vectors, part.ids[rows][:, None], dtype)
            flips = after != before[:, None]
            chance[at] = self.share * flips.mean(axis=1)
            for i in np.unique(steps[rows]):
                self.tried[i] += flips[steps[rows] == i].sum(axis=0)
        return chance

    def influence(self, documents: int) -> Float[np.ndarray, "bins documents"]:
        """What each document moves in the others' predictions, by bin: 0 in sum."""
        found = np.zeros((len(STEP_EDGES) - 1, documents))
        if self.tried is None or not self.moved.any():
            return found
        owners, drawn = self.columns[0], self.tried.shape[1]
        chance = self.tried.mean(axis=1)
        found += chance[:, None] * (self.moved - self.share * self.counts) / self.counts.sum()
        for i, flips in enumerate(self.tried):
            add_by_document(found[i], self.share * (flips - chance[i]) / drawn, owners)
        return found


def _pools(read: _Reading) -> dict[tuple[int, int], _Pool]:
    """The changes by fold and band."""
    pools: dict[tuple[int, int], _Pool] = {}
    for part in read:
        fold, band, moved = part.doc % 2, part.band, part.moved
        for key in itertools.product((0, 1), range(len(MARGIN_BANDS) - 1)):
            some = (fold == key[0]) & (band == key[1])
            if some.any():
                pool = pools.setdefault(key, _Pool(read.rows.documents))
                pool.add(part.doc[some], moved[some], part.changes[some])
    return pools


def _winner(
    logits: Float[np.ndarray, "... k"], ids: Int[np.ndarray, "... k"], dtype: str
) -> Int[np.ndarray, " ..."]:
    """The id of the largest logit once rounded, the lowest of equal ones."""
    kind: Any = getattr(torch, dtype)
    rounded = torch.from_numpy(logits.astype(np.float32)).to(kind).float().numpy()
    largest = rounded == rounded.max(axis=-1, keepdims=True)
    found: Int[np.ndarray, " ..."] = np.where(largest, ids, np.iinfo(np.int32).max).min(axis=-1)
    return found
