"""A little of every battery: kills, corruption, crafted files, odd command lines, system faults."""

from __future__ import annotations

import subprocess
import sys

import pytest

from places import ROOT


@pytest.mark.slow
def test_nothing_wrong_is_believed_and_nothing_done_is_lost() -> None:
    script = ROOT / "benchmarks" / "battery" / "short.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr[-6000:]
