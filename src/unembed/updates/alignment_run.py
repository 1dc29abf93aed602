"""The alignments of signature files, kept in a run's folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unembed.corpus import Corpus
from unembed.errors import UnembedError
from unembed.models import Checkpoint
from unembed.provenance import SCHEMA, digest_of
from unembed.store import RunFolder, verified_manifest
from unembed.updates.alignment import align
from unembed.updates.alignments import Alignments
from unembed.updates.signature import Signature
from unembed.updates.signature_file import as_bytes, load
from unembed.updates.sketcher import FILE, SketchOptions
from unembed.updates.texts import align_texts

KIND = "alignment"
SUMMARY = "summary.json"


@dataclass(frozen=True)
class AlignmentRun:
    """Alignments, and what is known of the signatures: label and value of what they share."""

    alignments: Alignments
    facts: tuple[tuple[str, str], ...]
    folder: Path

    @staticmethod
    def load(folder: str | Path) -> AlignmentRun:
        """Open a finished run, checked against its recorded SHA-256."""
        found = verified_manifest(folder).provenance
        if found.get("kind") != KIND:
            raise UnembedError(
                f"{folder} holds a run of kind {found.get('kind')!r}, where alignments are needed"
            )
        alignments = Alignments.from_json(json.loads((Path(folder) / SUMMARY).read_text()))
        facts = tuple((label, value) for label, value in found["facts"])
        return AlignmentRun(alignments, facts, Path(folder))


def align_files(
    files: Sequence[str | Path], *, out: str | Path, debias: bool = True, command: str = ""
) -> AlignmentRun:
    """Align signatures (or the folders of audits that hold one), and keep the result in ``out``.

    Two that bear one name are called by their files. Raises UnembedError as ``align`` does, and for
    fewer than two files.
    """
    if len(files) < 2:
        raise UnembedError(f"{len(files)} signature has nothing to compare with: give two or more")
    signatures = _named([(Path(file), load(_file_of(Path(file)))) for file in files])
    facts = _facts(signatures)
    key: dict[str, Any] = {
        "kind": KIND,
        "schema": SCHEMA,
        "names": [one.name for one in signatures],
        "signatures": [hashlib.sha256(as_bytes(one)).hexdigest() for one in signatures],
        "debias": debias,
        "facts": [list(fact) for fact in facts],
    }
    return _kept(out, key, command, lambda: align(signatures, debias=debias))


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
    facts = [
        ("Model", checkpoint.name),
        *((name, text.rules) for name, text in texts.items()),
    ]
    key: dict[str, Any] = {
        "kind": KIND,
        "schema": SCHEMA,
        "model": digest_of(checkpoint.model),
        "texts": [text.digest for text in texts.values()],
        "options": vars(options),
        "exact": exact,
        "debias": debias,
        "facts": [list(fact) for fact in facts],
    }

    def found() -> Alignments:
        return align_texts(
            checkpoint, texts, options, exact=exact, debias=debias, progress=progress
        )

    return _kept(out, key, command, found)


def _kept(
    out: str | Path, key: dict[str, Any], command: str, find: Callable[[], Alignments]
) -> AlignmentRun:
    """The run of this key in the folder, computed where it is not finished."""
    with RunFolder.open(out, key) as folder:
        if not folder.finished:
            text = json.dumps(find().to_json(), indent=1, allow_nan=False)
            folder.write_bytes(SUMMARY, text.encode())
            folder.finish(key, command)
    return AlignmentRun.load(out)


def _file_of(path: Path) -> Path:
    return path / FILE if (path / FILE).is_file() else path


def _named(loaded: Sequence[tuple[Path, Signature]]) -> list[Signature]:
    """The signatures, each under a name of its own."""
    names = [one.name for _path, one in loaded]
    found = []
    for path, one in loaded:
        again = names.count(one.name) > 1
        found.append(replace(one, name=str(path)) if again else one)
    return found


def _facts(signatures: Sequence[Signature]) -> list[tuple[str, str]]:
    """What all of them share, for the page."""
    identity = signatures[0].identity
    spec = identity.spec
    models = sorted({one.facts.get("model", "unknown") for one in signatures})
    rows = [
        ("Model", ", ".join(models)),
        ("Output head", f"{spec.vocab:,} x {spec.dim:,}, {identity.head_digest[:12]}"),
        ("Sketch", f"{spec.construction}, m = {spec.m:,}, seed {spec.seed}"),
        ("Fisher", f"{identity.fisher}, unit {identity.unit}"),
        *((one.name, one.facts.get("text", "")) for one in signatures),
    ]
    if identity.support:
        rows.append(("Softmax", f"over answer words alone, {identity.support[:12]}"))
    return rows
