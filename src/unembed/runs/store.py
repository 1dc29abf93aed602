"""Run folders that are being written: parts that appear whole, a journal, the manifest last."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from unembed.errors import UnembedError
from unembed.runs.differences import differing, shown
from unembed.runs.files import PARTIAL, check_writable, make_folder, refusals, write_whole
from unembed.runs.lock import LOCK, exclusive_lock
from unembed.runs.manifest import (
    JOURNAL,
    MANIFEST,
    RANKS,
    SUMMARY,
    FinishedRun,
    Part,
    every_part,
    read_run,
    verify,
    write_manifest,
)
from unembed.runs.ranks import Ranks, alone, current_ranks

SUB_RUNS = ("before", "after", "divergence", "drafts", "mined", "signatures")
"""Runs that may lie in the folder of a run that is made from them, and be finished before it."""
OURS = (MANIFEST, JOURNAL, LOCK, RANKS, MANIFEST + PARTIAL, JOURNAL + PARTIAL, *SUB_RUNS)
TABLES = "tokens/"
LAUNCH = "launch"
"""In ``RANKS``: a word of process 0's, by which the others know that they see the same folder."""
SEEN_SECONDS = 60.0
"""How long a file may take to be seen on another machine."""
ENDING_SECONDS = 60.0
"""How long ranks of an earlier launch, whose process 0 ended, may go on writing."""

Made = TypeVar("Made")


class RunFolder:
    """An open run folder that this process, or the processes of one launch, alone may write.

    Opened with the run's key, the plain values that its numbers depend on. The journal keeps the
    key and a line per finished part, so the same command goes on where a killed one stopped; any
    other key is refused. Of several processes each keeps a journal of the parts that it writes,
    until ``gather``; process 0 alone holds the folder's own.
    """

    def __init__(
        self,
        folder: Path,
        key: dict[str, Any],
        done: dict[str, Part],
        ranks: Ranks,
        *,
        finished: bool = False,
    ) -> None:
        self.folder = folder
        self.key = key
        self.done = done
        self.ranks = ranks
        self._finished = finished
        self._journal = folder / JOURNAL if ranks.first else _own(folder, ranks) / JOURNAL
        self._untold: list[Part] = []

    @staticmethod
    @contextlib.contextmanager
    def open(folder: str | Path, key: dict[str, Any], wait_s: float = 0.0) -> Iterator[RunFolder]:
        """Lock the folder and read its journal; a finished run is verified.

        ``wait_s`` is how long another process may go on writing it.

        Under ``joined`` every process opens it alike, and all see what process 0 read. Raises
        UnembedError if it holds another run or other files, is in use, or is damaged, and where the
        processes have different keys or do not see one folder. A run that ends in an UnembedError
        before it wrote anything leaves the folder to any other.
        """
        folder, ranks = Path(folder), current_ranks()
        key = json.loads(json.dumps(key))
        ranks.agree(f"the run in {folder}", key)
        opening = _led(folder, key, ranks, wait_s) if ranks.first else _followed(folder, key, ranks)
        with opening as opened:
            yield opened

    @property
    def finished(self) -> bool:
        """Whether the run in this folder was completed."""
        return holds_finished_run(self.folder) if self.ranks.first else self._finished

    def write_table(self, path: str, table: pa.Table) -> Part:
        """Write a Parquet part whole or not at all, and journal it."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", use_dictionary=False, store_schema=True)
        return self.write_bytes(path, sink.getvalue().to_pybytes(), rows=table.num_rows)

    def write_bytes(self, path: str, data: bytes | bytearray, rows: int = 0) -> Part:
        """Write a file whole or not at all, and journal it; of a team, one process does."""
        part = Part(path, rows, hashlib.sha256(data).hexdigest())
        if self.ranks.writes:
            write_whole(self.folder / path, data)
            self._note([part])
            self._untold.append(part)
        self.done[path] = part
        return part

    def _note(self, parts: Sequence[Part]) -> None:
        """Add parts to this process's journal."""
        with refusals(self._journal):
            if not self._journal.exists():
                write_whole(self._journal, _line(self.key).encode())
            with self._journal.open("a") as journal:
                journal.write("".join(_line(vars(part)) for part in parts))
                journal.flush()
                os.fsync(journal.fileno())

    def gather(self) -> None:
        """Wait until every process is here, and see the parts that all of them wrote."""
        untold, self._untold = self._untold, []
        if self.ranks.processes == 1:
            return
        said = self.ranks.shared(f"the parts in {self.folder}", [vars(part) for part in untold])
        theirs = [Part(**part) for one, parts in enumerate(said) if one for part in parts]
        if self.ranks.first and theirs:
            self._note(theirs)
        self.done |= {part["path"]: Part(**part) for parts in said for part in parts}

    def by_first(self, work: Callable[[], Made]) -> Made | None:
        """What process 0 makes of all parts, by itself; the others wait for what it writes.

        None on the others.
        """
        self.gather()
        if self.ranks.processes == 1:
            return work()
        made = None
        if self.ranks.first:
            with alone():
                made = work()
        told = [vars(part) for part in self.done.values()], self.finished
        parts, self._finished = self.ranks.from_first(f"the end of {self.folder}", told)
        self.done = {part["path"]: Part(**part) for part in parts}
        self._untold = []
        return made

    def _leave(self) -> None:
        """Let another run have a folder in which this one was refused before it did anything.

        Not that of several processes: another of them may be writing its first part.
        """
        if self.ranks.processes > 1:
            return
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


@contextlib.contextmanager
def _led(folder: Path, key: dict[str, Any], ranks: Ranks, wait_s: float) -> Iterator[RunFolder]:
    """The folder as process 0 opens it: locked, what is left of an earlier launch taken over."""
    check_folder(folder)
    with refusals(folder):
        make_folder(folder)
    with exclusive_lock(folder, wait_s), contextlib.ExitStack() as stack:
        earlier = sorted(folder.glob(f"{RANKS}/*/"))
        for place in earlier:
            # Its process 0 ended, and it may not have noticed yet.
            stack.enter_context(exclusive_lock(place, ENDING_SECONDS))
        done = _resume(folder, key, [place / JOURNAL for place in earlier])
        stack.close()
        with refusals(folder / RANKS):
            _remove(folder / RANKS)
        opened = RunFolder(folder, key, done, ranks)
        if ranks.processes > 1:
            word = secrets.token_hex(8)
            write_whole(folder / RANKS / LAUNCH, word.encode())
            parts = [vars(part) for part in done.values()]
            ranks.from_first(f"opening {folder}", [word, parts, opened.finished])
        try:
            yield opened
        except UnembedError:
            opened._leave()
            raise
        if ranks.processes > 1:
            opened.gather()
            ranks.wait(f"closing {folder}")
            with refusals(folder / RANKS):
                _remove(folder / RANKS)


@contextlib.contextmanager
def _followed(folder: Path, key: dict[str, Any], ranks: Ranks) -> Iterator[RunFolder]:
    """The folder as the other processes open it, once process 0 has."""
    word, parts, finished = ranks.from_first(f"opening {folder}", None)
    until = time.monotonic() + SEEN_SECONDS
    while _read(folder / RANKS / LAUNCH) != word.encode():
        ranks.check()
        if time.monotonic() > until:
            raise UnembedError(
                f"rank {ranks.process} does not see in {folder} what rank 0 wrote there: give a "
                "folder that all machines share"
            )
        time.sleep(0.05)
    done = {part["path"]: Part(**part) for part in parts}
    own = _own(folder, ranks)
    with refusals(own):
        own.mkdir(exist_ok=True)
    opened = RunFolder(folder, key, done, ranks, finished=finished)
    with exclusive_lock(own):
        yield opened
        opened.gather()
    ranks.wait(f"closing {folder}")


def _own(folder: Path, ranks: Ranks) -> Path:
    """Where a process other than 0 keeps its journal and its lock."""
    return folder / RANKS / f"{ranks.process:05d}"


def _remove(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _resume(folder: Path, key: dict[str, Any], others: Sequence[Path]) -> dict[str, Part]:
    """The parts already finished under this key; starts the journal where there is none.

    ``others`` are the journals of the other processes of an earlier launch, whatever their number.
    """
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
    more = [line for other in others for line in _lines_of(other, whole[0])]
    done: dict[str, Part] = {}
    for line in whole[1:] + more:
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
            part = Part.from_json(json.loads(line))
            verify(folder, (part,))
            done[part.path] = part
    if lines[-1] or more or len(done) < len(whole) - 1:
        kept = [_line(key), *(_line(vars(part)) for part in done.values())]
        write_whole(journal, "".join(kept).encode())
    return done


def _lines_of(journal: Path, key: bytes) -> list[bytes]:
    """The whole lines of another process's journal, if that is of this run."""
    first, *lines = (_read(journal) or b"").split(b"\n")
    return lines[:-1] if first == key else []


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
