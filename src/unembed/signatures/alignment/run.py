"""The alignments of signature files, kept in a run's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unembed.errors import UnembedError
from unembed.models.checkpoint import Checkpoint
from unembed.runs.provenance import digest_of
from unembed.runs.small import Facts, keep_summary, load_summary
from unembed.signatures.alignment.align import align
from unembed.signatures.alignment.records import Alignments
from unembed.signatures.alignment.texts import align_texts
from unembed.signatures.reading.files import digests_of, facts_of, load_all
from unembed.signatures.reading.sketcher import SketchOptions
from unembed.text.corpus import Corpus

KIND = "alignment"


@dataclass(frozen=True)
class AlignmentRun:
    """Alignments, and what is known of the signatures: label and value of what they share."""

    alignments: Alignments
    facts: Facts
    folder: Path

    @staticmethod
    def load(folder: str | Path) -> AlignmentRun:
        """Open a finished run, checked against its recorded SHA-256."""
        values, facts = load_summary(folder, KIND)
        return AlignmentRun(Alignments.from_json(values), facts, Path(folder))


def align_files(
    files: Sequence[str | Path], *, out: str | Path, debias: bool = True, command: str = ""
) -> AlignmentRun:
    """Align signatures (or the folders of audits that hold one), and keep the result in ``out``.

    Two that bear one name are called by their files. Raises UnembedError as ``align`` does, and for
    fewer than two files.
    """
    if len(files) < 2:
        raise UnembedError(f"{len(files)} signature has nothing to compare with: give two or more")
    signatures = load_all(files)
    key = {
        "names": [one.name for one in signatures],
        "signatures": digests_of(signatures),
        "debias": debias,
    }
    keep_summary(
        out,
        KIND,
        key,
        facts_of(signatures),
        command,
        lambda: align(signatures, debias=debias).to_json(),
    )
    return AlignmentRun.load(out)


def align_corpora(
    checkpoint: Checkpoint,
    texts: Mapping[str, Corpus],
    options: SketchOptions | None = None,
    *,
    out: str | Path,
    exact: bool | None = None,
    debias: bool = True,
    command: str = "",
    progress: bool = False,
) -> AlignmentRun:
    """``align_texts`` with its result kept in ``out``. Raises UnembedError as that does."""
    if len(texts) < 2:
        raise UnembedError(f"{len(texts)} text has nothing to compare with: give two or more")
    options = options or SketchOptions()
    facts = (("Model", checkpoint.name), *((name, text.rules) for name, text in texts.items()))
    key = {
        "model": digest_of(checkpoint.model),
        "texts": [text.digest for text in texts.values()],
        "options": vars(options),
        "exact": exact,
        "debias": debias,
    }
    keep_summary(
        out,
        KIND,
        key,
        facts,
        command,
        lambda: align_texts(
            checkpoint, texts, options, exact=exact, debias=debias, progress=progress
        ).to_json(),
    )
    return AlignmentRun.load(out)
