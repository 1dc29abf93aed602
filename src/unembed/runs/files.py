"""Files that appear whole or not at all, and one wording for what the system refuses."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from unembed.errors import WriteError

PARTIAL = ".part"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_whole(path: Path, data: bytes) -> None:
    """Write to a neighbouring ``.part`` file, flush to disk, and rename into place.

    Raises UnembedError, leaving what was at ``path`` as it was, where the system refuses.
    """
    partial = path.with_name(path.name + PARTIAL)
    with refusals(path):
        try:
            make_folder(path.parent)
            with partial.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(path)
            _sync_folder(path.parent)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise


def make_folder(folder: Path) -> None:
    """``mkdir -p`` that survives a power cut: each new folder's entry is flushed too."""
    missing = [f for f in (folder, *folder.parents) if not f.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        _sync_folder(made.parent)


@contextlib.contextmanager
def refusals(path: Path, kept: str = "finished parts are kept") -> Iterator[None]:
    """Turn what the operating system refuses into an error that the user can mend.

    ``kept`` says what is not lost by it. Raises WriteError.
    """
    try:
        yield
    except OSError as error:
        remedy = (
            "make room" if error.errno in NO_ROOM else "make it writable, or give another folder"
        )
        raise WriteError(
            f"{path} cannot be written: {error.strerror}; {remedy}, and repeat the same command: "
            f"{kept}"
        ) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
