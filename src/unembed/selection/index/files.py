"""The files of an index: what its header says, the records of its journal, what is appended.

``index.json`` names the others, and is replaced whole. Vectors are appended, flushed, and then
committed by a line of the journal, which is flushed too. Now and then the journal's entries go into
a Parquet segment, and a new header names that and a new journal.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import zlib
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unembed.errors import UnembedError
from unembed.runs import files
from unembed.runs.files import PARTIAL
from unembed.runs.lock import LOCK, exclusive_lock
from unembed.runs.manifest import Part
from unembed.selection.index.entries import Entry
from unembed.signatures.file import Dtype
from unembed.signatures.signature import Identity
from unembed.signatures.sketches.sketch import SketchSpec

HEADER = "index.json"
SCHEMA = 1
OWN = re.compile(
    r"(vectors|sieve|scales)-\d+\.bin|(entries|removed)-\d+\.parquet|journal-\d+\.jsonl"
    r"|approximate-\d+\.(faiss|json)"
)


@dataclass(frozen=True)
class Header:
    """What ``index.json`` says.

    ``by`` is the kind of feature, ``dtype`` how its numbers are stored. ``generation`` numbers the
    file of vectors, ``step`` the journal. ``segments`` hold the entries of the first rows in order,
    ``removed`` the numbers of those among them that were removed. ``sieved`` rows are in the sieve.
    """

    identity: Identity
    by: str
    dtype: Dtype
    generation: int = 1
    step: int = 1
    segments: tuple[Part, ...] = ()
    removed: Part | None = None
    sieved: int = 0

    @property
    def rows(self) -> int:
        """Rows whose entries are in segments."""
        return sum(part.rows for part in self.segments)

    @property
    def vectors(self) -> str:
        """The file of vectors."""
        return f"vectors-{self.generation:06d}.bin"

    @property
    def sieve(self) -> tuple[str, str]:
        """The files of the sieve: codes and scales."""
        return f"sieve-{self.generation:06d}.bin", f"scales-{self.generation:06d}.bin"

    @property
    def approximate(self) -> tuple[str, str]:
        """The files of the approximate pass, if one was built: its lists, and a note of them."""
        name = f"approximate-{self.generation:06d}"
        return f"{name}.faiss", f"{name}.json"

    @property
    def journal(self) -> str:
        """The file of what happened since the last segment."""
        return f"journal-{self.step:06d}.jsonl"

    @property
    def files(self) -> frozenset[str]:
        """Every file that the index has now, but for an approximate pass."""
        parts = (*self.segments, *([] if self.removed is None else [self.removed]))
        return frozenset([self.vectors, *self.sieve, self.journal, *(part.path for part in parts)])

    def as_bytes(self) -> bytes:
        """The content of ``index.json``, with its own SHA-256."""
        values = {"kind": "index", "schema": SCHEMA, **asdict(self)}
        return json.dumps({**values, "sha256": _seal(values)}, indent=1).encode()

    @staticmethod
    def from_bytes(data: bytes, path: Path) -> Header:
        """Read back what ``as_bytes`` gave. Raises UnembedError for anything else."""
        try:
            values = json.loads(data)
            stated = values.pop("sha256", None)
            if values.pop("kind") != "index":
                raise ValueError("it is no index")
            schema = values.pop("schema")
            if schema != SCHEMA:
                raise UnembedError(
                    f"{path} is an index of schema {schema!r}, this version reads {SCHEMA}: "
                    "install the version that wrote it"
                )
            if stated != _seal({"kind": "index", "schema": schema, **values}):
                raise ValueError("its SHA-256 is not the one it states")
            identity = values.pop("identity")
            spec = SketchSpec(**identity.pop("spec"))
            segments = tuple(Part(**part) for part in values.pop("segments"))
            removed = values.pop("removed")
            return Header(
                Identity(spec=spec, **identity),
                segments=segments,
                removed=None if removed is None else Part(**removed),
                **values,
            )
        except UnembedError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UnembedError(
                f"{path} is damaged ({error}): restore the index from a copy, or make it anew"
            ) from None


@dataclass(frozen=True)
class Record:
    """One commit: entries of the next rows, rows that are removed, and how many the sieve has, if
    that grew.
    """

    added: tuple[Entry, ...] = ()
    removed: tuple[int, ...] = ()
    sieved: int = 0

    def as_line(self) -> bytes:
        """A line of the journal: the CRC-32 of the rest, and the rest."""
        added = [entry.to_json() for entry in self.added]
        plain = {"add": added, "remove": self.removed, "sieved": self.sieved}
        body = json.dumps(plain, separators=(",", ":")).encode()
        return b"%08x %s\n" % (zlib.crc32(body), body)

    @staticmethod
    def from_line(line: bytes) -> Record | None:
        """Read back a line without its end; None where it is not whole."""
        try:
            if int(line[:8], 16) != zlib.crc32(line[9:]) or line[8:9] != b" ":
                return None
            values = json.loads(line[9:])
            added = tuple(Entry.from_json(one) for one in values["add"])
            return Record(added, tuple(values["remove"]), values["sieved"])
        except (ValueError, KeyError, TypeError):
            return None


def records(data: bytes, where: Path) -> tuple[list[Record], int]:
    """The records of a journal, or of its end, and how many bytes they take.

    What follows the last line's end was never reported: a writer that was killed left it, or one is
    at work. Raises UnembedError where a whole line is not what was written.
    """
    *lines, torn = data.split(b"\n")
    found = []
    for number, line in enumerate(lines, 1):
        record = Record.from_line(line)
        if record is None:
            raise _damaged(where, f"line {number} does not agree with its checksum")
        found.append(record)
    # A line whose end alone was changed is whole, and had been reported.
    if Record.from_line(torn[:-1]) is not None:
        raise _damaged(where, "its last line has another end")
    return found, len(data) - len(torn)


def whole_part(folder: Path, part: Part) -> bytes:
    """The content of a segment. Raises UnembedError where it is not what was written."""
    path = folder / part.path
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != part.sha256:
        raise _damaged(path, "its SHA-256 is not the one recorded when it was written")
    return data


def append(path: Path, at: int, data: bytes) -> None:
    """Put bytes at the end of a file, which is at ``at``, and flush them to disk.

    Raises WriteError where the system refuses; the file then ends where it did.
    """
    with refusals(path), path.open("r+b") as stream:
        stream.seek(at)
        try:
            stream.write(data)
            stream.flush()
            os.fdatasync(stream.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                stream.truncate(at)
            raise


def tidy(folder: Path, header: Header) -> None:
    """Delete what a writer that was killed left behind."""
    kept = {HEADER, *header.files, *header.approximate}
    for path in folder.iterdir():
        name = path.name.removesuffix(PARTIAL)
        if (OWN.fullmatch(name) or name == HEADER) and path.name not in kept:
            with contextlib.suppress(OSError):
                path.unlink()


def foreign_files(folder: Path) -> list[str]:
    """The names of files that are not an index's."""
    names = (path.name for path in folder.iterdir())
    return sorted(
        name
        for name in names
        if name not in (LOCK, HEADER) and not OWN.fullmatch(name.removesuffix(PARTIAL))
    )


def writing(folder: Path, wait_s: float) -> AbstractContextManager[None]:
    """``exclusive_lock``, in the words of an index."""
    return exclusive_lock(folder, wait_s, "allow more with --wait")


def refusals(path: Path) -> AbstractContextManager[None]:
    """``runs.files.refusals``, in the words of an index."""
    return files.refusals(path, "what was added before is kept")


def _damaged(path: Path, reason: str) -> UnembedError:
    return UnembedError(
        f"{path} is damaged ({reason}): restore the index from a copy, or make it anew"
    )


def _seal(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
