"""Whether a model pays as the draft of another: acceptance, tokens a pass, speed-up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from unembed.decisions.audit.run import Columns
from unembed.decisions.comparison.draft_rounds import runs_of, walked_rounds
from unembed.errors import UnembedError
from unembed.head.divergence import SweptModel
from unembed.head.sampling import Sampling, acceptances
from unembed.models.checkpoint import Checkpoint
from unembed.runs.arrays import number_array, numbers_of
from unembed.short_repr import ShortRepr
from unembed.stats.bootstrap import interval, ratio_of_totals, totals_and_resamples
from unembed.stats.estimate import Estimate
from unembed.stats.forms import bounded, decimal, fine_share, full
from unembed.stats.studentised import mean_estimates
from unembed.text.batches import Batch

GREEDY = "greedy"
"""Decoding without a sampler, the limit of T = 0: a token is accepted where both lead with it."""

MOST_DRAFTED = 12
"""Drafted tokens a round at most, where nothing else is asked."""

TOO_SHORT = "no window of the text is that long"


@dataclass(frozen=True)
class DraftOptions(ShortRepr):
    """Under which samplers a draft is judged, for up to how many drafted tokens, at what cost.

    Plain sampling, T = 1, and greedy decoding are judged beside the ``samplings`` given. ``cost``
    is a pass of the draft over one of the target; None takes the ratio of their numbers of
    parameters. Raises UnembedError for a cost of 0 or below and for fewer than one token.
    """

    samplings: tuple[Sampling, ...] = ()
    cost: float | None = None
    drafted: int = MOST_DRAFTED

    def __post_init__(self) -> None:
        if self.cost is not None and not 0 < self.cost < float("inf"):
            raise UnembedError(
                f"--draft-cost {self.cost:g} is no cost above 0: give the time of a pass of the "
                "draft over that of one of the target, such as 0.1"
            )
        if self.drafted < 1:
            raise UnembedError(f"--draft-tokens {self.drafted} drafts nothing: give 1 or more")

    @property
    def every(self) -> tuple[Sampling, ...]:
        """Plain sampling and those asked for, each once."""
        return tuple({str(one): one for one in (Sampling(), *self.samplings)}.values())


@dataclass(frozen=True)
class DraftLength(ShortRepr):
    """Rounds of ``drafted`` tokens: what each pass of the target then yields, over plain decoding.

    ``tokens`` is walked along the text's own positions, ``tokens_independent`` what the mean
    acceptance a would give if positions were alike, ``(1 - a**(drafted + 1)) / (1 - a)``;
    ``speedup`` is ``tokens / (1 + drafted * cost)``.
    """

    drafted: int
    tokens: Estimate
    tokens_independent: Estimate
    speedup: Estimate


@dataclass(frozen=True)
class DraftUnderSampling(ShortRepr):
    """A draft under one sampler, ``sampling`` None for greedy decoding.

    ``acceptance`` is the mean chance that a drafted token is accepted. ``best`` is the number of
    drafted tokens with the largest speed-up, its interval that of the best over resamples of the
    documents.
    """

    sampling: Sampling | None
    acceptance: Estimate
    lengths: tuple[DraftLength, ...]
    best: Estimate

    @property
    def name(self) -> str:
        """The sampler in words."""
        return GREEDY if self.sampling is None else str(self.sampling)

    @property
    def at_best(self) -> DraftLength | None:
        """The number of drafted tokens with the largest speed-up."""
        return None if self.best.value is None else self.lengths[int(self.best.value) - 1]


@dataclass(frozen=True)
class DraftSummary(ShortRepr):
    """A model as the draft of another, under each sampler.

    ``cost`` is a pass of the draft over one of the target, the ratio of their ``parameters``, the
    target's first, unless it was given.
    """

    cost: float
    cost_given: bool
    parameters: tuple[int, ...]
    samplings: tuple[DraftUnderSampling, ...]


@dataclass(frozen=True)
class DraftReader:
    """Reads the exact chances of acceptance in a pair's pass; the second model drafts.

    ``parameters`` are the two models' numbers of parameters, see ``of``.
    """

    options: DraftOptions
    parameters: tuple[int, int]
    name: str = "drafts"

    @staticmethod
    def of(
        target: Checkpoint, draft: Checkpoint, options: DraftOptions | None = None
    ) -> DraftReader:
        """The reader for ``audit_both(target, draft, ..., readers=[it])``."""
        sizes = [sum(p.numel() for p in one.model.parameters()) for one in (target, draft)]
        return DraftReader(options or DraftOptions(), (sizes[0], sizes[1]))

    @property
    def cost(self) -> float:
        """A pass of the draft over one of the target."""
        target, draft = self.parameters
        return draft / target if self.options.cost is None else self.options.cost

    @property
    def key(self) -> dict[str, Any]:
        """The plain values that its numbers depend on."""
        return {
            "samplings": [str(one) for one in self.options.every],
            "cost": self.cost,
            "drafted": self.options.drafted,
        }

    @property
    def bytes_a_position(self) -> int:
        """Width of a position in its table."""
        return 9 + 4 * len(self.options.every)

    def columns(self, first: SweptModel, second: SweptModel, batch: Batch) -> Columns:
        """A chance for each sampler, and what begins a window."""
        found = acceptances(first, second, self.options.every)
        window = batch.window
        lead = (first.swept.topk_ids[:, 0] == second.swept.topk_ids[:, 0]).cpu().numpy()
        columns: Columns = {
            "window_start": np.append(True, window[1:] != window[:-1]),
            GREEDY: lead,
        }
        chances = (one.cpu().numpy() for one in found)
        return columns | dict(zip(map(str, self.options.every), chances, strict=True))

    def table(self, columns: Columns) -> pa.Table:
        """A row a position; null where either model has a logit that is not finite."""
        plain = {"doc", "pos", "window_start"}
        missing = np.isnan(columns[str(Sampling())])
        names = ("doc", "pos", *(name for name in columns if name not in ("doc", "pos")))
        arrays = {
            name: number_array(columns[name], None if name in plain else missing) for name in names
        }
        return pa.table(arrays)

    def summary(self, parts: Iterable[pa.Table], *, resamples: int, seed: int) -> DraftSummary:
        """Acceptance, tokens a pass and speed-up, with intervals over documents (theory §4)."""
        samplings = (*self.options.every, None)
        names = [GREEDY if one is None else str(one) for one in samplings]
        sums = DraftSums.of(parts, names, self.options.drafted)
        found = sums.judged(samplings, self.cost, resamples=resamples, seed=seed)
        given = self.options.cost is not None
        return DraftSummary(self.cost, given, self.parameters, found)


def draft_rows(drafts: DraftSummary | None) -> list[tuple[str, str]]:
    """The rows of a draft in the short table that a comparison prints."""
    rows = []
    for one in () if drafts is None else drafts.samplings:
        rows.append((f"accepted, {one.name}", full(one.acceptance, fine_share)))
        best = one.at_best
        words = f"none: {one.best.reason}"
        if best is not None:
            words = (
                f"{full(best.speedup, decimal)} with {best.drafted} drafted, "
                f"{bounded(best.tokens, decimal)} tokens a pass"
            )
        rows.append((f"speed-up, {one.name}", words))
    if drafts is not None:
        rows.append(("cost of a draft's pass", cost_in_words(drafts)))
    return rows


def best_in_words(one: DraftUnderSampling) -> str:
    """The number of drafted tokens that pays most, and the range of it where it has one."""
    best = one.best
    if best.value is None:
        return f"none: {best.reason}"
    if best.low is None or best.high is None or round(best.low) == round(best.high):
        return f"{best.value:.0f}"
    return f"{best.value:.0f} [{best.low:.0f}, {best.high:.0f}]"


def cost_in_words(drafts: DraftSummary) -> str:
    """The cost of a pass, and where it is from."""
    cost = f"{decimal(drafts.cost)} of one of the target’s"
    if drafts.cost_given:
        return f"{cost}, as given"
    target, draft = drafts.parameters
    return f"{cost}: {draft:,} parameters of {target:,}"


@dataclass(frozen=True)
class DraftSums:
    """Sums of each document: tokens and rounds of whole rounds, chances, positions."""

    tokens: Float[np.ndarray, "samplings drafts documents"]
    rounds: Float[np.ndarray, "samplings drafts documents"]
    chances: Float[np.ndarray, "samplings documents"]
    sizes: Float[np.ndarray, " documents"]

    @staticmethod
    def of(parts: Iterable[pa.Table], names: Sequence[str], most: int) -> DraftSums:
        """Read the reader's table, a part at a time."""
        found: list[tuple[Int[np.ndarray, " documents"], DraftSums]] = []
        for part in parts:
            values = np.stack([numbers_of(part[name]).astype(np.float64) for name in names])
            kept = np.isfinite(values).all(axis=0)
            doc, pos, first = (
                numbers_of(part[name])[kept] for name in ("doc", "pos", "window_start")
            )
            if len(doc):
                sums = DraftSums.along(values[:, kept], doc, runs_of(doc, pos, first), most)
                found.append((np.unique(doc), sums))
        if not found:
            nothing = np.zeros((len(names), most, 0))
            return DraftSums(nothing, nothing, nothing[:, 0], np.zeros(0))
        ids = np.concatenate([doc for doc, _ in found])
        pieces = zip(*(vars(sums).values() for _, sums in found), strict=True)
        return DraftSums(*(_sums_of(np.concatenate(some, axis=-1), ids) for some in pieces))

    @staticmethod
    def along(
        chances: Float[np.ndarray, "samplings positions"],
        doc: Int[np.ndarray, " positions"],
        begins: Int[np.ndarray, " runs"],
        most: int,
    ) -> DraftSums:
        """Walk rounds of up to ``most`` drafted tokens along runs of positions, see ``runs_of``."""
        tokens, rounds = walked_rounds(chances, begins, most)
        each = (_sums_of(tokens, doc[begins]), _sums_of(rounds, doc[begins]))
        return DraftSums(*each, _sums_of(chances, doc), _sums_of(np.ones(len(doc)), doc))

    def judged(
        self, samplings: Sequence[Sampling | None], cost: float, *, resamples: int, seed: int
    ) -> tuple[DraftUnderSampling, ...]:
        """Acceptance, tokens a pass and speed-up under each sampler at this cost."""
        how = {"resamples": resamples, "seed": seed}
        limits = [(0.0, 1.0)] * len(samplings)
        means = mean_estimates(self.chances, self.sizes, limits, **how)
        tokens, rounds = self.resampled_rounds(**how)
        sums = np.concatenate([self.chances, self.sizes[None]])
        totals = totals_and_resamples(sums, **how)
        rates = totals[:, :-1] / np.maximum(totals[:, -1:], 1)
        return tuple(
            _judged(one, mean, tokens[:, i], rounds[:, i], rates[:, i], cost, len(self.sizes))
            for i, (one, mean) in enumerate(zip(samplings, means, strict=True))
        )

    def resampled_rounds(
        self, *, resamples: int, seed: int
    ) -> tuple[
        Float[np.ndarray, "rows samplings drafts"], Float[np.ndarray, "rows samplings drafts"]
    ]:
        """Tokens and rounds of all documents, and in the rows below of each resample."""
        k, drafts, documents = self.tokens.shape
        tokens, rounds = (
            totals_and_resamples(one.reshape(k * drafts, documents), resamples=resamples, seed=seed)
            for one in (self.tokens, self.rounds)
        )
        return tokens.reshape(-1, k, drafts), rounds.reshape(-1, k, drafts)


def speed_ups(
    tokens: Float[np.ndarray, "rows drafts"], rounds: Float[np.ndarray, "rows drafts"], cost: float
) -> Float[np.ndarray, "rows drafts"]:
    """Tokens a round over what it costs, in passes of the target; minus infinity without a round.

    A round of g drafted tokens costs ``1 + g * cost``.
    """
    slower = 1 + cost * np.arange(1, tokens.shape[1] + 1)
    return np.where(rounds > 0, tokens / np.where(rounds > 0, rounds, 1) / slower, -np.inf)


def _judged(
    sampling: Sampling | None,
    acceptance: Estimate,
    tokens: Float[np.ndarray, "rows drafts"],
    rounds: Float[np.ndarray, "rows drafts"],
    rates: Float[np.ndarray, " rows"],
    cost: float,
    documents: int,
) -> DraftUnderSampling:
    """One sampler, from totals over the documents and, in the rows below, their resamples."""
    drafts = np.arange(1, tokens.shape[1] + 1)
    mean = rates[:, None]
    alike = np.cumsum(np.concatenate([np.ones_like(mean), mean**drafts], axis=1), axis=1)[:, 1:]
    lengths = []
    for g, (made, begun) in enumerate(zip(tokens.T, rounds.T, strict=True)):
        walked = ratio_of_totals(made, begun, documents)
        if walked.value is None:
            walked = replace(walked, reason=TOO_SHORT)
        even = acceptance
        if even.value is not None:
            ends = interval(alike[1:, g], documents)
            even = replace(acceptance, value=float(alike[0, g]), low=ends[0], high=ends[1])
        speedup = _scaled(walked, 1 / (1 + cost * (g + 1)))
        lengths.append(DraftLength(g + 1, walked, even, speedup))
    speed = speed_ups(tokens, rounds, cost)
    if not np.isfinite(speed[0]).any():
        return DraftUnderSampling(
            sampling, acceptance, tuple(lengths), Estimate(None, reason=TOO_SHORT)
        )
    best = speed.argmax(axis=1) + 1.0
    ends = interval(best[1:], documents)
    whole = Estimate(best[0], *ends, n=acceptance.n, documents=acceptance.documents)
    return DraftUnderSampling(sampling, acceptance, tuple(lengths), whole)


def _sums_of(
    values: Float[np.ndarray, "... n"], doc: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "... documents"]:
    """Sums of the last axis over each of ascending documents."""
    firsts = np.flatnonzero(np.append(True, np.diff(doc) != 0))
    sums: Float[np.ndarray, "... documents"] = np.add.reduceat(values, firsts, axis=-1)
    return sums


def _scaled(estimate: Estimate, factor: float) -> Estimate:
    """An estimate in another unit."""
    value, low, high = (
        None if end is None else end * factor
        for end in (estimate.value, estimate.low, estimate.high)
    )
    return replace(estimate, value=value, low=low, high=high)
