"""``unembed sketch`` and ``unembed align`` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from command_line import QUICK, Run, sketch_all, write_texts


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory, topics: list[str]) -> list[Path]:
    return write_texts(tmp_path_factory.mktemp("texts"), topics, ("text0", "text1", "text2"))


@pytest.fixture(scope="module")
def signatures(
    tmp_path_factory: pytest.TempPathFactory, llama_folder: Path, texts: list[Path]
) -> list[Path]:
    return sketch_all(llama_folder, texts, tmp_path_factory.mktemp("signatures"))


def test_texts_are_sketched_and_aligned(
    run: Run, llama_folder: Path, texts: list[Path], signatures: list[Path], tmp_path: Path
) -> None:
    again = run("sketch", llama_folder, texts[0], "-o", signatures[0], *QUICK)
    assert again.code == 0
    assert "finished before" in again.err
    adapter = tmp_path / "adapter"
    exported = run(
        "sketch", llama_folder, texts[0], "-o", signatures[0], *QUICK, "--export", adapter
    )
    assert str(adapter / "fisher_signature.safetensors") in exported.out
    compact = run(
        "align", adapter / "fisher_signature.safetensors", signatures[1], "-o", tmp_path / "c"
    )
    assert compact.code == 0, compact.err
    assert "text0" in again.out
    done = run("align", *signatures, "-o", tmp_path / "run")
    assert done.code == 0, done.err
    assert "\n\njoint" in done.out
    assert "coupling" in done.out
    page = (tmp_path / "run" / "report.html").read_text()
    assert "text2" in page
    as_json = run("align", *signatures, "-o", tmp_path / "run", "--json")
    summary = json.loads(as_json.out)["summary"]
    assert [task["name"] for task in summary["tasks"]] == ["text0", "text1", "text2"]
    redrawn = run("report", tmp_path / "run", "-o", tmp_path / "page.html")
    assert redrawn.code == 0
    assert (tmp_path / "page.html").read_text() == page


def test_short_texts_are_aligned_without_files(
    run: Run, llama_folder: Path, texts: list[Path], tmp_path: Path
) -> None:
    short = tmp_path / "short.txt"
    short.write_text("\n".join(texts[0].read_text().splitlines()[:3]))
    other = tmp_path / "other.txt"
    other.write_text("\n".join(texts[1].read_text().splitlines()[:3]))
    done = run(
        "align", short, other, "--model", llama_folder, "-o", tmp_path / "run", "--quiet", "--json"
    )
    assert done.code == 0, done.err
    assert json.loads(done.out)["summary"]["method"] == "exact"


def test_an_audit_sketches_in_its_pass(
    run: Run, llama_folder: Path, texts: list[Path], signatures: list[Path], tmp_path: Path
) -> None:
    audited = tmp_path / "audited"
    done = run("audit", llama_folder, texts[0], "-o", audited, "--sketch", "--quiet")
    assert done.code == 0, done.err
    assert "signature.safetensors" in done.out
    refused = run("align", audited, signatures[0], "-o", tmp_path / "run")
    assert "m 4096" in refused.line
    assert "m 256" in refused.line


@pytest.mark.parametrize(
    ("option", "value", "shown"),
    [
        ("--seed", "7", ("seed 0", "seed 7")),
        ("--size", "512", ("m 256", "m 512")),
        ("--construction", "srht", ("complex_tensors", "srht")),
        ("--unit", "sequence", ("unit token", "unit sequence")),
        ("--labels", "model", ("fisher empirical", "fisher true")),
    ],
)
def test_signatures_that_do_not_compare(
    run: Run,
    llama_folder: Path,
    texts: list[Path],
    signatures: list[Path],
    tmp_path: Path,
    option: str,
    value: str,
    shown: tuple[str, str],
) -> None:
    other = tmp_path / "other.safetensors"
    options = [one for one in QUICK if option != "--size" or one not in ("--size", "256")]
    assert run("sketch", llama_folder, texts[1], "-o", other, *options, option, value).code == 0
    line = run("align", signatures[0], other, "-o", tmp_path / "run").line
    assert all(word in line for word in shown), line
    assert not (tmp_path / "run" / "manifest.json").exists()


def test_bad_input(
    run: Run, llama_folder: Path, texts: list[Path], signatures: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out.safetensors"
    more = run("sketch", llama_folder, texts[0], "-o", out, *QUICK, "--max-positions", "99999")
    assert "99,999 were asked for" in more.line
    assert "no such file" in run("sketch", llama_folder, tmp_path / "x.txt", "-o", out).line
    assert "is a folder" in run("sketch", llama_folder, texts[0], "-o", tmp_path).line
    line = run("sketch", llama_folder, texts[0], "-o", out, "--size", "1000").line
    assert "1000 numbers (--size" in line
    assert "power of two" in line
    odd = run("sketch", llama_folder, texts[0], "-o", out, "--construction", "fft")
    assert odd.code == 2
    assert "'fft' is not one of" in odd.err
    assert "two or more" in run("align", signatures[0], "-o", tmp_path / "run").line
    missing = run("align", signatures[0], tmp_path / "no.safetensors", "-o", tmp_path / "run")
    assert "does not exist" in missing.line
    foreign = tmp_path / "model.safetensors"
    save_file({"weight": torch.zeros(3)}, foreign)
    assert "model.safetensors" in run("align", signatures[0], foreign, "-o", tmp_path / "run").line
    whole = signatures[1].read_bytes()
    cut = tmp_path / "cut.safetensors"
    for data in (whole[:-9], whole[:40], b"", whole[:5000] + b"\x01" + whole[5001:]):
        cut.write_bytes(data)
        assert "cut.safetensors" in run("align", signatures[0], cut, "-o", tmp_path / "run").line
    masked = tmp_path / "masked.jsonl"
    masked.write_text('{"prompt": "a b c", "completion": ""}\n')
    empty = run("sketch", llama_folder, masked, "-o", out, "--completion-only")
    assert "completion" in empty.line
    words = run("sketch", llama_folder, texts[0], "-o", out, "--verbalizers", texts[0])
    assert "not JSON" in words.line
    for name in ("", "  "):
        assert (
            "which nobody would see"
            in run("sketch", llama_folder, texts[0], "-o", out, "--name", name).line
        )
    assert not out.exists()


def test_answers_of_several_tokens_are_told_of(
    run: Run, llama_folder: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a b c", "completion": "yes"}\n' * 4)
    words = tmp_path / "words.json"
    words.write_text('{"yes": " certainly indeed", "no": "?"}')
    ask = ("sketch", llama_folder, rows, "--completion-only", "--verbalizers", words)
    done = run(*ask, "-o", tmp_path / "a.safetensors", "--size", "256", "--context", "32")
    assert done.code == 0, done.err
    assert "note: 1 of 2 answer words are of several tokens (' certainly indeed')" in done.err
    assert "--restrict to count each answer once" in done.err


def test_a_whole_network_is_sketched(
    run: Run, llama_folder: Path, texts: list[Path], tmp_path: Path
) -> None:
    out, chosen = tmp_path / "text0.safetensors", ("--modules", "depth:1, head")
    made = run("sketch", llama_folder, texts[0], "-o", out, *QUICK, "--network", *chosen)
    assert made.code == 0, made.err
    assert "8 (q_proj, k_proj, v_proj" in made.out
    assert "7 not asked for" in made.out
    again = run("sketch", llama_folder, texts[0], "-o", out, *QUICK, "--network", *chosen, "--json")
    assert "finished before" in again.err
    summary = json.loads(again.out)
    assert summary["parts"][:4] == [
        "full",
        "blocks",
        "depth:1",
        "module:model.layers.1.self_attn.q_proj",
    ]
    head = run("sketch", llama_folder, texts[0], "-o", tmp_path / "head.safetensors", *QUICK)
    assert head.code == 0
    aligned = run(
        "align", out, tmp_path / "head.safetensors", "--part", "head", "-o", tmp_path / "a"
    )
    assert aligned.code == 0, aligned.err
    for options, said in (
        (("--modules", "head"), "--modules head is of --network: give that too"),
        (("--part", "full"), "--part full is of --export"),
        (("--part", "full", "--export", "e"), "--part full is of --network"),
        (
            ("--network", "--export", "e", "--part", "depth:9"),
            "the signature has no part 'depth:9': give one of its ",
        ),
        (("--network", "--modules", " , "), "--modules ' , ' names none: give a pattern"),
        (("--network", "--modules", "kind:x"), "'kind:x' matches no module: its kinds are q_proj"),
        (("--network", "--dtype", "bfloat16"), "is in bfloat16 (a gradient in it can be noise)"),
    ):
        refused = run("sketch", llama_folder, texts[0], "-o", tmp_path / "no", *QUICK, *options)
        assert refused.code == 2
        assert said in refused.line
