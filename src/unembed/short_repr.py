"""How a record prints: one line as its repr, a table in a notebook."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import PurePath
from typing import Any

LONGEST = 300
"""Characters of a line, about two lines of a console; what is beyond is counted."""
LONGEST_VALUE = 48
"""Characters of one value in a line."""
LONGEST_LIST = 40
"""Characters of the items of a collection, before it is said how many there are in all."""
LONGEST_CELL = 120
"""Characters of one value in a table."""
PLAIN = (bool, int, complex, type(None))


class ShortRepr:
    """A record whose ``repr`` is a line and which is a table in a notebook.

    Both show the fields: small values as they are, arrays and tables by type and shape, longer
    collections by their length. The line leaves out what has its default value. A class of which
    a reader asks something else first has its own ``_phrases`` or ``_rows``; neither computes
    anything for a ``repr``.
    """

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        # A dataclass writes a repr of its own, unless it finds one in the class itself.
        if "__repr__" not in vars(cls):
            cls.__repr__ = ShortRepr.__repr__  # type: ignore[method-assign]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({joined(self._phrases())})"

    def _repr_html_(self) -> str:
        return html_table(self._rows())

    def _phrases(self) -> Iterable[str]:
        """What stands between the parentheses of the line."""
        return (
            f"{field.name}={in_short(getattr(self, field.name))}"
            for field in _fields(self)
            if not _is_default(getattr(self, field.name), field)
        )

    def _rows(self) -> Iterable[Sequence[str]]:
        """The rows of the table, a name and its values."""
        return [(f.name, in_short(getattr(self, f.name), LONGEST_CELL)) for f in _fields(self)]


def joined(phrases: Iterable[str], longest: int = LONGEST) -> str:
    """Phrases with commas between; those that do not fit are counted."""
    every = [cut(phrase, longest) for phrase in phrases]
    kept = _first_that_fit(every, longest)
    left = len(every) - len(kept)
    return ", ".join([*kept, f"… {left} more"] if left else kept)


def in_short(value: Any, longest: int = LONGEST_VALUE) -> str:
    """A value in at most so many characters, without computing anything of it."""
    if isinstance(value, ShortRepr):
        text = repr(value)
        return text if len(text) <= longest else f"{type(value).__name__}(…)"
    if isinstance(value, PLAIN):
        return repr(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str | PurePath):
        return cut(repr(str(value)), longest)
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if hasattr(value, "num_rows") and hasattr(value, "num_columns"):
        return f"table of {value.num_rows:,} × {value.num_columns}"
    if isinstance(value, Mapping):
        return _listed("{}", (f"{key!r}: {in_short(one)}" for key, one in value.items()), value)
    if isinstance(value, tuple | list | set | frozenset):
        return _listed("[]" if isinstance(value, list) else "()", map(in_short, value), value)
    # An Estimate, and what else says itself in a word or two.
    if dataclasses.is_dataclass(value) and "__str__" in vars(type(value)):
        return cut(str(value), longest)
    return type(value).__name__


def cut(text: str, longest: int) -> str:
    """A text in so many characters, its end kept where it is cut."""
    if len(text) <= longest:
        return text
    tail = max(1, longest // 4)
    return f"{text[: longest - tail - 1]}…{text[-tail:]}"


def html_table(rows: Iterable[Sequence[str]], header: Sequence[str] = ()) -> str:
    """A table for a notebook; the first cell of each row names it."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr><th>{escape(name)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for name, *cells in rows
    )
    return f"<table>{f'<tr>{head}</tr>' if header else ''}{body}</table>"


def _listed(brackets: str, items: Iterator[str], every: Collection[Any]) -> str:
    """The items where they are few and short, else the first and how many there are."""
    kept = _first_that_fit(items, LONGEST_LIST)
    if len(kept) < len(every):
        kept.append(f"… {len(every):,} in all")
    one = "," if brackets == "()" and len(every) == 1 else ""
    return f"{brackets[0]}{', '.join(kept)}{one}{brackets[1]}"


def _first_that_fit(items: Iterable[str], longest: int) -> list[str]:
    kept: list[str] = []
    left = longest
    for item in items:
        left -= len(item) + 2
        if left < -2:
            break
        kept.append(item)
    return kept


def _fields(record: Any) -> list[Any]:
    if not dataclasses.is_dataclass(record):
        return []
    return [field for field in dataclasses.fields(record) if field.repr]


def _is_default(value: Any, field: Any) -> bool:
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    else:
        default = field.default
    plain = not hasattr(value, "dtype") and not hasattr(value, "num_rows")
    return type(value) is type(default) and plain and bool(value == default)
