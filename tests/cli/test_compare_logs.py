"""``unembed compare`` of two folders of benchmark logs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command_line import Run
from made_up.logs import write_logs


@pytest.fixture
def logs(tmp_path: Path) -> tuple[Path, Path]:
    scores = [1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0] * 4
    for side, lost in (("a", 0), ("b", 12)):
        task = {"arc": {"acc": [0.0] * lost + scores[lost:]}}
        write_logs(tmp_path / side, task, model=f"org/{side}")
    return tmp_path / "a", tmp_path / "b"


def test_logs_are_recognised_and_compared(
    run: Run, logs: tuple[Path, Path], tmp_path: Path
) -> None:
    ended = run("compare", *logs, "-o", tmp_path / "run")
    assert ended.code == 0, ended.err
    assert ended.out.startswith("On arc quality is worse: acc")
    assert "McNemar" not in ended.err
    assert (tmp_path / "run" / "report.html").exists()
    again = run("compare", *logs, "-o", tmp_path / "run", "--json")
    found = json.loads(again.out)
    assert found["summary"]["entries"][0]["right_to_wrong"] == 9
    assert found["verdict"]["sentence"] == ended.out.splitlines()[0].replace(" pp", "\u00a0pp")


def test_what_does_not_go_with_logs_is_refused(
    run: Run, logs: tuple[Path, Path], tmp_path: Path
) -> None:
    out = ("-o", tmp_path / "run")
    assert "leave text.txt out" in run("compare", *logs, "text.txt", *out).line
    assert "--band says nothing of logs" in run("compare", *logs, "--band", "0-1", *out).line
    (tmp_path / "model").mkdir()
    told = run("compare", logs[0], tmp_path / "model", *out).line
    assert f"{logs[0]} holds logs of lm-evaluation-harness and {tmp_path / 'model'} none" in told
    assert "has a field 'story'" in run("compare", *logs, "--document", "story", *out).line
    assert not (tmp_path / "run" / "manifest.json").exists()
