"""Take from every verb what it needs of the system, and see that it says so and keeps what it has.

    python benchmarks/battery/faults.py

The faults: standard streams closed or full, files that may not grow, few open files, little memory,
a current folder that is gone, no home, no temporary folder, an ASCII locale, an output that is a
link, a pipe or someone's file. A call may end well or in one line with exit status 2; where it was
refused, the same command without the fault must end well. Prints a table of counts; exits 1 on
anything else.
"""

from __future__ import annotations

import os
import resource
import shutil
import stat
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

from commands import call, limited, scratch, table, warm
from made import Artefact, Made, made

ABORTED = "aborted by libc"
"""Where no memory is left for a thread's own data the C library ends the process, and nothing of
ours is asked; what was there must stand all the same."""
GOOD = {"done", "refused", ABORTED}


def main() -> int:
    """Make, then each verb with each fault."""
    warm()
    place = scratch("faults")
    counts, bad = faults(made(place / "made"), place)
    print(table(counts, "fault"))
    for line in bad:
        print(line, file=sys.stderr)
    shutil.rmtree(place)
    return 1 if bad else 0


def faults(
    ready: Made, place: Path, kinds: tuple[str, ...] | None = None
) -> tuple[dict[str, dict[str, int]], list[str]]:
    """Outcomes by fault, and a line for each that must not be."""
    artefacts = list(ready.artefacts.values())
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    bad: list[str] = []
    for artefact in artefacts:
        if kinds is not None and artefact.kind not in kinds:
            continue
        for name, fault in FAULTS.items():
            outcome, said = _tried(place, artefact, fault)
            counts[name][outcome] += 1
            if outcome not in GOOD:
                bad.append(f"{artefact.kind}: {name}: {outcome}: {said[-500:]}")
        for name, prepare in OUTPUTS.items():
            outcome, said = _refused(place, artefact, prepare)
            counts[name][outcome] += 1
            if outcome != "refused":
                bad.append(f"{artefact.kind}: {name}: {outcome}: {said[-500:]}")
    return {kind: dict(row) for kind, row in counts.items()}, bad


def _tried(place: Path, artefact: Artefact, fault: Callable[[], None]) -> tuple[str, str]:
    out = _fresh(place, artefact)
    ended = call(artefact.made_at(out), before=fault)
    libc = ended.code == 127 and "cannot allocate memory for thread-local data" in ended.err
    verdict = ABORTED if libc else ended.verdict
    if verdict in (ABORTED, "refused"):
        again = call(artefact.made_at(out))
        if again.code != 0:
            return "LOST", f"{ended.err} then {again.err}"
    return verdict, ended.err


def _refused(place: Path, artefact: Artefact, prepare: Callable[[Path], Path]) -> tuple[str, str]:
    """An output that is not unembed's must be refused, and stand as it was."""
    out = _fresh(place, artefact)
    victim = prepare(out)
    before = _state(victim)
    ended = call(artefact.made_at(out), timeout_s=60)
    if _state(victim) != before:
        return "OVERWRITTEN", ended.err
    return ended.verdict, ended.err


def _state(victim: Path) -> bytes:
    """What a file holds, or what else it is: reading a pipe would wait for a writer."""
    if victim.is_file():
        return victim.read_bytes()
    return str(stat.S_IFMT(victim.lstat().st_mode)).encode()


def _fresh(place: Path, artefact: Artefact) -> Path:
    work = place / "again"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    return work / artefact.path.name


def _closed(*streams: int) -> Callable[[], None]:
    def close() -> None:
        for stream in streams:
            os.close(stream)

    return close


def _full_output() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def _gone_folder() -> None:
    folder = scratch("gone")
    os.chdir(folder)
    folder.rmdir()


def _without(*names: str) -> Callable[[], None]:
    def remove() -> None:
        for name in names:
            os.environ.pop(name, None)

    return remove


def _no_temporary() -> None:
    os.environ["TMPDIR"] = "/nonexistent"


def _ascii() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="ascii", errors="strict")  # type: ignore[union-attr]


def _someones_file(out: Path) -> Path:
    """The output is a file of another kind."""
    out.write_text("a thesis")
    return out


def _someones_link(out: Path) -> Path:
    """The output is a link to a file of someone else's."""
    victim = out.with_name("victim.txt")
    victim.write_text("a thesis")
    out.symlink_to(victim)
    return victim


def _someones_pipe(out: Path) -> Path:
    """The output is a pipe, at which writing and reading wait."""
    os.mkfifo(out)
    return out


def _little_memory() -> None:
    """Address space for 128 MiB more than the process has by now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limited(resource.RLIMIT_AS, pages * resource.getpagesize() + (128 << 20))()


FAULTS: dict[str, Callable[[], None]] = {
    "stdin closed": _closed(0),
    "stdout closed": _closed(1),
    "stderr closed": _closed(2),
    "all closed": _closed(0, 1, 2),
    "stdout full": _full_output,
    "files of 20 kB at most": limited(resource.RLIMIT_FSIZE, 20_000),
    "no file may grow": limited(resource.RLIMIT_FSIZE, 0),
    "128 MiB more memory": _little_memory,
    "40 open files": limited(resource.RLIMIT_NOFILE, 40),
    "current folder gone": _gone_folder,
    "no home": _without("HOME", "XDG_CACHE_HOME"),
    "no temporary folder": _no_temporary,
    "ASCII streams": _ascii,
}
OUTPUTS: dict[str, Callable[[Path], Path]] = {
    "someone's file": _someones_file,
    "a link to someone's file": _someones_link,
    "a pipe": _someones_pipe,
}


if __name__ == "__main__":
    sys.exit(main())
