"""The files of an index: what its header says, the records of its journal, what is appended.

``index.json`` names the others, and is replaced whole. Vectors are appended, flushed, and then
committed by a line of the journal, which is flushed too. Now and then the journal's entries go into
a Parquet segment, and a new header names that and a new journal.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import zlib
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from unembed.errors import UnembedError
from unembed.runs import files
from unembed.runs.files import PARTIAL
from unembed.runs.lock import LOCK, exclusive_lock
from unembed.runs.manifest import Part
from unembed.selection.index.entries import Entry
from unembed.selection.scores import FEATURES
from unembed.signatures.file import Dtype
from unembed.signatures.signature import Identity
from unembed.signatures.sketches.sketch import SketchSpec

HEADER = "index.json"
NAME = re.compile(rb'[\[,]\{"name":("(?:[^"\\]|\\.)*")')
"""What stands before each name in a line of the journal,"""
REMOVAL = re.compile(rb'"remove":\[\d')
"""and before the rows that are removed."""
SCHEMA = 2
READABLE = (1, 2)
"""Of schema 1 the sieve has no checksums: it is made again by the next addition."""
MOST_ROWS = 1 << 40
MOST_HEADER_BYTES = 1 << 24
"""Far beyond a header with a segment for each doubling of the rows."""
NO_PART = {"path": "removed-000000.parquet", "rows": 0}
OWN = re.compile(
    r"(vectors|sieve|scales)-\d+\.bin|(entries|removed)-\d+\.parquet|journal-\d+\.jsonl"
    r"|approximate-\d+\.(faiss|json)"
)


@dataclass(frozen=True)
class Header:
    """What ``index.json`` says.

    ``by`` is the kind of feature, ``dtype`` how its numbers are stored. ``generation`` numbers the
    file of vectors, ``step`` the journal. ``segments`` hold the entries of the first rows in order,
    ``removed`` the numbers of those among them that were removed. ``sieved`` rows are in the
    sieve, whose two files have the CRC-32s ``sieve_crcs``; () where these were never taken.
    """

    identity: Identity
    by: str
    dtype: Dtype
    generation: int = 1
    step: int = 1
    segments: tuple[Part, ...] = ()
    removed: Part | None = None
    sieved: int = 0
    sieve_crcs: tuple[int, ...] = ()

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
        values = {
            "kind": "index",
            "schema": SCHEMA,
            **asdict(self),
            "identity": self.identity.plain(),
        }
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
            if schema not in READABLE:
                raise UnembedError(
                    f"{path} is an index of schema {schema!r}, this version reads "
                    f"{' and '.join(map(str, READABLE))}: install the version that wrote it"
                )
            if stated != _seal({"kind": "index", "schema": schema, **values}):
                raise ValueError("its SHA-256 is not the one it states")
            _check(values)
            identity = values.pop("identity")
            spec = SketchSpec(**identity.pop("spec"))
            segments = tuple(Part(**part) for part in values.pop("segments"))
            removed = values.pop("removed")
            crcs = tuple(values.pop("sieve_crcs", ()))
            return Header(
                Identity(spec=spec, **identity),
                segments=segments,
                sieve_crcs=crcs,
                removed=None if removed is None else Part(**removed),
                **values,
            )
        except UnembedError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UnembedError(
                f"{path} is damaged ({error}): restore the index from a copy, or make it anew"
            ) from None


@dataclass(frozen=True)
class Record:
    """One commit: entries of the next rows, rows that are removed, and how many the sieve has, with
    the CRC-32s of its files, if that grew.
    """

    added: tuple[Entry, ...] = ()
    removed: tuple[int, ...] = ()
    sieved: int = 0
    sieve_crcs: tuple[int, ...] = ()

    def as_line(self) -> bytes:
        """A line of the journal: the CRC-32 of the rest, and the rest."""
        added = [entry.to_json() for entry in self.added]
        plain = {"add": added, "remove": self.removed, "sieved": self.sieved}
        if self.sieve_crcs:
            plain["sieve_crcs"] = self.sieve_crcs
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
            removed, sieved = tuple(values["remove"]), values["sieved"]
            crcs = tuple(values.get("sieve_crcs", ()))
            whole = all(type(number) is int for number in (*removed, sieved, *crcs))
            if not whole or len(crcs) not in (0, 2):
                return None
            return Record(added, removed, sieved, crcs)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
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
            raise damaged(where, f"line {number} does not agree with its checksum")
        found.append(record)
    # A line whose end alone was changed is whole, and had been reported.
    if Record.from_line(torn[:-1]) is not None:
        raise damaged(where, "its last line has another end")
    return found, len(data) - len(torn)


def whole_part(folder: Path, part: Part) -> bytes:
    """The content of a segment. Raises UnembedError where it is not what was written."""
    path = folder / part.path
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != part.sha256:
        raise damaged(path, "its SHA-256 is not the one recorded when it was written")
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


def refuse_links(folder: Path) -> None:
    """Raise UnembedError for a link among the files of an index, through which another file would
    be read as vectors, or written.
    """
    if folder.is_dir():
        for path in folder.iterdir():
            name = path.name.removesuffix(PARTIAL)
            if (OWN.fullmatch(name) or name == HEADER) and path.is_symlink():
                raise UnembedError(
                    f"{path} is a link, which an index never makes: put the file itself there"
                )


def cut_off(line: bytes, vectors: int) -> str:
    """What an unfinished line of the journal is of, and vectors behind the last entry's; or ""."""
    names = [json.loads(name) for name in NAME.findall(line)]
    count = max(len(names), vectors)
    if names:
        return repr(names[0]) + (f" and {count - 1:,} more" if count > 1 else "")
    if count:
        return f"{count:,} entries" if count > 1 else "an entry"
    if b'"remove"' in line:
        # A line without entries and rows notes the sieve, of which nothing is lost.
        return "a removal" if REMOVAL.search(line) else ""
    return "a change" if line else ""


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
    """``exclusive_lock``, in the words of an index. Raises UnembedError for no length of time."""
    if not 0 <= wait_s < math.inf:
        raise UnembedError(f"--wait {wait_s:g} is no time to wait: give seconds, 0 or more")
    return exclusive_lock(folder, wait_s, "allow more with --wait")


def refusals(path: Path) -> AbstractContextManager[None]:
    """``runs.files.refusals``, in the words of an index."""
    return files.refusals(path, "what was added before is kept")


def damaged(path: Path, reason: object) -> UnembedError:
    """The error for a file that is not what was written."""
    reason = " ".join(str(reason).split())
    return UnembedError(
        f"{path} is damaged ({reason}): restore the index from a copy, or make it anew"
    )


def _check(values: dict[str, Any]) -> None:
    """Raise ValueError for what no header says, whatever its SHA-256."""
    identity, parts = values["identity"], [*values["segments"], values["removed"] or NO_PART]
    numbers = [values["generation"], values["step"], values["sieved"], *(x["rows"] for x in parts)]
    crcs = values.get("sieve_crcs", [])
    if len(crcs) not in (0, 2):
        raise ValueError(f"its sieve has {len(crcs)} checksums, not one a file")
    if not all(type(number) is int and 0 <= number <= MOST_ROWS for number in numbers + crcs):
        raise ValueError(f"one of {numbers} is no number of rows")
    sizes = [identity["spec"][key] for key in ("vocab", "dim", "m", "seed")]
    words = [word for key, word in identity.items() if key != "spec"]
    if not all(type(x) is int for x in sizes) or not all(type(x) is str for x in words):
        raise ValueError(f"its identity is {identity}")
    if values["by"] not in FEATURES or values["dtype"] not in get_args(Dtype):
        raise ValueError(f"by is {values['by']!r}, dtype {values['dtype']!r}")
    for part in parts:
        if not OWN.fullmatch(part["path"]):
            raise ValueError(f"it names {part['path']!r}, which no index writes")


def _seal(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
