"""A mixture of sources for a target, kept in a run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unembed.runs.small import Facts, keep_summary, load_summary
from unembed.selection.mixing.mixture import mix
from unembed.selection.mixing.record import Mixture
from unembed.signatures.reading.files import digests_of, facts_of
from unembed.signatures.signature import Signature

KIND = "mixture"


@dataclass(frozen=True)
class MixtureRun:
    """A mixture, and what is known of its signatures: label and value of what they share."""

    mixture: Mixture
    facts: Facts
    folder: Path

    @staticmethod
    def load(folder: str | Path) -> MixtureRun:
        """Open a finished run, checked against its recorded SHA-256."""
        values, facts = load_summary(folder, KIND)
        return MixtureRun(Mixture.from_json(values), facts, Path(folder))


def mix_signatures(
    target: Signature,
    sources: Sequence[Signature],
    *,
    out: str | Path,
    by: str = "joint",
    debias: bool = True,
    command: str = "",
) -> MixtureRun:
    """``mix`` with its result kept in ``out``. Raises UnembedError as that does."""
    every = [target, *sources]
    key = {
        "names": [one.name for one in every],
        "signatures": digests_of(every),
        "by": by,
        "debias": debias,
    }
    keep_summary(
        out,
        KIND,
        key,
        facts_of(every),
        command,
        lambda: mix(target, sources, by=by, debias=debias).to_json(),
    )
    return MixtureRun.load(out)
