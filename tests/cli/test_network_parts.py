"""``--part`` of the verbs that compare signatures, on signatures of whole networks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command_line import QUICK, Run, write_texts
from made_up.network_signatures import network_signed, network_task
from unembed.report.pages import load_run
from unembed.selection.ranking.records import Ranking
from unembed.signatures.alignment.align import align
from unembed.signatures.alignment.records import Alignments
from unembed.signatures.file import load, save
from unembed.signatures.network.file import load_network, save_network
from unembed.signatures.network.records import NetworkAlignments


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three networks' signatures, and the head of the last."""
    folder = tmp_path_factory.mktemp("networks")
    for seed, name in enumerate(("target", "one", "two")):
        made = network_signed(name, network_task(80, seed, tilt=0.4), m=256)
        save_network(made, folder / f"{name}.safetensors")
    save(load_network(folder / "two.safetensors").part("head"), folder / "head.safetensors")
    return [folder / f"{name}.safetensors" for name in ("target", "one", "two", "head")]


def test_align_compares_a_part(run: Run, files: list[Path], tmp_path: Path) -> None:
    networks = [load_network(file) for file in files[:2]]
    for part in ("depth:1", "kind:q_proj", "head"):
        out = tmp_path / part.replace(":", "-")
        done = run("align", *files[:2], "--part", part, "-o", out)
        assert done.code == 0, done.err
        want = align([one.part(part) for one in networks])
        assert Alignments.load(out).joint.value.tolist() == want.joint.value.tolist()
    assert "depth 1" in (tmp_path / "depth-1" / "report.html").read_text()
    other = run("align", *files[:2], "-o", tmp_path / "head", "--part", "full")
    assert "another run" in other.line
    mixed = run("align", files[0], files[3], "-o", tmp_path / "x")
    assert "of an output head alone: give --part head" in mixed.line
    assert run("align", files[0], files[3], "--part", "head", "-o", tmp_path / "y").code == 0
    assert "has no part 'depth:7': give one of its 11, depth:" in (
        run("align", *files[:2], "--part", "depth:7", "-o", tmp_path / "z").line
    )
    assert not (tmp_path / "z").exists()


def test_rank_and_mix_take_a_part(run: Run, files: list[Path], tmp_path: Path) -> None:
    ranked = run("rank", *files[:3], "--part", "full", "-o", tmp_path / "rank", "--json")
    assert ranked.code == 0, ranked.err
    assert len(json.loads(ranked.out)["summary"]["sources"]) == 2
    assert Ranking.load(tmp_path / "rank").part == "full"
    page = (tmp_path / "rank" / "report.html").read_text()
    assert "Do source and target push the whole network along the same directions?" in page
    plain = run("rank", *files[:3], "-o", tmp_path / "plain", "--by", "gradient", "--no-debias")
    assert plain.code == 0, plain.err
    mixed = run("mix", *files[:3], "--part", "depth:0", "-o", tmp_path / "mix", "--json")
    assert mixed.code == 0, mixed.err
    assert json.loads(mixed.out)["summary"]["part"] == "depth:0"
    page = (tmp_path / "mix" / "report.html").read_text()
    assert "in part depth:0 of the network" in page
    assert "The directions along which a text pushes depth 0" in page
    sides = run("rank", *files[:3], "--by", "activation", "-o", tmp_path / "sides")
    assert "activation" in sides.line
    assert "\n" not in sides.line.strip()
    words = run("rank", *files[:3], "--part", "full", "--by", "loss", "-o", tmp_path / "loss")
    assert "--part full is for scores of signatures" in words.line


def test_an_index_is_of_one_part(run: Run, files: list[Path], tmp_path: Path) -> None:
    index = tmp_path / "index"
    assert run("index", "add", index, files[1], "--part", "full").code == 0
    assert run("index", "add", index, files[2]).code == 0
    assert "is of part 'full' and --part is head: leave it out" in (
        run("index", "add", index, files[0], "--part", "head").line
    )
    found = run("index", "query", index, files[1], "--json")
    assert found.code == 0, found.err
    matches = json.loads(found.out)["matches"]
    assert matches[0]["name"] == "one"
    assert matches[0]["cosine"]["value"] == 1
    assert "has no part 'full': sketch its text with --network" in (
        run("index", "query", index, files[3]).line
    )
    heads = tmp_path / "heads"
    assert run("index", "add", heads, files[3]).code == 0
    assert run("index", "query", heads, files[0]).code == 0


def test_texts_are_sketched_for_a_part(
    run: Run, llama_folder: Path, topics: list[str], tmp_path: Path
) -> None:
    """Of the modules it is made of alone; and as signatures of networks that are given were."""
    texts = write_texts(tmp_path, topics, ("target", "one", "two"))
    asked = ("--model", llama_folder, "--context", "32", "--no-debias")
    ranked = run("rank", *texts, *asked, "--part", "depth:1", "-o", tmp_path / "rank", "--json")
    assert ranked.code == 0, ranked.err
    kept = sorted((tmp_path / "rank" / "signatures").glob("*.safetensors"))
    assert [{m.depth for m in load_network(file).modules} for file in kept] == [{1}] * 3
    whole = tmp_path / "whole.safetensors"
    compact = tmp_path / "compact.safetensors"
    exporting = ("--export", compact, "--part", "depth:1")
    made = run("sketch", llama_folder, texts[0], "-o", whole, "--network", *QUICK, *exporting)
    assert made.code == 0, made.err
    part = load(compact)
    assert part.identity == load_network(whole).identity("depth:1")
    mixed = ("mix", whole, *texts[1:], *asked, "-o", tmp_path / "mix")
    assert run(*mixed).code == 0
    kept = sorted((tmp_path / "mix" / "signatures").glob("*.safetensors"))
    assert [load_network(file).modules for file in kept] == [load_network(whole).modules] * 2
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    refused = run("rank", whole, adapter, "--model", llama_folder, "-o", tmp_path / "no")
    assert "whose modules are not those of its model: compare it by --part head" in refused.line
    index = tmp_path / "index"
    assert run("index", "add", index, compact).code == 0
    routed = run("index", "route", index, "--model", llama_folder, texts[1], "--quiet", "--json")
    assert routed.code == 0, routed.err
    assert json.loads(routed.out)["answers"][0]["matches"][0]["name"] == "whole"


def test_align_maps_whole_networks(run: Run, files: list[Path], tmp_path: Path) -> None:
    done = run("align", *files[:2], "-o", tmp_path / "run")
    assert done.code == 0, done.err
    record = load_run(tmp_path / "run")
    assert isinstance(record, NetworkAlignments)
    assert done.out.startswith(str(record.verdict).replace("\u00a0", " "))
    assert "whole network (full)" in done.out
    assert "By kind and depth" in (tmp_path / "run" / "report.html").read_text()
    again = run("align", *files[:2], "-o", tmp_path / "run", "--json")
    assert json.loads(again.out)["summary"] == json.loads(json.dumps(record.to_json()))
