"""Every number of a ladder: a row for each variant and text, averages, and pairs of variants."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from jaxtyping import Float, Int

from unembed.decisions.comparison.compare import Comparison
from unembed.models.stored_size import WeightBytes
from unembed.runs.arrays import numbers_of
from unembed.runs.frames import Figures
from unembed.short_repr import ShortRepr
from unembed.stats.bootstrap import RESAMPLES, cluster, sums_by_document
from unembed.stats.estimate import Estimate, exponential
from unembed.stats.simultaneous import Sums, simultaneous_means

MEASURES = ("right", "nll", "kl")
"""What variants are compared by: a right token, the target's loss, KL(base‖variant), by position.
"""


@dataclass(frozen=True)
class ModelFacts(ShortRepr):
    """A model of a ladder: what it was made from, and the bytes of its weights.

    ``scheme`` is that of a rounding done here. ``base_tokens`` says that it was given the base's
    tokens where its own tokenizer may split a text otherwise.
    """

    name: str
    model: str
    scheme: str | None
    dtype: str
    digest: str
    bytes: WeightBytes
    base_tokens: bool = False


@dataclass(frozen=True)
class Refused(ShortRepr):
    """A variant that could not be measured, and why."""

    name: str
    model: str
    reason: str


@dataclass(frozen=True)
class LadderText(ShortRepr):
    """A text that every model has read."""

    name: str
    corpus: str
    documents: int
    positions: int


@dataclass(frozen=True)
class LadderRow(ShortRepr):
    """One variant on one text, as its own comparison with the base has it; intervals by document.

    ``kl`` is KL(base‖variant) in nats: mean, median, 99 and 99.9 % quantile, and the largest.
    ``same_top`` is the share of positions with the base's token, ``perplexity_ratio`` the
    variant's over the base's, ``accuracy_difference`` the share that became right less that which
    became wrong. Rows of the average over several texts have no ``text``, counts of all of them,
    and the plain mean of the texts' figures; quantiles have none.
    """

    name: str
    text: str | None
    n: int
    documents: int
    kl_mean: Estimate
    kl_median: Estimate | None
    kl_high: Estimate | None
    kl_extreme: Estimate | None
    kl_largest: float | None
    same_top: Estimate
    perplexity_ratio: Estimate
    nll_difference_nats: Estimate
    wrong_to_right: int
    right_to_wrong: int
    accuracy_difference: Estimate
    clustered_mcnemar_p: Estimate | None

    @property
    def net(self) -> int:
        """Decisions that became right less those that became wrong."""
        return self.wrong_to_right - self.right_to_wrong


@dataclass(frozen=True)
class VariantPair(ShortRepr):
    """What the second variant has more than the first, over the same positions.

    ``text`` is None for the average over several. The intervals of one measure hold together over
    all pairs of a text: with 95 % chance all of them hold their truths.
    """

    first: str
    second: str
    text: str | None
    accuracy: Estimate
    nll_nats: Estimate
    kl_nats: Estimate


@dataclass(frozen=True)
class LadderSummary(ShortRepr, Figures):
    """The figures of a ladder. ``only`` says which positions were kept, where not all were.

    ``averages`` are there with several texts. ``pairs`` are of each text and of their average, and
    there are none of a single variant.
    """

    base: ModelFacts
    variants: tuple[ModelFacts, ...]
    texts: tuple[LadderText, ...]
    only: str | None
    rows: tuple[LadderRow, ...]
    averages: tuple[LadderRow, ...]
    pairs: tuple[VariantPair, ...]
    refused: tuple[Refused, ...] = ()

    @property
    def overall(self) -> tuple[LadderRow, ...]:
        """A row for each variant: of the one text, or of the average over all."""
        return self.averages or self.rows

    @property
    def overall_pairs(self) -> tuple[VariantPair, ...]:
        """The pairs over the one text, or of the average over all."""
        one = self.overall[0].text
        return tuple(pair for pair in self.pairs if pair.text == one)

    def facts(self, name: str) -> ModelFacts:
        """The model of this name."""
        return next(one for one in (self.base, *self.variants) if one.name == name)

    def _phrases(self) -> Iterator[str]:
        yield f"{len(self.variants)} variants"
        yield f"{len(self.texts)} texts"
        if self.refused:
            yield f"{len(self.refused)} refused"


@dataclass(frozen=True)
class VariantColumns:
    """Each position's measures of one variant on one text, and its accuracy and loss before."""

    key: Int[np.ndarray, " positions"]
    right: Float[np.ndarray, " positions"]
    nll: Float[np.ndarray, " positions"]
    kl: Float[np.ndarray, " positions"]
    gained: Float[np.ndarray, " positions"]
    cost: Float[np.ndarray, " positions"]
    same: Float[np.ndarray, " positions"]

    @staticmethod
    def of(comparison: Comparison) -> VariantColumns:
        """The columns of a live comparison."""
        names = ("doc", "pos", "target", "before_top1", "after_top1", "before_nll", "after_nll")
        parts = [
            {name: numbers_of(part[name]) for name in (*names, "kl_forward")}
            for part in comparison.first_pair([*names, "kl_forward"])
        ]
        column = {name: np.concatenate([one[name] for one in parts]) for name in parts[0]}
        right = (column["after_top1"] == column["target"]).astype(np.float64)
        before = column["before_top1"] == column["target"]
        nll = column["after_nll"].astype(np.float64)
        return VariantColumns(
            (column["doc"].astype(np.int64) << 32) + column["pos"],
            right,
            nll,
            column["kl_forward"].astype(np.float64),
            right - before,
            nll - column["before_nll"],
            (column["after_top1"] == column["before_top1"]).astype(np.float64),
        )


def summarise_ladder(
    base: ModelFacts,
    variants: Sequence[ModelFacts],
    texts: Sequence[LadderText],
    comparisons: Mapping[tuple[str, str], Comparison],
    *,
    only: str | None = None,
    refused: Sequence[Refused] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> LadderSummary:
    """The figures of a ladder from its comparisons, by text and variant.

    Each row is its comparison's own. Averages weigh each text the same; pairs of variants are read
    where all of them are finite. Source: theory §4.
    """
    names = [one.name for one in variants]
    columns = {key: VariantColumns.of(one) for key, one in comparisons.items()}
    how = {"resamples": resamples, "seed": seed}
    rows = tuple(
        row_of(name, text.name, comparisons[text.name, name]) for name in names for text in texts
    )
    averages: list[LadderRow] = []
    pairs: list[VariantPair] = []
    for text in texts:
        held = [_common([columns[text.name, name] for name in names])]
        pairs += pairs_of(names, held, text.name, **how)
    if len(texts) > 1:
        held = [_common([columns[text.name, name] for name in names]) for text in texts]
        pairs += pairs_of(names, held, None, **how)
        for name in names:
            own = [row for row in rows if row.name == name]
            averages.append(_average(own, [columns[text.name, name] for text in texts], **how))
    return LadderSummary(
        base,
        tuple(variants),
        tuple(texts),
        only,
        rows,
        tuple(averages),
        tuple(pairs),
        tuple(refused),
    )


def row_of(name: str, text: str, comparison: Comparison) -> LadderRow:
    """A variant's row from its comparison with the base."""
    summary = comparison.summary
    flips, loss = summary.flips, summary.calibration.nll_difference_nats
    assert summary.divergence is not None
    kl = summary.divergence.kl_forward
    return LadderRow(
        name=name,
        text=text,
        n=flips.n,
        documents=summary.n_documents,
        kl_mean=kl.mean,
        kl_median=kl.median,
        kl_high=kl.high,
        kl_extreme=kl.extreme,
        kl_largest=kl.largest,
        same_top=_rest(flips.churn),
        perplexity_ratio=exponential(loss),
        nll_difference_nats=loss,
        wrong_to_right=flips.wrong_to_right,
        right_to_wrong=flips.right_to_wrong,
        accuracy_difference=flips.accuracy_difference,
        clustered_mcnemar_p=flips.clustered_mcnemar_p,
    )


def pairs_of(
    names: Sequence[str],
    texts: Sequence[Sequence[VariantColumns]],
    text: str | None,
    *,
    resamples: int,
    seed: int,
) -> Iterator[VariantPair]:
    """Every pair of variants, from the columns of each over the same positions, text by text."""
    chosen = list(combinations(range(len(names)), 2))
    if not chosen:
        return
    clusters = [cluster(held[0].key >> 32) for held in texts]
    found = []
    for measure in MEASURES:
        sums = []
        for held, (inverse, documents) in zip(texts, clusters, strict=True):
            each = [sums_by_document(getattr(one, measure), inverse, documents) for one in held]
            counts = np.bincount(inverse, minlength=documents).astype(np.float64)
            sums.append(Sums(np.stack([each[b] - each[a] for a, b in chosen]), counts))
        found.append(simultaneous_means(sums, resamples=resamples, seed=seed))
    for (a, b), *measures in zip(chosen, *found, strict=True):
        yield VariantPair(names[a], names[b], text, *measures)


def _common(held: Sequence[VariantColumns]) -> list[VariantColumns]:
    """The positions that all variants have."""
    first = held[0].key
    if all(np.array_equal(first, one.key) for one in held[1:]):
        return list(held)
    shared = first
    for one in held[1:]:
        shared = np.intersect1d(shared, one.key, assume_unique=True)
    return [
        VariantColumns(*(column[np.isin(one.key, shared)] for column in vars(one).values()))
        for one in held
    ]


def _average(
    rows: Sequence[LadderRow], columns: Sequence[VariantColumns], *, resamples: int, seed: int
) -> LadderRow:
    """The plain mean of a variant's figures over the texts, each with an interval of its own."""

    def mean(measure: str) -> Estimate:
        sums = []
        for one in columns:
            inverse, documents = cluster(one.key >> 32)
            total = sums_by_document(getattr(one, measure), inverse, documents)
            counts = np.bincount(inverse, minlength=documents).astype(np.float64)
            sums.append(Sums(total[None], counts))
        return simultaneous_means(sums, resamples=resamples, seed=seed)[0]

    loss = mean("cost")
    largest = [row.kl_largest for row in rows if row.kl_largest is not None]
    same = mean("same")
    if same.low is not None and same.high is not None:
        same = replace(same, low=max(0.0, same.low), high=min(1.0, same.high))
    return LadderRow(
        name=rows[0].name,
        text=None,
        n=sum(row.n for row in rows),
        documents=sum(row.documents for row in rows),
        kl_mean=mean("kl"),
        kl_median=None,
        kl_high=None,
        kl_extreme=None,
        kl_largest=max(largest, default=None),
        same_top=same,
        perplexity_ratio=exponential(loss),
        nll_difference_nats=loss,
        wrong_to_right=sum(row.wrong_to_right for row in rows),
        right_to_wrong=sum(row.right_to_wrong for row in rows),
        accuracy_difference=mean("gained"),
        clustered_mcnemar_p=None,
    )


def _rest(share: Estimate) -> Estimate:
    """One less a share."""
    if share.value is None:
        return share
    low, high = (None if end is None else 1 - end for end in (share.high, share.low))
    return replace(share, value=1 - share.value, low=low, high=high)
