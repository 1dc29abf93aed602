"""Kill every verb that writes at random moments, repeat its command, and compare with a calm run.

    python benchmarks/battery/kills.py --tries 100 --seed 0

Each try starts a command with a new output, kills it (SIGKILL) at a random moment of its duration,
and repeats it until it ends. "same": it ended well, and every table, tensor and summary holds the
bytes of the run that was left alone. Prints a table of counts; exits 1 on any other outcome.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import sys
from collections import Counter, defaultdict
from pathlib import Path

from commands import KILLED, call
from made import Artefact, Made, battery

AGAIN = 3
"""Kills of one output before its command is left to end."""


def tries(
    ready: Made, place: Path, count: int, seed: int
) -> tuple[dict[str, dict[str, int]], list[str]]:
    """Outcomes by kind of artefact, and a line for each that must not be."""
    artefacts = list(ready.artefacts.values())
    drawn = random.Random(seed)
    calm, seconds = {}, {}
    for one in artefacts:
        calm[one.kind] = _contents(one, one.path)
        again = _fresh(place, one)
        seconds[one.kind] = call(one.made_at(again)).seconds
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    bad: list[str] = []
    for number in range(count):
        one = artefacts[number % len(artefacts)]
        out = _fresh(place, one)
        moments = [drawn.random() * seconds[one.kind] for _ in range(drawn.randint(1, AGAIN))]
        killed = sum(call(one.made_at(out), kill_after_s=at).code == KILLED for at in moments)
        ended = call(one.made_at(out))
        if ended.code != 0:
            outcome = ended.verdict
        else:
            outcome = "same" if _contents(one, out) == calm[one.kind] else "DIFFERENT"
        counts[one.kind][outcome] += 1
        counts[one.kind]["kills"] = counts[one.kind].get("kills", 0) + killed
        if outcome != "same":
            bad.append(f"{one.kind} killed at {moments}: {outcome}: {ended.err[-400:]}")
    return {kind: dict(row) for kind, row in counts.items()}, bad


def _fresh(place: Path, one: Artefact) -> Path:
    work = place / "again"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    return work / one.path.name


def _contents(one: Artefact, path: Path) -> dict[str, str]:
    """Digests of what must be the same: tables, tensors less their header, summaries.

    Of an index, what a query answers: it says when an entry was added, which repeats differ in.
    """
    if one.kind == "index":
        matches = json.loads(call(one.read_at(path)).out)["matches"]
        found = [(match["name"], match["cosine"], match["entry"]["sha256"]) for match in matches]
        return {"query": repr(found)}
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    found = {}
    for file in files:
        if file.suffix == ".safetensors":
            data = file.read_bytes()
            data = data[8 + int.from_bytes(data[:8], "little") :]
        elif file.suffix == ".parquet" or file.name == "summary.json":
            data = file.read_bytes()
        else:
            continue
        found["" if file == path else str(file.relative_to(path))] = hashlib.sha256(
            data
        ).hexdigest()
    return found


if __name__ == "__main__":
    sys.exit(battery(__doc__, "verb", "--tries", 100, tries))
