"""``unembed compare`` of two run folders of ``unembed layers``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from command_line import Run
from made_up.corpora import TEXTS
from unembed import Corpus, audit, layers
from unembed.decisions import AuditOptions, LayersOptions


@pytest.fixture(scope="module")
def runs(llama: Any, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    corpus = Corpus.from_texts(TEXTS, tokenizer)
    options = LayersOptions(lenses=("normed",), cloud_points=0)
    for name in "ab":
        layers(llama, corpus, options, out=folder / name, name=name)
    audit(llama, corpus, AuditOptions(), out=folder / "audit")
    return folder


def test_runs_of_layers_are_recognised_and_compared(run: Run, runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ended = run("compare", runs / "a", runs / "b", "-o", out)
    assert ended.code == 0, ended.err
    assert ended.out.startswith("None of the ")
    assert (out / "report.html").exists()
    again = run("compare", runs / "a", runs / "b", "-o", out, "--json")
    found = json.loads(again.out)
    assert found["summary"]["lenses"][0]["by_depth"][0]["changed"]["value"] == 0
    assert found["verdict"]["sentence"] == ended.out.splitlines()[0]


def test_what_does_not_go_with_runs_of_layers_is_refused(
    run: Run, runs: Path, tmp_path: Path
) -> None:
    both, out = (runs / "a", runs / "b"), ("-o", tmp_path / "run")
    told = run("compare", runs / "a", runs / "audit", *out)
    assert told.code == 2
    assert f"{runs / 'a'} is a run of unembed layers and {runs / 'audit'} none" in told.line
    assert "take no CORPUS: leave text.txt out" in run("compare", *both, "text.txt", *out).line
    assert "--band says nothing of runs" in run("compare", *both, "--band", "0-1", *out).line
    assert not (tmp_path / "run" / "manifest.json").exists()
