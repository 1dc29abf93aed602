"""unembed states, and audit --hidden: what they print, and what they refuse in a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command_line import Run, write_texts
from unembed import Audit

HOW = ("--context", "16", "--max-positions", "300")


@pytest.fixture(scope="module")
def text(topics: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("text"), topics, ["text"])[0]


def test_states_and_then_an_audit_of_them(
    run: Run, llama_folder: Path, text: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "states"
    made = run("states", llama_folder, text, "-o", folder, *HOW)
    assert made.code == 0, made.err
    assert "300 in" in made.out
    assert "48 numbers in float32, after the final norm" in made.out
    again = run("states", llama_folder, text, "-o", folder, *HOW, "--json")
    assert "was finished before: verified, nothing computed again" in again.err
    assert json.loads(again.out)["positions"] == 300
    stored = run("audit", llama_folder, "--hidden", folder, "-o", tmp_path / "a", "--slices", "0")
    assert stored.code == 0, stored.err
    assert f"{folder}: unembed states, 300 positions, after the final norm (100 %" in stored.err
    assert "stored: unembed states, after the final norm" in stored.out
    page = (tmp_path / "a" / "report.html").read_text()
    assert "of 300 tried 100 % are of the size that the norm makes" in page
    direct = run("audit", llama_folder, text, "-o", tmp_path / "b", *HOW, "--slices", "0")
    assert direct.code == 0
    signature = tmp_path / "s.safetensors"
    quick = ("--size", "64", "--quiet")
    sketched = run("sketch", llama_folder, "--hidden", folder, "-o", signature, *quick)
    assert sketched.code == 0, sketched.err
    assert "300" in sketched.out
    tables = [Audit.load(tmp_path / name).table for name in ("a", "b")]
    assert tables[0].equals(tables[1])


def test_what_cannot_be_is_told_in_a_line(
    run: Run, llama_folder: Path, text: Path, tmp_path: Path
) -> None:
    folder, out = tmp_path / "states", ("-o", tmp_path / "run")
    made = run("states", llama_folder, text, "-o", folder, *HOW, "--before-norm", "--quiet")
    assert made.code == 0, made.err

    def line(*words: str | Path) -> str:
        return run("audit", llama_folder, *words, *out).line

    assert line().startswith("Missing argument 'CORPUS' (or --hidden, stored states)")
    assert f"CORPUS {text} and --hidden {folder} are two texts" in line(text, "--hidden", folder)
    assert "--states-are is of stored states" in line(text, "--states-are", "after-norm")
    for option in (("--context", "9"), ("--text-column", "body"), ("--completion-only",)):
        assert f"{option[0]} says how a text is read" in line("--hidden", folder, *option)
    assert "reads the text again in other batches" in line(
        "--hidden", folder, "--repeat-batching", "2"
    )
    told = line("--hidden", folder, "--states-are", "after-norm")
    assert "--states-are says after-norm, and its states lie before-norm" in told
    assert "leave --states-are out" in told
    assert "no such folder of stored states" in line("--hidden", tmp_path / "nowhere")
    assert "holds a run of kind 'states', of which there is no page" in run("report", folder).line
    assert not (tmp_path / "run").exists()
