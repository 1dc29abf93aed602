"""What a finished run says of itself, and whether its files still are what it says."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unembed.errors import UnembedError
from unembed.runs.files import PARTIAL, write_whole
from unembed.runs.lock import LOCK
from unembed.short_repr import ShortRepr

MOST_JSON_BYTES = 1 << 26
MANIFEST = "manifest.json"
JOURNAL = "journal.jsonl"
SUMMARY = "summary.json"
RANKS = ".ranks"
"""Folder of a run that several processes write, for as long as they do."""
PAGE = "report.html"
"""Drawn from the other files, again at any time, so that no manifest lists it."""

SHA256 = re.compile("[0-9a-f]{64}")

Facts = tuple[tuple[str, str], ...]
"""Label and value of what a result rests on, for the page."""


@dataclass(frozen=True)
class Part(ShortRepr):
    """A finished file of a run: its path inside the folder, its rows, its SHA-256."""

    path: str
    rows: int
    sha256: str

    @staticmethod
    def from_json(values: Any) -> Part:
        """Read back ``vars`` of a part.

        Raises ValueError or TypeError for what is none, such as a path that leads out of the run.
        """
        path, rows, digest = values["path"], values["rows"], values["sha256"]
        names = path.split("/") if isinstance(path, str) else [""]
        if {"", ".", ".."} & set(names) or "\0" in path:
            raise ValueError(f"it lists {path!r}, which is no path inside the run")
        if not isinstance(rows, int) or isinstance(rows, bool) or rows < 0:
            raise ValueError(f"it lists {rows!r} rows of {path}")
        if not isinstance(digest, str) or not SHA256.fullmatch(digest):
            raise ValueError(f"it lists {digest!r} as the SHA-256 of {path}")
        return Part(**values)


@dataclass(frozen=True)
class FinishedRun(ShortRepr):
    """A finished run by its manifest: what it depends on, its files, and how to replay it.

    ``key`` holds the plain values that its numbers depend on, ``kind`` and ``schema`` among them.
    """

    folder: Path
    key: dict[str, Any]
    parts: tuple[Part, ...]
    files: tuple[Part, ...]
    command: str

    @property
    def kind(self) -> str:
        """What kind of run it is."""
        return str(self.key.get("kind"))

    @property
    def facts(self) -> Facts:
        """Label and value of what the result rests on, of a run that was kept with them."""
        return tuple((label, value) for label, value in self.key.get("facts", ()))

    @property
    def listed(self) -> tuple[Part, ...]:
        """Every file that the manifest lists."""
        return (*self.parts, *self.files)

    def summary(self) -> dict[str, Any]:
        """The numbers of ``summary.json``, which the manifest has to list."""
        if SUMMARY not in {part.path for part in self.files}:
            raise UnembedError(
                f"{self.folder / MANIFEST} does not list {SUMMARY}: repeat the run in a new folder"
            )
        found = json.loads(_json_of(self.folder / SUMMARY))
        if not isinstance(found, dict):
            raise ValueError(f"{SUMMARY} is no object")
        return found

    def verify(self) -> None:
        """Compare every listed file with its recorded SHA-256.

        Raises UnembedError where one is damaged or missing, or where a folder of listed files holds
        another. The run's own folder may hold others, and so may that of a run inside it.
        """
        verify(self.folder, self.listed)
        listed = {self.folder / part.path for part in self.listed}
        runs = {self.folder, *(path.parent for path in listed if path.name == MANIFEST)}
        for place in {path.parent for path in listed} - runs:
            for path in sorted({path for path in place.iterdir() if path.is_file()} - listed):
                if path.suffix != PARTIAL:
                    raise UnembedError(f"{path} does not belong to this run: move it elsewhere")


def verified_run(folder: str | Path, kind: str, schema: int) -> FinishedRun:
    """A finished run of this kind, with every file that it lists compared with its SHA-256.

    Raises UnembedError where there is none, one of another kind, or a damaged one.
    """
    run = read_run(folder)
    if (run.kind, run.key.get("schema")) != (kind, schema):
        raise UnembedError(
            f"{folder} holds a run of kind {run.kind!r}, schema {run.key.get('schema')!r}, where "
            f"one of kind {kind!r}, schema {schema} is needed: repeat it in a new folder"
        )
    run.verify()
    return run


def read_run(folder: str | Path) -> FinishedRun:
    """A finished run by its manifest alone, its files unread.

    Raises UnembedError where there is none, or where the manifest is damaged.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    try:
        data = _json_of(path)
    except (FileNotFoundError, NotADirectoryError):
        if (folder / JOURNAL).exists():
            raise UnembedError(
                f"{folder} holds an unfinished run: repeat its command to finish it"
            ) from None
        raise UnembedError(
            f"{folder} holds no run (no {MANIFEST}): give the folder of a run"
        ) from None
    except OSError as error:
        raise UnembedError(f"{path} cannot be read: {error.strerror}") from error
    try:
        values = json.loads(data)
        if values.pop("sha256", None) != _seal(values):
            raise ValueError("its SHA-256 is not the one it states")
        key, command = values["provenance"], values["command"]
        if not isinstance(key, dict) or not isinstance(command, str):
            raise ValueError("its provenance is no object, or its command no text")
        return FinishedRun(
            folder,
            key,
            tuple(Part.from_json(part) for part in values["parts"]),
            tuple(Part.from_json(part) for part in values["files"]),
            command,
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnembedError(
            f"{path} is damaged ({error}): restore it, or repeat the run in a new folder"
        ) from None


def write_manifest(run: FinishedRun) -> None:
    """Seal the manifest and write it, which makes the run a finished one."""
    manifest = {
        "provenance": run.key,
        "parts": [vars(part) for part in sorted(run.parts, key=lambda part: part.path)],
        "files": [vars(part) for part in sorted(run.files, key=lambda part: part.path)],
        "command": run.command,
    }
    sealed = {**manifest, "sha256": _seal(manifest)}
    write_whole(run.folder / MANIFEST, json.dumps(sealed, indent=1).encode())


def verify(folder: Path, parts: Iterable[Part]) -> None:
    """Compare every part with its recorded SHA-256. Raises UnembedError naming a damaged one."""
    for part in parts:
        path = folder / part.path
        if _digest(path) != part.sha256:
            raise UnembedError(
                f"{path} is damaged: its SHA-256 is not the one recorded when it was written; "
                "restore it, or repeat the run in a new folder"
            )


def every_part(folder: Path) -> Iterator[Part]:
    """Each file below a folder that is about to be finished, pages and locks apart."""
    for path in sorted(folder.rglob("*")):
        own = path.parent == folder and path.name in (MANIFEST, JOURNAL)
        own = own or RANKS in path.relative_to(folder).parts
        left = path.name in (LOCK, PAGE) or path.suffix == PARTIAL
        if path.is_file() and not own and not left:
            yield Part(path.relative_to(folder).as_posix(), 0, _digest(path))


def _json_of(path: Path) -> bytes:
    """A manifest or a summary. Raises UnembedError, unread, for one that no run writes."""
    size = path.stat().st_size
    if size > MOST_JSON_BYTES:
        raise UnembedError(
            f"{path} is damaged ({size:,} bytes, where at most {MOST_JSON_BYTES:,} are written): "
            "restore it, or repeat the run in a new folder"
        )
    return path.read_bytes()


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        raise UnembedError(
            f"{path} is missing from the run: restore it, or repeat the run in a new folder"
        ) from None
    except OSError as error:
        raise UnembedError(f"{path} cannot be read: {error.strerror}") from error


def _seal(manifest: dict[str, Any]) -> str:
    """SHA-256 of a manifest's values, so that a changed byte in it does not pass unseen."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
