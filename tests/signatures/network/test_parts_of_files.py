"""One part of each of several files, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from made_up.network_signatures import modules, network_signed, network_task
from unembed.errors import UnembedError
from unembed.signatures.alignment.align import align
from unembed.signatures.file import export, save
from unembed.signatures.network.file import save_network
from unembed.signatures.network.names import part_words
from unembed.signatures.network.signature import NetworkSignature
from unembed.signatures.reading.files import facts_of, key_of, load_all


@pytest.fixture(scope="module")
def networks() -> list[NetworkSignature]:
    return [network_signed(name, network_task(30, seed)) for seed, name in enumerate("ab")]


@pytest.fixture(scope="module")
def files(networks: list[NetworkSignature], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two networks' files, one's head, one's depth, and one with fewer modules."""
    folder = tmp_path_factory.mktemp("files")
    for one in networks:
        save_network(one, folder / f"{one.name}.safetensors")
    save(replace(networks[1].part("head"), name="c"), folder / "head.safetensors")
    save(replace(networks[1].part("depth:1"), name="d"), folder / "depth.safetensors")
    less = network_signed("less", network_task(30, 5), of=modules()[1:])
    save_network(less, folder / "less.safetensors")
    return folder


def paths(folder: Path, *names: str) -> list[Path]:
    return [folder / f"{name}.safetensors" for name in names]


def test_a_part_of_each_file(files: Path, networks: list[NetworkSignature]) -> None:
    for part in networks[0].parts:
        found = load_all(paths(files, "a", "b"), part)
        assert [one.identity for one in found] == [one.identity(part) for one in networks]
    assert {one.identity.part for one in load_all(paths(files, "a", "b"))} == {"blocks"}
    assert [x.identity.part for x in load_all(paths(files, "a", "head"), "head")] == ["", ""]
    assert [x.name for x in load_all(paths(files, "a", "a"))] == [str(paths(files, "a")[0])] * 2
    assert [x.identity.part for x in load_all(paths(files, "a", "depth"), "depth:1")] == [
        "depth:1",
        "depth:1",
    ]
    assert load_all(paths(files, "depth"))[0].identity.part == "depth:1"
    align(load_all(paths(files, "a", "less"), "depth:1"))
    full, blocks = (load_all(paths(files, "a", "b"), part) for part in ("full", "blocks"))
    assert key_of(full) != key_of(blocks)
    assert ("Part of the network", "full") in facts_of(full)
    assert "Part of the network" not in dict(facts_of(load_all(paths(files, "head"))))


def test_what_has_no_such_part_is_refused(files: Path) -> None:
    def refused(names: tuple[str, ...], part: str | None) -> str:
        with pytest.raises(UnembedError) as caught:
            load_all(paths(files, *names), part)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    mixed = refused(("a", "head"), None)
    assert mixed.endswith("of an output head alone: give --part head")
    assert "a.safetensors is the signature of a whole network and " in mixed
    assert refused(("a", "depth"), None).endswith("of a network: give --part depth:1")
    assert "head.safetensors is the signature of an output head alone and has no part 'full'" in (
        refused(("a", "head"), "full")
    )
    assert "a has no part 'depth:9'" in refused(("a", "b"), "depth:9")
    assert "a has 5 modules in part 'blocks' and less 4: less lacks model.layers.0.q_proj" in (
        refused(("a", "less"), None)
    )
    assert "less has no part 'module:model.layers.0.q_proj'" in (
        refused(("a", "less"), "module:model.layers.0.q_proj")
    )


def test_a_compact_part_compares_with_a_whole_one(
    files: Path, networks: list[NetworkSignature], tmp_path: Path
) -> None:
    export(networks[0].part("blocks"), tmp_path / "compact.safetensors")
    pair = [tmp_path / "compact.safetensors", *paths(files, "b")]
    found = align(load_all(pair, "blocks"))
    whole = align(load_all(paths(files, "a", "b"), "blocks"))
    assert found.joint.value[0, 1] == pytest.approx(whole.joint.value[0, 1], abs=1e-5)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("", "the head"),
        ("full", "the whole network"),
        ("depth:12", "depth 12"),
        ("kind:q_proj", "every q_proj"),
        ("module:model.layers.3.mlp", "model.layers.3.mlp"),
    ],
)
def test_parts_in_words(part: str, words: str) -> None:
    assert part_words(part) == words
