"""What each position weighs in a training penalty: by its token, by what the head says, by hand."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from unembed.decisions.tokens import CLASSES, classes_of
from unembed.errors import UnembedError
from unembed.head.loss import HeadLoss
from unembed.text.vocabulary import Vocabulary

OTHERS = "*"
"""Stands for every token class that is not named."""


@dataclass(frozen=True)
class Weighting:
    """How positions are weighted; every part is a factor, and left out it is 1.

    ``frequency`` is the power a of ``count(target)^-a`` over the training targets. ``classes``
    gives token classes a weight; those not named have that of ``"*"``, or 1. ``values`` gives token
    ids one, others have 1. Positions whose margin is not below ``below_margin``, and under
    ``only_right`` those whose top token is not the target, weigh 0.

    Raises UnembedError for an unknown class, and for a number that is negative or not finite.
    Source: theory §5.
    """

    frequency: float = 0.0
    classes: Mapping[str, float] = field(default_factory=dict)
    values: Mapping[int, float] = field(default_factory=dict)
    below_margin: float | None = None
    only_right: bool = False

    def __post_init__(self) -> None:
        refuse_unknown_classes(self.classes.keys() - {OTHERS})
        refuse_negative("the frequency power", self.frequency)
        for name, weight in self.classes.items():
            refuse_negative(f"the weight of class {name!r}", weight)
        for token, value in self.values.items():
            refuse_negative(f"the value of token {token}", value)
        if self.below_margin is not None and not 0 < self.below_margin < math.inf:
            raise UnembedError(f"below_margin is {self.below_margin!r}: give a number above 0")

    def table(self, counts: Int[Tensor, "vocab"], vocabulary: Vocabulary) -> WeightTable:
        """The weight of every token, 1 on average over the training targets.

        Equivalent to::

            weight = counts ** -frequency * by_class[class_of] * by_value
            weight / ((counts * weight).sum() / counts.sum())

        so that a penalty's lambda means the same under every weighting. ``counts`` is how often
        each token is a training target; one that never is has the weight of the rarest that are.
        The gates are not averaged over. Raises UnembedError where all targets weigh 0, and where
        the weights differ by more than float32 holds.
        """
        seen = counts > 0
        if not bool(seen.any()):
            raise ValueError("no token is a training target: count those of the training corpus")
        rare = int(counts[seen].min())
        weights = (counts.clamp_min(rare).double() / rare) ** -self.frequency
        weights *= self._by_class(len(counts), vocabulary).to(weights.device)
        for token, value in self.values.items():
            if not 0 <= token < len(counts):
                raise UnembedError(f"token {token} has a value, and ids end at {len(counts) - 1}")
            weights[token] *= value
        mean = float((counts * weights).sum() / counts.sum())
        if mean == 0:
            raise UnembedError(
                "the classes and values leave every training target without weight: "
                "give a class or a token that the training corpus holds more than 0"
            )
        by_token = (weights / mean).float()
        if not bool(torch.isfinite(by_token).all()):
            raise UnembedError("the weights differ by more than float32 holds: give smaller ones")
        return WeightTable(by_token, self.below_margin, self.only_right)

    def _by_class(self, vocab: int, vocabulary: Vocabulary) -> Float[Tensor, "vocab"]:
        if not self.classes:
            return torch.ones(vocab, dtype=torch.float64)
        others = self.classes.get(OTHERS, 1.0)
        weights = torch.tensor([self.classes.get(name, others) for name in CLASSES]).double()
        numbers = classes_of([vocabulary[token] for token in range(vocab)])
        return weights[torch.from_numpy(numbers).long()]


@dataclass(frozen=True)
class WeightTable:
    """The weight of every token as a target, and the gates of a ``Weighting``."""

    by_token: Float[Tensor, "vocab"]
    below_margin: float | None
    only_right: bool

    def of_positions(
        self, targets: Int[Tensor, "positions"], said: HeadLoss
    ) -> Float[Tensor, "positions"]:
        """Each position's weight by its target and what the head says; no gradient passes.

        Equivalent to ``by_token[targets] * (margin < below_margin) * (top1 == targets)``.
        """
        weights = self.by_token.to(targets.device)[targets]
        if self.below_margin is not None:
            values = said.topk_values
            weights = weights * (values[:, 0] - values[:, 1] < self.below_margin)
        if self.only_right:
            weights = weights * (said.topk_ids[:, 0] == targets)
        return weights


@dataclass(frozen=True)
class Positions:
    """Positions that a user lists, with a weight each, to be found by document and position.

    ``keys`` are ``doc << 32 | pos`` in ascending order.
    """

    keys: Int[np.ndarray, "listed"]
    weights: Float[np.ndarray, "listed"]

    def of(
        self, doc: Int[np.ndarray, "positions"], pos: Int[np.ndarray, "positions"]
    ) -> Float[Tensor, "positions"]:
        """The listed weight of every position in float32, 0 where it is not listed."""
        wanted = _keys(doc, pos)
        at = np.searchsorted(self.keys, wanted).clip(max=len(self.keys) - 1)
        return torch.from_numpy(np.where(self.keys[at] == wanted, self.weights[at], np.float32(0)))


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
    keys = _keys(doc, pos)
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


def refuse_unknown_classes(names: Iterable[str]) -> None:
    """Raise UnembedError for a name that is no token class."""
    unknown = sorted(set(names) - set(CLASSES))
    if unknown:
        raise UnembedError(f"{unknown[0]!r} is no token class: give one of {', '.join(CLASSES)}")


def refuse_negative(what: str, number: float) -> None:
    """Raise UnembedError for a number that is negative or not finite."""
    if not (math.isfinite(number) and number >= 0):
        raise UnembedError(f"{what} is {number!r}: give a number from 0 up")


def _records(path: Path) -> Iterator[tuple[str, dict[Any, Any]]]:
    """The rows of a table, each with where it stands."""
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


def _keys(
    doc: Int[np.ndarray, "positions"], pos: Int[np.ndarray, "positions"]
) -> Int[np.ndarray, "positions"]:
    keys: Int[np.ndarray, "positions"] = (doc.astype(np.int64) << 32) | pos.astype(np.int64)
    return keys


def _column(
    table: pa.Table, name: str, path: str | Path, limit: float = 2**31
) -> Shaped[np.ndarray, "listed"]:
    """A column of numbers, whole where there is a limit, none missing, negative or above it."""
    kind, whole = table[name].type, limit < math.inf
    if not (pa.types.is_integer(kind) or (pa.types.is_floating(kind) and not whole)):
        numbers = "whole numbers" if whole else "numbers"
        raise UnembedError(f"{path}: column {name!r} holds {kind}: give {numbers}")
    for row, given in enumerate(table[name].to_pylist(), 1):
        if given is None or not 0 <= given < limit:
            raise UnembedError(f"{path}, row {row}: {name} is {given!r}: give a number from 0 up")
    found: Shaped[np.ndarray, "listed"] = table[name].to_numpy()
    return found
