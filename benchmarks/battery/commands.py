"""Run the command line many times in forks of one warm process, and say how each call ended.

A fork starts in milliseconds where a new interpreter takes seconds to import torch, and what it
does (a crash, a limit, a closed stream) dies with it.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import gc
import os
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # OpenMP's threads do not survive a fork
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

KILLED, TIMED_OUT = -signal.SIGKILL, 124
NOTE = re.compile(r"int[48] rounds ")
"""What a command that ends well says on stderr too, before the line of a refusal."""


@dataclass(frozen=True)
class Ended:
    """How a call ended: exit status (minus the signal that ended it), what it said, its time."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def verdict(self) -> str:
        """ "done", "refused" (one line, status 2), "usage" (click's own), or what went wrong."""
        if self.code == 0:
            return "done"
        if "Traceback (most recent call last)" in self.err or "Exception ignored" in self.err:
            return "traceback"
        if self.code == 2:
            said = (line for line in self.err.splitlines() if line.strip())
            lines = [line for line in said if not NOTE.match(line)]
            if lines and lines[0].startswith("Usage:"):
                return "usage"
            return "refused" if len(lines) == 1 else "many lines"
        return "timed out" if self.code == TIMED_OUT else f"exit {self.code}"


def warm() -> None:
    """Import in this process what the calls need, so that every fork has it."""
    import accelerate  # noqa: F401
    import torch
    import transformers  # noqa: F401

    from unembed import audit, cli, refine, sketch  # noqa: F401

    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # a search for garbage in a fork would copy all that was imported
    atexit.register(gc.unfreeze)


def call(
    argv: Sequence[object],
    *,
    timeout_s: float = 120.0,
    kill_after_s: float | None = None,
    before: Callable[[], None] | None = None,
    stdin: int | None = None,
) -> Ended:
    """``unembed *argv`` in a fork; ``before`` runs in it first, to set limits or close streams."""
    with tempfile.TemporaryFile() as out, _Pipe() as err:
        sys.stdout.flush()
        sys.stderr.flush()
        began = time.perf_counter()
        child = os.fork()
        if child == 0:
            _child([str(one) for one in argv], out.fileno(), err.fileno(), before, stdin)
        limit = timeout_s if kill_after_s is None else kill_after_s
        status = _wait(child, began + limit)
        if status is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            status = KILLED if kill_after_s is not None else TIMED_OUT
        seconds = time.perf_counter() - began
        out.seek(0)
        text = out.read().decode("utf-8", "replace")
        return Ended(status, text, err.read(), seconds)


class _Pipe:
    """What a fork says on stderr: unlike a file it takes words where no file may grow."""

    def __enter__(self) -> _Pipe:
        self._reading, self._writing = os.pipe()
        fcntl.fcntl(self._writing, fcntl.F_SETPIPE_SZ, 1 << 20)
        os.set_blocking(self._reading, False)
        return self

    def fileno(self) -> int:
        """Where the fork writes."""
        return self._writing

    def read(self) -> str:
        """All that was said, once the fork is gone."""
        pieces = []
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(self._reading, 1 << 16):
                pieces.append(piece)
        return b"".join(pieces).decode("utf-8", "replace")

    def __exit__(self, *_error: object) -> None:
        os.close(self._reading)
        os.close(self._writing)


def in_fork(work: Callable[[], object]) -> None:
    """Do work whose threads this process must not have, for its forks would find them gone."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _wait(child: int, until: float) -> int | None:
    pause = 0.0005
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.perf_counter() > until:
            return None
        time.sleep(pause)
        pause = min(pause * 1.5, 0.02)


def _child(
    argv: list[str], out: int, err: int, before: Callable[[], None] | None, stdin: int | None
) -> None:
    code = 70
    try:
        os.setpgid(0, 0)
        os.dup2(os.open(os.devnull, os.O_RDONLY) if stdin is None else stdin, 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdin, sys.stdout, sys.stderr = (
            open(number, mode, closefd=False)  # noqa: SIM115
            for number, mode in ((0, "r"), (1, "w"), (2, "w"))
        )
        sys.argv = ["unembed", *argv]
        from unembed import cli

        if before is not None:
            before()
        code = 0
        cli.main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        code = 1
        with contextlib.suppress(Exception):
            traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code)


def limited(kind: int, amount: int) -> Callable[[], None]:
    """Set a limit of the system, such as ``resource.RLIMIT_FSIZE``, in the fork."""

    def set_limit() -> None:
        if kind == resource.RLIMIT_FSIZE:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(kind, (amount, amount))

    return set_limit


def table(rows: dict[str, dict[str, int]], title: str) -> str:
    """Counts by kind and outcome, as a Markdown table with a line of totals."""
    columns = sorted({name for row in rows.values() for name in row})
    lines = [f"| {title} | {' | '.join(columns)} | all |", "|---" * (len(columns) + 2) + "|"]
    totals = dict.fromkeys(columns, 0)
    for name, row in rows.items():
        counts = [row.get(column, 0) for column in columns]
        lines.append(f"| {name} | {' | '.join(map(str, counts))} | {sum(counts)} |")
        for column, count in zip(columns, counts, strict=True):
            totals[column] += count
    lines.append(f"| all | {' | '.join(map(str, totals.values()))} | {sum(totals.values())} |")
    return "\n".join(lines)


def scratch(name: str) -> Path:
    """A new folder under the system's temporary one."""
    return Path(tempfile.mkdtemp(prefix=f"{name}-"))
