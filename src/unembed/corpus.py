"""Text to documents to token rows, with a digest of the token ids."""

from __future__ import annotations

import hashlib
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Bool, Int

from unembed.errors import UnembedError
from unembed.progress import progress_bar
from unembed.rows import Row, RowRules, read_rows

TOKENISE_ROWS = 1000
TOKENISE_CHARACTERS = 1 << 22
IN_MEMORY_TOKENS = 1 << 24


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
        progress: bool = False,
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
        rows = read_rows(path, RowRules(text_column, document))
        with progress_bar("reading", "row", None, progress) as bar:
            return _tokenise(_counted(rows, bar), tokenizer, rules, str(path))

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

    def subset(self, kept: Bool[np.ndarray, "documents"], rules: str) -> Corpus:
        """The documents marked in ``kept``, numbered anew in the same order.

        Equal to a corpus read from their rows alone, but for the rows left out in reading, which
        are counted as here. ``rules`` says how they were chosen.
        """
        rows = np.flatnonzero(kept[self.document])
        number = (np.cumsum(kept) - 1).astype(np.int32)
        document = number[self.document[rows]]
        sizes = np.diff(self.starts)[rows]
        digest = hashlib.sha256()
        pieces = []
        for doc, row in zip(document.tolist(), rows.tolist(), strict=True):
            ids = np.asarray(self.ids[self.starts[row] : self.starts[row + 1]], dtype=np.int32)
            digest.update(np.array([doc, len(ids)], dtype=np.int64).tobytes())
            digest.update(ids.tobytes())
            pieces.append(ids)
        return replace(
            self,
            ids=np.concatenate([*pieces, np.zeros(0, dtype=np.int32)]),
            starts=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            document=document,
            offset=self.offset[rows],
            names=tuple(name for name, keep in zip(self.names, kept, strict=True) if keep),
            rules=f"{self.rules}; {rules}",
            digest=digest.hexdigest(),
        )


@dataclass(frozen=True)
class _Gathered:
    """The rows kept so far; their tokens go to a temporary file, so that memory stays bounded."""

    spool: IO[bytes]
    ends: array[int]
    document: array[int]
    offset: array[int]
    documents: dict[str, int]
    reached: array[int]
    digest: Any

    @staticmethod
    def into(spool: IO[bytes]) -> _Gathered:
        columns = array("q", [0]), array("i"), array("i")
        return _Gathered(spool, *columns, {}, array("i"), hashlib.sha256())

    def add(self, name: str, ids: list[int]) -> None:
        number = self.documents.setdefault(name, len(self.documents))
        if number == len(self.reached):
            self.reached.append(0)
        data = np.asarray(ids, dtype=np.int32).tobytes()
        self.spool.write(data)
        self.digest.update(np.array([number, len(ids)], dtype=np.int64).tobytes())
        self.digest.update(data)
        self.ends.append(self.ends[-1] + len(ids))
        self.document.append(number)
        self.offset.append(self.reached[number])
        self.reached[number] += len(ids)

    def tokens(self) -> Int[np.ndarray, "tokens"]:
        self.spool.flush()
        if self.ends[-1] > IN_MEMORY_TOKENS:
            return np.memmap(self.spool, dtype=np.int32, mode="r")
        self.spool.seek(0)
        return np.frombuffer(self.spool.read(), dtype=np.int32)


def _tokenise(rows: Iterator[Row], tokenizer: Any, rules: str, where: str) -> Corpus:
    blank = short = 0
    bos = getattr(tokenizer, "bos_token_id", None)
    always_bos = bos is not None
    try:
        with tempfile.TemporaryFile() as spool:
            kept = _Gathered.into(spool)
            for batch in _batched(rows):
                filled = [row for row in batch if row.text.strip()]
                blank += len(batch) - len(filled)
                for row, ids in zip(filled, _encode(filled, tokenizer), strict=True):
                    if len(ids) < 2:
                        short += 1
                        continue
                    kept.add(row.document, ids)
                    always_bos = always_bos and ids[0] == bos
            if not kept.document:
                raise UnembedError(_nothing(where, blank, short))
            tokens = kept.tokens()
    except OSError as error:
        raise UnembedError(
            f"the tokens could not be kept in {tempfile.gettempdir()}: {error.strerror}; "
            "set TMPDIR to a folder with more room"
        ) from error
    return Corpus(
        tokens,
        np.array(kept.ends, dtype=np.int64),
        np.array(kept.document, dtype=np.int32),
        np.array(kept.offset, dtype=np.int32),
        tuple(kept.documents),
        tokenizer,
        bos if always_bos else None,
        blank,
        short,
        rules,
        kept.digest.hexdigest(),
    )


def _encode(rows: list[Row], tokenizer: Any) -> list[list[int]]:
    if not rows:
        return []
    texts = [row.text for row in rows]
    try:
        return list(tokenizer(texts, verbose=False, return_attention_mask=False)["input_ids"])
    except Exception:
        for row in rows:
            broken = next((c for c in row.text if "\ud800" <= c <= "\udfff"), None)
            if broken is not None:
                raise UnembedError(
                    f"{row.where} holds half of a surrogate pair ({broken!r}), which is no text: "
                    "write the row again as UTF-8"
                ) from None
        raise


def _nothing(where: str, blank: int, short: int) -> str:
    if short:
        return (
            f"{where}: all {short} rows that are not blank are shorter than two tokens, "
            "so there is nothing to predict; give longer rows"
        )
    return f"{where} holds no text ({blank} blank rows): give a corpus with some"


def _batched(rows: Iterator[Row]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    characters = 0
    for row in rows:
        batch.append(row)
        characters += len(row.text)
        if len(batch) == TOKENISE_ROWS or characters >= TOKENISE_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _counted(rows: Iterator[Row], bar: Any) -> Iterator[Row]:
    for row in rows:
        yield row
        bar.update()
