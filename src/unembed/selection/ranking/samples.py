"""Sources in the order of a score that reads samples: the baselines of theory §11."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from unembed.errors import UnembedError
from unembed.head.head import Head, bytes_of
from unembed.runs.manifest import Facts
from unembed.runs.progress import progress_bar
from unembed.runs.store import RunFolder
from unembed.selection.baselines import score
from unembed.selection.ranking.chances import together
from unembed.selection.ranking.rank import ordered
from unembed.selection.ranking.records import Ranking
from unembed.selection.scores import RANDOM
from unembed.signatures.alignment.records import TaskFacts
from unembed.signatures.kin import connected, dealt, sharing
from unembed.signatures.samples import Samples
from unembed.signatures.signature import check_name
from unembed.stats.student import NORMAL_975

DELETED_BLOCKS = 16
"""Blocks of documents to delete: a source costs twice as many scores, or as many where it shares
the target's documents."""
LEAST_BLOCKS = 2
ROUNDING = 1e-12
"""The part of a score up to which what a block of documents moves is rounding."""

ScoreFunction = Callable[[Samples, Samples], float]
"""Of target and source; larger is better, NaN where it is undefined."""


def rank_samples(
    target: Samples,
    sources: Sequence[Samples],
    head: Head,
    *,
    by: str,
    seed: int = 0,
    blocks: int = DELETED_BLOCKS,
    heads: Sequence[Head] = (),
    facts: Facts = (),
    out: str | Path | None = None,
    command: str = "",
    progress: bool = False,
) -> Ranking:
    """``rank`` by one of ``BASELINES``, from samples of the texts; errors as in ``rank_scored``.

    For ``MODEL_BASELINES`` a source is the target's text as the source's model reads it, under the
    source's name. ``heads`` are then those of the sources' models, in their order; all of them have
    this ``head`` where none are given. With ``out`` the result is kept there, with
    ``facts``, label and value of what it rests on, for the page. Raises UnembedError as ``score``
    and ``rank_scored`` do.
    """
    if out is not None:
        tasks = [target, *sources]
        key = {
            "names": [task.name for task in tasks],
            "samples": [_digest(task) for task in tasks],
            "head": head.digest,
            **({"heads": [one.digest for one in heads]} if heads else {}),
            "by": by,
            "seed": seed,
            "blocks": blocks,
        }

        def ranked(_folder: RunFolder) -> dict[str, Any]:
            return rank_samples(
                target,
                sources,
                head,
                by=by,
                seed=seed,
                blocks=blocks,
                heads=heads,
                progress=progress,
            ).to_json()

        return Ranking.keep(out, key, ranked, facts=facts, command=command)
    if heads and len(heads) != len(sources):
        raise UnembedError(f"{len(heads)} heads for {len(sources)} sources: give each its own")
    of_source = {one.name: own for one, own in zip(sources, heads, strict=True)} if heads else {}
    return rank_scored(
        target,
        sources,
        lambda a, b: score(by, a, b, of_source.get(b.name, head), seed=seed),
        by=by,
        # No document moves a random number, so that deleting some would call it certain.
        blocks=0 if by == RANDOM else blocks,
        progress=progress,
    )


def rank_scored(
    target: Samples,
    sources: Sequence[Samples],
    score: ScoreFunction,
    *,
    by: str,
    blocks: int = DELETED_BLOCKS,
    progress: bool = False,
) -> Ranking:
    """Sources by any score of their samples with the target's, with errors by deleting documents.

    A jackknife over up to ``blocks`` blocks of documents: ``(G - 1)/G Σ_b (θ_b - mean θ)²``, where
    the target loses a block, the same for all sources, and where the source does, or both at once
    where the two share documents. Intervals are 1.96 of its root to either side; ``best`` is from
    normal errors, which go together as far as their documents are the same. ``blocks`` 0 leaves
    errors out: one score a source. Source: theory §10, §11.
    Raises UnembedError for no sources, two of one name, and ``blocks`` that are 1 or negative.
    """
    tasks = [target, *sources]
    _check(tasks, blocks)
    documents = [task.document for task in tasks]
    shared = sharing(documents)
    block_of = dealt(documents, connected(shared), blocks) if blocks else []
    value = np.full(len(tasks), np.nan)
    shares = np.full((2, max(blocks, 1), len(tasks)), np.nan)
    with progress_bar("rank", "source", len(sources), progress) as bar:
        for t, source in enumerate(sources, 1):
            value[t] = score(target, source)
            if blocks:
                mine, theirs = block_of[0], block_of[t]
                kin = bool(shared[0, t])
                shares[0, :, t] = _changes(
                    target, source, score, mine, theirs if kin else None, blocks
                )
                shares[1, :, t] = (
                    0 if kin else _changes(target, source, score, None, theirs, blocks)
                )
            bar.update(1)
    value = np.where(np.isfinite(value), value, np.nan)
    # A score that no document moves is known exactly, but for the rounding of each.
    shares = np.where(np.abs(shares) <= ROUNDING * np.abs(value), 0, shares)
    flat = shares.reshape(-1, len(tasks))
    covariance = together(flat, flat, shared)
    reach = NORMAL_975 * np.sqrt(np.diag(covariance))
    first, *rest = _facts(tasks, by, value, reach if blocks else np.zeros(len(tasks)))
    inner = slice(1, None)
    return Ranking(
        target=target.name,
        by=by,
        sources=ordered(
            rest,
            value[inner],
            (value - reach)[inner],
            (value + reach)[inner],
            covariance[inner, inner],
        ),
        method="samples",
        samples=first.samples,
        documents=first.documents,
        status=first.status,
        debiased=False,
    )


def _digest(task: Samples) -> str:
    digest = hashlib.sha256(bytes_of(task.hidden))
    digest.update(bytes_of(task.targets))
    digest.update(task.document.tobytes())
    digest.update(task.sequence.tobytes())
    return digest.hexdigest()


def _facts(
    tasks: Sequence[Samples],
    by: str,
    value: Float[np.ndarray, " tasks"],
    reach: Float[np.ndarray, " tasks"],
) -> list[TaskFacts]:
    """What is known of each task, the target first, and why a score or an interval is missing."""
    found: list[TaskFacts] = []
    for t, task in enumerate(tasks):
        documents, status = len(np.unique(task.document)), "ok"
        if t and np.isnan(value[t]):
            status = (
                f"no score: {by} is undefined for it; give more of it, or rank by another score"
            )
        elif documents < LEAST_BLOCKS:
            status = f"ok, but no interval: too few documents, {documents}"
        elif t and np.isnan(reach[t]) and found[0].status == "ok":
            status = f"ok, but no interval: {by} is undefined without some of the documents"
        found.append(TaskFacts(task.name, len(task.document), documents, None, None, status))
    return found


def _check(tasks: Sequence[Samples], blocks: int) -> None:
    target, *sources = tasks
    if not sources:
        raise UnembedError(f"no sources to rank for {target.name}: give one at least")
    names = [task.name for task in tasks]
    for name in names:
        check_name(name)
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UnembedError(f"two tasks are named {twice[0]!r}: give each a name of its own")
    if blocks < 0 or blocks == 1:
        raise UnembedError(f"blocks is {blocks}: give 2 or more to delete, or 0 for no errors")


def _changes(
    target: Samples,
    source: Samples,
    score: ScoreFunction,
    mine: Int[np.ndarray, " mine"] | None,
    theirs: Int[np.ndarray, " theirs"] | None,
    blocks: int,
) -> Float[np.ndarray, " blocks"]:
    """``√((G - 1)/G) (θ_b - mean θ)``, where target and source lose the block that they are given.

    0 for blocks that nothing lies in; NaN where one of them has a single block.
    """
    losing = [block for block in (mine, theirs) if block is not None]
    if any(len(np.unique(block)) < LEAST_BLOCKS for block in losing):
        return np.full(blocks, np.nan)
    held = np.unique(np.concatenate(losing)).tolist()
    deleted = np.array(
        [score(_without(target, mine, b), _without(source, theirs, b)) for b in held]
    )
    found = np.zeros(blocks)
    found[held] = np.sqrt((len(held) - 1) / len(held)) * (deleted - deleted.mean())
    return found


def _without(task: Samples, block_of: Int[np.ndarray, " positions"] | None, block: int) -> Samples:
    """The task's samples without those of a block; all of them where none are dealt."""
    if block_of is None:
        return task
    left = np.flatnonzero(block_of != block)
    index = torch.from_numpy(left)
    return Samples(
        task.name,
        task.hidden[index.to(task.hidden.device)],
        task.targets[index.to(task.targets.device)],
        task.document[left],
        task.sequence[left],
    )
