"""Change finished artefacts in every way that disks and people do, and see whether it is noticed.

    python benchmarks/battery/corruption.py --tries 400 --seed 0

Each try copies an artefact (an audit, a comparison, a refinement, a grid, an alignment, a ranking,
a mixture, a signature, an index), changes one of its files (a bit, a cut, zeros, a deletion,
another file's bytes, a longer file), and reads it as a user would. "harmless": the same was shown
as of the whole artefact; "refused": one line, exit status 2; "noted": a note names the file and
what is lost, as of the end of an index's journal; "BELIEVED": something else was shown. Prints a
table of counts, and exits 1 where anything was believed or ended in a traceback.
"""

from __future__ import annotations

import random
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

from commands import call
from made import Artefact, Made, battery, shown

UNREAD = {".lock", "report.html"}
"""Files that nothing is read from: a lock, and the page, which is drawn and not loaded."""
GOOD = {"refused", "noted", "harmless"}


def tries(
    ready: Made, place: Path, count: int, seed: int
) -> tuple[dict[str, dict[str, int]], list[str]]:
    """Outcomes by kind of artefact, and a line for each that must not be."""
    artefacts = list(ready.artefacts.values())
    drawn = random.Random(seed)
    clean = {one.kind: _read(one, place, lambda _path: "") for one in artefacts}
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    bad: list[str] = []
    for number in range(count):
        artefact = artefacts[number % len(artefacts)]
        name, change = CHANGES[drawn.randrange(len(CHANGES))]
        found = _read(artefact, place, lambda path, change=change: change(path, drawn))
        outcome, what, ended = found
        if outcome == "done":
            outcome = "harmless" if ended == clean[artefact.kind][2] else "BELIEVED"
        counts[artefact.kind][outcome] += 1
        if outcome not in GOOD:
            bad.append(f"{artefact.kind}: {name} of {what}: {outcome}: {ended[-400:]}")
    return {kind: dict(row) for kind, row in counts.items()}, bad


def _read(artefact: Artefact, place: Path, change: Callable[[Path], str]) -> tuple[str, str, str]:
    """How reading a changed copy ended, the file that was changed, and what was shown or said."""
    work = place / "copy"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    copy = work / artefact.path.name
    if artefact.path.is_dir():
        shutil.copytree(artefact.path, copy)
    else:
        shutil.copy(artefact.path, copy)
    what = change(copy)
    ended = call(artefact.read_at(copy))
    if ended.code == 0 and ended.err.startswith("note: ") and what.split()[0] in ended.err:
        return "noted", what, ended.err
    return ended.verdict, what, shown(ended, copy) if ended.code == 0 else ended.err


def _file(place: Path, drawn: random.Random) -> Path:
    """A file of the artefact that is read."""
    if place.is_file():
        return place
    files = sorted(path for path in place.rglob("*") if path.is_file() and path.name not in UNREAD)
    return drawn.choice([path for path in files if path.stat().st_size])


def _flip(place: Path, drawn: random.Random) -> str:
    path = _file(place, drawn)
    data = bytearray(path.read_bytes())
    at = drawn.randrange(len(data))
    data[at] ^= 1 << drawn.randrange(8)
    path.write_bytes(bytes(data))
    return f"{path.name} at {at}"


def _cut(place: Path, drawn: random.Random) -> str:
    path = _file(place, drawn)
    data = path.read_bytes()
    path.write_bytes(data[: drawn.randrange(len(data))])
    return path.name


def _zeros(place: Path, drawn: random.Random) -> str:
    path = _file(place, drawn)
    data = bytearray(path.read_bytes())
    at = drawn.randrange(len(data))
    data[at : at + 64] = bytes(len(data[at : at + 64]))
    path.write_bytes(bytes(data))
    return f"{path.name} at {at}"


def _delete(place: Path, drawn: random.Random) -> str:
    path = _file(place, drawn)
    path.unlink()
    return path.name


def _exchange(place: Path, drawn: random.Random) -> str:
    one, two = _file(place, drawn), _file(place, drawn)
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    return f"{one.name} and {two.name}"


def _longer(place: Path, drawn: random.Random) -> str:
    path = _file(place, drawn)
    with path.open("ab") as stream:
        stream.write(drawn.randbytes(drawn.randrange(1, 200)))
    return path.name


CHANGES: tuple[tuple[str, Callable[[Path, random.Random], str]], ...] = (
    ("a bit", _flip),
    ("a cut", _cut),
    ("zeros", _zeros),
    ("deletion", _delete),
    ("exchange", _exchange),
    ("a longer file", _longer),
)


if __name__ == "__main__":
    sys.exit(battery(__doc__, "artefact", "--tries", 400, tries))
