"""A ranking kept in a run's folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unembed.head.head import Head, bytes_of
from unembed.runs.small import Facts, keep_summary, load_summary
from unembed.selection.ranking.rank import rank
from unembed.selection.ranking.records import Ranking
from unembed.selection.ranking.samples import DELETED_BLOCKS, rank_samples
from unembed.signatures.reading.files import digests_of, facts_of
from unembed.signatures.samples import Samples
from unembed.signatures.signature import Signature

KIND = "ranking"


@dataclass(frozen=True)
class RankingRun:
    """A ranking, and label and value of what it rests on."""

    ranking: Ranking
    facts: Facts
    folder: Path

    @staticmethod
    def load(folder: str | Path) -> RankingRun:
        """Open a finished run, checked against its recorded SHA-256."""
        values, facts = load_summary(folder, KIND)
        return RankingRun(Ranking.from_json(values), facts, Path(folder))


def rank_signatures(
    target: Signature,
    sources: Sequence[Signature],
    *,
    by: str = "joint",
    debias: bool = True,
    out: str | Path,
    command: str = "",
) -> RankingRun:
    """``rank``, with its result kept in ``out``. Raises UnembedError as that does."""
    signatures = [target, *sources]
    key = {
        "names": [one.name for one in signatures],
        "signatures": digests_of(signatures),
        "by": by,
        "debias": debias,
    }
    keep_summary(
        out,
        KIND,
        key,
        facts_of(signatures),
        command,
        lambda: rank(target, sources, by=by, debias=debias).to_json(),
    )
    return RankingRun.load(out)


def rank_texts(
    target: Samples,
    sources: Sequence[Samples],
    head: Head,
    *,
    by: str,
    seed: int = 0,
    blocks: int = DELETED_BLOCKS,
    facts: Facts = (),
    out: str | Path,
    command: str = "",
    progress: bool = False,
) -> RankingRun:
    """``rank_samples``, with its result kept in ``out``; ``facts`` are for the page.

    Raises UnembedError as ``rank_samples`` does.
    """
    tasks = [target, *sources]
    key = {
        "names": [task.name for task in tasks],
        "samples": [_digest(task) for task in tasks],
        "head": head.digest,
        "by": by,
        "seed": seed,
        "blocks": blocks,
    }
    keep_summary(
        out,
        KIND,
        key,
        facts,
        command,
        lambda: rank_samples(
            target, sources, head, by=by, seed=seed, blocks=blocks, progress=progress
        ).to_json(),
    )
    return RankingRun.load(out)


def _digest(task: Samples) -> str:
    digest = hashlib.sha256(bytes_of(task.hidden))
    digest.update(bytes_of(task.targets))
    digest.update(task.document.tobytes())
    digest.update(task.sequence.tobytes())
    return digest.hexdigest()
