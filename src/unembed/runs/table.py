"""The short table that a verb prints: names and values, as text and for a notebook."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

NAME_WIDTH = 30
Rows = Iterable[tuple[str, str]]


def as_text(rows: Rows) -> str:
    """A line for each row, the values below each other."""
    return "\n".join(f"{name:<{NAME_WIDTH}}{value}" for name, value in rows)


def as_html(rows: Rows) -> str:
    """A table for a notebook."""
    cells = "".join(f"<tr><th>{escape(n)}</th><td>{escape(v)}</td></tr>" for n, v in rows)
    return f"<table>{cells}</table>"
