"""What a piece of work costs: seconds, and memory beyond what was held before."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MIB = 2**20
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Cost:
    """Filled in when the work is done; ``mib`` stays None where the system does not tell."""

    seconds: float = 0.0
    mib: float | None = None


@contextlib.contextmanager
def measured() -> Iterator[Cost]:
    """The time and the peak of the resident memory within, above that before (Linux only)."""
    cost = Cost()
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        # Freed pages that stay with the process would hide what is taken anew.
        ctypes.CDLL(None).malloc_trim(0)
    before = _kib("VmRSS") if _reset() else None
    start = time.perf_counter()
    try:
        yield cost
    finally:
        cost.seconds = time.perf_counter() - start
        peak = None if before is None else _kib("VmHWM")
        if before is not None and peak is not None:
            cost.mib = max(0.0, (peak - before) * 1024 / MIB)


def _reset() -> bool:
    """Let the peak begin anew."""
    try:
        RESET.write_text("5")
    except OSError:
        return False
    return True


def _kib(field: str) -> int | None:
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    return None
