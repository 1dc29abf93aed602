"""Texts, and prompts with completions, out of what a program holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from unembed.errors import UnembedError
from unembed.text.rows import COMPLETION, PROMPT, PromptCompletion, pair_of

Item = TypeVar("Item")


def texts_of(given: Any, column: str) -> Iterator[str]:
    """The texts of a list, an iterator, a Series, or of the ``column`` of a table.

    Raises UnembedError for what is none of these, and naming the text for one that is no text.
    """
    names = _columns(given)
    if names is not None:
        if column not in names:
            raise UnembedError(
                f"a {type(given).__name__} of {', '.join(map(str, names)) or 'no columns'} has no "
                f"column {column!r}: name the text's with text_column"
            )
        given = given[column]
        given = given.to_pylist() if hasattr(given, "to_pylist") else given
    for number, text in enumerate(_iterable(given, "texts", "Corpus.from_texts([text])"), 1):
        if not isinstance(text, str):
            raise UnembedError(
                f"text {number} is {text!r:.40} ({type(text).__name__}), not a string: leave it "
                "out, or give its text"
            )
        yield text


def pairs_of(given: Any) -> Iterator[PromptCompletion]:
    """Prompts and completions: ``PromptCompletion``, or records with these columns.

    Raises UnembedError as ``texts_of`` does.
    """
    if hasattr(given, "to_dict") and hasattr(given, "columns"):
        given = given.to_dict("records")
    for number, pair in enumerate(_iterable(given, "pairs", "Corpus.from_pairs([pair])"), 1):
        if isinstance(pair, Mapping):
            yield pair_of(dict(pair), f"pair {number}")
        elif isinstance(pair, PromptCompletion):
            yield pair
        else:
            raise UnembedError(
                f"pair {number} is {pair!r:.40} ({type(pair).__name__}): give a PromptCompletion, "
                f"or a dictionary with {PROMPT!r} and {COMPLETION!r}"
            )


def named(
    found: Iterator[Item], names: Sequence[str] | None, what: str
) -> Iterator[tuple[str, Item]]:
    """Each text with its name, one of those given or its number.

    Raises UnembedError where the names are too few.
    """
    for number, one in enumerate(found, 1):
        if names is not None and number > len(names):
            raise UnembedError(f"{len(names)} names are too few: give one for each {what}")
        yield (f"{what} {number}" if names is None else names[number - 1]), one


def _columns(given: Any) -> list[Any] | None:
    """The names of a table's columns: a DataFrame's, a data set's, an Arrow table's."""
    for attribute in ("column_names", "columns"):
        names = getattr(given, attribute, None)
        if names is not None and not callable(names) and not isinstance(given, str):
            return list(names)
    return None


def _iterable(given: Any, what: str, alone: str) -> Iterator[Any]:
    if isinstance(given, Path):
        remedy = "read a file with Corpus.read(path, tokenizer)"
    elif isinstance(given, str | bytes):
        remedy = f"give a list of {what}, {alone}, or read a file with Corpus.read"
    elif isinstance(given, Mapping) or not hasattr(given, "__iter__"):
        remedy = f"give a list of {what}"
    else:
        return iter(given)
    raise UnembedError(f"{given!r:.40} ({type(given).__name__}) is no list of {what}: {remedy}")
