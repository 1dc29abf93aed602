"""Files that a user writes for a weighting: a list of positions, a table of tokens and values."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Shaped

from unembed.errors import UnembedError
from unembed.text.vocabulary import Vocabulary
from unembed.training.recipe.weighting import Positions, position_keys


def read_positions(path: str | Path) -> Positions:
    """The positions listed in a Parquet file with columns ``doc`` and ``pos``, and perhaps
    ``weight`` (else 1), numbered as in an audit of the same corpus.

    Raises UnembedError for a file that cannot be read or has no rows, for a number that is missing
    or negative, and for a position listed twice.
    """
    try:
        with pq.ParquetFile(path) as source:
            names = source.schema_arrow.names
            lacking = [name for name in ("doc", "pos") if name not in names]
            if lacking:
                raise UnembedError(
                    f"{path} has no column {lacking[0]!r}; it has {', '.join(names) or 'none'}: "
                    "list positions by doc and pos"
                )
            weighted = "weight" in names
            table = source.read(["doc", "pos", *(["weight"] if weighted else [])])
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UnembedError(f"{path} cannot be read as Parquet: {reason}") from error
    if not len(table):
        raise UnembedError(f"{path} lists no positions: give at least one")
    doc, pos = _column(table, "doc", path), _column(table, "pos", path)
    weights = _column(table, "weight", path, math.inf) if weighted else np.ones(len(table))
    keys = position_keys(doc, pos)
    order = np.argsort(keys, kind="stable")
    twice = np.flatnonzero(np.diff(keys[order]) == 0)
    if len(twice):
        at = int(order[twice[0] + 1])
        raise UnembedError(
            f"{path}, row {at + 1}: doc {doc[at]}, pos {pos[at]} is listed twice: drop one of them"
        )
    return Positions(keys[order], weights[order].astype(np.float32))


def read_values(path: str | Path, tokenizer: Any) -> dict[int, float]:
    """A table of tokens and their values, by token id.

    ``.csv`` and ``.tsv`` files have a header, ``.jsonl`` an object a line, ``.json`` a list of
    objects. The columns are ``value`` and either ``id`` or ``token``: the token's text as it is
    decoded, its leading space included; every token that reads so gets the value. Where both are
    given, the id counts.

    Raises UnembedError, naming the line, for an empty table, an unknown token, a value that is
    negative or no finite number, and a token listed twice.
    """
    vocabulary = Vocabulary.of(tokenizer, map(int, tokenizer.get_vocab().values()))
    by_text: dict[str, list[int]] = {}
    for token, text in vocabulary.texts.items():
        by_text.setdefault(text, []).append(token)
    found: dict[int, float] = {}
    for where, record in _records(Path(path)):
        if record.get("id") not in (None, ""):
            shown, given = f"id {record['id']!r}", str(record["id"]).strip()
            number = int(given) if given.isdecimal() else -1
            tokens = [number] if number in vocabulary.texts else []
        elif record.get("token") is not None:
            shown, tokens = f"token {record['token']!r}", by_text.get(str(record["token"]), [])
        else:
            raise UnembedError(
                f"{where} names no token; it has {', '.join(map(str, record)) or 'nothing'}: "
                "give columns token (or id) and value"
            )
        if not tokens:
            raise UnembedError(
                f"{where}: the tokenizer has no {shown}: give a token's text as it is decoded, "
                "its leading space included, or its id"
            )
        if not found.keys().isdisjoint(tokens):
            raise UnembedError(f"{where}: {shown} is listed twice: drop one of the lines")
        found |= dict.fromkeys(tokens, _value(record, where))
    if not found:
        raise UnembedError(f"{path} lists no tokens: give at least one with its value")
    return found


def _records(path: Path) -> Iterator[tuple[str, dict[Any, Any]]]:
    """The rows of a table, each with its file and line."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UnembedError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UnembedError(f"{path} is not UTF-8 at byte {error.start + 1}: convert it") from error
    try:
        match path.suffix.lower():
            case ".csv" | ".tsv" as suffix:
                yield from _delimited(text, "," if suffix == ".csv" else "\t", path)
            case ".jsonl":
                for number, line in enumerate(text.split("\n"), 1):
                    if line.strip():
                        yield _object(json.loads(line), f"{path}, line {number}")
            case ".json":
                rows = json.loads(text)
                for number, row in enumerate(rows if isinstance(rows, list) else [rows], 1):
                    yield _object(row, f"{path}, entry {number}")
            case suffix:
                raise UnembedError(
                    f"{path}: cannot read a {suffix or 'suffixless'} table of values; "
                    "give a .csv, .tsv, .jsonl or .json file"
                )
    except (json.JSONDecodeError, RecursionError, csv.Error) as error:
        raise UnembedError(f"{path} is no {path.suffix} table: {error}") from error


def _delimited(text: str, delimiter: str, path: Path) -> Iterator[tuple[str, dict[Any, Any]]]:
    lines = io.StringIO(text, newline="")
    reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
    for row in reader:
        where = f"{path}, line {reader.line_num}"
        if None in row:
            raise UnembedError(
                f"{where} has more fields than the header, up to {row[None][-1]!r}: "
                f"put a token that holds {delimiter!r} in double quotes"
            )
        yield where, row


def _object(row: object, where: str) -> tuple[str, dict[Any, Any]]:
    if not isinstance(row, dict):
        raise UnembedError(f"{where} is {row!r:.60}: give an object with token (or id) and value")
    return where, row


def _value(record: Mapping[Any, Any], where: str) -> float:
    given: Any = record.get("value")
    try:
        value = math.nan if isinstance(given, bool) else float(given)
    except (TypeError, ValueError):
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise UnembedError(f"{where}: the value is {given!r}: give a number from 0 up")
    return value


def _column(
    table: pa.Table, name: str, path: str | Path, limit: float = 2**31
) -> Shaped[np.ndarray, " listed"]:
    """A column of numbers from 0 up, none missing; whole ones below a finite ``limit``."""
    kind, whole = table[name].type, limit < math.inf
    if not (pa.types.is_integer(kind) or (pa.types.is_floating(kind) and not whole)):
        numbers = "whole numbers" if whole else "numbers"
        raise UnembedError(f"{path}: column {name!r} holds {kind}: give {numbers}")
    for row, given in enumerate(table[name].to_pylist(), 1):
        if given is None or not 0 <= given < limit:
            raise UnembedError(f"{path}, row {row}: {name} is {given!r}: give a number from 0 up")
    found: Shaped[np.ndarray, " listed"] = table[name].to_numpy()
    return found
