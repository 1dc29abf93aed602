"""Kill the processes of a launch at random moments, and see whether its run ends in the same bytes.

    python benchmarks/rank_kills.py --model M --text T --tries 40

Each try launches a verb with 1, 2 or 4 ranks and kills it after a random time, up to three times
over: one rank alone (SIGKILL: the others must end by themselves), all at once (SIGKILL), or all as
torchrun ends them (SIGTERM). The next launch of the same command has another number of ranks. The
last one is left alone, and every file of its run is compared with that of one process that nobody
disturbed. Ranks are forks of this process, which has imported everything; each beats five times a
second instead of once, so that those that are left end after 8 seconds instead of 40, and no page
is drawn, which comes after a run is finished.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import transformers.models.llama.modeling_llama
import transformers.models.llama.tokenization_llama

import unembed.decisions.comparison.live
import unembed.models.quantization
import unembed.report.pages
import unembed.signatures.reading.sketcher
from unembed import cli
from unembed.cli import printing
from unembed.runs import heartbeat

MODULES = (transformers, unembed)
RANKS = (1, 2, 4)
STYLES = ("one", "all", "term")
PART = ("--part-positions", "250", "--context", "64", "--quiet")
VERBS = {
    "audit": ("audit", "MODEL", "TEXT", "-o", "run", "--sketch", "--slices", "2", *PART),
    "sketch": ("sketch", "MODEL", "TEXT", "-o", "task.safetensors", "--size", "1024", *PART),
    "compare": ("compare", "MODEL", "TEXT", "--quantize", "int8", "-o", "run", *PART),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--verbs", nargs="+", choices=VERBS, default=list(VERBS))
    parser.add_argument("--tries", type=int, default=40, help="of each verb")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    heartbeat.BEAT_SECONDS = 0.2
    printing.draw = lambda _folder, _record: None
    rows = []
    for verb in given.verbs:
        places = {"MODEL": str(given.model.resolve()), "TEXT": str(given.text.resolve())}
        argv = [places.get(word, word) for word in VERBS[verb]]
        with tempfile.TemporaryDirectory() as work:
            rows.append({"verb": verb, **tried(argv, Path(work), given.tries, given.seed)})
        print(json.dumps(rows[-1]), file=sys.stderr)
    if given.json:
        print(json.dumps(rows, indent=1))
    if any(row["unlike"] or row["defects"] for row in rows):
        sys.exit(1)


def tried(argv: list[str], work: Path, tries: int, seed: int) -> dict[str, Any]:
    """What came of so many tries of a command."""
    moments = random.Random(seed)
    whole = work / "whole"
    whole.mkdir()
    start = time.monotonic()
    assert Launch(argv, 1, whole).ended() == [0]
    seconds = time.monotonic() - start
    wanted = files(whole)
    unlike, defects, kills, finished = [], [], Counter(), 0
    for number in range(tries):
        place = work / str(number)
        place.mkdir()
        for _ in range(moments.randint(1, 3)):
            launch = Launch(argv, moments.choice(RANKS), place)
            time.sleep(moments.random() * seconds)
            style = moments.choice(STYLES)
            launch.kill(style, moments)
            codes = launch.ended()
            kills[style] += 1
            finished += codes == [0] * len(codes)
            if "Traceback" in launch.said():
                defects.append(launch.said()[-2000:])
        launch = Launch(argv, moments.choice(RANKS), place)
        codes = launch.ended()
        if codes != [0] * len(codes):
            defects.append(f"try {number}: {codes} {launch.said()[-2000:]}")
        found = files(place)
        if found != wanted:
            names = set(found) ^ set(wanted)
            names |= {name for name in set(found) & set(wanted) if found[name] != wanted[name]}
            unlike.append([number, sorted(names)])
        shutil.rmtree(place)
    return {
        "tries": tries,
        "kills": dict(kills),
        "ended_before": finished,
        "unlike": unlike,
        "defects": defects,
        "whole_s": round(seconds, 2),
    }


class Launch:
    """The ranks of one launch, each a fork of this process."""

    def __init__(self, argv: list[str], processes: int, place: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.log = place.with_name(f"{place.name}.log")
        self.log.write_bytes(b"")
        self.children = [self._start(argv, one, processes, port, place) for one in range(processes)]

    def _start(self, argv: list[str], rank: int, processes: int, port: int, place: Path) -> int:
        child = os.fork()
        if child:
            return child
        code: Any = 1
        try:
            for number in (1, 2):
                os.dup2(os.open(self.log, os.O_WRONLY | os.O_APPEND), number)
            os.environ |= {
                "RANK": str(rank),
                "WORLD_SIZE": str(processes),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
            os.chdir(place)
            sys.argv = ["unembed", *argv]
            cli.main()
        except SystemExit as ended:
            code = ended.code or 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(code if isinstance(code, int) else 1)

    def kill(self, style: str, moments: random.Random) -> None:
        """Kill one rank or all of them."""
        chosen = [moments.choice(self.children)] if style == "one" else self.children
        for child in chosen:
            os.kill(child, signal.SIGTERM if style == "term" else signal.SIGKILL)

    def ended(self) -> list[int]:
        """The exit status of each rank, negative for a signal's."""
        return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in self.children]

    def said(self) -> str:
        """What they printed."""
        return self.log.read_text()


def files(place: Path) -> dict[str, bytes]:
    """What lies in a folder, but for locks, which name the process that held them."""
    return {
        path.relative_to(place).as_posix(): path.read_bytes()
        for path in sorted(place.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


if __name__ == "__main__":
    main()
