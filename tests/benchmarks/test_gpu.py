"""The script that waits for a GPU runs, and says what fails, what hangs and what is left open."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from places import ROOT

SCRIPT = ROOT / "benchmarks" / "gpu.py"


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, which takes its sections from ``tmp_path``."""
    spec = importlib.util.spec_from_file_location("gpu", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "HERE", tmp_path)
    return module


SAID = """
import json, sys, time
say = lambda **what: print(json.dumps(what), flush=True)
say(machine={"device": "a GPU"})
print("a library's own words")
say(section="sweep", row={"what": "first", "ms": 1.5})
"""


def test_a_section_that_hangs_is_ended_and_keeps_its_rows(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gpu_sections.py").write_text(SAID + "time.sleep(60)")
    monkeypatch.setitem(gpu.BUDGETS, "sweep", 1)
    machine, done = gpu.measured(["sweep"], dry_run=False)
    assert machine == {"device": "a GPU"}
    assert done["sweep"]["status"] == "out of time"
    assert done["sweep"]["rows"] == [{"what": "first", "ms": 1.5}]
    assert 1 <= done["sweep"]["seconds"] < 10


def test_a_process_that_dies_leaves_its_last_words(gpu: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "gpu_sections.py").write_text(SAID + "raise RuntimeError('illegal access')")
    _, done = gpu.measured(["sweep"], dry_run=False)
    assert done["sweep"]["status"] == "failed"
    assert done["sweep"]["error"].endswith("illegal access")
    found = {"dry_run": False, "machine": {}, "sections": done}
    left = gpu.not_measured(found)
    assert "sweep: failed, RuntimeError: illegal access" in left
    assert "loss: not asked for, or not yet" in left
    page = gpu.markdown({**found, "not_measured": left})
    assert "| what | ms |\n| --- | --- |\n| first | 1.5 |" in page
    assert "illegal access" in page


def test_sections_leave_room_within_eight_minutes(gpu: ModuleType) -> None:
    assert sum(gpu.BUDGETS.values()) <= 470
    assert all(f"\n    {name} " in str(gpu.__doc__) for name in gpu.BUDGETS)


@pytest.mark.slow
def test_the_dry_run_measures_every_section_and_no_number_is_wrong(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "--dry-run", "--out", tmp_path],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text("utf-8"))
    status = {name: section["status"] for name, section in found["sections"].items()}
    if importlib.util.find_spec("triton") is None:
        assert status.pop("kernel") == "skipped"
    assert set(status.values()) == {"measured"}, status
    rows = [row for section in found["sections"].values() for row in section["rows"]]
    assert sum(row.get("holds") is True for row in rows) >= 20
    assert not any("error" in row for row in rows)
    assert "no figure here means anything" in (tmp_path / "gpu.md").read_text("utf-8")
    assert "Not measured:\n- anything of a GPU" in done.stdout
