"""``unembed rank`` on the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from command_line import QUICK, Run, sketch_all, write_texts
from made_up.adapters import save_adapter
from unembed.cli.choose.rank import POSITIONS
from unembed.models.adapters import adapted
from unembed.models.checkpoint import load as load_checkpoint
from unembed.models.model_pass import ModelPass, ReadingOptions
from unembed.report.verdicts.verdict import verdict_of
from unembed.runs.manifest import read_run
from unembed.selection.ranking.records import Ranked, Ranking
from unembed.selection.ranking.text import ranking_text
from unembed.selection.scores import SCORES
from unembed.signatures.alignment.align import align
from unembed.signatures.alignment.texts import samples_of
from unembed.signatures.file import load
from unembed.text.corpus import Corpus

SHORT = ("--context", "32", "--quiet")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory, topics: list[str]) -> list[Path]:
    return write_texts(tmp_path_factory.mktemp("texts"), topics, ("text0", "text1", "text2"))


@pytest.fixture(scope="module")
def signatures(
    tmp_path_factory: pytest.TempPathFactory, llama_folder: Path, texts: list[Path]
) -> list[Path]:
    return sketch_all(llama_folder, texts, tmp_path_factory.mktemp("signatures"), "--first-moment")


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory, llama: Any) -> list[Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return [
        save_adapter(llama, folder / name, seed=i, size=0.1 * (i + 1))
        for i, name in enumerate(("one", "two"))
    ]


def summary(out: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(out)["summary"]
    return found


def test_the_help_names_every_score(run: Run) -> None:
    words = run("rank", "--help").out.replace("\n", " ").split()
    assert all(any(word.strip("(),.;") == name for word in words) for name in SCORES)


def test_signatures_are_ranked(run: Run, signatures: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = run("rank", *signatures, "-o", out)
    assert done.code == 0, done.err
    said, table = done.out.split("\n\n", 1)
    assert said == str(verdict_of(Ranking.load(out))).replace("\u00a0", " ")
    header, first, *_ = table.splitlines()
    assert header.split() == ["source", "joint", "best", "for", "text0"]
    assert first.startswith(("text1", "text2"))
    # Of so few samples the interval fills the axis.
    assert "not determined" in first
    assert "%" in first
    assert str(out / "report.html") in done.out
    kept = Ranking.load(out)
    joint = align([load(path) for path in signatures]).joint
    assert {source.name: source.value for source in kept.sources} == pytest.approx(
        {"text1": joint.value[0, 1], "text2": joint.value[0, 2]}
    )
    assert dict(read_run(out).facts)["Sketch"].startswith("complex_tensorsketch, m = 256")
    again = run("rank", *signatures, "-o", out, "--json")
    assert Ranking.from_json(summary(again.out)) == kept
    page = (out / "report.html").read_text()
    assert "text2" in page
    assert run("report", out, "-o", tmp_path / "page.html").code == 0
    assert "holds another run" in run("rank", *signatures, "-o", out, "--no-debias").line
    signed = run("rank", *signatures, "-o", tmp_path / "signed", "--by", "gradient", "--json")
    assert summary(signed.out)["by"] == "gradient"


def test_texts_are_sketched_like_the_signatures_beside_them(
    run: Run, llama_folder: Path, texts: list[Path], signatures: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    given = ("rank", texts[0], signatures[1], texts[2], "--model", llama_folder, "-o", out, *SHORT)
    found = summary(run(*given, "--json").out)
    assert (found["target"], found["method"]) == ("text0", "complex_tensorsketch")
    joint = align([load(path) for path in signatures]).joint
    values = {source["name"]: source["value"] for source in found["sources"]}
    assert values == pytest.approx({"text1": joint.value[0, 1], "text2": joint.value[0, 2]})
    assert len(list((out / "signatures").iterdir())) == 2
    assert run(*given).code == 0
    few = run(*given[:-3], "--context", "32", "--max-positions", "90000", "-o", tmp_path / "few")
    assert "90,000 were asked for" in few.line


def test_adapters_are_ranked(
    run: Run,
    llama_folder: Path,
    texts: list[Path],
    signatures: list[Path],
    adapters: list[Path],
    tmp_path: Path,
) -> None:
    """By the text they were trained on where its signature lies beside them, else on a probe."""
    ask = ("rank", texts[0], *adapters, "--model", llama_folder, *SHORT, "--no-debias", "--json")
    found = summary(run(*ask, "-o", tmp_path / "run").out)
    assert {source["name"] for source in found["sources"]} == {"one", "two"}
    by_name = {source["name"]: source["value"] for source in found["sources"]}
    assert 1 > by_name["one"] > by_name["two"]
    # The smaller change leaves the gradients more as they were.
    first = dict(read_run(tmp_path / "run").facts)
    assert first["Model"] == str(llama_folder)
    probed = run(
        "rank",
        signatures[0],
        *adapters,
        "--model",
        llama_folder,
        "--probe",
        texts[1],
        *SHORT,
        "--json",
        "-o",
        tmp_path / "probed",
    )
    assert summary(probed.out)["sources"][0]["value"] not in by_name.values()
    beside = tmp_path / "beside"
    beside.mkdir()
    for file in adapters[0].iterdir():
        (beside / file.name).write_bytes(file.read_bytes())
    written = run(
        "sketch",
        llama_folder,
        texts[1],
        "-o",
        signatures[1],
        "--first-moment",
        *QUICK,
        "--export",
        beside,
    )
    assert written.code == 0, written.err
    compact = run("rank", signatures[0], beside, signatures[2], "-o", tmp_path / "c", "--json")
    joint = align([load(path) for path in signatures]).joint.value
    values = {source["name"]: source["value"] for source in summary(compact.out)["sources"]}
    assert values == pytest.approx({"beside": joint[0, 1], "text2": joint[0, 2]}, rel=1e-6)
    shown = run("rank", signatures[0], beside, signatures[2], "-o", tmp_path / "c")
    assert "no blocks of documents are kept" in shown.out


def test_adapters_that_cannot_be_ranked(
    run: Run, llama_folder: Path, signatures: list[Path], adapters: list[Path], tmp_path: Path
) -> None:
    out = ("-o", tmp_path / "run")
    assert "give --model" in run("rank", signatures[0], adapters[0], *out).line
    lone = run("rank", signatures[0], adapters[0], "--model", llama_folder, *out)
    assert "give --probe" in lone.line


@pytest.mark.parametrize("by", ["cka", "unigram", "fa_cka_centred"])
def test_texts_are_ranked_by_baselines(
    run: Run, llama_folder: Path, texts: list[Path], tmp_path: Path, by: str
) -> None:
    ask = ("rank", *texts, "--model", llama_folder, "--by", by, "--max-positions", "120", *SHORT)
    done = run(*ask, "--blocks", "4", "-o", tmp_path / "run")
    assert done.code == 0, done.err
    assert done.out.split("\n\n")[1].split()[:5] == ["source", by, "best", "for", "text0"]
    found = Ranking.load(tmp_path / "run")
    assert found.samples == 120
    lines = len(texts[0].read_text().splitlines())
    assert found.documents == min(64, lines) > 120 // 32  # from all over, not the first windows
    assert found.method == "samples"
    assert all(source.low is not None for source in found.sources)
    assert sum(source.best or 0 for source in found.sources) == pytest.approx(1)
    assert [label for label, _ in read_run(tmp_path / "run").facts] == [
        "Model",
        "text0",
        "text1",
        "text2",
    ]


def test_models_are_ranked_on_the_target(
    run: Run, llama_folder: Path, texts: list[Path], adapters: list[Path], tmp_path: Path
) -> None:
    ask = ("rank", texts[0], *adapters, "--model", llama_folder, "--by", "loss", *SHORT)
    done = run(*ask, "-o", tmp_path / "run", "--json")
    assert done.code == 0, done.err
    sources = summary(done.out)["sources"]
    assert {source["name"] for source in sources} == {"one", "two"}
    assert sources[0]["value"] > sources[1]["value"]
    assert sources[0]["low"] < sources[0]["value"] < sources[0]["high"]
    shared = summary(done.out)
    assert {source["samples"] for source in sources} == {shared["samples"]}


@pytest.mark.parametrize("by", ["loss", "leep"])
def test_models_whose_heads_differ_are_ranked_by_their_own(
    run: Run, llama: Any, llama_folder: Path, texts: list[Path], tmp_path: Path, by: str
) -> None:
    names = ("small", "large")
    adapters = [
        save_adapter(llama, tmp_path / name, size=size, target_modules=["q_proj", "lm_head"])
        for name, size in zip(names, (0.01, 0.6), strict=True)
    ]
    ask = ("rank", texts[0], *adapters, "--model", llama_folder, *SHORT)
    done = run(*ask, "--by", by, "-o", tmp_path / "run", "--json")
    assert done.code == 0, done.err
    values = {source["name"]: source["value"] for source in summary(done.out)["sources"]}
    assert len(set(values.values())) == 2
    if by == "loss":
        own = [_own_loss(llama_folder, folder, texts[0]) for folder in adapters]
        assert [values[name] for name in names] == pytest.approx(own, rel=1e-4)
        assert "two heads do not compare" in run(*ask, "-o", tmp_path / "joint").line


def _own_loss(model: Path, adapter: Path, text: Path) -> float:
    """Minus the loss by the adapted model's own logits, of its tokens alone."""
    checkpoint = load_checkpoint(model)
    corpus = Corpus.read(text, checkpoint.tokenizer)
    merged = adapted(checkpoint, adapter, any_head=True)
    reading = ModelPass.of(
        merged.model, corpus, ReadingOptions(context=32, max_positions=POSITIONS, spread=True), "m"
    )
    task = samples_of(reading, "t")
    logits = task.hidden.double() @ merged.model.lm_head.weight.double().T
    if reading.head.valid is not None:
        logits[:, ~reading.head.valid] = -torch.inf
    return -float(torch.nn.functional.cross_entropy(logits, task.targets.long()))


@pytest.mark.parametrize("by", ["cka", "joint"])
def test_positions_are_a_cap_where_texts_differ_in_size(
    run: Run, llama_folder: Path, texts: list[Path], tmp_path: Path, by: str
) -> None:
    short = tmp_path / "short.txt"
    short.write_text("\n".join(texts[1].read_text().splitlines()[:6]))
    ask = ("rank", texts[0], short, texts[2], "--model", llama_folder, "--by", by)
    done = run(*ask, "--context", "32", "--max-positions", "300", "-o", tmp_path / "run")
    assert done.code == 0, done.err
    samples = {one.name: one.samples for one in Ranking.load(tmp_path / "run").sources}
    assert samples["text2"] == 300
    assert 10 < samples["short"] < 300
    assert f"{short}: all {samples['short']} positions are read, of 300 at most" in done.err


def test_bad_input(
    run: Run, llama_folder: Path, texts: list[Path], signatures: list[Path], tmp_path: Path
) -> None:
    out = ("-o", tmp_path / "run")
    model = ("--model", llama_folder, *SHORT)
    target, one, _ = signatures
    assert "text1.safetensors is given twice" in run("rank", target, one, one, *out).line
    assert "is given twice" in run("rank", target, one, target, *out).line
    same = tmp_path / "link.safetensors"
    same.symlink_to(target)
    assert "is given twice" in run("rank", target, one, same, *out).line
    assert "does not exist" in run("rank", target, tmp_path / "no.safetensors", *out).line
    assert "no such file" in run("rank", target, tmp_path / "no.txt", *model, *out).line
    assert "needs --model" in run("rank", target, one, "--max-positions", "9", *out).line
    assert "needs --model" in run("rank", target, one, "--probe", texts[0], *out).line
    assert "is for baselines" in run("rank", target, one, "--blocks", "9", *out).line
    cka = ("--by", "cka")
    assert "give --model and texts" in run("rank", *texts, *cka, *out).line
    assert "text1.safetensors is a signature" in run("rank", texts[0], one, *cka, *model, *out).line
    assert "sources must be adapters" in run("rank", *texts, "--by", "leep", *model, *out).line
    assert (
        "is for scores of signatures" in run("rank", *texts, *cka, "--no-debias", *model, *out).line
    )
    few = run("rank", *texts, *cka, "--max-positions", "90000", *model, *out)
    assert "90,000 were asked for" in few.line
    plain = tmp_path / "plain.safetensors"
    assert run("sketch", llama_folder, texts[2], "-o", plain, *QUICK).code == 0
    assert "--first-moment" in run("rank", target, plain, "--by", "gradient", *out).line
    other = tmp_path / "other.safetensors"
    assert run("sketch", llama_folder, texts[2], "-o", other, *QUICK, "--seed", "7").code == 0
    mixed = run("rank", target, other, *out).line
    assert "seed 0" in mixed
    assert "seed 7" in mixed
    odd = run("rank", target, one, "--by", "coupling", *out)
    assert odd.code == 2
    assert "'coupling' is not one of" in odd.err
    assert run("rank", target, *out).code == 2
    assert not (tmp_path / "run" / "manifest.json").exists()
    lone = run("rank", target, one, *out)
    assert lone.code == 0
    assert "100 %" in lone.out


def test_what_is_missing_is_said() -> None:
    ranked = Ranked("a" * 40, 0.5, 0.4, 0.6, 0.999, 10, 2)
    found = Ranking(
        "t",
        "joint",
        (
            ranked,
            replace(ranked, name="b", value=0.45, best=0.001),
            replace(
                ranked,
                name="c",
                value=None,
                low=None,
                high=None,
                best=None,
                status="too few samples: n = 3",
            ),
        ),
        "dense",
        9,
        1,
        "few samples: n = 9",
        True,
    )
    lines = ranking_text(found).splitlines()
    assert lines[1].split() == ["…" + "a" * 28, "0.50", "[0.40,", "0.60]", ">", "99", "%"]
    assert lines[2].endswith("< 1\u00a0%")
    assert lines[3].split()[1:] == ["cannot", "be", "estimated", "–"]
    assert lines[4:] == ["t: few samples: n = 9", "c: too few samples: n = 3"]
    assert verdict_of(found).sentence == (
        "Of the 2 sources that can be compared, " + "a" * 40 + " is the best source for t "
        "(chance > 99\u00a0%)."
    )
    lost = replace(ranked, value=1.2, low=0.4, high=1.9)
    wide = ranking_text(replace(found, sources=(lost, ranked)))
    assert "not determined, at least 0.4  > 99\u00a0%" in wide
    many = ranking_text(replace(found, sources=(ranked,) * 40))
    assert "… 10 more: see the report" in many
    step = ranking_text(
        replace(
            found, by="step", sources=(replace(ranked, value=1.234567e-5, low=1e-5, high=1.4e-5),)
        )
    )
    assert "1.2·10⁻⁵ [1.0, 1.4]·10⁻⁵ " in step
