"""Arrow arrays of numpy columns and of texts, and tables of one file, without pandas.

``pyarrow.array`` imports pandas, where it is installed, to see whether it was given a Series, and
``pyarrow.parquet.read_table`` does so too: a quarter of a second of each short run. Nothing here is
ever given one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Shaped


def number_array(
    values: Shaped[np.ndarray, " rows"], missing: Bool[np.ndarray, " rows"] | None = None
) -> pa.Array:
    """A column of numbers or truth values, null where ``missing``.

    Equivalent to ``pa.array(values, mask=missing)``; numbers are not copied.
    """
    held = None if missing is None or not missing.any() else _bits(~missing)
    if values.dtype == np.bool_:
        return pa.Array.from_buffers(pa.bool_(), len(values), [held, _bits(values)])
    numbers = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [held, numbers])


def text_array(texts: Sequence[str]) -> pa.Array:
    """A column of texts. Equivalent to ``pa.array(texts, pa.string())``."""
    written = [text.encode() for text in texts]
    ends = np.cumsum([0, *map(len, written)], dtype=np.int64)
    if ends[-1] > np.iinfo(np.int32).max:
        return pa.array(texts, pa.string())
    buffers = [None, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(b"".join(written))]
    return pa.Array.from_buffers(pa.string(), len(written), buffers)


def _numbers(piece: pa.Array, kind: pa.DataType) -> Shaped[np.ndarray, " rows"]:
    held, data = piece.buffers()
    span = slice(piece.offset, piece.offset + len(piece))
    if data is None:
        return np.zeros(len(piece), dtype=_dtype(kind))
    values = _flags(data, span) if pa.types.is_boolean(kind) else np.frombuffer(data, _dtype(kind))
    values = values if pa.types.is_boolean(kind) else values[span]
    if not piece.null_count:
        return values
    values = values.astype(np.promote_types(values.dtype, np.float16), copy=True)
    values[~_flags(held, span)] = np.nan
    return values


def _dtype(kind: pa.DataType) -> np.dtype:
    return np.dtype(np.bool_ if pa.types.is_boolean(kind) else kind.to_pandas_dtype())


def _flags(bits: pa.Buffer, span: slice) -> Bool[np.ndarray, " rows"]:
    unpacked = np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little", count=span.stop)
    return unpacked[span].view(np.bool_)


def _bits(values: Bool[np.ndarray, " rows"]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(values, bitorder="little"))


def numbers_of(column: pa.Array | pa.ChunkedArray) -> Shaped[np.ndarray, " rows"]:
    """A column's numbers or truth values; where some are null, as floats, with NaN for those.

    Equivalent to ``column.to_numpy()``; what is one piece without nulls is not copied, and cannot
    be written to.
    """
    pieces = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    if len(pieces) == 1:
        return _numbers(pieces[0], column.type)
    empty = np.zeros(0, dtype=_dtype(column.type))
    return np.concatenate([_numbers(piece, column.type) for piece in pieces] or [empty])


def read_table(file: str | Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A Parquet file's table, or some of its columns in this order.

    Equivalent to ``pq.read_table(file, columns=columns)``, which reads data sets of many files, and
    imports pandas for them.
    """
    with pq.ParquetFile(file) as opened:
        found: pa.Table = opened.read(columns=columns)
    return found if columns is None else found.select(list(columns))
