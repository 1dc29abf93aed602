"""``unembed rotate``: a folder that loads, what it says of it, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from command_line import Run, invoke
from made_up.models import small_model
from unembed.models.checkpoint import load

QUICK = ("--steps", "3", "--quiet")


def test_the_folder_loads_and_says_the_same(llama_folder: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "rotated"
    said = run("rotate", llama_folder, "-o", out, *QUICK).out
    assert f"{llama_folder} rotated is the same function in other weights" in said
    assert "largest weight of a row" in said
    ids = torch.arange(30)[None]
    before, after = (load(folder, device="cpu").model for folder in (llama_folder, out))
    with torch.no_grad():
        want, got = before(ids).logits, after(ids).logits
    assert float((got - want).abs().max()) < 1e-3 * float(want.std())
    assert not torch.equal(next(before.parameters()), next(after.parameters()))


def test_a_text_says_what_rounding_flips(
    llama_folder: Path, tmp_path: Path, topics: list[str], run: Run
) -> None:
    pytest.importorskip("torchao", reason="the extra quant is not installed")
    text = tmp_path / "text.jsonl"
    text.write_text("\n".join(json.dumps({"text": topic[:200]}) for topic in topics))
    out = tmp_path / "rotated"
    more = ("--text", text, "--max-positions", "100", "--for", "int4", "--json")
    said = json.loads(run("rotate", llama_folder, "-o", out, *more, *QUICK).out)
    assert said["scheme"] == "int4"
    assert said["flips"]["verdict"].startswith("int4 flips ")
    assert said["flips"]["before"]["n"] == 100
    assert 0 <= said["flips"]["changed"]["value"] <= 0.02
    assert said["after"] < said["before"]
    assert (out / "model.safetensors").is_file()
    assert "checkpoint" not in said


def test_what_cannot_be_rotated_is_one_line(
    checkpoint: Callable[..., Path],
    small_tokenizer: Any,
    llama_folder: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    mixture = checkpoint(small_model("mixtral"), small_tokenizer)
    for argv, words in (
        ((llama_folder, "-o", tmp_path / "used"), "is in use (it holds mine.txt)"),
        ((llama_folder, "-o", tmp_path / "file"), "is a file: give a folder"),
        ((llama_folder, "-o", tmp_path / "new", "--steps", "-2"), "--steps -2 learns nothing"),
        ((llama_folder, "-o", tmp_path / "new", "--text", "no.txt"), "no.txt"),
        ((llama_folder, "-o", tmp_path / "new", "--for", "int3"), "'int3' is not one of"),
        ((mixture, "-o", tmp_path / "new"), "no rotation is known for this model"),
    ):
        capfd.readouterr()
        assert invoke("rotate", *argv, "--quiet") == 2
        said = capfd.readouterr().err.strip()
        assert words in said
        assert len(said.splitlines()) == 1
    assert (tmp_path / "used" / "mine.txt").read_text() == "mine"
    assert not (tmp_path / "new").exists()
