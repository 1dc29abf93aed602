"""Where the time of a whole process went, and that nothing is imported for nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from command_line import invoke
from unembed.runs import phases

HEAVY = ("altair", "datasets", "matplotlib", "pandas", "peft", "scipy", "sklearn", "torchao")
RUN = (
    "import sys\n"
    "from unembed.cli import cli\n"
    "cli(sys.argv[1:], standalone_mode=False)\n"
    "print(*sys.modules, file=sys.stderr)\n"
)
FLOOR = (
    "import sys, torch, transformers\n"
    "transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
    "print(*sys.modules)\n"
)
"""What transformers itself imports of what lies on this machine is no doing of ours."""


@pytest.fixture
def text(tmp_path: Path, topics: list[str]) -> Path:
    file = tmp_path / "text.txt"
    file.write_text("\n".join(topics[:8]))
    return file


def test_the_phases_of_an_audit_add_up_to_its_process(
    tmp_path: Path, text: Path, llama_folder: Path
) -> None:
    words = ["audit", llama_folder, text, "-o", tmp_path / "run", "--profile", "--json"]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "unembed", *map(str, words), "--quiet"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    wall = time.perf_counter() - start
    seconds = json.loads(done.stdout)["profile_seconds"]
    assert next(iter(seconds)) == "start"
    assert {"load", "page", "rest"} <= set(seconds)
    assert sum(seconds.values()) == pytest.approx(wall, rel=0.1, abs=0.3)
    assert seconds["rest"] < 0.3 * wall
    lines = done.stderr.splitlines()
    assert lines[0].startswith("start")
    assert lines[-1].split()[0] == "total"
    assert float(lines[-1].split()[1]) == pytest.approx(wall, rel=0.1, abs=0.3)


def test_an_audit_imports_what_it_needs(tmp_path: Path, text: Path, llama_folder: Path) -> None:
    words = ["audit", llama_folder, text, "-o", tmp_path / "run", "--quiet"]
    run = [sys.executable, "-c", RUN, *map(str, words)]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    floor = subprocess.run(
        [sys.executable, "-c", FLOOR, str(llama_folder)], capture_output=True, text=True, check=True
    )
    theirs = set(floor.stdout.split())
    assert not {name for name in done.stderr.split() if name in HEAVY} - theirs
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize("verb", ["compare", "sketch"])
def test_other_verbs_have_a_profile(
    verb: str,
    tmp_path: Path,
    text: Path,
    llama_folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = time.perf_counter()
    monkeypatch.setattr(phases, "seconds_alive", lambda: 1.0 + time.perf_counter() - start)
    models = (llama_folder,) * (2 if verb == "compare" else 1)
    words = (verb, *models, text, "-o", tmp_path / "made.safetensors", "--quiet")
    assert invoke(*words, "--profile") == 0
    names = [line.split("  ")[0] for line in capsys.readouterr().err.splitlines()]
    assert {"start", "prepare", "rest", "total"} <= set(names)
    assert invoke(*words) == 0
    assert "start" not in capsys.readouterr().err
