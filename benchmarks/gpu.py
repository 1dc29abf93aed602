"""What a GPU is asked to show, in one run of under eight minutes: right numbers, time and memory.

    PYTHONPATH=src python benchmarks/gpu.py                      # every section, into runs/gpu
    PYTHONPATH=src python benchmarks/gpu.py --only loss sweep
    PYTHONPATH=src python benchmarks/gpu.py --dry-run            # tiny shapes, on a CPU

It needs what ``import unembed`` needs, and Triton; no network, no model, no text. Each section
is a process with a budget of seconds: one that fails or takes too long is written as that, with
the rows it had, and the others go on. ``gpu.json`` and ``gpu.md``, tables for a page of
docs/decisions, are written after every section. ``--dry-run`` shows that the script runs: every
section in one process, the kernel in Triton's interpreter; its times say nothing. The exit code is
1 where a section failed or a number is wrong. Sections, in ``gpu_sections.py``:

    ceilings     a copy within the device, products of large matrices
    correctness  every route of the product and every kernel against float64; head_loss's gradients
    kernel       the Triton kernel against torch operations, and its rate
    sweep        the pass over the vocabulary beside the bare product, at the shapes of real heads
    loss         head_loss forward and backward beside plain code and fused losses
    sketch       what a sketch adds to the pass
    audit        a random model of a billion parameters, audited beside plain code
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BUDGETS = {
    "ceilings": 25,
    "correctness": 75,
    "kernel": 40,
    "sweep": 80,
    "loss": 80,
    "sketch": 50,
    "audit": 115,
}
"""Seconds of each section's process, its start included."""
NEVER_MEASURED = (
    "several GPUs (torchrun, tensor parallelism)",
    "refinement: DDP and FSDP on GPUs",
    "live comparison of two models, and quantised checkpoints",
    "GPUs of other makes and generations",
)
Found = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=BUDGETS, default=list(BUDGETS))
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes on a CPU")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder of the results")
    given = parser.parse_args()
    wanted = [name for name in BUDGETS if name in given.only]
    sections: dict[str, Found] = {}
    found: Found = {"dry_run": given.dry_run, "machine": {}, "sections": sections}
    for names in [wanted] if given.dry_run else [[name] for name in wanted]:
        machine, done = measured(names, given.dry_run)
        if machine.get("device") == "none":
            print(f"torch {machine['torch']} sees no CUDA device: give --dry-run", file=sys.stderr)
            sys.exit(2)
        found["machine"] |= machine
        sections |= done
        found["not_measured"] = not_measured(found)
        write(given.out, found)
        for name in names:
            print(line_of(name, sections[name]), flush=True)
    print("\nNot measured:", *found["not_measured"], sep="\n- ")
    print(f"\n{given.out / 'gpu.json'}, {given.out / 'gpu.md'}")
    sys.exit(
        any(each["status"] in ("failed", "wrong", "out of time") for each in sections.values())
    )


def measured(names: list[str], dry_run: bool) -> tuple[Found, dict[str, Found]]:
    """What a process of its own says of the machine and of these sections, within their budget."""
    command = [sys.executable, str(HERE / "gpu_sections.py"), *(["--dry-run"] if dry_run else [])]
    own = os.pathsep.join(filter(None, (str(HERE.parent / "src"), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": own, "HF_HUB_OFFLINE": "1"}
    if dry_run:  # read when Triton is imported
        environment |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    budget = sum(BUDGETS[name] for name in names)
    start, late = time.perf_counter(), False
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complaints:
        process = subprocess.Popen(
            [*command, *names],
            stdout=said,
            stderr=complaints,
            env=environment,
            start_new_session=True,
        )
        try:
            process.wait(budget)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # what it started, too
            process.wait()
            late = True
        said.seek(0)
        complaints.seek(0)
        lines, last_words = said.read().splitlines(), complaints.read().strip()[-1000:]
    why = f"ended after its {budget} s" if late else last_words or "the process died in silence"
    unfinished = {"status": "out of time" if late else "failed", "error": why}
    machine: Found = {}
    done: dict[str, Found] = {
        name: {**unfinished, "seconds": time.perf_counter() - start, "rows": []} for name in names
    }
    for line in lines:
        if not line.startswith("{"):
            continue  # what a library prints
        try:
            heard = json.loads(line)
        except json.JSONDecodeError:
            continue  # the line that a killed process was writing
        if "machine" in heard:
            machine = heard["machine"]
        elif "row" in heard:
            done[heard["section"]]["rows"].append(heard["row"])
        else:
            done[heard.pop("section")] |= heard
    return machine, done


def not_measured(found: Found) -> list[str]:
    """What this run leaves open: sections, rows, and what no section is about."""
    reasons = []
    if found["dry_run"]:
        reasons.append("anything of a GPU: this was the dry run on a CPU")
    for name in BUDGETS:
        section = found["sections"].get(name)
        if section is None:
            reasons.append(f"{name}: not asked for, or not yet")
            continue
        if section["error"]:
            reasons.append(f"{name}: {section['status']}, {section['error'].splitlines()[-1]}")
        for row in section["rows"]:
            if "error" in row:
                reasons.append(f"{name}, {row['what']}: {row['error']}")
    return [*reasons, *NEVER_MEASURED]


def line_of(name: str, section: Found) -> str:
    error = f": {section['error'].splitlines()[-1]}" if section["error"] else ""
    rows = f"{len(section['rows'])} rows, {section['seconds']:.1f} s"
    return f"{name:<12}{section['status']:<12}{rows}{error}"


def write(folder: Path, found: Found) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    (folder / "gpu.md").write_text(markdown(found), "utf-8")


def markdown(found: Found) -> str:
    """The tables of a page of docs/decisions."""
    machine = ", ".join(f"{name} {value}" for name, value in found["machine"].items())
    pieces = [f"# Measured on a GPU\n\n{machine}\n"]
    if found["dry_run"]:
        pieces.append("**A dry run on a CPU, with tiny shapes: no figure here means anything.**\n")
    for name, section in found["sections"].items():
        pieces.append(f"## {name}\n\n{section['status']}, {section['seconds']:.0f} s\n")
        if section["error"]:
            pieces.append(f"```\n{section['error']}\n```\n")
        if section["rows"]:
            pieces.append(table(section["rows"]))
    pieces.append("## Not measured\n\n" + "\n".join(f"- {each}" for each in found["not_measured"]))
    return "\n".join(pieces) + "\n"


def table(rows: list[Found]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [
        names,
        ["---"] * len(names),
        *([cell(row.get(name)) for name in names] for row in rows),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value).replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    main()
