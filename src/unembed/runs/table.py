"""The short table that a verb prints: names and values, as text and for a notebook."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from unembed.stats.estimate import Estimate

NAME_WIDTH = 30
Rows = Iterable[tuple[str, str]]


def shown(estimate: Estimate, form: str) -> str:
    """An estimate in this format with its interval, or why it or the interval is missing."""
    if estimate.value is None:
        return f"undefined: {estimate.reason}"
    text = format(estimate.value, form)
    if estimate.low is None or estimate.high is None:
        return f"{text}  (no interval)"
    return f"{text}  [{format(estimate.low, form)}, {format(estimate.high, form)}]"


def as_text(rows: Rows) -> str:
    """A line for each row, the values below each other."""
    return "\n".join(f"{name:<{NAME_WIDTH}}{value}" for name, value in rows)


def as_html(rows: Rows) -> str:
    """A table for a notebook."""
    cells = "".join(f"<tr><th>{escape(n)}</th><td>{escape(v)}</td></tr>" for n, v in rows)
    return f"<table>{cells}</table>"
