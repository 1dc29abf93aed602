"""Records to plain JSON values and back."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, TypeVar

import numpy as np

Record = TypeVar("Record")


def record_to_json(record: object) -> Any:
    """Turn a record into dictionaries, lists and scalars: ``dataclasses.asdict``, tuples as lists.

    Fields keep their order, so that the same record gives the same bytes.
    """
    if dataclasses.is_dataclass(record):
        fields = dataclasses.fields(record)
        return {field.name: record_to_json(getattr(record, field.name)) for field in fields}
    if isinstance(record, dict):
        return {key: record_to_json(value) for key, value in record.items()}
    if isinstance(record, list | tuple):
        return [record_to_json(value) for value in record]
    return record


def record_from_json(kind: type[Record], data: Any) -> Record:
    """Rebuild a record from ``record_to_json``'s values, by the annotations of its fields.

    Fields may be scalars, records, ``tuple[X, ...]``, ``dict[str, X]`` and optional. Raises
    ``ValueError`` where a field is missing or unknown, and the record's own error where it
    refuses a value.
    """
    return typing.cast(Record, _read(kind, data, kind.__name__))


def _read(kind: Any, data: Any, name: str) -> Any:
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if data is None else _read(parts[0], data, name)
    if origin is tuple:
        return tuple(_read(parts[0], item, f"{name}[{i}]") for i, item in enumerate(data))
    if origin is dict:
        return {key: _read(parts[1], item, f"{name}[{key!r}]") for key, item in data.items()}
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        expected = {field.name for field in dataclasses.fields(kind)}
        if not isinstance(data, dict) or set(data) != expected:
            found = sorted(set(data) ^ expected) if isinstance(data, dict) else data
            raise ValueError(f"{name} has missing or unknown fields {found}; compute it again")
        values = {key: _read(hints[key], item, f"{name}.{key}") for key, item in data.items()}
        return typing.cast(Any, kind)(**values)
    return float(data) if kind is float else data


def check_columns(columns: Any, *, finite: bool = False) -> None:
    """Raise ``ValueError`` where the arrays of a record differ in length from its first one, or,
    on request, hold a number that is not finite.
    """
    names = [field.name for field in dataclasses.fields(columns)]
    first = getattr(columns, names[0]).shape
    for name in names:
        column = getattr(columns, name)
        if column.shape != first or len(first) != 1:
            raise ValueError(f"column {name} has shape {column.shape}, {names[0]} {first}")
        if finite and not np.isfinite(column).all():
            bad = column[~np.isfinite(column)][0]
            raise ValueError(f"column {name} holds {bad}; leave such rows out")
