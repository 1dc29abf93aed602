"""Runs whose result is one small record: a folder with ``summary.json`` and its manifest."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from unembed.errors import UnembedError
from unembed.runs.provenance import SCHEMA
from unembed.runs.store import RunFolder, verified_manifest

SUMMARY = "summary.json"

Facts = tuple[tuple[str, str], ...]
"""Label and value of what a result rests on, for the page."""


def keep_summary(
    out: str | Path,
    kind: str,
    key: Mapping[str, Any],
    facts: Facts,
    command: str,
    find: Callable[[], dict[str, Any]],
) -> None:
    """Keep in ``out`` what ``find`` gives, which is called only where the run is not finished.

    ``key`` are the plain values that the result depends on. Raises UnembedError where the folder
    holds another run, or cannot be written.
    """
    whole = {
        "kind": kind,
        "schema": SCHEMA,
        **key,
        "facts": [list(fact) for fact in facts],
    }
    with RunFolder.open(out, whole) as folder:
        if not folder.finished:
            folder.write_bytes(SUMMARY, json.dumps(find(), indent=1, allow_nan=False).encode())
            folder.finish(whole, command)


def load_summary(folder: str | Path, kind: str) -> tuple[dict[str, Any], Facts]:
    """What a finished run of this kind holds, checked against its recorded SHA-256, and its facts.

    Raises UnembedError where there is none, one of another kind, or a damaged one.
    """
    found = verified_manifest(folder).provenance
    if found.get("kind") != kind:
        raise UnembedError(
            f"{folder} holds a run of kind {found.get('kind')!r}, where one of kind {kind!r} is "
            "needed"
        )
    facts = tuple((label, value) for label, value in found["facts"])
    return json.loads((Path(folder) / SUMMARY).read_text()), facts
