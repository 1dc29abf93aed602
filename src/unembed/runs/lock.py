"""One writer of a folder at a time; readers never wait."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from unembed.errors import UnembedError
from unembed.runs.files import refusals

LOCK = ".lock"
POLL_S = 0.02


class BusyError(UnembedError):
    """A folder that another process is writing."""


@contextlib.contextmanager
def exclusive_lock(folder: Path, wait_s: float = 0.0, remedy: str | None = None) -> Iterator[None]:
    """Hold a folder's lock, which goes with the process that holds it, however it ends.

    Raises BusyError, naming the process that holds it, where it is not free within ``wait_s``
    seconds (``remedy`` says what to do then), and UnembedError for a lock that cannot be written or
    is a link.
    """
    path = folder / LOCK
    # filelock refuses a link only where the system has O_NOFOLLOW.
    if path.is_symlink():
        raise UnembedError(f"{path} is a link: delete it, or give another folder")
    lock = FileLock(path, poll_interval=POLL_S)
    with refusals(path):
        try:
            lock.acquire(timeout=wait_s)
        except Timeout:
            raise BusyError(
                f"{folder} is being written by another process (pid {_holder(path)})"
                + (f" and was not free within {wait_s:g} s" if wait_s else "")
                + f": wait for it, or {remedy or 'give another folder'}"
            ) from None
    try:
        # filelock tells nobody who holds a native lock, so its holder leaves a word in the file.
        with refusals(path):
            path.write_text(str(os.getpid()))
        yield
    finally:
        lock.release()


def _holder(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text().strip() or "unknown"
    return "unknown"
