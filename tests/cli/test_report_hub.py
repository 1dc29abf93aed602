"""``unembed report`` with a card and a data set."""

from __future__ import annotations

import json
from pathlib import Path

from command_line import Run
from made_up.logs import write_logs
from unembed.decisions.benchmarks.compare import compare_logs


def test_a_run_gives_a_card_and_a_data_set(run: Run, tmp_path: Path) -> None:
    for side, scores in (("a", [1.0, 0.0] * 8), ("b", [1.0, 1.0] * 8)):
        write_logs(tmp_path / side, {"arc": {"acc": scores}}, model=f"org/{side}")
    kept, rows = tmp_path / "run", tmp_path / "rows"
    found = compare_logs(tmp_path / "a", tmp_path / "b", resamples=50, out=kept)
    ended = run("report", kept, "--card", "--as-dataset", rows)
    assert ended.code == 0, ended.err
    card = kept / "card" / "README.md"
    assert [line.split(":")[0] for line in ended.out.splitlines()] == [
        str(kept / "report.html"),
        str(card),
        str(rows),
    ]
    assert found.verdict.change in card.read_text()
    assert (rows / "samples" / "part-00000.parquet").exists()
    # The card in its folder leaves the run whole, and is written again.
    files = json.loads(run("report", kept, "--card", "--json").out)
    assert (files["card"], files["dataset"]) == ([str(card)], [])
    told = run("report", kept, kept, "--card", "-o", tmp_path / "index.html").line
    assert "cards and data sets are of one run, and 2 were given" in told
