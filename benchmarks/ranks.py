"""Time and memory of an audit against the number of ranks and the rows of the vocabulary.

    python benchmarks/ranks.py --text T                      # 1 and 2 ranks, one thread each
    python benchmarks/ranks.py --text T --ranks 1 2 4 --launcher torchrun direct
    python benchmarks/ranks.py --text T --vocab 8192 65536 --positions 20000

Each measurement is a whole command, from the interpreter's start to the page, in fresh processes
with one thread each. ``torchrun`` is its own program, which imports torch before it starts a rank;
``direct`` starts the ranks with RANK and WORLD_SIZE set, as srun and mpirun do. Rounds of all
settings take turns, the shortest time of each counts, and a ratio is to one rank in the same table.
``measuring`` is what of it is neither the start of Python and its libraries, nor loading the model,
nor drawing the page, by ``--profile`` of rank 0.
``--vocab`` widens the bundled model's head with rows of random numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import unembed.demo

BUNDLED = Path(unembed.demo.__file__).parent / "model"
LAUNCHERS = ("direct", "torchrun")
APART = ("start", "load", "page", "rest")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=BUNDLED)
    parser.add_argument("--positions", type=int, default=200_000)
    parser.add_argument("--part-positions", type=int, help="those of the plan otherwise")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--launcher", nargs="+", choices=LAUNCHERS, default=["direct"])
    parser.add_argument("--vocab", type=int, nargs="+", help="rows of the head")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(run_measured(given.child)))
        return
    with tempfile.TemporaryDirectory() as work:
        rows = measured(given, Path(work))
    if given.json:
        print(json.dumps(rows, indent=1))
        return
    print("   vocab  ranks  launcher  seconds  ratio measuring  ratio  CPU s MiB a rank")
    for row in rows:
        print(
            f"{row['vocab']:>8,} {row['ranks']:>6} {row['launcher']:>9} {row['seconds']:>8.2f} "
            f"{row['ratio']:>6.3f} {row['measuring']:>9.2f} {row['measuring_ratio']:>6.3f} "
            f"{row['cpu_s']:>6.1f} {row['rank_mib']:>10.0f}"
        )


def measured(given: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    """A row for each vocabulary, number of ranks and launcher."""
    rows = []
    for vocab in given.vocab or [None]:
        model = given.model if vocab is None else widened(given.model, vocab, work / str(vocab))
        settings = [
            (ranks, launcher)
            for ranks in given.ranks
            for launcher in (given.launcher if ranks > 1 else ["direct"])
        ]
        found: dict[tuple[int, str], list[dict[str, Any]]] = {one: [] for one in settings}
        for _ in range(given.rounds):
            for setting in settings:
                out = work / "run"
                found[setting].append(in_fresh_process(given, model, setting, out))
                shutil.rmtree(out)
        best = {one: min(times, key=lambda one: one["seconds"]) for one, times in found.items()}
        config = json.loads((model / "config.json").read_text())
        for (ranks, launcher), one in best.items():
            named = {"vocab": config["vocab_size"], "ranks": ranks, "launcher": launcher}
            alone = best[settings[0]]
            ratios = {
                "ratio": one["seconds"] / alone["seconds"],
                "measuring_ratio": one["measuring"] / alone["measuring"],
            }
            rows.append(named | one | ratios)
    return rows


def in_fresh_process(
    given: argparse.Namespace, model: Path, setting: tuple[int, str], out: Path
) -> dict[str, Any]:
    """What a command takes, by a process whose children are all that it started."""
    ranks, launcher = setting
    audit = ["audit", model, given.text, "-o", out, "--max-positions", given.positions]
    audit += ["--quiet", "--profile", "--json"]
    if given.part_positions:
        audit += ["--part-positions", given.part_positions]
    argv = [sys.executable, __file__, "--text", "-", "--child", ranks, launcher, *audit]
    done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def run_measured(argv: list[str]) -> dict[str, Any]:
    """Wall and CPU seconds of a command, and the most memory that one of its processes held."""
    ranks, launcher, *audit = argv
    start = time.monotonic()
    if launcher == "torchrun":
        launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", ranks, "-m"]
        children = [begun([*launch, "unembed", *audit], {})]
    else:
        children = [begun(["unembed", *audit], one) for one in environments(int(ranks))]
    said = children[0].communicate()[0]
    codes = [child.wait() for child in children]
    seconds = time.monotonic() - start
    assert codes == [0] * len(codes), codes
    phases = json.loads(said)["profile_seconds"]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": round(seconds, 2),
        "measuring": round(sum(phases[name] for name in phases if name not in APART), 2),
        "phases": {name: round(spent, 2) for name, spent in phases.items()},
        "cpu_s": round(used.ru_utime + used.ru_stime, 1),
        "rank_mib": round(used.ru_maxrss / 1024),
    }


def begun(argv: list[str], more: dict[str, str]) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | more
    return subprocess.Popen([sys.executable, "-m", *argv], env=environment, stdout=subprocess.PIPE)


def environments(ranks: int) -> list[dict[str, str]]:
    """What a launcher puts into the environment of each rank."""
    if ranks == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]


def widened(model: Path, vocab: int, folder: Path) -> Path:
    """The model with so many rows in its embedding and head; the new ones are random."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made = AutoModelForCausalLM.from_pretrained(model)
    made.resize_token_embeddings(vocab, mean_resizing=False)
    made.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
