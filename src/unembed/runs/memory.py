"""How much memory is free."""

from __future__ import annotations

from pathlib import Path

from unembed.errors import UnembedError
from unembed.stats.forms import in_bytes

MEMINFO = Path("/proc/meminfo")
KIB = 1 << 10


def free_memory() -> int | None:
    """Bytes that new work can take without swapping; None where the system does not say."""
    try:
        for line in MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * KIB
    except (OSError, ValueError, IndexError):
        pass
    return None


def check_memory(needed: int, what: str, remedy: str) -> None:
    """Raise UnembedError where less memory is free than is needed by ``what``."""
    free = free_memory()
    if free is not None and free < needed:
        raise UnembedError(
            f"{what} take {in_bytes(needed)} of memory, and {in_bytes(free)} are free: {remedy}"
        )
