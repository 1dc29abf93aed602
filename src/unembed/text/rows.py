"""Rows of text, or of prompts and completions, out of files, folders and data sets."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unembed.errors import UnembedError
from unembed.short_repr import ShortRepr
from unembed.text.files import SUFFIXES, files_below, first_line, kind_of, lines, records

OTHER_SUFFIXES = (".md", ".html", ".gz", ".zst", ".zip", ".arrow")
"""Suffixes by which a name is a file's and not a hub data set's, beside those that are read."""
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?(:[^:/]*){0,2}")
PROMPT, COMPLETION = "prompt", "completion"
"""The columns of records for supervised fine-tuning."""
TEXT, MESSAGES = "text", "messages"
"""The column of a record's text where none is named, and the one that stands in for it."""

Messages = list[dict[str, Any]]
"""A conversation, each message with its ``role`` and its ``content``."""


@dataclass(frozen=True)
class PromptCompletion(ShortRepr):
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
    ``messages`` are a conversation, which the tokenizer's chat template writes out; ``text`` is
    then their contents alone.
    """

    where: str
    document: str
    text: str
    pair: PromptCompletion | None = None
    messages: Messages | None = None


@dataclass(frozen=True)
class RowRules:
    """How rows are taken: the column of a record's text, and what a document is.

    A column may be a field within others, as ``text.en``, and hold a conversation in place of text:
    a list of messages. Records without a column "text" and with one "messages" are read by it,
    unless another is named.
    ``document`` None makes every row one; otherwise it is a regular expression that the first line
    of each document matches (text), or the column that names a row's document (records).
    ``completion_only`` reads the columns ``prompt`` and ``completion`` in place of the text's.
    """

    text_column: str = TEXT
    document: str | None = None
    completion_only: bool = False

    def __post_init__(self) -> None:
        if self.completion_only and self.text_column != TEXT:
            raise UnembedError(
                f"--text-column {self.text_column!r} and --completion-only exclude each other: "
                f"completions are read from the columns {PROMPT!r} and {COMPLETION!r}"
            )

    def columns(self, present: Sequence[str]) -> list[str]:
        """The columns that are read of a record that has ``present``."""
        named = [PROMPT, COMPLETION] if self.completion_only else [self.text_of(present)]
        return [name for name in dict.fromkeys([*named, self.document]) if name is not None]

    def text_of(self, present: Sequence[str]) -> str:
        """The column of the text of a record that has ``present``."""
        instead = self.text_column == TEXT and TEXT not in present and MESSAGES in present
        return MESSAGES if instead else self.text_column


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
        _need_openings(name, [place], rules)
        yield from _file_rows(place, place.name, rules)
    elif (place / "dataset_dict.json").is_file() or (place / "state.json").is_file():
        yield from _dataset_rows(_saved(name), name, rules)
    elif place.is_dir():
        files, hidden = files_below(place)
        if not files:
            beside = f" but {hidden} hidden ones" if hidden else ""
            raise UnembedError(
                f"{name} holds no {', '.join(SUFFIXES)} file{beside}: give a folder of them"
            )
        _need_openings(name, files, rules)
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
    kind = kind_of(file)
    if kind is None:
        raise UnembedError(
            f"{file}: cannot read a {file.suffix or 'suffixless'} file; "
            f"give one of {', '.join(SUFFIXES)}, or one that is packed as .gz or .zst"
        )
    if kind == ".txt":
        yield from _text_rows(file, label, rules)
        return

    def choose(present: list[str]) -> list[str]:
        _need_columns(rules, present, str(file))
        return list(dict.fromkeys(_root(name, present) for name in rules.columns(present)))

    for record in records(file, choose):
        here = f"{label}:{record.number}"
        if record.fields is None:
            yield Row(record.where, here, "")
        else:
            yield _record_row(record.fields, rules, here, record.where)


def _text_rows(file: Path, label: str, rules: RowRules) -> Iterator[Row]:
    if rules.completion_only:
        raise UnembedError(
            f"{file}: text has no prompts and completions to tell apart: give JSONL or Parquet "
            f"with the columns {PROMPT!r} and {COMPLETION!r}"
        )
    opening = None if rules.document is None else _opening(rules.document)
    current = f"{label}:1"
    for number, line in lines(file):
        here = f"{label}:{number}"
        if opening is None or opening.search(line):
            current = here
        yield Row(f"{file}, line {number}", current, line)


def _opening(document: str) -> re.Pattern[str]:
    """What the first line of each document of a text matches."""
    try:
        return re.compile(document)
    except re.error as error:
        raise UnembedError(
            f"--document {document!r} is not a regular expression ({error}); for .txt files "
            "give one that the first line of each document matches"
        ) from None


def _need_openings(name: str, files: Sequence[Path], rules: RowRules) -> None:
    """Raise UnembedError where no line of any text begins a document; reads up to the first."""
    texts = [file for file in files if kind_of(file) == ".txt"]
    if rules.document is None or rules.completion_only or not texts:
        return
    opening, blank = _opening(rules.document), True
    for file in texts:
        for _number, line in lines(file):
            if opening.search(line):
                return
            blank = blank and not line.strip()
    if not blank:
        raise UnembedError(
            f"{name}: --document {rules.document!r} matches no line, so that all of "
            f"{'the text' if len(texts) == 1 else 'each text'} would be one document: give a "
            "regular expression that the first line of each document matches, or leave it out"
        )


def _dataset_rows(data: Any, name: str, rules: RowRules) -> Iterator[Row]:
    _need_columns(rules, data.column_names, name)
    columns = [_root(column, data.column_names) for column in rules.columns(data.column_names)]
    for number, record in enumerate(data.select_columns(list(dict.fromkeys(columns))), 1):
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
            f"{first_line(error)}"
        ) from error
    finally:
        if bars:
            datasets.enable_progress_bars()


def _record_row(record: dict[str, Any], rules: RowRules, here: str, where: str) -> Row:
    _need_columns(rules, list(record), where)
    pair = pair_of(record, where) if rules.completion_only else None
    messages = None
    if pair is None:
        column = rules.text_of(list(record))
        text = _value(record, column, where)
        if isinstance(text, list) and text:
            _need_messages(text, column, where)
            messages = text
        elif text is not None and not isinstance(text, str) and text != []:
            inside = f", as {column}.{next(iter(text))}" if isinstance(text, dict) and text else ""
            raise UnembedError(
                f"{where}: column {column!r} holds {text!r:.40}, not text: "
                f"name the text's with --text-column{inside}"
            )
        text = _content(text) if messages else text
    else:
        text = pair.text
    if rules.document is not None:
        document = _value(record, rules.document, where)
        if document is None:
            raise UnembedError(
                f"{where}: column {rules.document!r} names no document: fill it, or choose another "
                "with --document"
            )
        here = str(document)
    return Row(where, here, text or "", pair, messages)


def _root(name: str, present: Sequence[str]) -> str:
    """The column that holds a field: itself, or the first of the names between its dots."""
    return name if name in present else name.partition(".")[0]


def _value(record: dict[str, Any], name: str, where: str) -> Any:
    """The value of a column, or of a field within others; null holds null throughout."""
    if name in record:
        return record[name]
    found: Any = record
    for step in name.split("."):
        if found is None:
            return None
        if not isinstance(found, dict) or step not in found:
            has = ", ".join(map(str, found)) if isinstance(found, dict) else repr(found)[:40]
            raise UnembedError(f"{where} has no field {name!r}: before {step!r} it has {has}")
        found = found[step]
    return found


def pair_of(record: dict[str, Any], where: str) -> PromptCompletion:
    """A record's prompt and completion; null is empty, as in a text column.

    Raises UnembedError, naming the record, for what is neither text nor messages.
    """
    for name in (PROMPT, COMPLETION):
        if name not in record:
            raise UnembedError(f"{where} has no {name!r}; it has {', '.join(map(str, record))}")
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
    for name in rules.columns(present):
        if _root(name, present) in present:
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
