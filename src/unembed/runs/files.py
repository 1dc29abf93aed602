"""Files that appear whole or not at all, and one wording for what the system refuses."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from unembed.errors import UnembedError, WriteError

PARTIAL = ".part"
OUTPUT_PARTIAL = ".unembed.part"
"""Of a file outside a run's folder, where someone's own may end in ``.part``."""
START_BYTES = 1 << 20
MIB = 1 << 20
EFFECTIVE = os.access in os.supports_effective_ids
KINDS_OF_FILE: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISLNK, "a link"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_whole(path: Path, data: bytes | bytearray, partial: str = PARTIAL) -> None:
    """Write to a neighbouring ``.part`` file, flush to disk, and rename into place.

    ``partial`` ends that file's name, and what was there is replaced. Raises UnembedError, leaving
    what was at ``path`` as it was, where the system refuses or a link, a device or a pipe is there.
    """
    check_regular(path)
    beside = path.with_name(path.name + partial)
    with refusals(path):
        try:
            make_folder(path.parent)
            beside.unlink(missing_ok=True)
            with beside.open("xb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            beside.replace(path)
            _sync_folder(path.parent)
        except OSError:
            with contextlib.suppress(OSError):
                beside.unlink()
            raise


def write_output(path: Path, data: bytes, is_ours: Callable[[bytes], bool]) -> None:
    """``write_whole`` of a file that a user named, beside which theirs may lie.

    Raises UnembedError as ``check_output`` does.
    """
    check_output(path, is_ours)
    write_whole(path, data, OUTPUT_PARTIAL)


def check_output(path: Path, is_ours: Callable[[bytes], bool]) -> None:
    """Raise UnembedError where a file cannot be written, or is there and not of this kind.

    ``is_ours`` says it of a file's first bytes. Asked before the work.
    """
    check_regular(path)
    with refusals(path, "nothing was computed"):
        if path.exists():
            with path.open("rb") as stream:
                start = stream.read(START_BYTES)
            if start and not is_ours(start):
                raise UnembedError(
                    f"{path} holds what unembed did not make: give another file, or move it away"
                )
        check_writable(path.parent)


def check_regular(path: Path) -> None:
    """Raise UnembedError where something is there that is no file: a link, a device, a pipe."""
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise WriteError(f"{path} cannot be written: {reason}; give another file") from None
    if stat.S_ISDIR(mode):
        raise UnembedError(f"{path} is a folder: give a file, such as {path / 'new'}")
    if not stat.S_ISREG(mode):
        what = next((word for is_it, word in KINDS_OF_FILE if is_it(mode)), "no regular file")
        raise UnembedError(f"{path} is {what}, which would be replaced: give another file")


def check_writable(folder: Path) -> None:
    """Raise OSError where no file may be made in a folder that is, or will be, there."""
    there = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
    if not os.access(there, os.W_OK | os.X_OK, effective_ids=EFFECTIVE):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(there))


def check_room(folder: Path, needed: int, what: str) -> None:
    """Raise WriteError where the file system of a folder has fewer free bytes than are needed.

    ``what`` says what takes them. A system that does not tell is taken to have room.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    try:
        usage = shutil.disk_usage(there)
    except OSError:
        return
    if usage.total and usage.free < needed:
        raise WriteError(
            f"{folder} has {usage.free / MIB:,.1f} MiB free, and {what} take at least "
            f"{needed / MIB:,.1f} MiB: make room, or give a folder where there is more"
        )


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
