"""Where the time of a run went."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any

from unembed.short_repr import ShortRepr

START = "start"
"""The interpreter, and every library that is imported before and in a verb."""
REST = "rest"
"""What lies in no phase."""
LEAST_SHOWN = 0.003
"""Share of the whole below which a phase is counted among the rest."""


def _nothing() -> None:
    """On a CPU nothing is left running when a call returns."""


@dataclass(frozen=True)
class Phases(ShortRepr):
    """Wall seconds by phase, in order of first use; a phase within another one is not of that too.

    ``finish`` waits for the device at the end of a phase (``torch.cuda.synchronize`` on a GPU), so
    that work is counted where it was asked for. Of phases that ``workers`` threads are in side by
    side, each counts its share. Those ``of_process`` begin with what came before the first of them.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    finish: Callable[[], None] = _nothing
    workers: int = 1
    lock: AbstractContextManager[Any] = field(default_factory=Lock, repr=False)
    threaded: bool = False
    of_process: bool = False

    def among(self, workers: int) -> Phases:
        """The same account, for threads that work side by side."""
        return replace(self, workers=workers, threaded=True)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count the time inside the block."""
        with self.lock:
            if self.of_process and not self.seconds:
                self.seconds[START] = seconds_alive()
            self.seconds.setdefault(name, 0.0)
            before = sum(self.seconds.values())
        start = time.perf_counter()
        try:
            yield
            self.finish()
        finally:
            spent = (time.perf_counter() - start) / self.workers
            with self.lock:
                # Other threads add to the account meanwhile, and no thread has phases in phases.
                within = 0.0 if self.threaded else sum(self.seconds.values()) - before
                self.seconds[name] += max(0.0, spent - within)

    def until_now(self) -> dict[str, float]:
        """Seconds by phase that add up to the life of this process, what is in none of them last.

        Phases too short to be shown are among that rest.
        """
        whole = seconds_alive()
        shown = {name: s for name, s in self.seconds.items() if s >= LEAST_SHOWN * whole}
        return shown | {REST: max(0.0, whole - sum(shown.values()))}

    def __str__(self) -> str:
        return as_table(self.seconds)


def as_table(seconds: dict[str, float]) -> str:
    """Seconds by phase as lines with their shares, and the total."""
    total = sum(seconds.values())
    wide = max(12, *(len(name) + 1 for name in (*seconds, "total")))
    rows = [*seconds.items(), ("total", total)]
    return "\n".join(f"{name:<{wide}}{s:>9.2f} s{s / (total or 1.0):>8.1%}" for name, s in rows)


def current_phases() -> Phases:
    """The account of the verb that this thread works for; one that nobody reads where none is."""
    return _CURRENT.get() or Phases()


def process_profile() -> dict[str, float] | None:
    """The seconds of ``Phases.until_now`` where ``profile_process`` was called, else None."""
    account = _CURRENT.get()
    return None if account is None else account.until_now()


def profile_process() -> None:
    """From now on, count what this process does, waiting for its devices at each phase's end."""
    _CURRENT.set(Phases(finish=_finish_devices, of_process=True))


def seconds_alive() -> float:
    """How long ago this process began, to a hundredth of a second.

    Where the system does not say, how long ago this file was imported.
    """
    try:
        # The command's name, which may hold anything, ends at the last bracket.
        ticks = int(Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()[19])
        began = ticks / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - began
    except (OSError, ValueError, AttributeError, IndexError):
        return time.perf_counter() - _IMPORTED


def _finish_devices() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.accelerator.is_available():
        torch.accelerator.synchronize()


_IMPORTED = time.perf_counter()
_CURRENT: ContextVar[Phases | None] = ContextVar("_CURRENT", default=None)
"""As with steps, passing it to every verb would make it a part of what is measured."""
