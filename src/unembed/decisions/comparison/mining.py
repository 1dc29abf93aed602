"""What a change taught: the tokens and contexts whose probability rose and fell most."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int

from unembed.decisions.audit.run import Columns
from unembed.decisions.comparison.mined_contexts import ANY, FIELDS, MinedContext, mined_contexts
from unembed.decisions.comparison.mined_sums import FOLDS, TokenSums, mass_arrays, read_mined
from unembed.decisions.quoting import Quoting
from unembed.decisions.tokens import CLASSES, classes_of
from unembed.head.changes import probability_changes
from unembed.head.divergence import SweptModel
from unembed.runs.arrays import number_array, text_array
from unembed.short_repr import ShortRepr
from unembed.stats.estimate import Estimate
from unembed.stats.forms import Form, bounded, decimal, fine_share, full
from unembed.stats.many_ratios import ManyRatios, many_ratios
from unembed.stats.studentised import mean_estimates
from unembed.text.batches import Batch
from unembed.text.corpus import Corpus
from unembed.text.vocabulary import Vocabulary

MOVERS = 2
"""Tokens that are kept of each position as risen most, and as fallen most."""

KEPT_A_POSITION = 16
"""Tokens whose sums are kept of a document, a position of it: all of them, if it has no more."""

HELD_POSITIONS = 2048
"""Positions whose blocks of probabilities are held at a time."""

LEAST_FACTOR = 1.25
"""A token is listed where its whole interval is beyond this factor, or below one over it."""

LEAST_USES = 1.0
"""Uses that a model expects of a listed token over the text, at least."""

SPARE = 10.0
"""How often what was not kept of a token must go into the uses expected of a listed one."""

SPREAD = 10.0
"""Documents over which a token's uses are spread, at least: the square of their sum over the sum of
their squares."""

LISTED = 20
"""Tokens in a list, and contexts, at most."""

PRINTED = 5
"""Tokens of either list that are printed, at most."""

per_thousand = Form(scale=1000.0)
"""A mean probability as uses that are expected in 1,000 tokens: ``0.0014`` as ``1.40``."""

CONTEXTS_A_TOKEN = 2
"""Contexts of a listed token at most."""

LEAST_FOLLOWED = 20
"""Positions behind a token that is listed as a left neighbour, at least."""

SWAPS = 20
"""Draws of documents whose models are swapped."""


@dataclass(frozen=True)
class MinedToken(ShortRepr):
    """A token that a model expects more or less often than the other did.

    ``before`` and ``after`` are its mean probability over all positions; ``factor`` is after over
    before, its interval one of all tokens' together. ``contexts`` are where it changed most.
    """

    token: int
    text: str
    before: float
    after: float
    factor: Estimate
    contexts: tuple[MinedContext, ...]


@dataclass(frozen=True)
class MinedNeighbour(ShortRepr):
    """A token, and how much of the probability behind it ``moved`` to other tokens on average."""

    token: int
    text: str
    moved: Estimate


@dataclass(frozen=True)
class MinedClass(ShortRepr):
    """A class of tokens: the share of all probability that it has before and after."""

    name: str
    before: float
    after: float
    change: Estimate


@dataclass(frozen=True)
class MinedSummary(ShortRepr):
    """What a change taught, in probabilities over a text.

    ``moved`` is the mean share of probability that went to other tokens. ``rose`` and ``fell`` have
    the tokens told from a factor of ``LEAST_FACTOR``, of ``n_tokens`` expected often enough, those
    of the surest factor first; ``n_rose`` and ``n_fell`` count them all, and ``n_by_chance`` is how
    many would be listed were both models swapped in documents drawn at random. ``risen`` and
    ``fallen`` are the contexts of the largest changes, one a document. ``missed`` bounds the uses
    of a token that were not kept.
    """

    moved: Estimate
    n_tokens: int
    n_determined: int
    n_rose: int
    n_fell: int
    n_by_chance: float
    kept: float
    missed: float
    rose: tuple[MinedToken, ...]
    fell: tuple[MinedToken, ...]
    classes: tuple[MinedClass, ...]
    neighbours: tuple[MinedNeighbour, ...]
    risen: tuple[MinedContext, ...]
    fallen: tuple[MinedContext, ...]


@dataclass(frozen=True)
class MiningReader:
    """Reads in a pair's pass which tokens' probabilities changed, and sums them by document."""

    corpus: Corpus
    name: str = "mined"

    @property
    def key(self) -> dict[str, Any]:
        """The plain values that its numbers depend on."""
        return {"movers": MOVERS, "kept": KEPT_A_POSITION}

    @property
    def bytes_a_position(self) -> int:
        """Width of a position in its table, at most."""
        return 16 + 2 * 12 * MOVERS + 12 * KEPT_A_POSITION

    def columns(self, first: SweptModel, second: SweptModel, batch: Batch) -> Columns:
        """The movers of each position; in the first row of each document its sums by token."""
        pieces = []
        for start in range(0, len(batch.doc), HELD_POSITIONS):
            some = slice(start, start + HELD_POSITIONS)
            pieces.append(_columns_of(first.rows(some), second.rows(some), batch.doc[some]))
        found = {name: np.concatenate([one[name] for one in pieces]) for name in pieces[0]}
        return found | {"target": batch.targets.cpu().numpy().astype(np.int32)}

    def table(self, columns: Columns) -> pa.Table:
        """A row a position, null where a logit is not finite; sums at each document's first."""
        missing = np.isnan(columns["moved"])
        arrays = {name: number_array(columns[name]) for name in ("doc", "pos", "target")}
        arrays["moved"] = number_array(columns["moved"], missing)
        for side in ("risen", "fallen"):
            for field in FIELDS:
                values = columns[f"{side}_{field}"]
                flat = number_array(np.ascontiguousarray(values).ravel())
                holes = number_array(missing) if missing.any() else None
                arrays[f"{side}_{field}"] = pa.FixedSizeListArray.from_arrays(
                    flat, values.shape[1], mask=holes
                )
        return pa.table(arrays | mass_arrays(columns["doc"], columns["mass"]))

    def summary(self, parts: Iterable[pa.Table], *, resamples: int, seed: int) -> MinedSummary:
        """Tokens, classes, left neighbours and contexts that changed most (theory §4)."""
        how: dict[str, Any] = {"resamples": resamples, "seed": seed}
        sums = TokenSums.of(parts)
        [moved] = mean_estimates(sums.moved[None], sums.sizes, [(0.0, 1.0)], **how)
        enough = max(LEAST_USES, SPARE * sums.missed)
        often = np.flatnonzero(
            (np.maximum(*(one.sum(0) for one in sums.mass)) >= enough) & (_spread(sums) >= SPREAD)
        )
        before, after = (one[:, often] for one in sums.mass)
        factors = many_ratios(after, before)
        told = beyond(factors)
        order = [
            _surest(one, end)
            for one, end in zip(told, (factors.low, 1 / factors.high), strict=True)
        ]
        lists = []
        for side, chosen in zip(("risen", "fallen"), order, strict=True):
            limits = {"each": CONTEXTS_A_TOKEN, "most": LISTED}
            quoted = mined_contexts(parts, side, often[chosen], self._quoting, **limits)
            tokens = tuple(
                self._token(int(often[i]), factors, int(i), sums, quoted.get(int(often[i]), ()))
                for i in chosen
            )
            lists.append((tokens, quoted.get(ANY, ())))
        return MinedSummary(
            moved=moved,
            n_tokens=len(often),
            n_rose=int(told[0].sum()),
            n_fell=int(told[1].sum()),
            n_by_chance=_listed_by_chance(before, after, seed),
            n_determined=int(np.isfinite(factors.low).sum()),
            kept=sums.kept,
            missed=sums.missed,
            rose=lists[0][0],
            fell=lists[1][0],
            classes=self._classes(sums, how),
            neighbours=self._neighbours(parts, sums),
            risen=lists[0][1],
            fallen=lists[1][1],
        )

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        tokenizer = self.corpus.tokenizer
        return Vocabulary.of(tokenizer, range(len(tokenizer)))

    @cached_property
    def _quoting(self) -> Quoting:
        corpus = self.corpus
        _, row = np.unique(corpus.document, return_index=True)
        opening = np.asarray(corpus.ids[corpus.starts[row]]).astype(np.int32)
        names = {"name": text_array(corpus.names), "first_token": number_array(opening)}
        return Quoting(self._vocabulary, pa.table(names))

    def _token(
        self,
        token: int,
        factors: ManyRatios,
        at: int,
        sums: TokenSums,
        contexts: tuple[MinedContext, ...],
    ) -> MinedToken:
        before, after = (float(one[:, token].sum()) / sums.positions for one in sums.mass)
        value, low, high = (float(one[at]) for one in (factors.value, factors.low, factors.high))
        factor = Estimate(value, low, high, sums.positions, documents=len(sums.documents))
        return MinedToken(token, self._quoting.word(token), before, after, factor, contexts)

    def _classes(self, sums: TokenSums, how: dict[str, Any]) -> tuple[MinedClass, ...]:
        """The share of each class before and after."""
        tokens = sums.mass[0].shape[1]
        of = classes_of([self._vocabulary[token] for token in range(tokens)])
        member = of[None, :] == np.arange(len(CLASSES))[:, None]
        before, after = (member @ one.T for one in sums.mass)
        limits = [(-1.0, 1.0)] * len(CLASSES)
        changes = mean_estimates(after - before, sums.sizes, limits, **how)
        n = max(1, sums.positions)
        return tuple(
            MinedClass(name, float(old.sum() / n), float(new.sum() / n), change)
            for name, old, new, change in zip(CLASSES, before, after, changes, strict=True)
        )

    def _neighbours(self, parts: Iterable[pa.Table], sums: TokenSums) -> tuple[MinedNeighbour, ...]:
        """The tokens behind which most moved, those of the surest excess over the mean first."""
        often = np.flatnonzero(sums.followed >= LEAST_FOLLOWED)
        if not len(often):
            return ()
        moved, size = np.zeros((2, len(sums.sizes), len(often)))
        for rows in read_mined(parts):
            known = np.isin(rows.previous, often) & np.isfinite(rows.moved)
            cells = (sums.unit(rows.doc[known]), np.searchsorted(often, rows.previous[known]))
            np.add.at(moved, cells, rows.moved[known])
            np.add.at(size, cells, 1.0)
        means = many_ratios(moved, size)
        order = _surest(means.low > sums.moved.sum() / sums.sizes.sum(), means.low)
        rests_on = np.count_nonzero(size, axis=0)
        return tuple(
            MinedNeighbour(
                int(often[i]),
                self._quoting.word(int(often[i])),
                Estimate(
                    float(means.value[i]),
                    float(means.low[i]),
                    float(min(1.0, means.high[i])),
                    n=int(size[:, i].sum()),
                    documents=int(rests_on[i]) if len(sums.documents) <= FOLDS else None,
                ),
            )
            for i in order.tolist()
        )


def _columns_of(
    first: SweptModel, second: SweptModel, doc: Int[np.ndarray, " positions"]
) -> Columns:
    """The columns of positions that are held at once."""
    _, at, group, sizes = np.unique(doc, return_index=True, return_inverse=True, return_counts=True)
    found = probability_changes(
        first,
        second,
        torch.from_numpy(group).to(first.hidden.device),
        len(at),
        k=MOVERS,
        kept=KEPT_A_POSITION * int(sizes.max()),
    )
    columns: Columns = {"moved": found.moved.cpu().numpy()}
    for side, movers in (("risen", found.risen), ("fallen", found.fallen)):
        for field, values in vars(movers).items():
            kind = np.int32 if field == "ids" else np.float32
            columns[f"{side}_{field}"] = values.cpu().numpy().astype(kind)
    mass = {name: one.cpu().numpy() for name, one in vars(found.mass).items()}
    columns["mass"] = np.full(len(doc), None, dtype=object)
    every = mass["ids"].shape[1] == min(first.head.vocab, second.head.vocab)
    for row, start in enumerate(at.tolist()):
        some = slice(0, KEPT_A_POSITION * int(sizes[row]))
        ids, before, after = (mass[name][row, some] for name in FIELDS)
        cut = not every or len(ids) < mass["ids"].shape[1]
        missed = float(max(before[-1], after[-1])) if cut else 0.0
        used = np.maximum(before, after) > 0
        columns["mass"][start] = (ids[used], before[used], after[used], missed)
    return columns


def mined_rows(mined: MinedSummary | None) -> list[tuple[str, str]]:
    """The rows of what a change taught in the short table that a comparison prints."""
    if mined is None:
        return []
    told = (
        f"{mined.n_rose:,} expected {LEAST_FACTOR:g} times as often or more, {mined.n_fell:,} as "
        f"rarely, of {mined.n_determined:,} ({decimal(mined.n_by_chance)} by chance)"
    )
    rows = [
        ("probability moved", full(mined.moved, fine_share)),
        ("tokens taught", told),
    ]
    for words, tokens in (("more", mined.rose), ("less", mined.fell)):
        for one in tokens[:PRINTED]:
            name = one.text.replace("\n", "⏎")
            rates = " → ".join(per_thousand(rate) for rate in (one.before, one.after))
            times = f"{bounded(one.factor, decimal)} times"
            rows.append((f"{words} often, “{name}”", f"{times}, {rates} in 1,000"))
    return rows


def beyond(factors: ManyRatios) -> tuple[Bool[np.ndarray, " tokens"], ...]:
    """Which factors are surely above ``LEAST_FACTOR``, and which below one over it."""
    return factors.low > LEAST_FACTOR, factors.high < 1 / LEAST_FACTOR


def _spread(sums: TokenSums) -> Float[np.ndarray, " tokens"]:
    """Over how many units each token's uses are spread."""
    uses = sums.mass[0] + sums.mass[1]
    squares = np.maximum((uses**2).sum(axis=0), np.finfo(np.float64).tiny)
    found: Float[np.ndarray, " tokens"] = uses.sum(axis=0) ** 2 / squares
    return found


def _surest(
    told: Bool[np.ndarray, " n"], least: Float[np.ndarray, " n"]
) -> Int[np.ndarray, " listed"]:
    """The first to list of those told, by the end of the interval that is nearer to no change."""
    found: Int[np.ndarray, " listed"] = np.flatnonzero(told)
    return found[np.argsort(-least[told], kind="stable")][:LISTED]


def _listed_by_chance(
    before: Float[np.ndarray, "units tokens"],
    after: Float[np.ndarray, "units tokens"],
    seed: int,
) -> float:
    """How many tokens are listed on average with the models swapped in random units."""
    listed = 0
    generator = np.random.default_rng(seed)
    for _ in range(SWAPS):
        swapped = generator.integers(2, size=(len(before), 1)) > 0
        pair = np.where(swapped, before, after), np.where(swapped, after, before)
        factors = many_ratios(*pair)
        listed += sum(int(told.sum()) for told in beyond(factors))
    return listed / SWAPS
