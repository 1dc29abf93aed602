"""What a short job costs beside what nobody can leave out: whole processes, alternated.

    python benchmarks/startup.py                          # 2,000 positions of the bundled model
    python benchmarks/startup.py --model CHECKPOINT --text wikitext2-valid.txt --positions 3000

``floor`` imports torch and transformers, loads the model and its tokenizer, and ends. ``audit`` is
the command line, with its summary and its page. Every measurement is a fresh process; the two
alternate, and the ratio is taken pair by pair. The processor's seconds stand beside the wall's:
where others use the machine, they say more. The last lines are one run's own ``--profile``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

FLOOR = """
import sys, torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto").eval()
tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="checkpoint folder [the bundled model]")
    parser.add_argument("--text", type=Path, help="a .txt file [the bundled model's text]")
    parser.add_argument("--positions", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {"floor": [], "audit": []}
    with tempfile.TemporaryDirectory() as folder:
        model, text = inputs(given, Path(folder))
        for turn in range(given.repeats + 1):
            audit = ["-m", "unembed", "audit", str(model), str(text), "--quiet", "--json"]
            audit += ["--profile", "--max-positions", str(given.positions)]
            pair = {
                "floor": seconds_of(["-c", FLOOR, str(model)])[0],
                "audit": (last := seconds_of([*audit, "-o", f"{folder}/run-{turn}"]))[0],
            }
            if turn:  # the first pair fills the file cache
                for name, one in pair.items():
                    found[name].append(one)
    profile = json.loads(last[1])["profile_seconds"]
    report(given, found, profile)


def inputs(given: argparse.Namespace, folder: Path) -> tuple[Path, Path]:
    from unembed.demo.story import bundled_model
    from unembed.demo.text import documents

    text = given.text
    if text is None:
        text = folder / "text.txt"
        text.write_text("\n".join(d.text.replace("\n", " ") for d in documents("heldout")))
    return given.model or Path(bundled_model()), text


def seconds_of(words: list[str]) -> tuple[dict[str, float], str]:
    """The wall's and the processor's seconds of a fresh interpreter, and what it printed."""
    before, start = processor_seconds(), time.perf_counter()
    done = subprocess.run([sys.executable, *words], check=True, capture_output=True, text=True)
    wall = time.perf_counter() - start
    return {"wall": wall, "processor": processor_seconds() - before}, done.stdout


def processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def report(
    given: argparse.Namespace,
    found: dict[str, list[dict[str, float]]],
    profile: dict[str, float],
) -> None:
    medians = {
        name: {clock: statistics.median(one[clock] for one in runs) for clock in runs[0]}
        for name, runs in found.items()
    }
    ratios = {
        clock: [a[clock] / b[clock] for a, b in zip(found["audit"], found["floor"], strict=True)]
        for clock in ("wall", "processor")
    }
    if given.json:
        print(json.dumps({"runs": found, "ratios": ratios, "profile_seconds": profile}, indent=1))
        return
    for name, row in medians.items():
        print(f"{name:<8}{row['wall']:>8.2f} s, {row['processor']:.2f} s of processors")
    for clock, some in ratios.items():
        shown = ", ".join(f"{one:.2f}" for one in some)
        print(f"{clock}: the audit takes {statistics.median(some):.2f} floors ({shown})")
    for name, seconds in profile.items():
        print(f"  {name:<10}{seconds:>7.2f} s")


if __name__ == "__main__":
    main()
