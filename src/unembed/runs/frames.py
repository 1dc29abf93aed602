"""The figures of a record as a table, where pandas is installed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

import pyarrow as pa

from unembed.errors import UnembedError
from unembed.stats.estimate import Estimate

FIGURE = pa.schema(
    [
        ("name", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("n", pa.int64()),
        ("documents", pa.int64()),
        ("reason", pa.string()),
    ]
)
"""The columns of a table of figures."""
LABELS = ("name", "method", "token", "step", "seed", "lens", "penalty", "depth")
"""What tells records of one kind apart in a figure's name; else their number does."""
BOUNDED = {"value", "low", "high"}


def frame_of(table: pa.Table) -> Any:
    """A table as a pandas DataFrame. Raises UnembedError where pandas is not installed."""
    if find_spec("pandas") is None:
        raise UnembedError(
            "a DataFrame needs pandas, which is not installed: pip install pandas, or take the "
            "Arrow table"
        )
    return table.to_pandas()


class Figures:
    """A record whose figures are a table, one a row."""

    def to_pandas(self) -> Any:
        """Every figure in a row of a DataFrame: ``name value low high n documents reason``.

        A name is the path to the figure, ``flips.churn`` or ``by_class.numeric.flips.churn``.
        ``low`` and ``high`` bound its 95 % interval, and ``reason`` says why there is no value.
        Curves and histograms are left out. Raises UnembedError where pandas is not installed.
        """
        return frame_of(self.to_arrow())

    def to_arrow(self) -> pa.Table:
        """The table of ``to_pandas`` as an Arrow table, which takes no pandas."""
        return pa.Table.from_pylist(list(self._figures()), schema=FIGURE)

    def _figures(self) -> Iterator[dict[str, Any]]:
        return figures(self)


def figures(record: Any, above: str = "") -> Iterator[dict[str, Any]]:
    """The figures of a record and of those inside it, in order of the fields."""
    if not dataclasses.is_dataclass(record):
        raise TypeError(f"a {type(record).__name__} has no fields")
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        reason = getattr(record, f"{field.name}_reason", None)
        if value is None and reason is not None:
            yield {"name": above + field.name, "reason": reason}
        else:
            yield from _figures_of(value, above + field.name)


def figure(name: str, estimate: Estimate) -> dict[str, Any]:
    """The row of one estimate."""
    return {"name": name, **vars(estimate)}


def _figures_of(value: Any, name: str) -> Iterator[dict[str, Any]]:
    if isinstance(value, Estimate):
        yield figure(name, value)
    elif isinstance(value, bool):
        return
    elif isinstance(value, int | float):
        yield {"name": name, "value": float(value)}
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _figures_of(one, f"{name}.{key}")
    elif isinstance(value, tuple):
        records = [one for one in value if dataclasses.is_dataclass(one)]
        for label, one in zip(_labels(records), records, strict=True):
            yield from _figures_of(one, f"{name}.{label}")
    elif dataclasses.is_dataclass(value):
        estimate = getattr(value, "estimate", None)
        if not isinstance(estimate, Estimate):
            yield from figures(value, f"{name}.")
            return
        yield figure(name, estimate)
        own = (one for one in figures(value, "") if one["name"] not in BOUNDED)
        yield from ({**one, "name": f"{name}.{one['name']}"} for one in own)


def _labels(records: list[Any]) -> list[str]:
    """What the records call themselves, or their numbers where that does not tell them apart."""
    for label in LABELS:
        names = [str(getattr(one, label)) for one in records if hasattr(one, label)]
        if len(set(names)) == len(records):
            return names
    return [str(number) for number in range(len(records))]
