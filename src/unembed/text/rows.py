"""Rows of text, or of prompts and completions, out of files, folders and data sets."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unembed.errors import UnembedError

SUFFIXES = (".txt", ".jsonl", ".parquet")
OTHER_SUFFIXES = (".json", ".csv", ".tsv", ".md", ".html", ".gz", ".zst", ".zip", ".arrow")
"""Suffixes by which a name is a file's and not a hub data set's."""
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?(:[^:/]*){0,2}")
PARQUET_ROWS = 1000
PROMPT, COMPLETION = "prompt", "completion"
"""The columns of records for supervised fine-tuning."""

Messages = list[dict[str, Any]]
"""A conversation, each message with its ``role`` and its ``content``."""


@dataclass(frozen=True)
class PromptCompletion:
    """A prompt and its completion: two texts, or two lists of messages."""

    prompt: str | Messages
    completion: str | Messages

    @property
    def answer(self) -> str:
        """The completion's text; that of messages is their contents, end to end."""
        return _content(self.completion)

    @property
    def text(self) -> str:
        """Prompt and completion end to end; of messages their contents, in no template."""
        return _content(self.prompt) + self.answer


@dataclass(frozen=True)
class Row:
    """One row of text: where it stands, the name of the document it belongs to, and the text.

    Where completions are read, ``pair`` is what the text is made of; None is a blank row.
    """

    where: str
    document: str
    text: str
    pair: PromptCompletion | None = None


@dataclass(frozen=True)
class RowRules:
    """How rows are taken: the column of a record's text, and what a document is.

    ``document`` None makes every row one; otherwise it is a regular expression that the first line
    of each document matches (text), or the column that names a row's document (records).
    ``completion_only`` reads the columns ``prompt`` and ``completion`` in place of the text's.
    """

    text_column: str = "text"
    document: str | None = None
    completion_only: bool = False

    def __post_init__(self) -> None:
        if self.completion_only and self.text_column != "text":
            raise UnembedError(
                f"--text-column {self.text_column!r} and --completion-only exclude each other: "
                f"completions are read from the columns {PROMPT!r} and {COMPLETION!r}"
            )

    @property
    def columns(self) -> list[str]:
        """The columns of a record that are read."""
        if self.completion_only:
            named = (PROMPT, COMPLETION, self.document)
            return [name for name in dict.fromkeys(named) if name is not None]
        return [self.text_column] if self.document is None else [self.text_column, self.document]


def read_rows(path: str | Path, rules: RowRules) -> Iterator[Row]:
    """The rows of a file, a folder, or a data set, blank ones included.

    Raises UnembedError, naming file and row, for anything that cannot be read.
    """
    try:
        yield from _rows_at(str(path), rules)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UnembedError(f"{error.filename or path} cannot be read: {reason}") from error


def _rows_at(name: str, rules: RowRules) -> Iterator[Row]:
    place = Path(name)
    if not name.strip():
        raise UnembedError("the corpus is an empty name: give a file, a folder or a data set")
    if place.is_file():
        yield from _file_rows(place, place.name, rules)
    elif (place / "dataset_dict.json").is_file() or (place / "state.json").is_file():
        yield from _dataset_rows(_saved(name), name, rules)
    elif place.is_dir():
        files = sorted(f for f in place.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file())
        if not files:
            raise UnembedError(f"{name} holds no {', '.join(SUFFIXES)} file: give a folder of them")
        for file in files:
            yield from _file_rows(file, file.relative_to(place).as_posix(), rules)
    elif place.exists():
        raise UnembedError(f"{name} is neither a file nor a folder: save the text in a file")
    elif Path(name.partition(":")[0]).is_dir() or (
        HUB_NAME.fullmatch(name) and place.suffix.lower() not in (*SUFFIXES, *OTHER_SUFFIXES)
    ):
        yield from _dataset_rows(_from_hub(name), name, rules)
    else:
        raise UnembedError(f"{name}: no such file or folder")


def _file_rows(file: Path, label: str, rules: RowRules) -> Iterator[Row]:
    readers = {".txt": _text_rows, ".jsonl": _jsonl_rows, ".parquet": _parquet_rows}
    if file.suffix.lower() not in readers:
        raise UnembedError(
            f"{file}: cannot read a {file.suffix or 'suffixless'} file; "
            f"give one of {', '.join(SUFFIXES)}"
        )
    yield from readers[file.suffix.lower()](file, label, rules)


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    with file.open("rb") as stream:
        for number, raw in enumerate(stream, 1):
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise UnembedError(
                    f"{file}, line {number}: byte {error.start + 1} is not UTF-8 "
                    f"(0x{raw[error.start]:02x}); convert the file, e.g. with iconv -t utf-8"
                ) from None
            yield number, (line.removeprefix("\ufeff") if number == 1 else line).rstrip("\r\n")


def _text_rows(file: Path, label: str, rules: RowRules) -> Iterator[Row]:
    if rules.completion_only:
        raise UnembedError(
            f"{file}: text has no prompts and completions to tell apart: give JSONL or Parquet "
            f"with the columns {PROMPT!r} and {COMPLETION!r}"
        )
    try:
        opening = None if rules.document is None else re.compile(rules.document)
    except re.error as error:
        raise UnembedError(
            f"--document {rules.document!r} is not a regular expression ({error}); for .txt files "
            "give one that the first line of each document matches"
        ) from None
    current = f"{label}:1"
    for number, line in _lines(file):
        here = f"{label}:{number}"
        if opening is None or opening.search(line):
            current = here
        yield Row(f"{file}, line {number}", current, line)


def _jsonl_rows(file: Path, label: str, rules: RowRules) -> Iterator[Row]:
    for number, line in _lines(file):
        here, where = f"{label}:{number}", f"{file}, line {number}"
        if not line.strip():
            yield Row(where, here, "")
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UnembedError(
                f"{where} is not JSON ({error}): {line[:60]!r}; give one object a line"
            ) from None
        if not isinstance(record, dict):
            raise UnembedError(f"{where} is not a JSON object: {line[:60]!r}")
        yield _record_row(record, rules, here, where)


def _parquet_rows(file: Path, label: str, rules: RowRules) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(file) as source:
            _need_columns(rules, source.schema_arrow.names, str(file))
            for batch in source.iter_batches(PARQUET_ROWS, columns=rules.columns):
                for record in batch.to_pylist():
                    number += 1
                    yield _record_row(record, rules, f"{label}:{number}", f"{file}, row {number}")
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reached = f" after row {number}" if number else ""
        raise UnembedError(
            f"{file} cannot be read as Parquet{reached}: {_first_line(error)}; write it again"
        ) from error


def _dataset_rows(data: Any, name: str, rules: RowRules) -> Iterator[Row]:
    _need_columns(rules, data.column_names, name)
    for number, record in enumerate(data.select_columns(rules.columns), 1):
        yield _record_row(record, rules, f"row {number}", f"{name}, row {number}")


def _saved(name: str) -> Any:
    with _datasets(name) as datasets:
        data = datasets.load_from_disk(name)
        if isinstance(data, dict) and len(data) > 1:
            raise UnembedError(
                f"{name} has the splits {', '.join(data)}: give the folder of one, "
                f"{Path(name) / next(iter(data))}"
            )
        return next(iter(data.values())) if isinstance(data, dict) else data


def _from_hub(name: str) -> Any:
    wanted, _, rest = name.partition(":")
    config, _, split = rest.partition(":")
    with _datasets(name) as datasets:
        data = datasets.load_dataset(wanted, config or None, split=split or None)
        if isinstance(data, dict) and len(data) > 1:
            raise UnembedError(
                f"{name} has the splits {', '.join(data)}: name one, "
                f"as {wanted}:{config}:{next(iter(data))}"
            )
        return next(iter(data.values())) if isinstance(data, dict) else data


@contextlib.contextmanager
def _datasets(name: str) -> Iterator[Any]:
    """The ``datasets`` library with its bars off; what it raises becomes one line."""
    try:
        import datasets
    except ImportError:
        raise UnembedError(
            f"{name} is not a file here, and reading a data set needs: pip install 'unembed[data]'"
        ) from None
    bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield datasets
    except UnembedError:
        raise
    except Exception as error:
        raise UnembedError(
            f"{name} is neither a file or folder here nor a data set that could be loaded: "
            f"{_first_line(error)}"
        ) from error
    finally:
        if bars:
            datasets.enable_progress_bars()


def _record_row(record: dict[str, Any], rules: RowRules, here: str, where: str) -> Row:
    _need_columns(rules, list(record), where)
    pair = _pair(record, where) if rules.completion_only else None
    text = record[rules.text_column] if pair is None else pair.text
    if text is not None and not isinstance(text, str):
        raise UnembedError(
            f"{where}: column {rules.text_column!r} holds {text!r:.40}, not text: "
            "name the text's with --text-column"
        )
    if rules.document is None:
        return Row(where, here, text or "", pair)
    if record[rules.document] is None:
        raise UnembedError(
            f"{where}: column {rules.document!r} names no document: fill it, or choose another "
            "with --document"
        )
    return Row(where, str(record[rules.document]), text or "", pair)


def _pair(record: dict[str, Any], where: str) -> PromptCompletion:
    """A record's prompt and completion; null is empty, as in a text column."""
    for name in (PROMPT, COMPLETION):
        value = record[name]
        if isinstance(value, list):
            _need_messages(value, name, where)
        elif value is not None and not isinstance(value, str):
            raise UnembedError(
                f"{where}: column {name!r} holds {value!r:.40}, neither text nor a list of "
                "messages: write it as a string"
            )
    prompt, completion = record[PROMPT], record[COMPLETION]
    if not prompt and isinstance(completion, list) and completion:
        raise UnembedError(
            f"{where}: column {PROMPT!r} holds no messages and column {COMPLETION!r} does: begin "
            "the conversation in the prompt"
        )
    if prompt and completion and type(prompt) is not type(completion):
        raise UnembedError(
            f"{where}: one of {PROMPT!r} and {COMPLETION!r} is text and the other a list of "
            "messages: write both in one way"
        )
    return PromptCompletion(prompt or "", completion or "")


def _need_messages(messages: list[Any], name: str, where: str) -> None:
    for message in messages:
        known = message if isinstance(message, dict) else {}
        if not all(isinstance(known.get(key), str) for key in ("role", "content")):
            raise UnembedError(
                f"{where}: column {name!r} lists {message!r:.60}, which is no message: give each "
                "a 'role' and a 'content' of text"
            )


def _content(part: str | Messages) -> str:
    return part if isinstance(part, str) else "".join(message["content"] for message in part)


def _need_columns(rules: RowRules, present: Sequence[str], where: str) -> None:
    for name in rules.columns:
        if name in present:
            continue
        if rules.completion_only and name in (PROMPT, COMPLETION):
            remedy = f"--completion-only reads the columns {PROMPT!r} and {COMPLETION!r}"
        elif name == rules.text_column:
            remedy = "name the text's with --text-column"
        else:
            remedy = "name the document's with --document"
        raise UnembedError(
            f"{where} has no column {name!r}; it has {', '.join(present) or 'none'}: {remedy}"
        )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else repr(error)
