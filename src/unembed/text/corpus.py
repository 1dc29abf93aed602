"""Token rows grouped into documents, read from files or from memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from unembed.runs.progress import progress_bar
from unembed.short_repr import ShortRepr
from unembed.text.files import files_below
from unembed.text.in_memory import named, pairs_of, texts_of
from unembed.text.rows import COMPLETION, PROMPT, Row, RowRules, read_rows
from unembed.text.tokenised import ReadingLimit, Tokenised, add_row, tokenise


@dataclass(frozen=True)
class Corpus(ShortRepr):
    """Token rows grouped into documents.

    ``ids`` holds all tokens end to end; row r is ``ids[starts[r]:starts[r + 1]]``. Row r belongs to
    document ``document[r]`` and begins at position ``offset[r]`` of it; documents are numbered in
    order of first appearance and named in ``names``. ``bos`` is the id that the tokenizer puts
    before every row, if it does. ``digest`` is the SHA-256 of ids, row lengths and documents, and
    of ``counted`` where there is one.

    ``counted`` marks the tokens whose prediction counts, those of completions; None counts all that
    are predicted. The first token of a row is not predicted, and never marked. ``blank_rows`` are
    then those of an empty completion, ``short_rows`` those of one without a token to predict.
    ``remarks`` say what of the source was not read.
    """

    ids: Int[np.ndarray, " tokens"]
    starts: Int[np.ndarray, " rows_plus_one"]
    document: Int[np.ndarray, " rows"]
    offset: Int[np.ndarray, " rows"]
    names: tuple[str, ...]
    tokenizer: Any
    bos: int | None
    blank_rows: int
    short_rows: int
    rules: str
    digest: str
    counted: Bool[np.ndarray, " tokens"] | None = None
    remarks: tuple[str, ...] = ()

    def _phrases(self) -> Iterator[str]:
        yield f"{self.tokens:,} tokens in {len(self.names):,} documents"
        if self.counted is not None:
            yield f"{int(self.counted.sum()):,} of them counted"
        yield self.rules

    @cached_property
    def duplicate_documents(self) -> int:
        """Number of documents that equal an earlier one: token for token, row for row."""
        contents = [b""] * len(self.names)
        for row, number in enumerate(self.document.tolist()):
            ids, counted = self._row(row)
            digest = hashlib.blake2b(contents[number], digest_size=8)
            add_row(digest, 0, ids, counted)
            contents[number] = digest.digest()
        return len(contents) - len(set(contents))

    @cached_property
    def double_bos_rows(self) -> int:
        """Number of rows that hold a BOS token behind the one that the tokenizer put."""
        if self.bos is None:
            return 0
        second = self.starts[:-1] + 1
        second = second[second < self.starts[1:]]
        return int(np.count_nonzero(self.ids[second] == self.bos))

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of any figure has to know of this text, a sentence each."""
        found = list(self.remarks)
        if self.duplicate_documents:
            found.append(
                f"{self.duplicate_documents:,} of {len(self.names):,} documents are exact copies "
                "of others, yet count as independent: intervals are too narrow"
            )
        if self.double_bos_rows:
            token = self.tokenizer.convert_ids_to_tokens(self.bos)
            found.append(
                f"{self.double_bos_rows:,} of {self.rows:,} rows begin with {token!r}, which the "
                "tokenizer puts there as well: take it out of the text"
            )
        return tuple(found)

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
        limit: ReadingLimit | None = None,
        progress: bool = False,
    ) -> Corpus:
        """Read a ``.txt``, ``.jsonl``, ``.json``, ``.csv``, ``.tsv`` or ``.parquet`` file, the same
        packed as ``.gz`` or ``.zst`` (Parquet aside), a folder of them, a data set saved with
        ``datasets``, or a hub data set ``name[:config[:split]]``. Hidden files of a folder are no
        text.

        A row of a ``.txt`` file is a line; of the others, a record's ``text_column``, which may be
        a field within others (``text.en``) or a list of messages, written out by the tokenizer's
        chat template; "messages" is read where there is no column "text". Blank rows
        are skipped; rows of fewer than two tokens are counted and dropped. A document is a row,
        unless ``document`` says otherwise: for text, a regular expression that the first line of
        each document matches; for records, the column that names a row's document.

        ``completion_only`` reads the columns ``prompt`` and ``completion`` of records, texts or
        lists of messages, and counts the predictions of the completion's tokens alone
        (``completions``). ``reword`` changes rows before they are tokenised, as answer words do.
        ``limit`` ends the reading where a text gives as many positions as are wanted.
        Raises UnembedError for anything that cannot be read, naming file and row.
        """
        how = f"document {document!r}" if document else "a document is a row"
        columns, dropped = f"column {text_column!r}", "rows under two tokens dropped"
        if completion_only:
            columns = f"columns {PROMPT!r} and {COMPLETION!r}"
            dropped = "completions alone counted, empty ones dropped"
        rows = read_rows(path, RowRules(text_column, document, completion_only))
        with progress_bar("reading", "row", None, progress) as bar:
            read = _on_bar(rows, bar)
            reworded = read if reword is None else reword(read)
            found = tokenise(reworded, tokenizer, str(path), completion_only, limit)
        rules = f"{path}: {columns}, {how}, {dropped}"
        remarks = [f"{hidden:,} hidden files are not read"] if (hidden := _hidden(path)) else []
        if (end := found.stopped_after) is not None:
            rules += f", read up to position {end:,}"
            if limit is not None and limit.spread:
                remarks.append(
                    f"--max-positions are drawn from the text's first {end:,} positions: the rest "
                    "is not read"
                )
        return Corpus.of(found, tokenizer, rules, tuple(remarks))

    @staticmethod
    def of(found: Tokenised, tokenizer: Any, rules: str, remarks: tuple[str, ...] = ()) -> Corpus:
        """The corpus of rows that were tokenised."""
        columns = {k: v for k, v in vars(found).items() if k != "stopped_after"}
        return Corpus(**columns, tokenizer=tokenizer, rules=rules, remarks=remarks)

    @staticmethod
    def from_texts(
        texts: Any,
        tokenizer: Any,
        *,
        names: Sequence[str] | None = None,
        text_column: str = "text",
    ) -> Corpus:
        """A corpus of texts already in memory, one document each.

        ``texts`` is a list, an iterator, a Series, or a table (a DataFrame, a ``datasets.Dataset``,
        an Arrow table), of which ``text_column`` is read.
        Raises UnembedError for anything else, and naming the text for one that is no string.
        """
        found_texts = named(texts_of(texts, text_column), names, "text")
        rows = (Row(name, name, text) for name, text in found_texts)
        found = tokenise(rows, tokenizer, "the texts given", False)
        rules = "texts in memory, one document each"
        return Corpus.of(found, tokenizer, rules)

    @staticmethod
    def from_pairs(
        pairs: Any,
        tokenizer: Any,
        *,
        names: Sequence[str] | None = None,
    ) -> Corpus:
        """A corpus of prompts and completions already in memory, one document each.

        ``pairs`` is a list, an iterator or a table; a pair is a ``PromptCompletion`` or a
        record with "prompt" and "completion". Only predictions of the completions' tokens count, as
        with ``read(completion_only=True)``.
        """
        found_pairs = named(pairs_of(pairs), names, "pair")
        rows = (Row(name, name, pair.text, pair) for name, pair in found_pairs)
        found = tokenise(rows, tokenizer, "the pairs given", True)
        rules = "pairs in memory, one document each, completions alone counted"
        return Corpus.of(found, tokenizer, rules)

    def subset(self, kept: Bool[np.ndarray, " documents"], rules: str) -> Corpus:
        """The documents marked in ``kept``, renumbered in the same order.

        Equal to a corpus read from their rows alone, except that ``blank_rows`` and ``short_rows``
        are those of the whole corpus. ``rules`` says how the documents were chosen.
        """
        rows = np.flatnonzero(kept[self.document])
        number = (np.cumsum(kept) - 1).astype(np.int32)
        document = number[self.document[rows]]
        sizes = np.diff(self.starts)[rows]
        digest = hashlib.sha256()
        pieces, marks = [], []
        for doc, row in zip(document.tolist(), rows.tolist(), strict=True):
            ids, counted = self._row(row)
            add_row(digest, doc, ids, counted)
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

    def counting(self, counted: Bool[np.ndarray, " tokens"], rules: str) -> Corpus:
        """The same tokens, of which those marked in ``counted`` count; ``rules`` says which."""
        marked = replace(self, counted=counted, rules=f"{self.rules}; {rules}")
        digest = hashlib.sha256()
        for row, number in enumerate(self.document.tolist()):
            add_row(digest, number, *marked._row(row))
        return replace(marked, digest=digest.hexdigest())

    def document_hashes(self) -> Int[np.ndarray, " documents"]:
        """A number below 2^63 for each document's input, the same wherever that input is read.

        The first 63 bits of the SHA-256 of the document's prompt, its token ids that do not count;
        of all its token ids where nothing is marked, or where the prompt is empty or a BOS token
        alone. So tasks that share prompts share numbers, whatever their answers.
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
    ) -> tuple[Int[np.ndarray, " row_tokens"], Bool[np.ndarray, " row_tokens"] | None]:
        span = slice(self.starts[row], self.starts[row + 1])
        counted = None if self.counted is None else np.asarray(self.counted[span])
        return np.asarray(self.ids[span], dtype=np.int32), counted


def _hidden(path: str | Path) -> int:
    folder = Path(path)
    saved = any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))
    return files_below(folder)[1] if folder.is_dir() and not saved else 0


def _on_bar(rows: Iterator[Row], bar: Any) -> Iterator[Row]:
    for row in rows:
        yield row
        bar.update()
