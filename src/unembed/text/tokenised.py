"""Rows of text as token ids, with which of them count, and their digest."""

from __future__ import annotations

import hashlib
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from jaxtyping import Bool, Int, Shaped

from unembed.errors import UnembedError
from unembed.text.completions import conversation, encoded_pairs
from unembed.text.rows import Row

TOKENISE_ROWS = 1000
TOKENISE_CHARACTERS = 1 << 22
CHARACTERS_A_TOKEN = 8
"""More than nearly any text has, so that one batch or two are tokenised for a few positions."""
LEAST_CHARACTERS = 1 << 14
IN_MEMORY_TOKENS = 1 << 24
TokenRow = tuple[str, Int[np.ndarray, " row_tokens"], Bool[np.ndarray, " row_tokens"] | None]
"""A row's document, its token ids, and which of them count; None counts all."""
DRAWN_FROM = 64
LEAST_DRAWN_FROM = 1 << 20
"""Positions are drawn from so many times as many, and so many at least: what is read of a text of
any length."""


@dataclass(frozen=True)
class ReadingLimit:
    """How many positions of a text are enough, so that the rest of it is not read.

    ``per_row`` is how many a row gives at most; ``spread`` says that positions are drawn from them.
    """

    positions: int
    per_row: int | None = None
    spread: bool = False

    @staticmethod
    def of(
        max_positions: int, *, context: int, truncate: bool = False, spread: bool = False
    ) -> ReadingLimit:
        """Enough for ``max_positions`` of windows of ``context``.

        With ``spread``, positions are drawn from 64 times as many, or a million at least.
        """
        enough = max(DRAWN_FROM * max_positions, LEAST_DRAWN_FROM) if spread else max_positions
        return ReadingLimit(enough, context - 1 if truncate else None, spread)

    def given(self, ids: list[int], marked: list[bool] | None) -> int:
        """The positions of a row, or fewer: a completion longer than a window shares the first."""
        counted = len(ids) - 1 if marked is None else sum(marked)
        if self.per_row is None or counted < self.per_row:
            return counted
        return self.per_row if marked is None else max(1, self.per_row // 2)


@dataclass(frozen=True)
class Tokenised:
    """Token rows end to end, as a ``Corpus`` holds them, and how many rows were left out.

    ``stopped_after`` is the position after which a limit ended the reading, if it did.
    """

    ids: Int[np.ndarray, " tokens"]
    starts: Int[np.ndarray, " rows_plus_one"]
    document: Int[np.ndarray, " rows"]
    offset: Int[np.ndarray, " rows"]
    names: tuple[str, ...]
    bos: int | None
    blank_rows: int
    short_rows: int
    digest: str
    counted: Bool[np.ndarray, " tokens"] | None
    stopped_after: int | None = None


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

    def add(
        self,
        name: str,
        ids: list[int] | Int[np.ndarray, " row_tokens"],
        marked: list[bool] | Bool[np.ndarray, " row_tokens"] | None,
    ) -> None:
        number = self.documents.setdefault(name, len(self.documents))
        if number == len(self.reached):
            _check_name(name)
            self.reached.append(0)
        row = np.asarray(ids, dtype=np.int32)
        counted = None if marked is None else np.asarray(marked, dtype=bool)
        self.spool.write(row.tobytes())
        if self.marks is not None and counted is not None:
            self.marks.write(counted.tobytes())
        add_row(self.digest, number, row, counted)
        self.ends.append(self.ends[-1] + len(ids))
        self.document.append(number)
        self.offset.append(self.reached[number])
        self.reached[number] += len(ids)

    def tokenised(
        self, bos: int | None, blank: int, short: int, stopped_after: int | None = None
    ) -> Tokenised:
        """All of them; the files may be closed then."""
        return Tokenised(
            self.tokens(),
            np.array(self.ends, dtype=np.int64),
            np.array(self.document, dtype=np.int32),
            np.array(self.offset, dtype=np.int32),
            tuple(self.documents),
            bos,
            blank,
            short,
            self.digest.hexdigest(),
            self.counted(),
            stopped_after,
        )

    def tokens(self) -> Int[np.ndarray, " tokens"]:
        return self._read(self.spool, np.int32)

    def counted(self) -> Bool[np.ndarray, " tokens"] | None:
        return None if self.marks is None else self._read(self.marks, np.bool_)

    def _read(self, spool: IO[bytes], dtype: type[np.generic]) -> Shaped[np.ndarray, " tokens"]:
        spool.flush()
        if self.ends[-1] > IN_MEMORY_TOKENS:
            return np.memmap(spool, dtype=dtype, mode="r")
        spool.seek(0)
        return np.frombuffer(spool.read(), dtype=dtype)


def tokenise(
    rows: Iterator[Row],
    tokenizer: Any,
    where: str,
    completion_only: bool,
    limit: ReadingLimit | None = None,
) -> Tokenised:
    """Rows as token ids, a batch at a time, without the blank ones and those too short to predict.

    ``completion_only`` marks the completions' tokens, which alone count. Raises UnembedError for
    rows that cannot be tokenised, and where none is left; ``where`` names their source. Rows after
    those that reach ``limit`` are not read, but for a batch.
    """
    if not callable(tokenizer):
        raise UnembedError(
            f"{tokenizer!r:.40} is no tokenizer: give the model's own, such as checkpoint.tokenizer"
        )
    blank = short = reached = 0
    stopped = False
    bos = getattr(tokenizer, "bos_token_id", None)
    always_bos = bos is not None
    with _gathering(completion_only) as kept:
        for row, ids, marked in _encoded(rows, tokenizer, completion_only, _enough(limit)):
            if limit is not None and reached >= limit.positions:
                stopped = True
                break
            if ids is None:
                blank += 1
                continue
            if len(ids) < 2 or not (marked is None or any(marked)):
                short += 1
                continue
            kept.add(row.document, ids, marked)
            always_bos = always_bos and ids[0] == bos
            reached += 0 if limit is None else limit.given(ids, marked)
        if not kept.document:
            raise UnembedError(_nothing(where, blank, short, completion_only))
        return kept.tokenised(
            bos if always_bos else None, blank, short, reached if stopped else None
        )


def token_rows(
    rows: Iterable[TokenRow], tokenizer: Any, where: str, *, marked: bool = False, blank: int = 0
) -> Tokenised:
    """Rows that are token ids already, as ``tokenise`` would have made them.

    Those of fewer than two tokens are counted and left out. ``marked`` says that rows say which of
    their tokens count. Raises UnembedError where no row is left.
    """
    short = 0
    bos = getattr(tokenizer, "bos_token_id", None)
    always_bos = bos is not None
    with _gathering(marked) as kept:
        for name, ids, counted in rows:
            if len(ids) < 2:
                short += 1
                continue
            kept.add(name, ids, counted)
            always_bos = always_bos and int(ids[0]) == bos
        if not kept.document:
            raise UnembedError(_nothing(where, blank, short, marked))
        return kept.tokenised(bos if always_bos else None, blank, short)


@contextmanager
def _gathering(marked: bool) -> Iterator[_Gathered]:
    """Where rows are gathered; what the system refuses is one line."""
    try:
        with ExitStack() as files:
            spool = files.enter_context(tempfile.TemporaryFile())
            marks = files.enter_context(tempfile.TemporaryFile()) if marked else None
            yield _Gathered.into(spool, marks)
    except OSError as error:
        raise UnembedError(
            f"the tokens could not be kept in {tempfile.gettempdir()}: {error.strerror}; "
            "set TMPDIR to a folder with more room"
        ) from error


def _encoded(
    rows: Iterator[Row], tokenizer: Any, completion_only: bool, characters: int
) -> Iterator[tuple[Row, list[int] | None, list[bool] | None]]:
    """Each row with its token ids, None where it is blank, and which count; None counts all."""
    for batch in _batched(rows, characters):
        filled = [row for row in batch if _filled(row, completion_only)]
        encoded = iter(_encode(filled, tokenizer, completion_only))
        for row in batch:
            yield (row, *next(encoded)) if _filled(row, completion_only) else (row, None, None)


def _enough(limit: ReadingLimit | None) -> int:
    """The characters that are tokenised at a time: few where few positions are wanted."""
    if limit is None:
        return TOKENISE_CHARACTERS
    few = max(LEAST_CHARACTERS, CHARACTERS_A_TOKEN * limit.positions)
    return min(TOKENISE_CHARACTERS, few)


def _check_name(name: str) -> None:
    """A run's tables name documents in UTF-8, at its end."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UnembedError(
            f"document {name!a} has a name that is no Unicode: rename the file, or mend the column"
        ) from None


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
        options = {"verbose": False, "return_attention_mask": False}
        spoken = [row.messages is not None for row in rows]
        texts = [row.text for row in rows if row.messages is None]
        talks = [conversation(row, tokenizer) for row in rows if row.messages is not None]
        plain = iter(tokenizer(texts, **options)["input_ids"] if texts else ())
        chats = iter(
            # A template writes its own BOS.
            tokenizer(talks, add_special_tokens=False, **options)["input_ids"] if talks else ()
        )
        return [(next(chats if said else plain), None) for said in spoken]
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


def add_row(
    digest: Any,
    number: int,
    ids: Int[np.ndarray, " row_tokens"],
    counted: Bool[np.ndarray, " row_tokens"] | None,
) -> None:
    """Take a row of document ``number`` into the digest of a corpus."""
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


def _batched(rows: Iterator[Row], characters: int) -> Iterator[list[Row]]:
    batch: list[Row] = []
    held = 0
    for row in rows:
        batch.append(row)
        held += len(row.text)
        if len(batch) == TOKENISE_ROWS or held >= characters:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch
