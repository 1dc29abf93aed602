"""Where the time of a run went."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

from unembed.short_repr import ShortRepr


def _nothing() -> None:
    """On a CPU nothing is left running when a call returns."""


@dataclass(frozen=True)
class Phases(ShortRepr):
    """Wall seconds by phase, in order of first use; phases do not nest.

    ``finish`` waits for the device at the end of a phase (``torch.cuda.synchronize`` on a GPU), so
    that work is counted where it was asked for. Of phases that ``workers`` threads are in side by
    side, each counts its share.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    finish: Callable[[], None] = _nothing
    workers: int = 1
    lock: AbstractContextManager[Any] = field(default_factory=Lock, repr=False)

    def among(self, workers: int) -> Phases:
        """The same account, for threads that work side by side."""
        return replace(self, workers=workers)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count the time inside the block."""
        start = time.perf_counter()
        try:
            yield
            self.finish()
        finally:
            spent = (time.perf_counter() - start) / self.workers
            with self.lock:
                self.seconds[name] = self.seconds.get(name, 0.0) + spent

    def __str__(self) -> str:
        total = sum(self.seconds.values()) or 1.0
        rows = [*self.seconds.items(), ("total", sum(self.seconds.values()))]
        return "\n".join(f"{name:<12}{s:>9.2f} s{s / total:>8.1%}" for name, s in rows)
