"""Run folders: parts that appear whole, a journal, the manifest last; resume and verification."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from unembed.errors import UnembedError

MANIFEST = "manifest.json"
JOURNAL = "journal.jsonl"
LOCK = ".lock"


@dataclass(frozen=True)
class Part:
    """A finished file of a run: its path inside the folder, its rows, its SHA-256."""

    path: str
    rows: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a finished run says of itself; written last."""

    provenance: dict[str, Any]
    parts: tuple[Part, ...]
    files: tuple[Part, ...]
    command: str


class RunFolder:
    """An open run folder that this process alone may write.

    Opened with the run's key, the plain values that its numbers depend on. The journal keeps the
    key and a line per finished part, so the same command goes on where a killed one stopped; any
    other key is refused.
    """

    def __init__(self, folder: Path, lock: IO[str], done: dict[str, Part]) -> None:
        self.folder = folder
        self.done = done
        self._lock = lock

    @staticmethod
    @contextlib.contextmanager
    def open(folder: str | Path, key: dict[str, Any]) -> Iterator[RunFolder]:
        """Lock the folder and read its journal. Raises UnembedError if it holds another run."""
        folder = Path(folder)
        key = json.loads(json.dumps(key))
        if folder.exists() and not folder.is_dir():
            raise UnembedError(f"{folder} is a file: give a folder for the run")
        folder.mkdir(parents=True, exist_ok=True)
        strangers = [p.name for p in folder.iterdir() if p.name not in (MANIFEST, JOURNAL, LOCK)]
        if strangers and not (folder / JOURNAL).exists() and not (folder / MANIFEST).exists():
            raise UnembedError(
                f"{folder} holds files that are no run of unembed ({sorted(strangers)[0]}, ...): "
                "give an empty or new folder"
            )
        with (folder / LOCK).open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.seek(0)
                holder = lock.read().strip() or "unknown"
                raise UnembedError(
                    f"{folder} is being written by another process (pid {holder}): wait for it, "
                    "or give another folder"
                ) from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield RunFolder(folder, lock, _resume(folder, key))

    @property
    def finished(self) -> bool:
        """Whether the run in this folder was completed."""
        return (self.folder / MANIFEST).exists()

    def write_table(self, path: str, table: pa.Table) -> Part:
        """Write a Parquet part whole or not at all, and journal it."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", use_dictionary=False, store_schema=True)
        return self.write_bytes(path, sink.getvalue().to_pybytes(), rows=table.num_rows)

    def write_bytes(self, path: str, data: bytes, rows: int = 0) -> Part:
        """Write a file whole or not at all, and journal it."""
        part = Part(path, rows, hashlib.sha256(data).hexdigest())
        write_whole(self.folder / path, data)
        with (self.folder / JOURNAL).open("a") as journal:
            journal.write(_line({"path": path, "rows": rows, "sha256": part.sha256}))
            journal.flush()
            os.fsync(journal.fileno())
        self.done[path] = part
        return part

    def finish(self, provenance: dict[str, Any], command: str) -> None:
        """Write the manifest, which makes the run a finished one, and drop the journal."""
        parts = [p for p in self.done.values() if p.path.startswith("tokens/")]
        files = [p for p in self.done.values() if not p.path.startswith("tokens/")]
        manifest = {
            "provenance": provenance,
            "parts": [vars(p) for p in sorted(parts, key=lambda p: p.path)],
            "files": [vars(p) for p in sorted(files, key=lambda p: p.path)],
            "command": command,
        }
        write_whole(self.folder / MANIFEST, json.dumps(manifest, indent=1).encode())
        (self.folder / JOURNAL).unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Write to a neighbouring ``.part`` file, flush to disk, and rename into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    with partial.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_manifest(folder: str | Path) -> Manifest:
    """The manifest of a finished run. Raises UnembedError where there is none."""
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.exists():
        if (folder / JOURNAL).exists():
            raise UnembedError(f"{folder} holds an unfinished run: repeat its command to finish it")
        raise UnembedError(f"{folder} holds no run (no {MANIFEST})")
    try:
        values = json.loads(path.read_text())
        return Manifest(
            values["provenance"],
            tuple(Part(**part) for part in values["parts"]),
            tuple(Part(**part) for part in values["files"]),
            values["command"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UnembedError(f"{path} is damaged ({error!r}): run the audit again") from None


def verify(folder: str | Path, parts: tuple[Part, ...]) -> None:
    """Compare every part with its recorded SHA-256. Raises UnembedError naming a damaged one."""
    for part in parts:
        path = Path(folder) / part.path
        if not path.exists():
            raise UnembedError(f"{path} is missing from the run: repeat the run in a new folder")
        if hashlib.sha256(path.read_bytes()).hexdigest() != part.sha256:
            raise UnembedError(
                f"{path} is damaged: its SHA-256 is not the one in {MANIFEST}; "
                "restore it or repeat the run in a new folder"
            )


def _resume(folder: Path, key: dict[str, Any]) -> dict[str, Part]:
    """The parts already finished under this key; starts the journal where there is none."""
    journal = folder / JOURNAL
    if (folder / MANIFEST).exists():
        manifest = read_manifest(folder)
        _same_run(folder, manifest.provenance, key)
        return {part.path: part for part in (*manifest.parts, *manifest.files)}
    lines = journal.read_bytes().split(b"\n") if journal.exists() else []
    whole = lines[:-1]
    if not whole:
        write_whole(journal, _line(key).encode())
        return {}
    _same_run(folder, json.loads(whole[0]), key)
    if lines[-1]:
        write_whole(journal, b"".join(line + b"\n" for line in whole))
    done = {}
    for line in whole[1:]:
        part = Part(**json.loads(line))
        with contextlib.suppress(UnembedError):
            verify(folder, (part,))
            done[part.path] = part
    return done


def _same_run(folder: Path, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    for name in sorted(theirs.keys() | ours.keys()):
        old, new = theirs.get(name), ours.get(name)
        if old != new:
            raise UnembedError(
                f"{folder} holds another run: its {name} is {str(old)[:80]}, this one's is "
                f"{str(new)[:80]}; give another folder, or repeat that run's own command"
            )


def _line(values: dict[str, Any]) -> str:
    return json.dumps(values, separators=(",", ":")) + "\n"
