"""What the files of an index say: read without its lock, and added to under it."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float

from unembed.errors import UnembedError
from unembed.runs.files import write_whole
from unembed.runs.manifest import Part
from unembed.selection.index.entries import TABLE, Entry, entries_of, table_of
from unembed.selection.index.files import (
    HEADER,
    MOST_HEADER_BYTES,
    Header,
    Record,
    append,
    cut_off,
    damaged,
    records,
    refuse_links,
    tidy,
    whole_part,
)
from unembed.selection.index.sieve import REMEDY, Sieve
from unembed.selection.index.vectors import Layout, Vectors, cut

ATTEMPTS = 20
SURE_ATTEMPTS = 2
PAUSE_S = 0.01
NOTHING_BEHIND = (b"", 0)
LEAST_JOURNAL = 1024
"""Entries that a journal holds at least before they go into a segment,"""
JOURNAL_SHARE = 32
"""and of a large index, one in so many: to start a segment costs time that grows with it."""


class Ledger:
    """The header, the entries of segments and journal, and the vectors, as of one moment.

    It is a snapshot: what another process does later is not seen, and files that it deletes stay
    open. Only ``current``, ``commit`` and ``seal`` change it or the files, under the lock.
    """

    def __init__(self, folder: Path, raw: bytes) -> None:
        self.folder = folder
        self.raw = raw
        self.header = Header.from_bytes(raw, folder / HEADER)
        self.layout = Layout(self.header.identity.spec.m, self.header.dtype)
        tables = [_table(folder, part) for part in self.header.segments]
        self.sealed: pa.Table = pa.concat_tables([TABLE.empty_table(), *tables])
        self.removed: set[int] = set()
        if self.header.removed is not None:
            self.removed.update(_table(folder, self.header.removed)["row"].to_pylist())
        rows = self.header.rows
        if self.sealed.num_rows != rows or not all(0 <= row < rows for row in self.removed):
            raise ValueError(f"its segments hold {self.sealed.num_rows:,} entries, not {rows:,}")
        self.sieved = self.header.sieved
        self.sieve_crcs = self.header.sieve_crcs
        self._whole_sieve: tuple[int, ...] = ()
        self.tail: list[Entry] = []
        self.end = 0
        self._names: dict[str, int] | None = None
        self._alive: Bool[np.ndarray, " rows"] | None = None
        self._scales: Float[np.ndarray, " rows"] | None = None
        self._tidy = False
        self.lost = ""
        self._read_on()
        if self.sieved > self.rows:
            raise ValueError(f"{self.sieved:,} of {self.rows:,} rows are in the sieve")
        self.map()

    @staticmethod
    def read(folder: Path) -> Ledger:
        """As the files are now; a writer at work is no hindrance.

        Raises UnembedError where there is no index, a file is missing, or one is damaged.
        """
        for attempt in range(ATTEMPTS):
            raw = header_bytes(folder)
            try:
                return Ledger(folder, raw)
            except OSError as error:
                reason = "is missing" if isinstance(error, FileNotFoundError) else error.strerror
                last = UnembedError(
                    f"{error.filename}: {reason}; restore the index from a copy, or make it anew"
                )
            except UnembedError as error:
                last = error
            # What Arrow and lists say of tables and numbers that no index writes.
            except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
                last = damaged(folder / HEADER, f"what it names is not an index's: {error}")
            # A writer may have begun another journal, or cut a torn line off, meanwhile.
            if attempt >= SURE_ATTEMPTS and header_bytes(folder) == raw:
                break
            time.sleep(PAUSE_S)
        raise last

    @property
    def rows(self) -> int:
        """Rows that are committed, those removed among them."""
        return self.header.rows + len(self.tail)

    @property
    def names(self) -> dict[str, int]:
        """The row of each name that is not removed."""
        if self._names is None:
            every = [*self.sealed["name"].to_pylist(), *(entry.name for entry in self.tail)]
            self._names = {name: row for row, name in enumerate(every) if row not in self.removed}
        return self._names

    @property
    def alive(self) -> Bool[np.ndarray, " rows"]:
        """Which rows are not removed."""
        if self._alive is None:
            self._alive = np.ones(self.rows, dtype=bool)
            self._alive[list(self.removed)] = False
        return self._alive

    @property
    def scales(self) -> Float[np.ndarray, " rows"]:
        """What each row's stored numbers are to be multiplied with."""
        if self._scales is None:
            found = self.column("scale").astype(np.float64)
            if not (np.isfinite(found) & (found > 0)).all():
                raise damaged(self.folder / HEADER, "a scale of its vectors is not positive")
            self._scales = found
        return self._scales

    def entry(self, row: int) -> Entry:
        """The entry of a row."""
        if row >= self.header.rows:
            return self.tail[row - self.header.rows]
        return self._entries_of(self.sealed.slice(row, 1))[0]

    def entries(self) -> list[Entry]:
        """Those not removed, in the order in which they were added."""
        every = [*self._entries_of(self.sealed), *self.tail]
        return [entry for row, entry in enumerate(every) if row not in self.removed]

    def _entries_of(self, table: pa.Table) -> list[Entry]:
        try:
            return entries_of(table)
        except ValueError as error:
            raise damaged(self.folder / HEADER, f"an entry of its segments: {error}") from None

    def column(self, name: str) -> Any:
        """One number of every row."""
        sealed = self.sealed[name].to_numpy()
        return np.concatenate([sealed, np.array([getattr(e, name) for e in self.tail])])

    def current(self) -> Ledger:
        """This ledger with what others did since, under the lock; torn ends are cut off."""
        fresh = self
        if header_bytes(self.folder) != self.raw:
            fresh = Ledger.read(self.folder)
        else:
            fresh._read_on()
        if not fresh._tidy:
            tidy(self.folder, fresh.header)
            fresh._tidy = True
        fresh.lost = fresh._lost(*fresh._behind()) or fresh.lost
        cut(self.folder / fresh.header.journal, fresh.end)
        cut(self.folder / fresh.header.vectors, fresh.rows * fresh.layout.stride)
        if len(fresh.vectors) < fresh.rows:
            fresh.map()
        return fresh

    def unfinished(self) -> str:
        """What an addition or removal that was not finished, or that was cut off the files since,
        was of, in a line; "" where there is none.

        What a writer is at work on changes within a moment, and is none.
        """
        if self.lost:
            return self.lost
        before = self._behind()
        for _ in range(ATTEMPTS if before != NOTHING_BEHIND else 0):
            time.sleep(PAUSE_S)
            if self._behind() != before:
                return ""
        return self._lost(*before)

    def _behind(self) -> tuple[bytes, int]:
        """What the journal holds behind the last whole line, and how many whole vectors are
        without an entry; nothing of these where others have added since.
        """
        try:
            with (self.folder / self.header.journal).open("rb") as stream:
                stream.seek(self.end)
                torn = stream.read()
            size = (self.folder / self.header.vectors).stat().st_size
        except OSError:
            return NOTHING_BEHIND
        if b"\n" in torn:
            return NOTHING_BEHIND
        return torn, max(0, size // self.layout.stride - self.rows)

    def _lost(self, torn: bytes, vectors: int) -> str:
        what = cut_off(torn, vectors)
        if not what:
            return ""
        where = self.header.journal if torn else self.header.vectors
        return (
            f"{self.folder / where} ends with {what} without its end, which is not in the index "
            "(a writer was killed before it was reported, or the file was cut): do that again"
        )

    def map(self) -> None:
        """Map the vectors of all rows, and the sieve of those that it has, if it has checksums."""
        header, folder = self.header, self.folder
        self.vectors = Vectors.mapped(folder / header.vectors, self.layout, self.rows)
        rows = self.sieved if self.sieve_crcs else 0
        self.sieve = Sieve.mapped([folder / x for x in header.sieve], self.layout.m, rows)

    def whole_sieve(self) -> Sieve | None:
        """The sieve, once it was compared with its checksums; None where there is none.

        Raises UnembedError where it is damaged: it would leave out rows that are near.
        """
        if self.sieve is not None and self._whole_sieve != self.sieve_crcs:
            found = self.sieve.crcs()
            for name, crc, stated in zip(self.header.sieve, found, self.sieve_crcs, strict=True):
                if crc != stated:
                    raise UnembedError(
                        f"{self.folder / name} is damaged (its CRC-32 is not the one recorded when "
                        f"it was written): {REMEDY}"
                    )
            self._whole_sieve = found
        return self.sieve

    def commit(self, record: Record) -> None:
        """Write a record whose vectors are on disk already; from then on it counts."""
        line = record.as_line()
        append(self.folder / self.header.journal, self.end, line)
        self.end += len(line)
        self._take(record)

    @property
    def full(self) -> bool:
        """Whether the journal has so many entries that they should go into a segment."""
        return len(self.tail) >= max(LEAST_JOURNAL, self.header.rows // JOURNAL_SHARE)

    def seal(self, header: Header, table: pa.Table, kept: int) -> None:
        """Go on with the next header, whose segments hold the first ``kept`` rows of ``table``.

        The others become a segment, which takes in the ones before it that are not much larger: so
        there are few, and each entry is written again a few times only. The header is written last.
        """
        segments = list(header.segments)
        while segments and segments[-1].rows < 2 * (table.num_rows - kept):
            kept -= segments.pop().rows
        folder, removed = self.folder, None
        if table.num_rows > kept:
            path = f"entries-{header.step:06d}.parquet"
            segments.append(_write(folder, path, table.slice(kept)))
        if self.removed:
            rows = pa.table({"row": pa.array(sorted(self.removed), pa.int64())})
            removed = _write(folder, f"removed-{header.step:06d}.parquet", rows)
        header = replace(header, segments=tuple(segments), removed=removed)
        write_whole(folder / header.journal, b"")
        raw = header.as_bytes()
        write_whole(folder / HEADER, raw)
        self.header, self.raw, self.sealed, self.tail, self.end = header, raw, table, [], 0
        tidy(folder, header)

    def whole_table(self) -> pa.Table:
        """The entries of all rows, those removed among them."""
        return pa.concat_tables([self.sealed, table_of(self.tail)])

    def _read_on(self) -> None:
        """Take in what the journal holds behind what was read before."""
        path = self.folder / self.header.journal
        with path.open("rb") as stream:
            stream.seek(self.end)
            found, size = records(stream.read(), path)
        for record in found:
            if not all(0 <= row < self.rows for row in record.removed):
                raise damaged(path, "it removes rows that are not there")
            self._take(record)
        self.end += size

    def _take(self, record: Record) -> None:
        if self._names is not None:
            for row in record.removed:
                self._names.pop(self.entry(row).name, None)
            for number, entry in enumerate(record.added):
                self._names[entry.name] = self.rows + number
        self._alive = self._scales = None
        self.removed.update(record.removed)
        self.tail.extend(record.added)
        if record.sieved > 0:
            self.sieved, self.sieve_crcs = record.sieved, record.sieve_crcs


def header_bytes(folder: Path) -> bytes:
    """What ``index.json`` holds. Raises UnembedError where there is none."""
    try:
        refuse_links(folder)
        with (folder / HEADER).open("rb") as stream:
            size = stream.seek(0, 2)
            if size > MOST_HEADER_BYTES:
                raise damaged(folder / HEADER, f"{size:,} bytes are no header of an index")
            stream.seek(0)
            return stream.read()
    except (FileNotFoundError, NotADirectoryError):
        raise UnembedError(
            f"{folder} holds no index (no {HEADER}): make one with `unembed index add`"
        ) from None
    except OSError as error:
        raise UnembedError(f"{folder / HEADER} cannot be read: {error.strerror}") from None


def new_index(folder: Path, header: Header) -> None:
    """Write the files of an empty index, the header last, under the lock.

    Raises UnembedError where there are entries of one whose header is lost.
    """
    for path in sorted(folder.glob("journal-*.jsonl")) + sorted(folder.glob("entries-*.parquet")):
        if path.suffix == ".parquet" or records(path.read_bytes(), path)[0]:
            raise damaged(folder / HEADER, f"it is missing, though {path.name} holds entries")
    for name in (header.vectors, *header.sieve, header.journal):
        write_whole(folder / name, b"")
    write_whole(folder / HEADER, header.as_bytes())


def _table(folder: Path, part: Part) -> pa.Table:
    return pq.read_table(pa.BufferReader(whole_part(folder, part)))


def _write(folder: Path, path: str, table: pa.Table) -> Part:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    data = sink.getvalue().to_pybytes()
    write_whole(folder / path, data)
    return Part(path, table.num_rows, hashlib.sha256(data).hexdigest())
