"""Log-probabilities that another engine stored for the rows of a corpus."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from unembed.errors import UnembedError
from unembed.short_repr import ShortRepr
from unembed.text.corpus import Corpus
from unembed.text.files import RECORDS, Record, kind_of, records
from unembed.text.windows import Windows

FIELDS = ("token_ids", "logprobs")
SCHEMA = '{"token_ids": [1, 317, 42], "logprobs": [null, -2.31, -0.08]}'
ROUNDING = 1e-3
"""Nats by which a rounded log-probability may lie above 0."""


@dataclass(frozen=True, eq=False)
class EngineLogprobs(ShortRepr):
    """What another engine says of a corpus: minus the log-probability of each token, in nats.

    ``nll`` is row for row with ``corpus.ids``, NaN where the engine gave none. ``name`` is the
    file's, ``digest`` the SHA-256 of its bytes.
    """

    name: str
    digest: str
    nll: Float[np.ndarray, " tokens"]

    def _phrases(self) -> Iterator[str]:
        yield self.name
        yield f"{np.count_nonzero(np.isfinite(self.nll)):,} of {len(self.nll):,} tokens"

    @property
    def key(self) -> dict[str, str]:
        """The plain values that the numbers of a run depend on."""
        return {"name": self.name, "digest": self.digest}

    @staticmethod
    def read(file: str | Path, corpus: Corpus, *, whole: bool = True) -> EngineLogprobs:
        """Read a JSONL or Parquet file with a record for each row of the corpus, in its order.

        A record is ``{"token_ids": [...], "logprobs": [...]}``: all tokens of the row, special ones
        included, and the natural logarithm of the probability of each given those before it; null
        where there is none, as of the first. Records of fewer than two tokens are passed over, as
        such rows are. ``whole`` says that the corpus is the whole text: else there may be more
        records. Raises UnembedError for a file or a number that cannot be used, and naming the
        first token that is not the text's.
        """
        place = Path(file)
        check_file(place)
        nll = np.full(corpus.tokens, np.nan, dtype=np.float32)
        row = 0
        for record in records(place, _choose(place)):
            if record.fields is None:
                continue
            ids, values = _columns(record)
            if len(ids) < 2:
                continue
            if row == corpus.rows:
                if not whole:
                    break
                raise UnembedError(
                    f"{record.where}: the text has {corpus.rows:,} rows, and this is one record "
                    "more: give a record for each row, in the order of the text"
                )
            begin, end = int(corpus.starts[row]), int(corpus.starts[row + 1])
            _same_tokens(record, ids, np.asarray(corpus.ids[begin:end]), row, corpus.tokenizer)
            nll[begin + 1 : end] = -values[1:]
            row += 1
        if row < corpus.rows:
            raise UnembedError(
                f"{place} holds {row:,} records of two tokens or more, and the text has "
                f"{corpus.rows:,} such rows: give a record for each row, in the order of the text"
            )
        with place.open("rb") as source:
            digest = hashlib.file_digest(source, "sha256").hexdigest()
        return EngineLogprobs(place.name, digest, nll)

    def at(
        self,
        windows: Windows,
        doc: Int[np.ndarray, " positions"],
        pos: Int[np.ndarray, " positions"],
    ) -> Float[np.ndarray, " positions"]:
        """The engine's loss at positions of an audit, NaN where it read another context.

        The engine read each row from its first token on. Windows that begin later, those of a row
        longer than the context, predict from less, so that they are left out.
        """
        corpus = windows.corpus
        keys = (corpus.document.astype(np.int64) << 32) | corpus.offset
        order = np.argsort(keys, kind="stable")
        wanted = (doc.astype(np.int64) << 32) | pos
        row = order[np.searchsorted(keys[order], wanted, side="right") - 1]
        place = pos - corpus.offset[row]
        whole = np.isin(corpus.starts[row], windows.start) & (place < windows.context)
        found: Float[np.ndarray, " positions"] = np.where(
            whole, self.nll[corpus.starts[row] + place + 1], np.float32(np.nan)
        )
        return found


def check_file(file: Path) -> None:
    """Raise UnembedError where this is no file of records."""
    if not file.is_file():
        raise UnembedError(f"--logprobs {file}: no such file")
    if kind_of(file) not in (".jsonl", ".json", ".parquet"):
        kinds = ", ".join(kind for kind in RECORDS if kind not in (".csv", ".tsv"))
        raise UnembedError(f"--logprobs {file}: give one of {kinds}, with records such as {SCHEMA}")


def _choose(file: Path) -> Any:
    def choose(present: list[str]) -> list[str]:
        _need_fields(present, str(file))
        return list(FIELDS)

    return choose


def _need_fields(present: Any, where: str) -> None:
    missing = next((name for name in FIELDS if name not in present), None)
    if missing is not None:
        held = ", ".join(map(repr, present)) or "nothing"
        raise UnembedError(
            f"{where} holds {held} and no {missing!r}: give records such as {SCHEMA}"
        )


def _columns(record: Record) -> tuple[np.ndarray, np.ndarray]:
    """Token ids, and log-probabilities with NaN for null."""
    assert record.fields is not None
    _need_fields(record.fields, record.where)
    ids, values = (record.fields[name] for name in FIELDS)
    for name, column in zip(FIELDS, (ids, values), strict=True):
        if not isinstance(column, list):
            raise UnembedError(f"{record.where}: {name!r} is {column!r:.60}, not a list")
    if len(ids) != len(values):
        raise UnembedError(
            f"{record.where}: {len(ids):,} token ids beside {len(values):,} log-probabilities: "
            "give one of each token, null of the first"
        )
    for at, one in enumerate(ids):
        if type(one) is not int:
            raise UnembedError(f"{record.where}: token id {at} is {one!r:.60}, not a whole number")
    for at, one in enumerate(values):
        if one is None:
            continue
        if type(one) not in (int, float) or not one <= ROUNDING:
            raise UnembedError(
                f"{record.where}: log-probability {at} is {one!r:.60}: give the natural logarithm "
                "of a probability, 0 or less, or null"
            )
    plain = [math.nan if one is None else one for one in values]
    return np.array(ids, dtype=np.int64), np.array(plain, dtype=np.float64)


def _same_tokens(
    record: Record, theirs: np.ndarray, ours: np.ndarray, row: int, tokenizer: Any
) -> None:
    """Raise UnembedError at the first token that is not the row's."""
    shorter = min(len(theirs), len(ours))
    other = np.flatnonzero(theirs[:shorter] != ours[:shorter])
    if len(other) == 0 and len(theirs) == len(ours):
        return
    at = int(other[0]) if len(other) else shorter

    def said(ids: np.ndarray) -> str:
        if at >= len(ids):
            return "no token"
        token = int(ids[at])
        text = tokenizer.convert_ids_to_tokens(token) if 0 <= token < len(tokenizer) else None
        return f"token id {token}" if text is None else f"token id {token} ({text!r})"

    raise UnembedError(
        f"{record.where}: token {at} is {said(theirs)}, and in row {row + 1} of the text "
        f"{said(ours)}: give the log-probabilities of this text by this tokenizer, special tokens "
        "included"
    )
