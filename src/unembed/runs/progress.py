"""One way to show progress: on stderr, with the rate and, where the end is known, the time left.

Long work is several steps, each with its name and number: ``Steps(4)``, and around each of them
``with steps("held out, before"):``. The bars that are drawn within say which step they are of.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from unembed.runs.phases import current_phases
from unembed.runs.ranks import current_ranks

LINE_SECONDS = 30.0
"""Where stderr is a file or a pipe, a line this often, and none for what is over sooner."""
DELAY_SECONDS = 1.0
USUAL_COLUMNS = 80
LINE = (
    "{desc}, {percentage:.0f} %, {n_fmt} of {total_fmt} {unit}, {rate_noinv_fmt}, "
    "{remaining} left{postfix}"
)
LINE_WITHOUT_END = "{desc}, {n_fmt} {unit}, {rate_noinv_fmt}, {elapsed} gone{postfix}"


@dataclass
class Steps:
    """Steps of long work, counted as they begin; those within a step have numbers of their own.

    ``alike`` steps take about the same time, so that what is left of all of them can be told once
    one has been worked on; those that a killed run left finished are over at once, and do not
    count. ``total`` is how many there are.
    """

    total: int
    alike: bool = False
    number: int = 0
    seconds: list[float] = field(default_factory=list)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """A step, around the bars that are of it."""
        outer = _WITHIN.get()
        self.number += 1
        said = f"{name}: {self.number} of {self.total}"
        if self.alike and self.seconds:
            left = sum(self.seconds) / len(self.seconds) * (self.total - self.number + 1)
            said += f" ({tqdm.format_interval(left)} left)"
        lines = _Lines() if outer is None else outer.lines
        within = _Within((*(() if outer is None else outer.names), said), lines)
        token, start = _WITHIN.set(within), time.monotonic()
        try:
            with current_phases()(name):
                yield
        finally:
            _WITHIN.reset(token)
            if (spent := time.monotonic() - start) > DELAY_SECONDS:
                self.seconds.append(spent)


def progress_bar(what: str, unit: str, total: int | None, shown: bool) -> Any:
    """A tqdm bar: redrawn in place on a terminal, plain lines now and then elsewhere.

    It is called by the step that it is of, ``what`` where there is none. Of several processes of
    one launch, process 0 shows it.
    """
    shown = shown and current_ranks().first
    within = _WITHIN.get()
    name = what if within is None else " | ".join(within.names)
    columns = _columns(sys.stderr)
    if columns:
        if within is not None and len(name) > columns // 2:
            name = within.names[-1]
        return tqdm(
            total=total,
            desc=name,
            unit=unit,
            unit_scale=True,
            disable=not shown,
            leave=within is None or len(within.names) == 1,
            file=sys.stderr,
            mininterval=0.5,
            delay=DELAY_SECONDS,
            dynamic_ncols=True,
        )
    return tqdm(
        total=total,
        desc=name,
        unit=unit,
        unit_scale=True,
        disable=not shown,
        file=_Lines() if within is None else within.lines,
        mininterval=min(1.0, LINE_SECONDS),
        bar_format=LINE_WITHOUT_END if total is None else LINE,
    )


def _columns(stream: Any) -> int:
    """How wide the terminal is, 0 for what is none and for one that does not say."""
    if not stream.isatty():
        return 0
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        return USUAL_COLUMNS


class _Lines:
    """A stderr on which a redrawn bar becomes a line now and then."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def write(self, text: str) -> None:
        line, now = text.strip("\r\n "), time.monotonic()
        if line and now - self.last >= LINE_SECONDS:
            self.last = now
            sys.stderr.write(line + "\n")

    def flush(self) -> None:
        sys.stderr.flush()


@dataclass(frozen=True)
class _Within:
    """The steps that bars are of, outermost first, and the lines that all of them write."""

    names: tuple[str, ...]
    lines: _Lines


_WITHIN: ContextVar[_Within | None] = ContextVar("_WITHIN", default=None)
"""Where the work of this thread is. Passing it to every verb that measures would make it a part of
their signatures, which say what is measured."""
