"""Kill a writer of an index at random moments, and see whether anything that it reported is lost.

A writer is a fork of this process that adds (one and many at once), replaces and removes entries,
with what it means to do and has done in a log. It is killed (SIGKILL) at a random moment; then the
index is read, every vector is compared with what was written under its name, and the next writer
goes on in the same folder.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from index_made_up import IDENTITY, point
from unembed.selection.index.index import Index

MANY = 400
LONGEST_S = 0.4
Wanted = dict[str, int]


def crashes(place: Path, tries: int, m: int, seed: int) -> list[dict[str, object]]:
    """Results of so many kills in one folder."""
    folder, log = place / "index", place / "log"
    spec = replace(IDENTITY.spec, m=m)
    Index.create(folder, replace(IDENTITY, spec=spec))
    moments, wanted, results = random.Random(seed), {}, []
    for number in range(tries):
        log.write_bytes(b"")
        child = os.fork()
        if not child:
            try:
                write(folder, log, m, number, wanted)
            finally:
                os._exit(1)
        while not log.stat().st_size:
            time.sleep(0.001)
        delay = moments.random() * LONGEST_S
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status)
        wanted, reported, lost = compare(folder, log, m, wanted)
        header = json.loads((folder / "index.json").read_text())
        results.append(
            {
                "try": number,
                "killed_ms": round(delay * 1e3, 1),
                "reported": reported,
                "entries": len(wanted),
                "generation": header["generation"],
                "step": header["step"],
                "lost": lost if killed else "the writer ended by itself",
            }
        )
        print(" ".join(f"{k} {v}" for k, v in results[-1].items()), file=sys.stderr)
    return results


def write(folder: Path, log: Path, m: int, number: int, wanted: Wanted) -> None:
    """Add, replace and remove until killed; ``> op`` before each, ``< op`` after."""
    draw = random.Random(f"writer {number}")
    index, there = Index.open(folder), dict(wanted)
    with log.open("ab", buffering=0) as stream:
        for turn in range(1 << 30):
            kind = draw.choice(("one", "one", "many", "replace", "remove"))
            count = 1 if kind == "one" else draw.randrange(1, MANY)
            if kind in ("one", "many"):
                op = {f"{number}.{turn}.{i}": turn for i in range(count)}
            else:
                op = dict.fromkeys(draw.sample(sorted(there), min(count, len(there))), turn)
            if not op:
                continue
            line = json.dumps([kind, op]).encode() + b"\n"
            stream.write(b">" + line)
            if kind == "remove":
                index.remove(list(op))
            else:
                points = [point(name, made(name, version, m)) for name, version in op.items()]
                index.put(points, replace=kind == "replace")
            stream.write(b"<" + line)
            there = after(there, kind, op)


def after(there: Wanted, kind: str, op: Wanted) -> Wanted:
    if kind == "remove":
        return {name: version for name, version in there.items() if name not in op}
    return {**there, **op}


def made(name: str, version: int, m: int) -> np.ndarray:
    """The vector of a name and version."""
    seed = [int(x) for x in name.split(".")]
    return np.random.default_rng([*seed, version]).normal(size=m).astype(np.float32)


def compare(folder: Path, log: Path, m: int, wanted: Wanted) -> tuple[Wanted, int, str]:
    """What is there now, how much was reported, and what is not as it was reported."""
    lines = log.read_bytes().split(b"\n")[:-1]
    ops = [(line[:1], *json.loads(line[1:])) for line in lines]
    done = [op for op in ops if op[0] == b"<"]
    for _, kind, op in done:
        wanted = after(wanted, kind, op)
    index = Index.open(folder)
    index.verify()
    found = {e.name: v for e, v in zip(index.entries, index.vectors(), strict=True)}
    # What was being done when the writer was killed may have been done, or its beginning.
    begun = ops[-1] if ops and ops[-1][0] == b">" else (b">", "one", {})
    now: Wanted = {}
    for name in {*wanted, *begun[2], *found}:
        versions = {wanted.get(name), begun[2].get(name)} - {None}
        same = [v for v in versions if name in found and (found[name] == made(name, v, m)).all()]
        gone = name not in found and begun[1] == "remove" and name in begun[2]
        never = name not in found and name not in wanted
        if not same and not gone and not never:
            return wanted, len(done), f"{name}: wanted {versions}, found {name in found}"
        if same:
            now[name] = same[0]
    return now, len(done), ""
