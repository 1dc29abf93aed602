"""Tasks by their signatures' files, each under a name of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unembed.runs.manifest import Facts
from unembed.signatures.file import as_bytes, load
from unembed.signatures.reading.sketcher import FILE
from unembed.signatures.signature import Signature


def file_of(path: Path) -> Path:
    """The signature's own file, where a folder of an audit that holds one was given."""
    return path / FILE if (path / FILE).is_file() else path


def load_all(files: Sequence[str | Path]) -> list[Signature]:
    """The signatures of some files, or of folders of audits that hold one.

    Two that bear one name are called by their files. Raises UnembedError as ``load`` does.
    """
    loaded = [(Path(file), load(file_of(Path(file)))) for file in files]
    names = [one.name for _path, one in loaded]
    return [
        replace(one, name=str(path)) if names.count(one.name) > 1 else one for path, one in loaded
    ]


def key_of(signatures: Sequence[Signature], **options: Any) -> dict[str, Any]:
    """The plain values that a result of these signatures, made with these options, depends on."""
    return {
        "names": [one.name for one in signatures],
        "signatures": [hashlib.sha256(as_bytes(one)).hexdigest() for one in signatures],
        **options,
    }


def facts_of(signatures: Sequence[Signature]) -> Facts:
    """What all of them share, and the text of each, for the page."""
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
    return tuple(rows)
