"""Text to documents to token rows, with a digest of the token ids."""

from __future__ import annotations

import hashlib
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Bool, Int, Shaped

from unembed.completions import encoded_pairs
from unembed.errors import UnembedError
from unembed.progress import progress_bar
from unembed.rows import COMPLETION, PROMPT, Pair, Row, RowRules, read_rows

TOKENISE_ROWS = 1000
TOKENISE_CHARACTERS = 1 << 22
IN_MEMORY_TOKENS = 1 << 24


@dataclass(frozen=True)
class Corpus:
    """Token rows grouped into documents.

    ``ids`` holds all tokens end to end; row r is ``ids[starts[r]:starts[r + 1]]``. Row r belongs to
    document ``document[r]`` and begins at position ``offset[r]`` of it; documents are numbered in
    order of first appearance and named in ``names``. ``bos`` is the id that the tokenizer puts
    before every row, if it does. ``digest`` is the SHA-256 of ids, row lengths and documents, and
    of ``counted`` where there is one.

    ``counted`` marks the tokens whose prediction counts, those of completions; None counts all that
    are predicted. The first token of a row is not predicted, and never marked. ``blank_rows`` are
    then those of an empty completion, ``short_rows`` those of one without a token to predict.
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
    counted: Bool[np.ndarray, "tokens"] | None = None

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
        completion_only: bool = False,
        reword: Callable[[Iterable[Row]], Iterator[Row]] | None = None,
        progress: bool = False,
    ) -> Corpus:
        """Read a ``.txt``, ``.jsonl`` or ``.parquet`` file, a folder of them, a data set saved with
        ``datasets``, or a hub data set ``name[:config[:split]]``.

        A row of a ``.txt`` file is a line; of the others, a record's ``text_column``. Blank rows
        are skipped; rows of fewer than two tokens are counted and dropped. A document is a row,
        unless ``document`` says otherwise: for text, a regular expression that the first line of
        each document matches; for records, the column that names a row's document.

        ``completion_only`` reads the columns ``prompt`` and ``completion`` of records, texts or
        lists of messages, and counts the predictions of the completion's tokens alone
        (``completions``). ``reword`` changes rows before they are tokenised, as answer words do.
        Raises UnembedError for anything that cannot be read, naming file and row.
        """
        how = f"document {document!r}" if document else "a document is a row"
        columns, dropped = f"column {text_column!r}", "rows under two tokens dropped"
        if completion_only:
            columns = f"columns {PROMPT!r} and {COMPLETION!r}"
            dropped = "completions alone counted, empty ones dropped"
        rows = read_rows(path, RowRules(text_column, document, completion_only))
        with progress_bar("reading", "row", None, progress) as bar:
            read = _counted(rows, bar)
            return _tokenise(
                read if reword is None else reword(read),
                tokenizer,
                f"{path}: {columns}, {how}, {dropped}",
                str(path),
                completion_only,
            )

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
        rules = "texts in memory, one document each"
        return _tokenise(rows, tokenizer, rules, "the texts given", False)

    @staticmethod
    def from_pairs(
        pairs: Iterable[Pair], tokenizer: Any, *, names: Sequence[str] | None = None
    ) -> Corpus:
        """A corpus of prompts and completions already in memory, one document each.

        Only predictions of the completions' tokens count, as with ``read(completion_only=True)``.
        """
        rows = (
            Row(name, name, pair.text, pair)
            for i, pair in enumerate(pairs)
            for name in [f"pair {i + 1}" if names is None else names[i]]
        )
        rules = "pairs in memory, one document each, completions alone counted"
        return _tokenise(rows, tokenizer, rules, "the pairs given", True)

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
        pieces, marks = [], []
        for doc, row in zip(document.tolist(), rows.tolist(), strict=True):
            ids, counted = self._row(row)
            _add_row(digest, doc, ids, counted)
            pieces.append(ids)
            marks.append(np.zeros(0, dtype=bool) if counted is None else counted)
        return replace(
            self,
            ids=np.concatenate([*pieces, np.zeros(0, dtype=np.int32)]),
            starts=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            document=document,
            offset=self.offset[rows],
            names=tuple(name for name, keep in zip(self.names, kept, strict=True) if keep),
            rules=f"{self.rules}; {rules}",
            digest=digest.hexdigest(),
            counted=None if self.counted is None else np.concatenate([*marks, np.zeros(0, bool)]),
        )

    def counting(self, counted: Bool[np.ndarray, "tokens"], rules: str) -> Corpus:
        """The same tokens, of which those marked in ``counted`` count; ``rules`` says which."""
        marked = replace(self, counted=counted, rules=f"{self.rules}; {rules}")
        digest = hashlib.sha256()
        for row, number in enumerate(self.document.tolist()):
            _add_row(digest, number, *marked._row(row))
        return replace(marked, digest=digest.hexdigest())

    def document_hashes(self) -> Int[np.ndarray, "documents"]:
        """A number below 2^63 for each document's input, the same wherever that input is read.

        The first 63 bits of the SHA-256 of the document's token ids that do not count, its prompt;
        of all of its token ids where nothing is marked, or where no prompt but a BOS token stands
        before the completion. So tasks that share prompts share numbers, whatever their answers.
        """
        prompts = [hashlib.sha256() for _ in self.names]
        wholes = [hashlib.sha256() for _ in self.names]
        prompted = np.zeros(len(self.names), dtype=bool)
        for row, number in enumerate(self.document.tolist()):
            ids, counted = self._row(row)
            wholes[number].update(ids.tobytes())
            if counted is not None:
                prompt = ids[~counted]
                prompts[number].update(prompt.tobytes())
                prompted[number] |= bool((prompt != self.bos).any())
        chosen = [p if given else w for p, w, given in zip(prompts, wholes, prompted, strict=True)]
        first = [int.from_bytes(digest.digest()[:8], "big") >> 1 for digest in chosen]
        return np.array(first, dtype=np.int64)

    def _row(
        self, row: int
    ) -> tuple[Int[np.ndarray, "row_tokens"], Bool[np.ndarray, "row_tokens"] | None]:
        span = slice(self.starts[row], self.starts[row + 1])
        counted = None if self.counted is None else np.asarray(self.counted[span])
        return np.asarray(self.ids[span], dtype=np.int32), counted


@dataclass(frozen=True)
class _Gathered:
    """The rows kept so far; tokens and marks go to temporary files, so that memory is bounded."""

    spool: IO[bytes]
    marks: IO[bytes] | None
    ends: array[int]
    document: array[int]
    offset: array[int]
    documents: dict[str, int]
    reached: array[int]
    digest: Any

    @staticmethod
    def into(spool: IO[bytes], marks: IO[bytes] | None) -> _Gathered:
        columns = array("q", [0]), array("i"), array("i")
        return _Gathered(spool, marks, *columns, {}, array("i"), hashlib.sha256())

    def add(self, name: str, ids: list[int], marked: list[bool] | None) -> None:
        number = self.documents.setdefault(name, len(self.documents))
        if number == len(self.reached):
            self.reached.append(0)
        row = np.asarray(ids, dtype=np.int32)
        counted = None if marked is None else np.asarray(marked, dtype=bool)
        self.spool.write(row.tobytes())
        if self.marks is not None and counted is not None:
            self.marks.write(counted.tobytes())
        _add_row(self.digest, number, row, counted)
        self.ends.append(self.ends[-1] + len(ids))
        self.document.append(number)
        self.offset.append(self.reached[number])
        self.reached[number] += len(ids)

    def tokens(self) -> Int[np.ndarray, "tokens"]:
        return self._read(self.spool, np.int32)

    def counted(self) -> Bool[np.ndarray, "tokens"] | None:
        return None if self.marks is None else self._read(self.marks, np.bool_)

    def _read(self, spool: IO[bytes], dtype: type[np.generic]) -> Shaped[np.ndarray, "tokens"]:
        spool.flush()
        if self.ends[-1] > IN_MEMORY_TOKENS:
            return np.memmap(spool, dtype=dtype, mode="r")
        spool.seek(0)
        return np.frombuffer(spool.read(), dtype=dtype)


def _tokenise(
    rows: Iterator[Row], tokenizer: Any, rules: str, where: str, completion_only: bool
) -> Corpus:
    blank = short = 0
    bos = getattr(tokenizer, "bos_token_id", None)
    always_bos = bos is not None
    try:
        with ExitStack() as files:
            spool = files.enter_context(tempfile.TemporaryFile())
            marks = files.enter_context(tempfile.TemporaryFile()) if completion_only else None
            kept = _Gathered.into(spool, marks)
            for batch in _batched(rows):
                filled = [row for row in batch if _filled(row, completion_only)]
                blank += len(batch) - len(filled)
                encoded = _encode(filled, tokenizer, completion_only)
                for row, (ids, marked) in zip(filled, encoded, strict=True):
                    if len(ids) < 2 or not (marked is None or any(marked)):
                        short += 1
                        continue
                    kept.add(row.document, ids, marked)
                    always_bos = always_bos and ids[0] == bos
            if not kept.document:
                raise UnembedError(_nothing(where, blank, short, completion_only))
            tokens, counted = kept.tokens(), kept.counted()
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
        counted,
    )


def _filled(row: Row, completion_only: bool) -> bool:
    if completion_only:
        return row.pair is not None and bool(row.pair.answer.strip())
    return bool(row.text.strip())


def _encode(
    rows: list[Row], tokenizer: Any, completion_only: bool
) -> list[tuple[list[int], list[bool] | None]]:
    """The token ids of each row, and which count; None counts all."""
    if not rows:
        return []
    try:
        if completion_only:
            return [(pair.ids, pair.counted) for pair in encoded_pairs(rows, tokenizer)]
        texts = [row.text for row in rows]
        found = tokenizer(texts, verbose=False, return_attention_mask=False)["input_ids"]
        return [(ids, None) for ids in found]
    except UnembedError:
        raise
    except Exception:
        for row in rows:
            broken = next((c for c in row.text if "\ud800" <= c <= "\udfff"), None)
            if broken is not None:
                raise UnembedError(
                    f"{row.where} holds half of a surrogate pair ({broken!r}), which is no text: "
                    "write the row again as UTF-8"
                ) from None
        raise


def _add_row(
    digest: Any,
    number: int,
    ids: Int[np.ndarray, "row_tokens"],
    counted: Bool[np.ndarray, "row_tokens"] | None,
) -> None:
    digest.update(np.array([number, len(ids)], dtype=np.int64).tobytes())
    digest.update(ids.tobytes())
    if counted is not None:
        digest.update(counted.tobytes())


def _nothing(where: str, blank: int, short: int, completion_only: bool) -> str:
    if completion_only and blank + short:
        return (
            f"{where}: all {blank + short} completions are empty or masked ({blank} empty, {short} "
            "without a token to predict): give prompts followed by completions"
        )
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
