"""Kill the command line at random moments, resume it, and compare every byte with a calm run.

    python benchmarks/crash.py --tries 20 --seed 0

Each try starts ``unembed audit`` in a new folder, kills it (SIGKILL) at a random moment, repeats
the command until it finishes, and compares all Parquet files and the summary with those of a run
that was left alone. Half of the moments are spread over the whole run, half over the time in which
parts are written. Prints a row per try on stderr and JSON on stdout; exits 1 on any difference.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pydoc_data.topics
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PART_POSITIONS = 256
TOPICS = ("assignment", "class", "for", "with", "lambda", "operator-summary")


def main() -> None:
    """Parse, run the tries, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    demo = Path(__file__).parents[1] / "src/unembed/demo/model"
    parser.add_argument("--model", default=str(demo), help="a small checkpoint [the bundled one]")
    parser.add_argument("--tries", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        results = tries(given.model, Path(place), given.tries, given.seed)
    print(json.dumps(results, indent=1))
    sys.exit(0 if all(result["same"] for result in results) else 1)


def tries(model: str, place: Path, count: int, seed: int) -> list[dict[str, object]]:
    """The results of ``count`` tries, one after the other."""
    corpus = place / "corpus.txt"
    corpus.write_text("\n".join(pydoc_data.topics.topics[name] for name in TOPICS))
    began = time.perf_counter()
    subprocess.run(command(model, corpus, place / "calm"), check=True, stdout=subprocess.DEVNULL)
    whole = time.perf_counter() - began
    calm = digests(place / "calm")
    ended, started = (
        place / "calm" / name for name in ("manifest.json", "tokens/part-00000.parquet")
    )
    writing = ended.stat().st_mtime - started.stat().st_mtime
    print(
        f"calm run: {whole:.1f} s, {writing:.1f} s of it writing {len(calm)} files", file=sys.stderr
    )
    print(f"{'try':>3} {'killed at':>10} {'parts':>6} {'resumed in':>11} same", file=sys.stderr)
    moments = random.Random(seed)
    results: list[dict[str, object]] = []
    for number in range(count):
        run = place / f"try-{number}"
        delay, after_start = (writing, True) if number % 2 else (whole, False)
        delay *= moments.random()
        killed_s = kill(command(model, corpus, run), run, delay, after_start)
        unfinished = (run / "journal.jsonl").exists()
        parts = len(list(run.glob("tokens/part-*.parquet")))
        began = time.perf_counter()
        again = subprocess.run(command(model, corpus, run), capture_output=True, text=True)
        resumed_s = time.perf_counter() - began
        same = again.returncode == 0 and digests(run) == calm
        result = {
            "try": number,
            "killed_s": round(killed_s, 3),
            "while_writing": unfinished,
            "parts_then": parts,
            "resumed_s": round(resumed_s, 3),
            "same": same,
            "stderr": "" if same else again.stderr[-2000:],
        }
        results.append(result)
        print(
            f"{number:>3} {killed_s:>9.2f}s {parts:>6} {resumed_s:>10.2f}s {same}", file=sys.stderr
        )
    return results


def command(model: str, corpus: Path, run: Path) -> list[str]:
    """The command line of one audit."""
    audit = [sys.executable, "-m", "unembed", "audit", model, str(corpus), "-o", str(run)]
    return [*audit, "--part-positions", str(PART_POSITIONS), "--context", "64", "--quiet"]


def kill(argv: list[str], run: Path, delay_s: float, after_start: bool) -> float:
    """Start the command, kill it after a delay (from its first part on, if asked), return when."""
    began = time.perf_counter()
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while after_start and process.poll() is None and not (run / "tokens").exists():
            time.sleep(0.002)
        time.sleep(delay_s)
        process.kill()
        process.wait()
        return time.perf_counter() - began


def digests(run: Path) -> dict[str, str]:
    """The SHA-256 of every file whose bytes a resumed run must repeat."""
    files = [*sorted(run.glob("tokens/*")), *sorted(run.glob("*.parquet")), run / "summary.json"]
    return {
        file.relative_to(run).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
        if file.exists()
    }


if __name__ == "__main__":
    main()
