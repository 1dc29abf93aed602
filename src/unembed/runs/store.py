"""Run folders: parts that appear whole, a journal, the manifest last; resume and verification."""

from __future__ import annotations

import contextlib
import errno
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

from unembed.errors import UnembedError, WriteError

MANIFEST = "manifest.json"
JOURNAL = "journal.jsonl"
LOCK = ".lock"
PARTIAL = ".part"
BENEATH = ("before", "after", "divergence", "signatures")
"""Runs that may lie in the folder of a run that is made from them, and be finished before it."""
OURS = (MANIFEST, JOURNAL, LOCK, MANIFEST + PARTIAL, JOURNAL + PARTIAL, *BENEATH)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
        """Lock the folder and read its journal; a finished run is verified.

        Raises UnembedError if it holds another run or other files, is in use, or is damaged. A run
        that ends in an UnembedError before it wrote anything leaves the folder to any other.
        """
        folder = Path(folder)
        key = json.loads(json.dumps(key))
        check_folder(folder)
        with _locked(folder) as lock:
            opened = RunFolder(folder, lock, _resume(folder, key))
            try:
                yield opened
            except UnembedError:
                opened._leave()
                raise

    @property
    def finished(self) -> bool:
        """Whether the run in this folder was completed."""
        return holds_finished_run(self.folder)

    def write_table(self, path: str, table: pa.Table) -> Part:
        """Write a Parquet part whole or not at all, and journal it."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", use_dictionary=False, store_schema=True)
        return self.write_bytes(path, sink.getvalue().to_pybytes(), rows=table.num_rows)

    def write_bytes(self, path: str, data: bytes, rows: int = 0) -> Part:
        """Write a file whole or not at all, and journal it."""
        part = Part(path, rows, hashlib.sha256(data).hexdigest())
        write_whole(self.folder / path, data)
        with refusals(self.folder / JOURNAL), (self.folder / JOURNAL).open("a") as journal:
            journal.write(_line(vars(part)))
            journal.flush()
            os.fsync(journal.fileno())
        self.done[path] = part
        return part

    def _leave(self) -> None:
        """Let another run have a folder in which this one was refused before it did anything."""
        if {path.name for path in self.folder.iterdir()} == {JOURNAL, LOCK} and not self.done:
            with contextlib.suppress(OSError):
                (self.folder / JOURNAL).unlink()

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
        sealed = {**manifest, "sha256": _seal(manifest)}
        write_whole(self.folder / MANIFEST, json.dumps(sealed, indent=1).encode())
        with contextlib.suppress(OSError):
            (self.folder / JOURNAL).unlink()


def holds_finished_run(folder: str | Path) -> bool:
    """Whether a completed run is in this folder, damaged or not."""
    return (Path(folder) / MANIFEST).exists()


def check_folder(folder: str | Path) -> None:
    """Raise UnembedError unless a run may be written to, or resumed in, this folder."""
    folder = Path(folder)
    with refusals(folder):
        if folder.exists() and not folder.is_dir():
            raise UnembedError(f"{folder} is a file: give a folder for the run")
        if not folder.exists() or (folder / JOURNAL).exists() or (folder / MANIFEST).exists():
            return
        strangers = sorted(path.name for path in folder.iterdir() if path.name not in OURS)
    if strangers:
        more = f" and {len(strangers) - 1} more" if len(strangers) > 1 else ""
        raise UnembedError(
            f"{folder} holds files that are no run of unembed ({strangers[0]}{more}): "
            "give an empty or new folder"
        )


def write_whole(path: Path, data: bytes) -> None:
    """Write to a neighbouring ``.part`` file, flush to disk, and rename into place.

    Raises UnembedError, leaving what was at ``path`` as it was, where the system refuses.
    """
    partial = path.with_name(path.name + PARTIAL)
    with refusals(path):
        try:
            _make_folder(path.parent)
            with partial.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(path)
            _sync_folder(path.parent)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise


def read_manifest(folder: str | Path) -> Manifest:
    """The manifest of a finished run. Raises UnembedError where there is none, or a damaged one."""
    folder = Path(folder)
    path = folder / MANIFEST
    try:
        data = path.read_bytes()
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
        return Manifest(
            values["provenance"],
            tuple(Part(**part) for part in values["parts"]),
            tuple(Part(**part) for part in values["files"]),
            values["command"],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnembedError(
            f"{path} is damaged ({error}): restore it, or repeat the run in a new folder"
        ) from None


def verify(folder: str | Path, parts: tuple[Part, ...]) -> None:
    """Compare every part with its recorded SHA-256. Raises UnembedError naming a damaged one."""
    for part in parts:
        path = Path(folder) / part.path
        try:
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        except FileNotFoundError:
            raise UnembedError(
                f"{path} is missing from the run: restore it, or repeat the run in a new folder"
            ) from None
        except OSError as error:
            raise UnembedError(f"{path} cannot be read: {error.strerror}") from error
        if digest != part.sha256:
            raise UnembedError(
                f"{path} is damaged: its SHA-256 is not the one recorded when it was written; "
                "restore it, or repeat the run in a new folder"
            )


def verified_manifest(folder: str | Path) -> Manifest:
    """The manifest of a finished run, with every file that it lists compared with its SHA-256.

    Raises UnembedError where a file is damaged, missing, or beside the parts without being listed.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    verify(folder, (*manifest.parts, *manifest.files))
    listed = {folder / part.path for part in manifest.parts}
    for place in {path.parent for path in listed}:
        beside = {path for path in place.iterdir() if path.suffix != PARTIAL}
        for path in sorted(beside - listed):
            raise UnembedError(f"{path} does not belong to this run: move it elsewhere")
    return manifest


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[IO[str]]:
    with contextlib.ExitStack() as stack:
        with refusals(folder):
            _make_folder(folder)
            lock = stack.enter_context((folder / LOCK).open("a+"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise UnembedError(
                f"{folder} is being written by another process (pid {holder}): wait for it, "
                "or give another folder"
            ) from None
        with refusals(folder / LOCK):
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
        yield lock


def _resume(folder: Path, key: dict[str, Any]) -> dict[str, Part]:
    """The parts already finished under this key; starts the journal where there is none."""
    journal = folder / JOURNAL
    if (folder / MANIFEST).exists():
        _same_run(folder, read_manifest(folder).provenance, key)
        manifest = verified_manifest(folder)
        with contextlib.suppress(OSError):
            journal.unlink()
        return {part.path: part for part in (*manifest.parts, *manifest.files)}
    lines = journal.read_bytes().split(b"\n") if journal.exists() else []
    whole = lines[:-1]
    if not whole:
        write_whole(journal, _line(key).encode())
        return {}
    try:
        theirs = dict(json.loads(whole[0]))
    except (ValueError, TypeError):
        raise UnembedError(
            f"{journal} is damaged in its first line, so it is not known which run {folder} holds: "
            "give another folder, or delete this one"
        ) from None
    _same_run(folder, theirs, key)
    done: dict[str, Part] = {}
    for line in whole[1:]:
        with contextlib.suppress(ValueError, TypeError):
            part = Part(**json.loads(line))
            verify(folder, (part,))
            done[part.path] = part
    if lines[-1] or len(done) < len(whole) - 1:
        kept = [_line(key), *(_line(vars(part)) for part in done.values())]
        write_whole(journal, "".join(kept).encode())
    return done


def _same_run(folder: Path, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    old, new = dict(_leaves(theirs)), dict(_leaves(ours))
    names = [name for name in {**new, **old} if old.get(name) != new.get(name)]
    if names:
        first, *rest = names
        more = f" (and {', '.join(rest)})" if rest else ""
        raise UnembedError(
            f"{folder} holds another run: its {first} is {_shown(old.get(first))}, this one's is "
            f"{_shown(new.get(first))}{more}; give another folder, or repeat that run's own command"
        )


def _leaves(values: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{above}{name}.")
        else:
            yield above + name, value


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 160 else f"{text[:157]}..."


def _line(values: dict[str, Any]) -> str:
    return json.dumps(values, separators=(",", ":")) + "\n"


def _seal(manifest: dict[str, Any]) -> str:
    """SHA-256 of a manifest's values, so that a changed byte in it does not pass unseen."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _make_folder(folder: Path) -> None:
    """``mkdir -p`` that survives a power cut: each new folder's entry is flushed too."""
    missing = [f for f in (folder, *folder.parents) if not f.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        _sync_folder(made.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def refusals(path: Path, kept: str = "finished parts are kept") -> Iterator[None]:
    """Turn what the operating system refuses into an error that the user can mend.

    ``kept`` says what is not lost by it. Raises UnembedError.
    """
    try:
        yield
    except OSError as error:
        remedy = "make room" if error.errno in FULL else "make it writable, or give another folder"
        raise WriteError(
            f"{path} cannot be written: {error.strerror}; {remedy}, and repeat the same command: "
            f"{kept}"
        ) from error
