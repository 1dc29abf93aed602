"""The short table that a verb prints: names and values."""

from __future__ import annotations

from collections.abc import Iterable

NAME_WIDTH = 30
Rows = Iterable[tuple[str, str]]


def as_text(rows: Rows) -> str:
    """A line for each row, the values below each other; two spaces follow a longer name."""
    return "\n".join(f"{f'{name}  ':<{NAME_WIDTH}}{value}" for name, value in rows)


def in_columns(rows: Iterable[tuple[str, ...]]) -> str:
    """A line for each row, the cells of a column below each other."""
    every = list(rows)
    wide = [max(map(len, column)) for column in zip(*every, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(n) for cell, n in zip(row, wide, strict=True)).rstrip()
        for row in every
    )
