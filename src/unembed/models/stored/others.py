"""The layouts of stored hidden states: ours, a safetensors file a request, and Parquet."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Int

from unembed.errors import UnembedError
from unembed.models.stored.files import (
    DTYPES,
    STATES,
    TOKENS,
    ParquetStates,
    RowGroups,
    SafetensorsStates,
    digest_of_headers,
    integers,
    is_list,
    safetensors_header,
)
from unembed.models.stored.layout import Layout, Spans
from unembed.models.stored.own import open_written
from unembed.models.weight_files import StoredTensor
from unembed.runs.manifest import JOURNAL, MANIFEST
from unembed.text.corpus import Corpus
from unembed.text.tokenised import TokenRow, token_rows

PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".npy", ".npz")
LAYOUT = "token_ids [tokens] and hidden_states [tokens, width] or [tokens, layers, width]"
NUMBER = re.compile(r"(\d+)")


def open_layout(place: str | Path, tokenizer: Any) -> Layout:
    """Open a folder of stored states, or one file of them.

    The text is read, and of the states the headers alone. Raises UnembedError for a folder that is
    empty, unfinished, damaged, pickled, or of no layout that is known; and for lengths, widths and
    types that differ.
    """
    place = Path(place)
    if not place.exists():
        raise UnembedError(f"{place}: no such folder of stored states")
    if (place / MANIFEST).exists() or (place / JOURNAL).exists():
        return open_written(place, tokenizer)
    files = [place] if place.is_file() else [one for one in place.rglob("*") if one.is_file()]
    kinds = {
        kind: sorted((one for one in files if one.suffix == kind), key=_natural)
        for kind in (".safetensors", ".parquet", ".zst")
    }
    tensors, tables, packed = kinds.values()
    if tensors and tables:
        raise UnembedError(
            f"{place} holds {len(tensors):,} .safetensors and {len(tables):,} .parquet files: "
            "give a folder of one kind"
        )
    if packed:
        raise UnembedError(f"{packed[0]} is packed: unpack such files (zstd -d --rm) and repeat")
    if not (tensors or tables):
        raise UnembedError(_nothing(place, files))
    return (_requests if tensors else _tables)(place, tensors or tables, tokenizer)


def _nothing(place: Path, files: list[Path]) -> str:
    pickled = next((one for one in files if one.suffix in PICKLES), None)
    if pickled is not None:
        return (
            f"{place} holds its states only in files such as {pickled.name}, which can run code "
            f"when loaded or say no type: write safetensors files with {LAYOUT}"
        )
    held = "is empty" if not files else f"holds {len(files):,} files (first: {files[0].name})"
    return (
        f"{place} {held}, and no stored states: give a folder of unembed states, of .safetensors "
        f"files with {LAYOUT}, or of .parquet files with such columns"
    )


@dataclass
class _Kept:
    """Where the states of the rows that become the text lie."""

    file: array[int] = field(default_factory=lambda: array("q"))
    row: array[int] = field(default_factory=lambda: array("q"))

    def spans(self, corpus: Corpus) -> Spans:
        """A span for each row of the text: all its tokens but the last predict one."""
        return Spans(
            corpus.document.astype(np.int64),
            corpus.offset.astype(np.int64),
            np.diff(corpus.starts) - 1,
            np.array(self.file, dtype=np.int64),
            np.array(self.row, dtype=np.int64),
        ).sorted()

    def add(self, tokens: int, file: int, row: int) -> None:
        """A row of the text; one that predicts nothing is none."""
        if tokens >= 2:
            self.file.append(file)
            self.row.append(row)


def _requests(place: Path, paths: list[Path], tokenizer: Any) -> Layout:
    """Files of a request each, as vLLM's connector writes them."""
    files: list[SafetensorsStates] = []
    kept, fewer = _Kept(), 0
    above = place if place.is_dir() else place.parent

    def rows() -> Iterator[TokenRow]:
        nonlocal fewer
        for number, path in enumerate(paths):
            held = safetensors_header(path)
            if TOKENS not in held or STATES not in held:
                names = ", ".join(sorted(held)[:3]) or "nothing"
                raise UnembedError(f"{path} holds {names}: stored states are {LAYOUT}")
            ids = integers(path, held[TOKENS])
            states = SafetensorsStates(path, _by_token(path, held[STATES], len(ids)))
            _refuse_other(files[0] if files else None, states)
            fewer += len(ids) > states.tensor.shape[0]
            files.append(states)
            kept.add(len(ids), number, 0)
            yield path.relative_to(above).as_posix(), _as_ids(path, ids), None

    corpus = _corpus(rows(), tokenizer, place, "a safetensors file a row, its name the document's")
    digest = digest_of_headers(
        [(one.path.relative_to(above).as_posix(), one.path.stat().st_size) for one in files]
    )
    layers = files[0].layers
    notes = () if layers == 1 else (f"of {layers} layers the last is read",)
    return Layout(
        f"{len(files):,} safetensors files",
        corpus,
        kept.spans(corpus),
        tuple(files),
        layers,
        digest,
        (*notes, *_said_of_last(fewer, len(files))),
    )


def _by_token(path: Path, tensor: StoredTensor, tokens: int) -> StoredTensor:
    """The header's entry of the states, where it is of so many tokens."""
    if tensor.dtype not in DTYPES:
        raise UnembedError(
            f"{path} holds hidden_states as {tensor.dtype}, which is no number without a scale: "
            f"give one of {', '.join(sorted(DTYPES))}"
        )
    if len(tensor.shape) not in (2, 3):
        raise UnembedError(f"{path} holds hidden_states of shape {tensor.shape}: give {LAYOUT}")
    if 0 in tensor.shape[1:]:
        raise UnembedError(
            f"{path} holds hidden_states of shape {tensor.shape}, which are no numbers: give "
            + LAYOUT
        )
    if tensor.shape[0] not in (tokens, tokens - 1):
        raise UnembedError(
            f"{path} holds {tensor.shape[0]:,} states (shape {tensor.shape}) of {tokens:,} tokens: "
            "there must be one a token, or one a token but the last"
        )
    return tensor


def _refuse_other(first: SafetensorsStates | None, other: SafetensorsStates) -> None:
    if first is None:
        return
    one, two = ((x.layers, x.width, str(x.dtype)) for x in (first, other))
    if one != two:
        raise UnembedError(
            f"{other.path} has {two[0]} layers of {two[1]} numbers in {two[2]}, and {first.path} "
            f"{one[0]} of {one[1]} in {one[2]}: give states of one model"
        )


def _tables(place: Path, paths: list[Path], tokenizer: Any) -> Layout:
    """Parquet files of a text a row, with columns ``token_ids``, ``hidden_states``."""
    files: list[ParquetStates] = []
    groups, kept = RowGroups(), _Kept()
    above = place if place.is_dir() else place.parent
    fewer: list[int] = []

    def rows() -> Iterator[TokenRow]:
        for path in paths:
            table, kind = _opened_table(path)
            name = next((c for c in ("document", "name") if c in table.schema_arrow.names), None)
            first = 0
            for group in range(table.num_row_groups):
                columns = [TOKENS, *([name] if name else [])]
                try:
                    found = table.read_row_group(group, columns=columns)
                except (OSError, pa.ArrowException) as error:
                    raise UnembedError(f"{path} is damaged ({error}): write it again") from error
                ids = found[TOKENS].to_pylist()
                tokens = np.array([len(one or ()) for one in ids], dtype=np.int64)
                if not fewer:
                    fewer.append(_states_short_of_tokens(path, group, tokens))
                lengths = np.maximum(tokens - fewer[0], 0)
                width = _width_of_group(path, table, group, int(lengths.sum()))
                files.append(ParquetStates(path, group, width, kind, lengths, groups))
                _refuse_other_tables(files[0], files[-1])
                begins = np.cumsum(lengths) - lengths
                where = path.relative_to(above).as_posix()
                names = (
                    [f"{where}: row {first + i + 1}" for i in range(len(ids))]
                    if name is None
                    else [str(one) for one in found[name].to_pylist()]
                )
                first += len(ids)
                for one, row, begin in zip(ids, names, begins.tolist(), strict=True):
                    kept.add(len(one or ()), len(files) - 1, begin)
                    yield row, _as_ids(path, np.array(one or (), dtype=np.int64)), None

    corpus = _corpus(rows(), tokenizer, place, "a Parquet row a row")
    digest = digest_of_headers(
        [(one.relative_to(above).as_posix(), one.stat().st_size) for one in paths]
    )
    return Layout(
        f"{len(paths):,} Parquet files",
        corpus,
        kept.spans(corpus),
        tuple(files),
        1,
        digest,
        _said_of_last(fewer[0] if fewer else 0, 1),
    )


def _opened_table(path: Path) -> tuple[pq.ParquetFile, torch.dtype]:
    """A Parquet file and the type of its states."""
    try:
        table = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise UnembedError(f"{path} is damaged or no Parquet file ({error}): write it again") from (
            error
        )
    schema = table.schema_arrow
    missing = [name for name in (TOKENS, STATES) if name not in schema.names]
    if missing:
        raise UnembedError(
            f"{path} has columns {', '.join(schema.names)} and none {missing[0]!r}: stored states "
            f"are a text a row, {LAYOUT.replace(' or [tokens, layers, width]', '')}"
        )
    kind = schema.field(STATES).type
    while is_list(kind):
        kind = kind.value_type
    if not pa.types.is_floating(kind) or not is_list(schema.field(STATES).type):
        raise UnembedError(
            f"{path} holds hidden_states as {schema.field(STATES).type}: give lists of float"
        )
    ids = schema.field(TOKENS).type
    if not is_list(ids) or not pa.types.is_integer(ids.value_type):
        raise UnembedError(f"{path} holds token_ids as {ids}: give lists of whole numbers")
    return table, getattr(
        torch, {"halffloat": "float16", "float": "float32"}.get(str(kind), "float64")
    )


def _states_short_of_tokens(path: Path, group: int, tokens: Int[np.ndarray, " texts"]) -> int:
    """How many states fewer than tokens a text has: none, or that of its last token."""
    column = pq.ParquetFile(path).read_row_group(group, columns=[STATES])[STATES].combine_chunks()
    some = np.flatnonzero(tokens)
    if not some.size:
        return 0
    at = int(some[0])
    found, count = column[at], int(tokens[at])
    states = 0 if not found.is_valid else len(found)
    if not is_list(column.type.value_type):
        # A flat list of numbers: how many a state has follows from a second text.
        return _short_of_flat(path, column, tokens)
    if states not in (count, count - 1):
        raise UnembedError(
            f"{path} holds {states:,} states of {count:,} tokens in row {at + 1} of row group "
            f"{group}: there must be one a token, or one a token but the last"
        )
    return count - states


def _short_of_flat(path: Path, column: Any, tokens: Int[np.ndarray, " texts"]) -> int:
    total = len(column.flatten())
    fits = [
        short for short in (0, 1) if total % max(1, int(np.maximum(tokens - short, 0).sum())) == 0
    ]
    if len(fits) != 1:
        raise UnembedError(
            f"{path} holds each text's states as one list of {total:,} numbers in all, which does "
            "not say where one ends: give a list of lists, or of fixed size"
        )
    return fits[0]


def _width_of_group(path: Path, table: pq.ParquetFile, group: int, states: int) -> int:
    """How many numbers a state has, by the file's own count of them."""
    found = table.metadata.row_group(group)
    column = next(
        found.column(i)
        for i in range(found.num_columns)
        if found.column(i).path_in_schema.split(".")[0] == STATES
    )
    width, left = divmod(column.num_values, max(1, states))
    if left or not width:
        raise UnembedError(
            f"{path} holds {column.num_values:,} numbers for {states:,} states in row group "
            f"{group}, which do not share out evenly: there must be one state a token, or one a "
            "token but the last, and no gaps"
        )
    return int(width)


def _refuse_other_tables(first: ParquetStates, other: ParquetStates) -> None:
    if (first.width, first.dtype) != (other.width, other.dtype):
        raise UnembedError(
            f"{other.path} has states of {other.width} numbers in {other.dtype} in row group "
            f"{other.group}, and {first.path} of {first.width} in {first.dtype}: give states of "
            "one model"
        )


def _said_of_last(fewer: int, files: int) -> tuple[str, ...]:
    """What to know of states without one for the last token."""
    if not fewer:
        return ()
    return ("the last token of each text has no state: it predicts nothing, and none is needed",)


def _corpus(rows: Iterator[TokenRow], tokenizer: Any, place: Path, how: str) -> Corpus:
    return Corpus.of(token_rows(rows, tokenizer, str(place)), tokenizer, f"{place}: {how}")


def _as_ids(path: Path, ids: Int[np.ndarray, " tokens"]) -> Int[np.ndarray, " tokens"]:
    bad = ids[(ids < 0) | (ids > np.iinfo(np.int32).max)]
    if bad.size:
        raise UnembedError(f"{path} holds {bad[0]} among its token_ids, which is no token")
    return ids.astype(np.int32)


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """An order of paths in which 2 comes before 10."""
    return [
        (0, int(one), "") if one.isdecimal() else (1, 0, one)
        for one in NUMBER.split(path.as_posix())
    ]
