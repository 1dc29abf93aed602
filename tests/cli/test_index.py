"""``unembed index`` on the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from command_line import QUICK, Run, sketch_all, write_texts
from unembed.selection.index.index import Index
from unembed.signatures.file import load

TASKS = 4


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory, topics: list[str]) -> list[Path]:
    return write_texts(tmp_path_factory.mktemp("texts"), topics, [f"text{i}" for i in range(TASKS)])


@pytest.fixture(scope="module")
def signatures(
    tmp_path_factory: pytest.TempPathFactory, llama_folder: Path, texts: list[Path]
) -> list[Path]:
    return sketch_all(llama_folder, texts, tmp_path_factory.mktemp("signatures"))


@pytest.fixture
def index(run: Run, signatures: list[Path], tmp_path: Path) -> Path:
    made = tmp_path / "domains"
    assert (
        run("index", "add", made, *signatures[:2], "--tag", "first", "--licence", "CC0").code == 0
    )
    assert run("index", "add", made, *signatures[2:], "--tag", "second", "--note", "n").code == 0
    return made


def test_signatures_are_added_listed_and_removed(
    run: Run, index: Path, signatures: list[Path]
) -> None:
    listed = run("index", "list", index)
    assert listed.code == 0
    lines = listed.out.splitlines()
    assert lines[0].split() == ["name", "samples", "tags", "added"]
    assert [line.split()[0] for line in lines[1:]] == ["text0", "text1", "text2", "text3"]
    assert lines[1].split()[2] == "first"
    plain = json.loads(run("index", "list", index, "--tag", "second", "--json", "--verify").out)
    assert [entry["name"] for entry in plain["entries"]] == ["text2", "text3"]
    assert plain["entries"][0]["note"] == "n"
    assert plain["dtype"] == "float32"
    twice = run("index", "add", index, signatures[0])
    assert "an entry named 'text0' already: give --replace" in twice.line
    again = run("index", "add", index, signatures[0], "--replace", "--json")
    assert json.loads(again.out)["added"][0]["samples"] == load(signatures[0]).state.samples
    other = run("index", "add", index, signatures[0], "--name", "a copy")
    assert "has 5 entries: a copy added" in other.out
    removed = run("index", "remove", index, "text1", "a copy")
    assert "has 3 entries" in removed.out
    assert json.loads(run("index", "remove", index, "text2", "--json").out)["entries"] == 2
    assert "no entry named 'text2'" in run("index", "remove", index, "text2").line
    assert {entry.name for entry in Index.open(index).entries} == {"text0", "text3"}


def test_a_query_prints_the_nearest_with_intervals(
    run: Run,
    index: Path,
    llama_folder: Path,
    texts: list[Path],
    signatures: list[Path],
    tmp_path: Path,
) -> None:
    asked = run("index", "query", index, signatures[1], "--top", "3")
    assert asked.code == 0
    lines = asked.out.splitlines()
    assert lines[0].split() == ["name", "joint", "debiased", "cosine", "tags"]
    assert lines[1].split() == ["text1", "+1.000", "the", "same", "signature", "first"]
    assert "[" in lines[2]
    assert len(lines) == 5
    plain = json.loads(run("index", "query", index, signatures[1], "--json").out)
    assert plain["searched"] == len(plain["matches"]) == 4
    assert plain["matches"][0]["cosine"]["value"] == 1
    assert [m["shares_inputs"] for m in plain["matches"]] == [True, False, False, False]
    aligned = run("align", *signatures, "-o", tmp_path / "run", "--json")
    want = json.loads(aligned.out)["summary"]["joint"]["value"][1]
    for match in plain["matches"]:
        assert match["cosine"]["value"] == pytest.approx(want[int(match["name"][-1])], abs=1e-5)
    compact = tmp_path / "compact"
    assert (
        run("sketch", llama_folder, texts[1], "-o", signatures[1], *QUICK, "--export", compact).code
        == 0
    )
    exported = compact / "fisher_signature.safetensors"
    assert (
        run("index", "query", index, exported, "--top", "1").out.splitlines()[1].startswith("text1")
    )


def test_prompts_and_texts_are_routed(
    run: Run, index: Path, llama_folder: Path, texts: list[Path], topics: list[str]
) -> None:
    with_model = ("--model", llama_folder, "--quiet", "--context", "32")
    prompt = topics[0][:12]
    few = run("index", "route", index, *with_model, "--text", prompt)
    assert few.code == 0, few.err
    lines = few.out.splitlines()
    assert lines[0].split() == ["name", "joint", "tags"]
    assert len(lines) == 5
    assert "cosines are not known" in lines[-1]
    whole = run("index", "route", index, texts[2], *with_model, "--json", "--top", "4")
    [answer] = json.loads(whole.out)["answers"]
    assert answer["matches"][0]["name"] == "text2"
    assert answer["matches"][0]["shares_inputs"]
    rows = texts[3].read_text().splitlines()
    several = [x for row in rows[:6] for x in ("--text", row)]
    together = run("index", "route", index, *with_model, *several, "--json")
    [answer] = json.loads(together.out)["answers"]
    assert answer["documents"] == 6
    assert answer["query"].endswith("and 5 more")
    apart = run("index", "route", index, *with_model, *several, texts[1], "--each", "--json")
    answers = json.loads(apart.out)["answers"]
    assert [one["query"] for one in answers] == [
        *(row if len(row) <= 60 else f"{row[:59]}…" for row in rows[:6]),
        str(texts[1]),
    ]
    assert [one["documents"] for one in answers][:6] == [1] * 6
    both = run("index", "route", index, texts[0], *with_model, "--text", prompt, "--json")
    merged = json.loads(both.out)["answers"][0]
    assert merged["documents"] == len(texts[0].read_text().splitlines()) + 1
    assert "nothing to route" in run("index", "route", index, *with_model).line


def test_a_route_takes_the_model_and_the_kind_of_the_index(
    run: Run, index: Path, llama_folder: Path, topics: list[str], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(llama_folder)
    with torch.no_grad():
        model.model.norm.weight *= 1.1
    other = tmp_path / "other"
    model.save_pretrained(other)
    AutoTokenizer.from_pretrained(llama_folder).save_pretrained(other)
    line = run("index", "route", index, "--model", other, "--text", "if it is", "--quiet").line
    assert "model digest" in line
    assert "route with the model that its signatures are of" in line
    text, signed = tmp_path / "text.txt", tmp_path / "signed.safetensors"
    text.write_text("\n".join(topics))
    options = (*QUICK, "--first-moment", "--seed", "5")
    assert run("sketch", llama_folder, text, "-o", signed, *options).code == 0
    gradients = tmp_path / "gradients"
    made = run("index", "add", gradients, signed, "--by", "gradient", "--dtype", "int8")
    assert made.code == 0, made.err
    routed = run("index", "route", gradients, text, "--model", llama_folder, "--quiet", "--json")
    [answer] = json.loads(routed.out)["answers"]
    assert answer["by"] == "gradient"
    assert answer["matches"][0]["name"] == "signed"


def test_a_map_is_drawn(run: Run, index: Path, tmp_path: Path) -> None:
    page = tmp_path / "map.html"
    done = run("index", "map", index, "-o", page)
    assert done.code == 0, done.err
    assert re.match(r"Two axes show \d+ % of what tells 4 signatures apart\.\n", done.out)
    assert "of the squared distances" in done.out
    assert "text3" in page.read_text()
    values = json.loads(run("index", "map", index, "-o", page, "--json").out)
    assert values["verdict"]["next"] == "unembed index query INDEX SIGNATURE"
    plain = values["map"]
    assert plain["names"] == ["text0", "text1", "text2", "text3"]
    assert len(plain["points"]) == 4
    assert "is a folder" in run("index", "map", index, "-o", tmp_path).line


@pytest.mark.parametrize(
    ("first", "second", "fault"),
    [
        ((), (), None),
        (("--dtype", "int8"), (), None),
        (("--dtype", "int8"), ("--dtype", "float16"), "has dtype int8 and --dtype is float16"),
        (("--by", "error"), ("--by", "joint"), "has by error and --by is joint"),
    ],
)
def test_two_first_additions_at_once(
    run: Run,
    signatures: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    first: tuple[str, ...],
    second: tuple[str, ...],
    fault: str | None,
) -> None:
    """Another process makes the index after this one found none."""
    made, real = tmp_path / "made", Index.create

    def create(*given: Any, **more: Any) -> Index:
        monkeypatch.setattr(Index, "create", real)
        assert run("index", "add", made, signatures[0], *first).code == 0
        return real(*given, **more)

    monkeypatch.setattr(Index, "create", create)
    done = run("index", "add", made, signatures[1], *second)
    if fault is None:
        assert done.code == 0, done.err
        assert [entry.name for entry in Index.open(made).entries] == ["text0", "text1"]
    else:
        assert fault in done.line


def test_a_cut_journal_is_told(run: Run, index: Path, signatures: list[Path]) -> None:
    journal = index / "journal-000001.jsonl"
    journal.write_bytes(journal.read_bytes()[:-1])
    listed = run("index", "list", index)
    assert listed.code == 0
    assert len(listed.out.splitlines()) == 3
    assert "ends with 'text2' and 1 more without its end" in listed.err
    added = run("index", "add", index, signatures[3])
    assert added.code == 0
    assert "ends with 'text2' and 1 more without its end" in added.err
    assert run("index", "list", index).err == ""


def test_bad_input(
    run: Run,
    index: Path,
    llama_folder: Path,
    texts: list[Path],
    signatures: list[Path],
    tmp_path: Path,
) -> None:
    other = tmp_path / "other.safetensors"
    options = ("--size", "256", "--context", "32", "--quiet", "--seed", "7")
    assert run("sketch", llama_folder, texts[1], "-o", other, *options).code == 0
    for verb in ("add", "query"):
        line = run("index", verb, index, other).line
        assert "seed 0" in line
        assert "seed 7" in line
    assert "holds no index" in run("index", "list", tmp_path / "nothing").line
    assert "holds no index" in run("index", "query", tmp_path, signatures[0]).line
    assert "does not exist" in run("index", "add", index, tmp_path / "x.safetensors").line
    assert "does not exist" in run("index", "query", index, tmp_path / "x.safetensors").line
    assert "--by is error" in run("index", "add", index, signatures[0], "--by", "error").line
    assert "--dtype is int8" in run("index", "add", index, signatures[0], "--dtype", "int8").line
    named = run("index", "add", index, *signatures[:2], "--name", "x")
    assert "is for one signature, and 2" in named.line
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "mine.txt").write_text("x")
    assert "no index (mine.txt)" in run("index", "add", strange, signatures[0]).line
    lacking = run("index", "add", tmp_path / "g", signatures[0], "--by", "gradient")
    assert "--first-moment" in lacking.line
    assert not (tmp_path / "g" / "index.json").exists()
    assert run("index", "add", "--help").out.count("unembed index add") == 2


def test_tags_and_names_that_nobody_would_see_are_refused(
    run: Run, signatures: list[Path], tmp_path: Path
) -> None:
    ask = ("index", "add", tmp_path / "index", signatures[0])
    for option, word in (("--tag", "a tag is"), ("--name", "a task is named")):
        for given in ("", " "):
            said = run(*ask, option, given)
            assert f"{word} {given!r}, which nobody would see" in said.line
    assert "a tag is '', which nobody would see" in run("index", "list", ask[2], "--tag", "").line
    assert not (tmp_path / "index").exists()
