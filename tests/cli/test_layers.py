"""``unembed layers``: what it prints, keeps and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from command_line import Run
from unembed import cli
from unembed.decisions import Layers

QUICK = ("--quiet", "--context", "32", "--cloud-points", "0")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, topics: list[str]) -> Path:
    file = tmp_path_factory.mktemp("corpus") / "rows.txt"
    file.write_text("\n".join(topic[:120] for topic in topics[:12]))
    return file


def test_layers_prints_a_row_a_depth_and_keeps_what_it_says(
    run: Run, llama_folder: Path, rows: Path, tmp_path: Path
) -> None:
    said = run("layers", llama_folder, rows, "-o", tmp_path / "run", *QUICK)
    assert said.code == 0, said.err
    lines = said.out.splitlines()
    header = next(i for i, line in enumerate(lines) if line.startswith("depth "))
    assert [line.split()[0] for line in lines[header + 1 : header + 4]] == ["0", "1", "2"]
    assert f"fitted lens                   {tmp_path / 'run' / 'fitted-lens.safetensors'}" in lines
    opened = Layers.load(tmp_path / "run")
    assert str(opened).replace("\u00a0", " ") in said.out
    again = run("layers", llama_folder, rows, "-o", tmp_path / "run", *QUICK, "--json")
    assert json.loads(again.out)["summary"] == json.loads(
        (tmp_path / "run" / "summary.json").read_text()
    )
    other = run("layers", llama_folder, rows, "-o", tmp_path / "run", *QUICK, "--depths", "1")
    assert "holds another run: its options.depths is" in other.line


def test_a_lens_of_one_run_is_given_to_another(
    run: Run, llama_folder: Path, rows: Path, tmp_path: Path
) -> None:
    first = ("--depths", "1", "--lens", "fitted,normed")
    assert run("layers", llama_folder, rows, "-o", tmp_path / "a", *QUICK, *first).code == 0
    lens = tmp_path / "a" / "fitted-lens.safetensors"
    given = (*QUICK, *first, "--fitted-lens", lens)
    assert run("layers", llama_folder, rows, "-o", tmp_path / "b", *given).code == 0
    both = [Layers.load(tmp_path / name) for name in "ab"]
    assert both[0].lenses == ("normed", "fitted")
    assert both[0].table("fitted", 1).equals(both[1].table("fitted", 1))
    assert both[1].provenance.options["fitted_lens"] == both[0].fitted.digest  # type: ignore


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("--depths", "4-2"), "--depths '4-2' is no list of depths"),
        (("--lens", "tuned"), "'tuned' is not one of 'normed', 'raw', 'fitted'"),
        (("--top-k", "1"), "--top-k 1 is too few"),
        (("--fitted-lens", "none.safetensors"), "none.safetensors does not exist"),
        (("--fitted-lens", "x", "--lens", "raw"), "--fitted-lens x is not used by --lens"),
        (("--cloud-points", "-1"), "cloud_points must not be negative, got -1"),
        (("--cloud-points", "0", "--cloud-last"), "--cloud-points 0 leaves out"),
    ],
)
def test_words_that_say_nothing_are_refused_before_a_model_is_loaded(
    wrong: tuple[str, ...],
    said: str,
    run: Run,
    rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(*_given: Any, **_named: Any) -> None:
        pytest.fail("a model was loaded")

    monkeypatch.setattr(cli.options, "opened", load)
    ended = run("layers", "no-model", rows, "-o", tmp_path / "run", *wrong)
    assert said in ended.line


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("--depths", "0,7"), "depth 7 is not there: model.layers has 2 blocks"),
        (("--top-k", "500"), "--top-k 500 is more than the 477 tokens"),
        (("--max-positions", "60"), "numbers for each of its outputs"),
    ],
)
def test_what_the_model_or_the_text_cannot_give_is_refused_in_a_line(
    wrong: tuple[str, ...], said: str, run: Run, llama_folder: Path, rows: Path, tmp_path: Path
) -> None:
    ended = run("layers", llama_folder, rows, "-o", tmp_path / "run", *QUICK, *wrong)
    assert said in ended.line


def test_an_empty_text_and_one_document_are_refused(
    run: Run, llama_folder: Path, tmp_path: Path, topics: list[str]
) -> None:
    empty, one = tmp_path / "empty.txt", tmp_path / "one.txt"
    empty.write_text("")
    one.write_text(topics[0].replace("\n", " "))
    assert run("layers", llama_folder, empty, "-o", tmp_path / "run", *QUICK).line
    ended = run("layers", llama_folder, one, "-o", tmp_path / "run", *QUICK)
    assert "the text has 1: give 4 or more" in ended.line
    plain = ("--lens", "normed,raw")
    assert run("layers", llama_folder, one, "-o", tmp_path / "run", *QUICK, *plain).code == 0
