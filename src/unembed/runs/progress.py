"""One way to show progress: on stderr, with the rate and, where the end is known, the time left."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

LINE_SECONDS = 30.0
"""Where stderr is a file or a pipe, a line this often, and none for what is over sooner."""
DELAY_SECONDS = 1.0


def progress_bar(what: str, unit: str, total: int | None, shown: bool) -> Any:
    """A tqdm bar: redrawn in place on a terminal, plain lines now and then elsewhere."""
    terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        desc=what,
        unit=unit,
        unit_scale=True,
        disable=not shown,
        file=sys.stderr if terminal else _Lines(),
        mininterval=0.5 if terminal else LINE_SECONDS,
        delay=DELAY_SECONDS if terminal else LINE_SECONDS,
        dynamic_ncols=terminal,
    )


class _Lines:
    """A stderr on which a redrawn bar becomes a new line."""

    def write(self, text: str) -> None:
        line = text.strip("\r\n ")
        if line:
            sys.stderr.write(line + "\n")

    def flush(self) -> None:
        sys.stderr.flush()
