"""What the files of a checkpoint held when it was written, so that damage is seen."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from unembed.runs.files import write_whole

SEAL = "whole.json"


def seal(folder: Path) -> None:
    """Flush every file of a checkpoint to disk, then write down its SHA-256."""
    digests = {}
    for path in _files(folder):
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        digests[path.relative_to(folder).as_posix()] = _digest(path)
    write_whole(folder / SEAL, json.dumps(digests, indent=1).encode())


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, in words; None where every file is as it was written."""
    try:
        digests: dict[str, str] = json.loads((folder / SEAL).read_text())
    except (OSError, ValueError, RecursionError):
        return "was not written to its end"
    for name, digest in digests.items():
        try:
            if _digest(folder / name) != digest:
                return f"is damaged ({name} has changed)"
        except OSError:
            return f"is damaged ({name} cannot be read)"
    return None


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SEAL)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
