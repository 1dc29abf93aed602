"""How memory grows with positions: the summary of an audit, a comparison of two, their pages.

    python benchmarks/scale.py                              # 100,000 and 1,000,000 positions
    python benchmarks/scale.py --positions 20000000
    python benchmarks/scale.py --stages summary compare --json

Two audits of synthetic positions (those of ``compare.py``) are written as parts of 32,768, as
``audit`` leaves them before it summarises. Then, each in a fresh process: the summary of either,
``compare`` with ``out``, and both pages. Memory is the largest resident set above that of the
process once all is imported; the bar is 1.5 GB at 20,000,000 positions. ``--keep`` leaves the runs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from audit import PeakMemory, resident_mib
from compare import documents_of, provenance_of, tables_of, vocabulary

PART_POSITIONS = 1 << 15
STAGES = ("summary", "compare", "pages")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--positions", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--length", type=int, default=500, help="mean positions of a document")
    parser.add_argument("--resamples", type=int, default=10_000, help="of the comparison")
    parser.add_argument("--top-k", type=int, default=5, help="candidates kept before")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--keep", type=Path, help="folder for the runs, used again where it is")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        stage, folder = given.child
        print(json.dumps(measure(stage, Path(folder), given)))
        return
    rows = [row for positions in given.positions for row in at_size(positions, given)]
    if given.json:
        print(json.dumps(rows, indent=1))
        return
    titles = ("seconds", "of CPU", "added MiB", "peak MiB")
    print(f"{'positions':>12}  {'stage':<8}" + "".join(f"{title:>11}" for title in titles))
    for row in rows:
        sizes = f"{row['added_mib']:>11,.0f}{row['peak_mib']:>11,.0f}"
        times = f"{row['seconds']:>11.1f}{row['cpu_seconds']:>11.1f}"
        print(f"{row['positions']:>12,}  {row['stage']:<8}{times}{sizes}")


def at_size(positions: int, given: argparse.Namespace) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.keep or Path(temporary)) / str(positions)
        if not folder.exists():
            run_stage("make", folder, positions, given)
        return [run_stage(stage, folder, positions, given) for stage in given.stages]


def run_stage(
    stage: str, folder: Path, positions: int, given: argparse.Namespace
) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", stage, str(folder)]
    for name in ("positions", "length", "resamples", "top_k"):
        value = positions if name == "positions" else getattr(given, name)
        command += [f"--{name.replace('_', '-')}", str(value)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return {"positions": positions, "stage": stage, **json.loads(done.stdout.splitlines()[-1])}


def measure(stage: str, folder: Path, given: argparse.Namespace) -> dict[str, float]:
    """What one stage takes in this process, which holds nothing else."""
    from unembed.decisions.audit.audit import Audit
    from unembed.decisions.comparison.compare import compare
    from unembed.report.pages import write_page

    [positions] = given.positions
    sizes = lengths_of(positions, given.length)
    held, start, worked = resident_mib(), time.perf_counter(), time.process_time()
    with PeakMemory() as peak:
        if stage == "make":
            write_parts(folder, sizes, given.top_k)
        elif stage == "summary":
            for name, top_k in (("before", given.top_k), ("after", 0)):
                summarise_run(folder / name, sizes, top_k)
        elif stage == "compare":
            shutil.rmtree(folder / "compared", ignore_errors=True)
            sides = [Audit.load(folder / name) for name in ("before", "after")]
            compare(*sides, out=folder / "compared", resamples=given.resamples)
        else:
            for name in ("before", "compared"):
                write_page(folder / name)
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - worked,
        "added_mib": peak.mib - held,
        "peak_mib": peak.mib,
    }


def lengths_of(positions: int, mean: int) -> Any:
    """Documents of unequal length, each of one position at least."""
    import numpy as np

    documents = max(2, positions // mean)
    shares = np.random.default_rng(1).exponential(size=documents) + 0.05
    ends = 1 + np.arange(documents) + np.cumsum(shares) / shares.sum() * (positions - documents)
    return np.diff(np.floor(ends).astype(np.int64), prepend=0)


def write_parts(folder: Path, sizes: Any, top_k: int) -> None:
    """The tables of both audits, as audits leave them that are killed before their summary."""
    import numpy as np

    from unembed.runs.store import RunFolder

    positions, ends = int(sizes.sum()), np.cumsum(sizes)
    with ExitStack() as stack:
        runs = [
            stack.enter_context(RunFolder.open(folder / name, key_of(sizes, held)))
            for name, held in (("before", top_k), ("after", 0))
        ]
        for run in runs:
            run.write_table("vocabulary.parquet", vocabulary().to_table())
            run.write_table("documents.parquet", documents_of(sizes))
        for number, first in enumerate(range(0, positions, PART_POSITIONS)):
            rows = np.arange(first, min(first + PART_POSITIONS, positions))
            doc = np.searchsorted(ends, rows, side="right")
            pos = rows - (ends - sizes)[doc]
            generator = np.random.default_rng([2, number])
            both = tables_of(generator, doc.astype(np.int32), pos.astype(np.int32), top_k)
            for run, table in zip(runs, both, strict=True):
                run.write_table(f"tokens/part-{number:05d}.parquet", table)


def summarise_run(folder: Path, sizes: Any, top_k: int) -> None:
    """The end of an audit whose parts are written: its summary, and its manifest."""
    from unembed.decisions.audit.audit import Audit
    from unembed.decisions.audit.summary import summary_to_json
    from unembed.runs.provenance import Provenance
    from unembed.runs.store import TABLES, RunFolder

    key = key_of(sizes, top_k)
    with RunFolder.open(folder, key) as run:
        files = [path for path in run.done if path.startswith(TABLES)]
        summary = Audit._opened(folder, Provenance.from_json(key), files).summary
        if not run.finished:
            run.finish("benchmarks/scale.py", summary_to_json(summary))


def key_of(sizes: Any, top_k: int) -> dict[str, Any]:
    key: dict[str, Any] = provenance_of(len(sizes), int(sizes.sum()), top_k).to_json()
    return key


if __name__ == "__main__":
    main()
