"""``unembed mix`` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command_line import Run, sketch_all, write_texts
from unembed.report.verdicts.verdict import verdict_of
from unembed.selection.mixing.record import Mixture
from unembed.signatures.file import export, load


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory, topics: list[str]) -> list[Path]:
    """Two sources, and a target that has other paragraphs of both topics."""
    return write_texts(tmp_path_factory.mktemp("texts"), topics, ("target", "one", "two"))


@pytest.fixture(scope="module")
def signatures(
    tmp_path_factory: pytest.TempPathFactory, llama_folder: Path, texts: list[Path]
) -> list[Path]:
    return sketch_all(llama_folder, texts, tmp_path_factory.mktemp("signatures"))


def test_sources_are_mixed(run: Run, signatures: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = run("mix", *signatures, "-o", out, "--by", "activation")
    assert done.code == 0, done.err
    said, table = done.out.split("\n\n", 1)
    assert said == str(verdict_of(Mixture.load(out))).replace("\u00a0", " ")
    lines = table.splitlines()
    assert lines[0].startswith("target by activation: ")
    assert lines[0].endswith("of 2 sources used")
    assert any(line.startswith("residual (expressed by none)") for line in lines)
    assert any(line.startswith("interleave_datasets([") for line in lines)
    assert str(out) in done.out
    as_json = run("mix", *signatures, "-o", out, "--by", "activation", "--json")
    found = json.loads(as_json.out)
    assert found["run"] == str(out)
    summary = found["summary"]
    assert summary["target"] == "target"
    assert [share["name"] for share in summary["shares"]] == ["one", "two"]
    assert sum(share["weight"]["value"] for share in summary["shares"]) == pytest.approx(1)
    assert sum(share["probability"] for share in summary["shares"]) == pytest.approx(1)
    assert summary["interleave"] in done.out
    kept = Mixture.load(out).to_json()
    assert {**json.loads(json.dumps(kept)), "interleave": summary["interleave"]} == summary
    assert "another run" in run("mix", *signatures, "-o", out).line
    plain = run("mix", *signatures, "-o", tmp_path / "plain", "--no-debias", "--by", "joint")
    assert "\n\ntarget by joint: " in plain.out
    few = run("mix", *signatures, "-o", tmp_path / "few", "--by", "joint")
    assert few.code == 0, few.err
    assert "too few samples: the joint mean is lost in noise" in few.out


def test_texts_are_sketched_and_kept(
    run: Run, llama_folder: Path, texts: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    given = (*texts, "--model", llama_folder, "-o", out, "--by", "gradient", "--context", "32")
    done = run("mix", *given, "--max-positions", "120", "--quiet", "--json")
    assert done.code == 0, done.err
    summary = json.loads(done.out)["summary"]
    assert summary["by"] == "gradient"
    assert summary["samples"] == 120
    kept = sorted((out / "signatures").iterdir())
    assert len(kept) == 3
    again = run("mix", *given, "--max-positions", "120", "--quiet", "--json")
    assert again.out == done.out


def test_bad_input(
    run: Run, llama_folder: Path, texts: list[Path], signatures: list[Path], tmp_path: Path
) -> None:
    target, one, two = signatures
    out = tmp_path / "run"
    assert "1 source is nothing to mix" in run("mix", target, one, "-o", out).line
    assert f"the target {target} is among" in run("mix", target, one, target, "-o", out).line
    assert f"{one} is given twice" in run("mix", target, one, one, "-o", out).line
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(target.read_bytes())
    assert "is the source" in run("mix", target, one, copy, "-o", out).line
    no = run("mix", target, one, tmp_path / "no.safetensors", "-o", out)
    assert "does not exist" in no.line
    gradient = run("mix", *signatures, "-o", out, "--by", "gradient")
    assert gradient.line.endswith("keeps no mean gradient: sketch it again with --first-moment")
    compact = export(load(one), tmp_path / "compact.safetensors")
    lacking = run("mix", target, compact, two, "-o", out, "--by", "error")
    assert "one keeps no error features" in lacking.line
    by_joint = run("mix", target, compact, two, "-o", tmp_path / "compact", "--no-debias")
    assert by_joint.code == 0, by_joint.err
    assert "warning: Intervals hold the sketch's error alone" in by_joint.out
    other = tmp_path / "other.safetensors"
    seeded = ("--size", "256", "--context", "32", "--quiet", "--seed", "7")
    assert run("sketch", llama_folder, texts[1], "-o", other, *seeded).code == 0
    mixed = run("mix", target, other, two, "-o", out)
    assert "seed 0" in mixed.line
    assert "seed 7" in mixed.line
    finished = run("mix", *signatures, "-o", out, "--max-positions", "9")
    assert finished.line.startswith("--max-positions needs --model")
    assert "is a file" in run("mix", *signatures, "-o", target).line
    none = run("mix", target, "-o", out)
    assert none.code == 2
    assert "SOURCES" in none.err
    assert not (out / "manifest.json").exists()
