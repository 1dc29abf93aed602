"""Text to documents to token rows, with a digest of the token ids."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from unembed.errors import UnembedError

SUFFIXES = (".txt", ".jsonl", ".parquet")
TOKENISE_ROWS = 1000
IN_MEMORY_TOKENS = 1 << 24


@dataclass(frozen=True)
class Row:
    """One row of text: where it stands, the document it belongs to, and the text."""

    source: str
    document: str
    text: str


@dataclass(frozen=True)
class Corpus:
    """Token rows grouped into documents.

    ``ids`` holds all tokens end to end; row r is ``ids[starts[r]:starts[r + 1]]``. Row r belongs to
    document ``document[r]`` and begins at position ``offset[r]`` of it; documents are numbered in
    order of first appearance and named in ``names``. ``bos`` is the id that the tokenizer puts
    before every row, if it does. ``digest`` is the SHA-256 of ids, row lengths and documents.
    """

    ids: Int[np.ndarray, "tokens"]
    starts: Int[np.ndarray, "rows_plus_one"]
    document: Int[np.ndarray, "rows"]
    offset: Int[np.ndarray, "rows"]
    names: tuple[str, ...]
    tokenizer: Any
    bos: int | None
    blank_rows: int
    short_rows: int
    rules: str
    digest: str

    @property
    def rows(self) -> int:
        """Number of rows kept."""
        return len(self.document)

    @property
    def tokens(self) -> int:
        """Number of tokens in the rows kept."""
        return int(self.starts[-1])

    @staticmethod
    def read(
        path: str | Path,
        tokenizer: Any,
        *,
        text_column: str = "text",
        document: str | None = None,
    ) -> Corpus:
        """Read a ``.txt``, ``.jsonl`` or ``.parquet`` file, a folder of them, a data set saved with
        ``datasets``, or a hub data set ``name[:config[:split]]``.

        A row of a ``.txt`` file is a line; of the others, a record's ``text_column``. Blank rows
        are skipped; rows of fewer than two tokens are counted and dropped. A document is a row,
        unless ``document`` says otherwise: for text, a regular expression that the first line of
        each document matches; for records, the column that names a row's document.
        Raises UnembedError for anything that cannot be read, naming file and row.
        """
        how = f"document {document!r}" if document else "a document is a row"
        rules = f"{path}: column {text_column!r}, {how}, rows under two tokens dropped"
        return _tokenise(read_rows(path, text_column, document), tokenizer, rules, str(path))

    @staticmethod
    def from_texts(
        texts: Iterable[str], tokenizer: Any, *, names: Sequence[str] | None = None
    ) -> Corpus:
        """A corpus of texts already in memory, one document each."""
        rows = (
            Row(name, name, text)
            for i, text in enumerate(texts)
            for name in [f"text {i + 1}" if names is None else names[i]]
        )
        return _tokenise(rows, tokenizer, "texts in memory, one document each", "the texts given")


def read_rows(path: str | Path, text_column: str, document: str | None) -> Iterator[Row]:
    """The rows of a file, a folder, or a data set, blank ones included."""
    place = Path(path)
    if place.is_dir():
        if (place / "dataset_info.json").exists() or (place / "dataset_dict.json").exists():
            yield from _dataset_rows(str(path), text_column, document, saved=True)
            return
        files = sorted(f for f in place.rglob("*") if f.suffix in SUFFIXES and f.is_file())
        if not files:
            raise UnembedError(f"{path} holds no {', '.join(SUFFIXES)} file: give a folder of them")
        for file in files:
            yield from _file_rows(file, text_column, document)
    elif place.is_file():
        yield from _file_rows(place, text_column, document)
    elif place.suffix or place.is_absolute() or str(path).startswith("."):
        raise UnembedError(f"{path}: no such file or folder")
    else:
        yield from _dataset_rows(str(path), text_column, document, saved=False)


def _file_rows(file: Path, column: str, document: str | None) -> Iterator[Row]:
    if file.suffix == ".txt":
        yield from _text_rows(file, document)
    elif file.suffix == ".jsonl":
        yield from _jsonl_rows(file, column, document)
    elif file.suffix == ".parquet":
        yield from _parquet_rows(file, column, document)
    else:
        raise UnembedError(
            f"{file}: cannot read a {file.suffix or 'suffixless'} file; "
            f"give one of {', '.join(SUFFIXES)}"
        )


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    with file.open("rb") as stream:
        for number, raw in enumerate(stream, 1):
            try:
                yield number, raw.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise UnembedError(
                    f"{file}, line {number}: byte {error.start + 1} is not UTF-8 "
                    f"(0x{raw[error.start]:02x}); convert the file, e.g. with iconv -t utf-8"
                ) from None


def _text_rows(file: Path, document: str | None) -> Iterator[Row]:
    try:
        opening = None if document is None else re.compile(document)
    except re.error as error:
        raise UnembedError(f"{document!r} is not a regular expression: {error}") from None
    current = f"{file.name}:1"
    for number, line in _lines(file):
        here = f"{file.name}:{number}"
        if opening is None or opening.search(line):
            current = here
        yield Row(here, current, line)


def _jsonl_rows(file: Path, column: str, document: str | None) -> Iterator[Row]:
    for number, line in _lines(file):
        if not line.strip():
            continue
        here = f"{file.name}:{number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UnembedError(f"{file}, line {number} is not JSON: {error}") from None
        if not isinstance(record, dict):
            raise UnembedError(f"{file}, line {number} is not a JSON object: {line[:60]!r}")
        yield _record_row(record, column, document, here, f"{file}, line {number}")


def _parquet_rows(file: Path, column: str, document: str | None) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        source = pq.ParquetFile(file)
    except pa.ArrowInvalid as error:
        raise UnembedError(f"{file} is not a Parquet file: {error}") from None
    wanted = [column] if document is None else [column, document]
    for name in wanted:
        _need_column(name, source.schema_arrow.names, str(file))
    number = 0
    for batch in source.iter_batches(batch_size=TOKENISE_ROWS, columns=wanted):
        for record in batch.to_pylist():
            number += 1
            here = f"{file.name}:{number}"
            yield _record_row(record, column, document, here, f"{file}, row {number}")


def _dataset_rows(name: str, column: str, document: str | None, *, saved: bool) -> Iterator[Row]:
    try:
        import datasets
    except ImportError:
        raise UnembedError(
            f"{name} is not a file here, and reading a data set needs: pip install 'unembed[data]'"
        ) from None
    if saved:
        data = datasets.load_from_disk(name)
    else:
        wanted, _, rest = name.partition(":")
        config, _, split = rest.partition(":")
        try:
            data = datasets.load_dataset(wanted, config or None, split=split or None)
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise UnembedError(
                f"{name} is neither a file here nor a data set that could be loaded: {reason}"
            ) from None
    if isinstance(data, dict):
        if len(data) > 1:
            raise UnembedError(
                f"{name} has the splits {', '.join(data)}: name one, as {name}:CONFIG:SPLIT "
                "(or give the folder of one split)"
            )
        data = next(iter(data.values()))
    for needed in [column] if document is None else [column, document]:
        _need_column(needed, data.column_names, name)
    for number, record in enumerate(data, 1):
        yield _record_row(record, column, document, f"row {number}", f"{name}, row {number}")


def _record_row(
    record: dict[str, Any], column: str, document: str | None, here: str, where: str
) -> Row:
    for name in [column] if document is None else [column, document]:
        _need_column(name, list(record), where)
    text = record[column]
    if text is not None and not isinstance(text, str):
        raise UnembedError(f"{where}: column {column!r} holds {text!r:.40}, not text")
    return Row(here, here if document is None else str(record[document]), text or "")


def _need_column(name: str, present: Sequence[str], where: str) -> None:
    if name not in present:
        raise UnembedError(
            f"{where} has no column {name!r}; it has {', '.join(present) or 'none'}: "
            "name the text's with --text-column"
        )


def _tokenise(rows: Iterator[Row], tokenizer: Any, rules: str, where: str) -> Corpus:
    digest = hashlib.sha256()
    documents: dict[str, int] = {}
    ends, document, offset = [0], [], []
    reached: list[int] = []
    blank = short = 0
    bos = getattr(tokenizer, "bos_token_id", None)
    always_bos = bos is not None
    with tempfile.TemporaryFile() as spool:
        for batch in _batched(rows, TOKENISE_ROWS):
            filled = [row for row in batch if row.text.strip()]
            blank += len(batch) - len(filled)
            if not filled:
                continue
            encoded = tokenizer([row.text for row in filled], verbose=False)["input_ids"]
            for row, ids in zip(filled, encoded, strict=True):
                if len(ids) < 2:
                    short += 1
                    continue
                number = documents.setdefault(row.document, len(documents))
                if number == len(reached):
                    reached.append(0)
                data = np.asarray(ids, dtype=np.int32)
                spool.write(data.tobytes())
                digest.update(np.array([number, len(data)], dtype=np.int64).tobytes())
                digest.update(data.tobytes())
                ends.append(ends[-1] + len(data))
                document.append(number)
                offset.append(reached[number])
                reached[number] += len(data)
                always_bos = always_bos and ids[0] == bos
        if not document:
            raise UnembedError(_nothing(where, blank, short))
        spool.flush()
        if ends[-1] <= IN_MEMORY_TOKENS:
            spool.seek(0)
            tokens = np.frombuffer(spool.read(), dtype=np.int32)
        else:
            tokens = np.memmap(spool, dtype=np.int32, mode="r")
    return Corpus(
        tokens,
        np.array(ends, dtype=np.int64),
        np.array(document, dtype=np.int32),
        np.array(offset, dtype=np.int32),
        tuple(documents),
        tokenizer,
        bos if always_bos else None,
        blank,
        short,
        rules,
        digest.hexdigest(),
    )


def _nothing(where: str, blank: int, short: int) -> str:
    if short:
        return (
            f"{where}: all {short} rows that are not blank are shorter than two tokens, "
            "so there is nothing to predict; give longer rows"
        )
    return f"{where} holds no text ({blank} blank rows)"


def _batched(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    batch: list[Row] = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
