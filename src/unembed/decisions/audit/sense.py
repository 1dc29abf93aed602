"""Whether the tables of a stored audit, or of a comparison, hold what one can hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from unembed.runs.manifest import FinishedRun, Part
from unembed.runs.provenance import Provenance

TOPS = ("top1", "top2")
AT_LEAST_0 = ("margin", "relative_distance", "nll", "entropy", "confidence")
ROUNDING = 1e-2
"""A loss is the difference of two float32 numbers, so one of about 0 may lie below it."""

Bounds = Mapping[str, tuple[float, float]]
"""The least and the largest number of each column."""


def check_audit(run: FinishedRun, provenance: Provenance, positions: int) -> None:
    """Raise ValueError where a run lacks rows or columns, or holds a value that no audit gives.

    ``positions``, which its summary counts, are those of the manifest and of the provenance, ids
    lie in the vocabulary, documents among those of the text, and margins, losses, entropies and
    probabilities are not negative.
    """
    text = provenance.text
    listed = sum(part.rows for part in run.parts)
    if not listed == positions == text.positions:
        raise ValueError(
            f"its tables list {listed:,} positions, its summary {positions:,} and its "
            f"provenance {text.positions:,}"
        )
    names = pq.read_metadata(run.folder / "documents.parquet").num_rows
    if names != text.documents:
        raise ValueError(f"it names {names:,} documents of {text.documents:,}")
    _check_parts(run, provenance.head_shape[0], text.documents, ("",), ("logsumexp",))


def check_comparison(run: FinishedRun, positions: int, vocab: int) -> None:
    """The same of a comparison with so many ``positions``, whose heads have ``vocab`` rows."""
    listed = sum(part.rows for part in run.parts)
    if listed != positions:
        raise ValueError(
            f"its tables list {listed:,} positions, and its summary counts {positions:,}"
        )
    documents = pq.read_metadata(run.folder / "documents.parquet").num_rows
    _check_parts(run, vocab, documents, ("before_", "after_"))


def _check_parts(
    run: FinishedRun, vocab: int, documents: int, sides: Sequence[str], logits: Sequence[str] = ()
) -> None:
    """Rows and columns of every table; columns of a model's decisions begin with its side."""
    ids, real = (0.0, vocab - 1.0), dict.fromkeys(logits, (-math.inf, math.inf))
    whole = {"doc": (0.0, documents - 1.0), "pos": (0.0, math.inf), "target": ids}
    for side in sides:
        whole |= {f"{side}{name}": ids for name in TOPS}
        real |= {f"{side}{name}": (-ROUNDING, math.inf) for name in AT_LEAST_0}
        real[f"{side}confidence"] = (-ROUNDING, 1 + ROUNDING)
    for part in run.parts:
        checked_part(run, part, whole, real)


def checked_part(run: FinishedRun, part: Part, whole: Bounds, real: Bounds) -> pa.Table:
    """A part's columns of whole and of real numbers; ValueError where they make no sense."""
    with pq.ParquetFile(run.folder / part.path) as source:
        rows, schema = source.metadata.num_rows, source.schema_arrow
        if rows != part.rows:
            raise ValueError(f"{part.path} has {rows:,} rows of {part.rows:,}")
        check_types(schema, tuple(whole), pa.types.is_integer, part.path)
        check_types(schema, tuple(real), pa.types.is_floating, part.path)
        table = source.read(columns=[*whole, *real])
    for name, (low, high) in {**whole, **real}.items():
        check_range(table[name], low, high, f"{name} of {part.path}")
    return table


def check_types(
    schema: pa.Schema, names: Sequence[str], is_right: Callable[[pa.DataType], bool], where: str
) -> None:
    """Raise ValueError where a table lacks one of these columns, or it is of another type."""
    for name in names:
        if name not in schema.names:
            raise ValueError(f"{where} has no column {name}")
        if not is_right(schema.field(name).type):
            raise ValueError(f"{where} has a column {name} of {schema.field(name).type}")


def check_range(column: pa.ChunkedArray, low: float, high: float, where: str) -> None:
    """Raise ValueError where a column holds a number outside of what is possible."""
    found = pc.min_max(column).as_py()
    for value in (found["min"], found["max"]):
        if value is not None and not low <= value <= high:
            raise ValueError(f"a {where} is {value:g}")
