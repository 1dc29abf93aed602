"""One writer of an index at a time; readers never wait."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from unembed.errors import UnembedError
from unembed.runs.store import LOCK
from unembed.selection.index.files import refusals

PAUSE_S = 0.02


@contextlib.contextmanager
def alone(folder: Path, wait_s: float) -> Iterator[None]:
    """Hold the folder's lock, which goes with the process that holds it, however it ends.

    Raises UnembedError, naming the process that holds it, where it is not free within ``wait_s``.
    """
    with refusals(folder / LOCK):
        lock = (folder / LOCK).open("a+")
    with lock:
        until = time.monotonic() + wait_s
        while not _taken(lock):
            if time.monotonic() >= until:
                lock.seek(0)
                holder = lock.read().strip() or "unknown"
                raise UnembedError(
                    f"{folder} is being written by another process (pid {holder}) and was not free "
                    f"within {wait_s:g} s: wait for it, or allow more with --wait"
                )
            time.sleep(PAUSE_S)
        with refusals(folder / LOCK):
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
        yield


def _taken(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
