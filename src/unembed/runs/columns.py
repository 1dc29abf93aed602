"""A table as text: rows of cells below each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def columns(rows: Iterable[Sequence[str]], *widths: int) -> str:
    """A line a row, its cells padded to these widths, those after the last as they are.

    The first cell, a name, is cut where it is too long. Lines end without spaces.
    """
    lines = []
    for name, *cells in rows:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths[1:], strict=False)]
        lines.append("".join([fitted(name, widths[0]), *padded, *cells[len(padded) :]]).rstrip())
    return "\n".join(lines)


def fitted(text: str, width: int) -> str:
    """Text in so many characters, a space at least behind it; the paths of files differ at ends."""
    short = text if len(text) < width else f"…{text[len(text) + 2 - width :]}"
    return short.ljust(width)
