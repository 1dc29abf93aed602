"""What the command line does differently where a launcher started it with others."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from unembed.errors import UnembedError
from unembed.runs.ranks import launched

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """The process was asked to end, by its launcher or with ``kill``."""


@contextlib.contextmanager
def as_rank() -> Iterator[None]:
    """Print on rank 0 alone, and end in good order where the launcher ends this process.

    The traceback of a defect is printed by the rank that has it. Does nothing without a launcher.
    """
    if not launched():
        yield
        return
    # torch writes a trace of C++ where what carries the ranks' store has ended: a line says it.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    before = {number: signal.signal(number, _interrupt) for number in SIGNALS}
    streams = sys.stdout, sys.stderr
    try:
        if not is_first():
            sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
        yield
    except Exception:
        sys.stdout, sys.stderr = streams
        raise
    except BaseException:
        # It is ending as it is: what a launcher sends now would only cut its line off.
        _ignore_signals()
        raise
    else:
        sys.stdout, sys.stderr = streams
        for number, handler in before.items():
            signal.signal(number, handler)


def refuse_launcher(what: str) -> None:
    """Raise UnembedError under a launcher, for what one process does."""
    if launched():
        raise UnembedError(f"{what} is the work of one process: leave the launcher out")


def is_first() -> bool:
    """Whether this process is the one that prints."""
    return not launched() or os.environ.get("RANK", "0").strip() in ("", "0")


def end_now(line: str, *, first: bool | None = None) -> None:
    """End this process, which is busy, as another one of the launch has failed.

    It prints the line where it is the ``first``, or speaks for that one.
    """
    if is_first() if first is None else first:
        os.write(2, f"unembed: {' '.join(line.split())}\n".encode(errors="backslashreplace"))
    os._exit(2)


def _ignore_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _interrupt(number: int, _frame: FrameType | None) -> Any:
    """End once: a terminal and a launcher may both send a signal."""
    _ignore_signals()
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
