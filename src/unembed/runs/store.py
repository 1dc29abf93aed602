"""Run folders that are being written: parts that appear whole, a journal, the manifest last."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unembed.errors import UnembedError
from unembed.runs.differences import differing, shown
from unembed.runs.files import PARTIAL, check_writable, make_folder, refusals, write_whole
from unembed.runs.lock import LOCK, exclusive_lock
from unembed.runs.manifest import (
    JOURNAL,
    MANIFEST,
    SUMMARY,
    FinishedRun,
    Part,
    every_part,
    read_run,
    verify,
    write_manifest,
)

SUB_RUNS = ("before", "after", "divergence", "drafts", "mined", "signatures")
"""Runs that may lie in the folder of a run that is made from them, and be finished before it."""
OURS = (MANIFEST, JOURNAL, LOCK, MANIFEST + PARTIAL, JOURNAL + PARTIAL, *SUB_RUNS)
TABLES = "tokens/"


class RunFolder:
    """An open run folder that this process alone may write.

    Opened with the run's key, the plain values that its numbers depend on. The journal keeps the
    key and a line per finished part, so the same command goes on where a killed one stopped; any
    other key is refused.
    """

    def __init__(self, folder: Path, key: dict[str, Any], done: dict[str, Part]) -> None:
        self.folder = folder
        self.key = key
        self.done = done

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
        with refusals(folder):
            make_folder(folder)
        with exclusive_lock(folder):
            opened = RunFolder(folder, key, _resume(folder, key))
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

    def finish(
        self, command: str, summary: dict[str, Any] | None = None, *, everything: bool = False
    ) -> None:
        """Write the summary and then the manifest, which makes the run a finished one.

        The manifest lists what this folder wrote and, with ``everything``, each file below it: runs
        of its own, a model, what other programs wrote.
        """
        if summary is not None:
            self.write_bytes(SUMMARY, json.dumps(summary, indent=1, allow_nan=False).encode())
        if everything:
            self.done = {
                part.path: self.done.get(part.path, part) for part in every_part(self.folder)
            }
        parts = self.done.values()
        tables = tuple(part for part in parts if part.path.startswith(TABLES))
        files = tuple(part for part in parts if not part.path.startswith(TABLES))
        write_manifest(FinishedRun(self.folder, self.key, tables, files, command))
        with contextlib.suppress(OSError):
            (self.folder / JOURNAL).unlink()


def reopen(folder: str | Path) -> None:
    """Let a finished run be finished anew, as one that takes more parts: its journal is put back.

    Raises UnembedError where the folder holds none.
    """
    run = read_run(folder)
    write_whole(run.folder / JOURNAL, _line(run.key).encode())
    (run.folder / MANIFEST).unlink()


def holds_finished_run(folder: str | Path) -> bool:
    """Whether a completed run is in this folder, damaged or not."""
    return (Path(folder) / MANIFEST).exists()


def check_folder(folder: str | Path) -> None:
    """Raise UnembedError unless a run may be written to, or resumed in, this folder."""
    folder = Path(folder)
    with refusals(folder):
        if folder.exists() and not folder.is_dir():
            raise UnembedError(f"{folder} is a file: give a folder for the run")
        check_writable(folder)
        if not folder.exists() or (folder / JOURNAL).exists() or (folder / MANIFEST).exists():
            return
        others = sorted(path.name for path in folder.iterdir() if path.name not in OURS)
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise UnembedError(
            f"{folder} holds files that are no run of unembed ({others[0]}{more}): "
            "give an empty or new folder"
        )


def _resume(folder: Path, key: dict[str, Any]) -> dict[str, Part]:
    """The parts already finished under this key; starts the journal where there is none."""
    journal = folder / JOURNAL
    if (folder / MANIFEST).exists():
        run = read_run(folder)
        _same_run(folder, run.key, key)
        run.verify()
        with contextlib.suppress(OSError):
            journal.unlink()
        return {part.path: part for part in run.listed}
    lines = journal.read_bytes().split(b"\n") if journal.exists() else []
    whole = lines[:-1]
    if not whole:
        write_whole(journal, _line(key).encode())
        return {}
    try:
        theirs = dict(json.loads(whole[0]))
    except (ValueError, TypeError, RecursionError):
        raise UnembedError(
            f"{journal} is damaged in its first line, so it is not known which run {folder} holds: "
            "give another folder, or delete this one"
        ) from None
    _same_run(folder, theirs, key)
    done: dict[str, Part] = {}
    for line in whole[1:]:
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
            part = Part.from_json(json.loads(line))
            verify(folder, (part,))
            done[part.path] = part
    if lines[-1] or len(done) < len(whole) - 1:
        kept = [_line(key), *(_line(vars(part)) for part in done.values())]
        write_whole(journal, "".join(kept).encode())
    return done


def _same_run(folder: Path, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    kinds = theirs.get("kind"), ours.get("kind")
    if kinds[0] != kinds[1]:
        # What else differs says nothing where the runs have little in common.
        raise UnembedError(
            f"{folder} holds another run: its kind is {shown(kinds[0])}, this one's is "
            f"{shown(kinds[1])}; give another folder"
        )
    if found := differing(theirs, ours):
        (name, old, new), *rest = found
        more = f" (and {', '.join(other for other, *_ in rest)})" if rest else ""
        raise UnembedError(
            f"{folder} holds another run: its {name} is {old}, this one's is {new}{more}; give "
            "another folder, or repeat that run's own command"
        )


def _line(values: dict[str, Any]) -> str:
    return json.dumps(values, separators=(",", ":")) + "\n"
