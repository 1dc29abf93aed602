"""Sources in the order of how much they promise a target, from signatures alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from unembed.errors import UnembedError
from unembed.selection.ranking.chances import covariance, probabilities
from unembed.selection.ranking.records import Ranked, Ranking
from unembed.selection.scores import SCORES, SIGNATURE_SCORES
from unembed.signatures.alignment.align import interval
from unembed.signatures.alignment.estimators import Cosine, Kind, products_of
from unembed.signatures.alignment.overlap import shared_inputs
from unembed.signatures.alignment.records import TaskFacts
from unembed.signatures.alignment.task_facts import task_facts
from unembed.signatures.reading.files import facts_of, key_of
from unembed.signatures.signature import Signature, agree_all
from unembed.signatures.state import SUMMED, State
from unembed.signatures.sums import KEPT
from unembed.stats.student import NORMAL_975

LEAST_BLOCKS = 2
"""Blocks of documents that a sampling error takes."""


def rank(
    target: Signature,
    sources: Sequence[Signature],
    *,
    by: str = "joint",
    debias: bool = True,
    out: str | Path | None = None,
    command: str = "",
) -> Ranking:
    """Sources in the order of a score with the target, each with its chance to be the best.

    ``by`` names the score: "joint", "activation", "error" and "proxy" are alignments of Fishers and
    "gradient" the signed cosine of mean gradients, with the values and intervals of ``align``.
    "step" is ``⟨ḡ_source, ḡ_target⟩`` of the head's mean gradients: the nats a token by which the
    target's loss falls at first, for each unit of learning rate, where the head takes a step of
    gradient descent on the source. ``debias`` as in ``align``.

    ``best`` is from normal errors that go together: the sketch's of all sources, those of the
    target's documents too, and of two sources' own where these share inputs. A source has None
    without a score, or where its sampling error is not known, as its documents fill fewer than two
    blocks or were kept in none; the others' are among themselves, and sum to 1. ``out`` and
    ``command`` as in ``align``.
    Raises UnembedError for a ``by`` that is no score, no sources, two signatures of one name, two
    that do not compare, and one that did not keep what the score needs. Source: theory §10, §13.
    """
    signatures = [target, *sources]
    _check(signatures, by)
    if out is not None:
        return Ranking.keep(
            out,
            key_of(signatures, by=by, debias=debias),
            lambda _: rank(target, sources, by=by, debias=debias).to_json(),
            facts=facts_of(signatures),
            command=command,
        )
    states = [signature.state for signature in signatures]
    kinds = {name: Kind.of(states, name, debias) for name in SUMMED}
    shared = shared_inputs(states)
    alone = np.eye(len(states), dtype=bool)
    with_target = alone.copy()
    with_target[0], with_target[:, 0] = shared[0], shared[:, 0]
    score = _score(by, kinds, with_target[:1] & ~alone[:1] & debias)
    m = target.identity.spec.m
    ratio = min(KEPT, m) / m
    value, se = score.value[0], np.sqrt(np.diag(covariance(score, ratio, alone)))
    low, high = _ends(value, se, SCORES[by].cosine)
    facts = task_facts(signatures, list(kinds.values()), with_target, debias)
    statuses = _statuses(facts, states, value, by)
    first, *rest = (replace(fact, status=s) for fact, s in zip(facts, statuses, strict=True))
    together = covariance(score, ratio, shared)[1:, 1:]
    return Ranking(
        target=target.name,
        by=by,
        sources=ordered(rest, value[1:], low[1:], high[1:], together),
        method=target.identity.spec.construction,
        samples=first.samples,
        documents=first.documents,
        status=first.status,
        debiased=debias,
        part=target.identity.part,
    )


def ordered(
    sources: Sequence[TaskFacts],
    value: Float[np.ndarray, " sources"],
    low: Float[np.ndarray, " sources"],
    high: Float[np.ndarray, " sources"],
    covariance: Float[np.ndarray, "sources sources"],
) -> tuple[Ranked, ...]:
    """Sources by falling score with their chances to be the best; those without a score last."""
    scored = np.isfinite(value)
    known = scored & np.isfinite(np.diag(covariance))
    best: list[float | None] = [None] * len(value)
    if scored.sum() == 1:
        best[int(scored.argmax())] = 1.0
    elif known.any():
        chances = probabilities(value[known], covariance[np.ix_(known, known)])
        for t, chance in zip(np.flatnonzero(known), chances, strict=True):
            best[t] = float(chance)
    found = [
        Ranked(
            fact.name,
            _number(value[t]),
            _number(low[t]),
            _number(high[t]),
            best[t],
            fact.samples,
            fact.documents,
            fact.status,
        )
        for t, fact in enumerate(sources)
    ]
    return tuple(sorted(found, key=lambda one: math.inf if one.value is None else -one.value))


def _check(signatures: Sequence[Signature], by: str) -> None:
    if by not in SIGNATURE_SCORES:
        raise UnembedError(f"score {by!r} is not one of {', '.join(SIGNATURE_SCORES)}")
    target, *sources = signatures
    if not sources:
        raise UnembedError(f"no sources to rank for {target.name}: give one at least")
    agree_all(signatures)
    for signature in signatures:
        if any(signature.state.sums(kind) is None for kind in SCORES[by].sums):
            remedy = (
                "sketch it again with --first-moment"
                if SCORES[by].sums == ("first",)
                else "give the whole signature, for a compact one keeps the joint alone"
            )
            raise UnembedError(f"{signature.name} keeps nothing to be ranked by {by}: {remedy}")


def _score(
    by: str, kinds: Mapping[str, Kind | None], among: Bool[np.ndarray, "one tasks"]
) -> Cosine:
    """The target's row of a score; ``among`` are the tasks that share its inputs."""
    first, *more = (kind for name in SCORES[by].sums if (kind := kinds[name]) is not None)
    if by == "step":
        return _step(first, among)
    found = first.cosines(slice(0, 1), among)
    for kind in more:
        found = found * kind.cosines(slice(0, 1), among)
    return found


def _step(kind: Kind, among: Bool[np.ndarray, "one tasks"]) -> Cosine:
    """Products in place of cosines: of folds with the other one where tasks share inputs."""
    across = products_of(kind.first[:, :1], kind.second)
    across = across + products_of(kind.second[:, :1], kind.first)
    products = np.where(among, across / 2, products_of(kind.pooled[:, :1], kind.pooled))
    value, groups = products.mean(0), len(products)
    sampling = None
    if kind.blocks is not None:
        deleted = kind.blocks.deleted(slice(0, 1))
        apart = np.concatenate([deleted.row, deleted.column], 1)
        both = np.concatenate([deleted.both, np.zeros_like(deleted.both)], 1)
        sampling = np.where(among, both, apart)
    return Cosine(value, (products - value) / np.sqrt(groups * (groups - 1)), sampling)


def _ends(
    value: Float[np.ndarray, " tasks"], se: Float[np.ndarray, " tasks"], cosines: bool
) -> tuple[Float[np.ndarray, " tasks"], Float[np.ndarray, " tasks"]]:
    """The 95 % intervals."""
    if not cosines:
        return value - NORMAL_975 * se, value + NORMAL_975 * se
    low, high = interval(value[None], se[None], "cosine")
    return low[0], high[0]


def _statuses(
    facts: Sequence[TaskFacts],
    states: Sequence[State],
    value: Float[np.ndarray, " tasks"],
    by: str,
) -> list[str]:
    """The target's and the sources' statuses, with why a score or an interval is missing."""
    kept = {len(state.block_weight) for state in states}
    found = [fact.status for fact in facts]
    for t, state in enumerate(states):
        why = None
        if not len(state.block_weight):
            why = "no blocks of documents are kept"
        elif (state.block_weight > 0).sum() < LEAST_BLOCKS:
            why = f"too few documents, {state.documents}"
        elif not t and len(kept) > 1:
            why = "not all signatures keep the same blocks of documents"
        if t and not math.isfinite(value[t]):
            if found[t] == "ok":
                found[t] = f"no {by} score, for the target's is lost: {facts[0].status}"
            about = "the target" if facts[0].status != "ok" else "it"
            found[t] += f"; sketch more documents of {about}, or rank with --no-debias"
        elif why is not None:
            found[t] = f"{found[t]}, {'but ' * (found[t] == 'ok')}no interval: {why}"
    return found


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
