"""The approximate first pass: what it finds, and what is told of it."""

from __future__ import annotations

import errno
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from command_line import Run
from made_up.signatures import IDENTITY, M, random_signature
from unembed.errors import UnembedError, WriteError
from unembed.selection.index import approximate, vectors
from unembed.selection.index.files import foreign_files
from unembed.selection.index.index import Index, PendingEntry, points_of
from unembed.signatures.file import save

pytest.importorskip("faiss")

ROWS = 2000
FAISS, NOTE = "approximate-000001.faiss", "approximate-000001.json"
QUERIES = [random_signature(f"query {i}", 9000 + i, like=i % 5) for i in range(20)]


def clustered(names: list[str], seed: int) -> list[PendingEntry]:
    """Unit vectors around the centres of the queries."""
    rng = np.random.default_rng(seed)
    centres = np.stack([np.random.default_rng([like, 1]).normal(size=M) for like in range(5)])
    x = centres[rng.integers(0, 5, len(names))] + 0.7 * rng.normal(size=(len(names), M))
    x /= np.sqrt(np.square(x).mean(1, keepdims=True))
    [point] = points_of([random_signature("one", 1)], "here", IDENTITY, "joint")
    entry = vars(point.entry)
    return [
        PendingEntry(type(point.entry)(**{**entry, "name": name}), one, point.hashes)
        for name, one in zip(names, x.astype(np.float32), strict=True)
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index with its pass."""
    folder = tmp_path_factory.mktemp("approximate") / "index"
    index = Index.create(folder, IDENTITY)
    index.put(clustered([f"row {i}" for i in range(ROWS)], 0))
    assert index.build() == ROWS
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(whole, tmp_path / "index"))


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass that leaves most rows out, as it does in a large index."""
    monkeypatch.setattr(approximate, "LIKELY", 100)
    monkeypatch.setattr(approximate, "FOR_EACH", 1)
    monkeypatch.setattr(approximate, "PROBED", 16)


def found(index: Index, at: int, **how: Any) -> list[str]:
    return [match.entry.name for match in index.query(QUERIES[at], 10, **how).matches]


@pytest.mark.usefixtures("narrow")
def test_nearly_all_of_the_best_are_found_with_the_same_cosines(folder: Path) -> None:
    index = Index.open(folder)
    hits = 0
    for query in QUERIES:
        want, answer = index.query(query, 10), index.query(query, 10, approximate=True)
        assert answer.closely == 100
        assert (want.closely, answer.searched) == (ROWS, ROWS)
        exact = {match.entry.name: match for match in want.matches}
        same = [match for match in answer.matches if match.entry.name in exact]
        hits += len(same)
        for match in same:
            assert match.score == pytest.approx(exact[match.entry.name].score, abs=1e-6)
            assert match.cosine.value == pytest.approx(exact[match.entry.name].cosine.value)
        assert [m.score for m in answer.matches] == sorted(m.score for m in answer.matches)[::-1]
    # 200 in all, so that .99 would let two go; the lists are fewer and shorter than real ones.
    assert hits >= 196


@pytest.mark.usefixtures("narrow")
def test_additions_after_the_build_are_found_and_removals_are_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = Index.open(folder)
    near = [random_signature(f"late {i}", 9000 + i, like=i % 5, each=4) for i in range(3)]
    index.add(near)
    for at in range(3):
        assert found(index, at, approximate=True)[0] == f"late {at}"
    assert index.query(QUERIES[0], 10, approximate=True).closely == 103
    index.remove(["late 1", *found(index, 0, approximate=True)[1:]])
    for reader in (index, Index.open(folder)):
        for at in range(3):
            assert len(set(found(reader, at, approximate=True)) & set(found(reader, at))) >= 9
            assert "late 1" not in found(reader, at, approximate=True)
    monkeypatch.setattr(vectors, "NUMBERS", 300 * M)
    assert index.build() == ROWS + 3
    assert all(
        len({*found(index, at, approximate=True), *found(index, at)}) < 12 for at in (0, 3, 4)
    )
    assert Index.open(folder).query(QUERIES[0], 10, approximate=True).closely == 100
    assert found(Index.open(folder), 2, approximate=True)[0] == "late 2"


@pytest.mark.usefixtures("narrow")
def test_more_lists_are_read_until_there_are_enough_rows(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approximate, "PROBED", 1)
    index = Index.open(folder)
    assert len(index.query(QUERIES[0], ROWS + 5, approximate=True).matches) == ROWS
    left = random.Random(0).sample([f"row {i}" for i in range(ROWS)], 20)
    index.remove([f"row {i}" for i in range(ROWS) if f"row {i}" not in left][:990])
    answer = index.query(QUERIES[0], ROWS, approximate=True)
    assert len(answer.matches) == answer.searched == ROWS - 990
    assert [m.entry.name for m in answer.matches] == [
        m.entry.name for m in index.query(QUERIES[0], ROWS).matches
    ]


def test_a_compaction_drops_the_pass_and_says_so(folder: Path) -> None:
    index = Index.open(folder)
    assert found(index, 0, approximate=True)
    snapshot = Index.open(folder)
    assert found(snapshot, 0, approximate=True)
    stale = [(folder / name).read_bytes() for name in (FAISS, NOTE)]
    index.remove([f"row {i}" for i in range(ROWS // 2 + 1)])
    assert not (folder / FAISS).exists()
    assert not (folder / NOTE).exists()
    assert found(snapshot, 0, approximate=True)
    for one in (index, Index.open(folder)):
        with pytest.raises(UnembedError, match=r"removed entries was given back.*index build"):
            one.query(QUERIES[0], approximate=True)
    # As if it was copied there.
    for name, data in zip((FAISS, NOTE), stale, strict=True):
        (folder / name.replace("1", "2")).write_bytes(data)
    with pytest.raises(UnembedError, match=r"000002\.faiss is of other vectors.*index build"):
        index.query(QUERIES[0], approximate=True)
    index.build()
    assert found(index, 0, approximate=True) == found(index, 0)
    assert foreign_files(folder) == []


def test_a_compaction_during_the_build_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, real = Index.open(folder), approximate.built
    monkeypatch.setattr(
        "unembed.selection.index.index.built",
        lambda ledger: (
            real(ledger),
            Index.open(folder).remove([f"row {i}" for i in range(ROWS // 2 + 1)]),
        )[0],
    )
    with pytest.raises(UnembedError, match="compacted while"):
        index.build()
    assert not list(folder.glob("approximate-*"))


@pytest.mark.parametrize("name", [FAISS, NOTE])
def test_a_damaged_pass_is_told(folder: Path, name: str) -> None:
    path = folder / name
    data = path.read_bytes()
    half = len(data) // 2
    changed = data[:half] + bytes([data[half] ^ 4]) + data[half + 1 :]
    for damaged in (data[:half], b"", changed):
        path.write_bytes(damaged)
        with pytest.raises(UnembedError, match=r"approximate-000001\.faiss is") as caught:
            Index.open(folder).query(QUERIES[0], approximate=True)
        assert f"run `unembed index build {folder}`" in str(caught.value)
        assert "\n" not in str(caught.value)
    index = Index.open(folder)
    assert found(index, 0)
    index.build()
    assert found(Index.open(folder), 0, approximate=True)


def test_a_full_disk_leaves_the_pass_before(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index.open(folder)
    index.add([random_signature("late", 1)])
    real = approximate._write

    def full(lists: Any, path: Path) -> None:
        real(lists, path)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(approximate, "_write", full)
    with pytest.raises(WriteError, match="make room"):
        index.build()
    assert not list(folder.glob("*.part"))
    assert len(found(Index.open(folder), 0, approximate=True)) == 10


def test_without_faiss_or_rows_the_remedy_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = Index.create(tmp_path / "empty", IDENTITY)
    with pytest.raises(UnembedError, match="is empty: add signatures"):
        empty.build()
    with pytest.raises(UnembedError, match="no approximate pass"):
        empty.query(QUERIES[0], approximate=True)
    monkeypatch.setattr(approximate, "find_spec", lambda _name: None)
    for call in (
        lambda: Index.open(folder).build(),
        lambda: Index.open(folder).query(QUERIES[0], approximate=True),
    ):
        with pytest.raises(UnembedError, match=r"'unembed\[faiss\]'"):
            call()


def test_the_command_line_builds_and_asks(run: Run, folder: Path, tmp_path: Path) -> None:
    asked = tmp_path / "asked.safetensors"
    save(QUERIES[0], asked)
    for name in (FAISS, NOTE):
        (folder / name).unlink()
    assert "index build" in run("index", "query", folder, asked, "--approximate").line
    built = run("index", "build", folder)
    assert (built.code, built.out) == (0, f"{folder} answers --approximate from 2,000 rows\n")
    assert json.loads(run("index", "build", folder, "--json").out)["rows"] == ROWS
    exact, quick = (
        run("index", "query", folder, asked, *how).out for how in ((), ("--approximate",))
    )
    assert exact == quick
