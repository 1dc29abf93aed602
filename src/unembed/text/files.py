"""Files of text and of records, compressed or not, read a line or a record at a time."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unembed.errors import UnembedError

RECORDS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
SUFFIXES = (".txt", *RECORDS)
COMPRESSED = (".gz", ".zst")
"""Suffixes that may follow any of the others but Parquet's, which compresses its own pages."""
PARQUET_ROWS = 1000
LARGEST_CELL = 1 << 26
"""Bytes of a .csv or .tsv file that are parsed at a time, which a record has to fit."""


@dataclass(frozen=True)
class Record:
    """A record of a file: its number, what errors call its place, and its fields.

    None is a blank line.
    """

    number: int
    where: str
    fields: dict[str, Any] | None


def kind_of(file: Path) -> str | None:
    """The suffix that says how a file is read, or None where it is not."""
    name = file.name.lower()
    packed = next((end for end in COMPRESSED if name.endswith(end)), "")
    kind = Path(name.removesuffix(packed)).suffix
    return kind if kind in SUFFIXES and not (packed and kind == ".parquet") else None


def files_below(folder: Path) -> tuple[list[Path], int]:
    """The files of a folder that can be read, in order, and how many hidden ones there are.

    What begins with a dot, or lies in a folder that does, was put there by a program for itself:
    checkpoints of notebooks, caches, the other half of a file from a Mac.
    """
    found = sorted(f for f in folder.rglob("*") if kind_of(f) is not None and f.is_file())
    seen = [f for f in found if not any(p.startswith(".") for p in f.relative_to(folder).parts)]
    return seen, len(found) - len(seen)


def lines(file: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file with their numbers, in UTF-8, without a mark of byte order."""
    with _opened(file) as stream:
        for number, raw in enumerate(stream, 1):
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise UnembedError(
                    f"{file}, line {number}: byte {error.start + 1} is not UTF-8 "
                    f"(0x{raw[error.start]:02x}); convert the file, e.g. with iconv -t utf-8"
                ) from None
            yield number, (line.removeprefix("\ufeff") if number == 1 else line).rstrip("\r\n")


def records(file: Path, choose: Callable[[list[str]], list[str]]) -> Iterator[Record]:
    """The records of a file; of a table those columns alone that ``choose`` picks of its names."""
    kind = kind_of(file)
    if kind == ".parquet":
        return _parquet(file, choose)
    if kind in (".csv", ".tsv"):
        return _delimited(file, "\t" if kind == ".tsv" else ",", choose)
    return _json(file) if kind == ".json" else _jsonl(file)


def _jsonl(file: Path) -> Iterator[Record]:
    for number, line in lines(file):
        where = f"{file}, line {number}"
        if not line.strip():
            yield Record(number, where, None)
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UnembedError(
                f"{where} is not JSON ({error}): {line[:60]!r}; give one object a line"
            ) from None
        if not isinstance(record, dict):
            raise UnembedError(f"{where} is not a JSON object: {line[:60]!r}")
        yield Record(number, where, record)


def _json(file: Path) -> Iterator[Record]:
    """A list of objects, an object whose only list it is, or an object a line."""
    text = "\n".join(line for _, line in lines(file))
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith("{") and "Extra data" in str(error):
            yield from _jsonl(file)
            return
        raise UnembedError(f"{file} is not JSON ({error}): give a list of objects") from None
    if isinstance(found, dict):
        values = list(found.values())
        found = values[0] if len(values) == 1 and isinstance(values[0], list) else [found]
    if not isinstance(found, list):
        raise UnembedError(f"{file} holds {text.strip()[:40]!r}: give a list of objects")
    for number, record in enumerate(found, 1):
        where = f"{file}, record {number}"
        if not isinstance(record, dict):
            raise UnembedError(f"{where} is {record!r:.60}, not an object: give a list of objects")
        yield Record(number, where, record)


def _delimited(
    file: Path, delimiter: str, choose: Callable[[list[str]], list[str]]
) -> Iterator[Record]:
    import pyarrow as pa
    from pyarrow import csv

    read = csv.ReadOptions(use_threads=False, block_size=LARGEST_CELL)
    parse = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    number = 0
    try:
        with _opened(file) as stream:
            if not stream.peek(1):
                return
            names = csv.open_csv(stream, read, parse).schema.names
        chosen = choose(names)
        convert = csv.ConvertOptions(
            column_types={name: pa.string() for name in chosen}, include_columns=chosen
        )
        with _opened(file) as stream:
            for batch in csv.open_csv(stream, read, parse, convert):
                for fields in batch.to_pylist():
                    number += 1
                    yield Record(number, f"{file}, row {number}", fields)
    except pa.ArrowException as error:
        reached = f" after row {number}" if number else ""
        raise UnembedError(
            f"{file} cannot be read as a table{reached}: {first_line(error)}; write it as UTF-8, "
            "with quotes round a cell that holds the delimiter"
        ) from error


def _parquet(file: Path, choose: Callable[[list[str]], list[str]]) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(file) as source:
            chosen = choose(source.schema_arrow.names)
            for batch in source.iter_batches(PARQUET_ROWS, columns=chosen):
                for fields in batch.to_pylist():
                    number += 1
                    yield Record(number, f"{file}, row {number}", fields)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reached = f" after row {number}" if number else ""
        raise UnembedError(
            f"{file} cannot be read as Parquet{reached}: {first_line(error)}; write it again"
        ) from error


@contextmanager
def _opened(file: Path) -> Iterator[io.BufferedReader]:
    """The bytes of a file, decompressed where its name says so."""
    packed = file.suffix.lower()
    if packed not in COMPRESSED:
        with file.open("rb") as plain:
            yield plain
        return
    import pyarrow as pa

    try:
        with file.open("rb") as raw:
            if packed == ".gz":
                yield io.BufferedReader(gzip.GzipFile(fileobj=raw))
            else:
                yield io.BufferedReader(_Raw(pa.CompressedInputStream(raw, "zstd")))
    except (gzip.BadGzipFile, zlib.error, EOFError, pa.ArrowException) as error:
        raise _damaged(file, error) from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise _damaged(file, error) from error


def _damaged(file: Path, error: BaseException) -> UnembedError:
    return UnembedError(
        f"{file} cannot be decompressed: {first_line(error)}; fetch it again, or give it unpacked"
    )


class _Raw(io.RawIOBase):
    """An Arrow stream as Python's own buffers read it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def first_line(error: BaseException) -> str:
    """The first line of what an error says."""
    found = [line.strip() for line in str(error).splitlines() if line.strip()]
    return found[0] if found else repr(error)
