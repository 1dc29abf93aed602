"""Records to plain JSON values and back."""

from __future__ import annotations

import dataclasses
import types
import typing
from functools import cache
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

    Fields may be scalars, records, ``tuple[X, ...]``, ``dict[str, X]``, literals and optional; one
    that the record has a default for may be missing. Raises ``ValueError`` where a field is
    missing, unknown or of another type, and the record's own error where it refuses a value.
    """
    return typing.cast(Record, _read(kind, data, kind.__name__))


def _read(kind: Any, data: Any, name: str) -> Any:
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if data is None and types.NoneType in parts:
            return None
        return _read(next(part for part in parts if part is not types.NoneType), data, name)
    if origin is tuple:
        items = _of((tuple, list), data, name)
        return tuple(_read(parts[0], item, f"{name}[{i}]") for i, item in enumerate(items))
    if origin is dict:
        items = _of(dict, data, name).items()
        return {key: _read(parts[1], item, f"{name}[{key!r}]") for key, item in items}
    if origin is typing.Literal:
        if data not in parts:
            raise ValueError(f"{name} is {_shown(data)}, not one of {', '.join(map(str, parts))}")
        return data
    if dataclasses.is_dataclass(kind):
        return _record(kind, _of(dict, data, name), name)
    if kind is float:
        return float(_of((int, float), data, name))
    return _of(kind, data, name) if kind in (int, str, bool) else data


def _record(kind: Any, data: dict[str, Any], name: str) -> Any:
    hints, known = _hints(kind), dataclasses.fields(kind)
    optional = {
        field.name
        for field in known
        if (field.default, field.default_factory) != (dataclasses.MISSING,) * 2
    }
    found = sorted(set(data) ^ {field.name for field in known} - (optional - set(data)))
    if found:
        raise ValueError(f"{name} has missing or unknown fields {', '.join(map(repr, found))}")
    return kind(**{key: _read(hints[key], item, f"{name}.{key}") for key, item in data.items()})


@cache
def _hints(kind: Any) -> dict[str, Any]:
    """The types of a record's fields, which Python evaluates anew whenever it is asked."""
    return typing.get_type_hints(kind)


def _of(kind: Any, data: Any, name: str) -> Any:
    """The value where it is of this type; a truth value is no number."""
    if not isinstance(data, kind) or (isinstance(data, bool) and kind is not bool):
        wanted = kind if isinstance(kind, type) else kind[-1]
        raise ValueError(f"{name} is {_shown(data)}, not of type {wanted.__name__}")
    return data


def _shown(data: Any) -> str:
    text = repr(data)
    return text if len(text) <= 60 else f"{text[:59]}…"


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
