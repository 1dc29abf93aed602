"""The files of an index: damage, kills, full disks, and several processes at once."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from made_up.signatures import IDENTITY, random_signature
from places import ROOT
from unembed.errors import UnembedError, WriteError
from unembed.selection.index import files, growth, ledger
from unembed.selection.index.files import Record
from unembed.selection.index.index import Index

ONES = [random_signature(f"task {i}", i) for i in range(1, 7)]
JOURNAL, VECTORS = "journal-000001.jsonl", "vectors-000001.bin"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An index of three entries, added one by one."""
    index = Index.create(tmp_path / "index", IDENTITY)
    for one in ONES[:3]:
        index.add([one])
    return tmp_path / "index"


def names(folder: Path) -> list[str]:
    return [entry.name for entry in Index.open(folder).entries]


def flipped(data: bytes, at: int, bit: int = 1) -> bytes:
    return data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]


@pytest.mark.parametrize("name", [JOURNAL, "index.json"])
def test_a_flipped_bit_anywhere_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(ledger, "PAUSE_S", 0)
    path = folder / name
    whole = path.read_bytes()
    for at in range(0, len(whole), 13):
        path.write_bytes(flipped(whole, at, 1 << at % 8))
        with pytest.raises(UnembedError) as caught:
            Index.open(folder)
        assert name in str(caught.value), at
        assert "\n" not in str(caught.value)
    # The end of the last line alone.
    path.write_bytes(flipped(whole, len(whole) - 1))
    with pytest.raises(UnembedError, match=name):
        Index.open(folder)
    path.write_bytes(whole)
    assert len(names(folder)) == 3


def test_a_journal_cut_anywhere_holds_its_whole_lines(folder: Path) -> None:
    """As a writer that was killed leaves it; the next one goes on from there."""
    journal = (folder / JOURNAL).read_bytes()
    vectors = (folder / VECTORS).read_bytes()
    for at in range(0, len(journal), 7):
        (folder / JOURNAL).write_bytes(journal[:at])
        (folder / VECTORS).write_bytes(vectors)
        lines = journal[:at].count(b"\n")
        assert names(folder) == [f"task {i + 1}" for i in range(lines)]
        if at % 35 == 0:
            Index.open(folder).add([ONES[5]])
            assert names(folder) == [*(f"task {i + 1}" for i in range(lines)), "task 6"]
            assert (folder / VECTORS).stat().st_size == (lines + 1) * (64 * 4 + 512)


def test_a_torn_line_longer_than_the_next_goes(folder: Path) -> None:
    with (folder / JOURNAL).open("ab") as stream:
        stream.write(Record(removed=tuple(range(2000))).as_line()[:-5])
    Index.open(folder).add([ONES[3]])
    assert names(folder) == ["task 1", "task 2", "task 3", "task 4"]


def test_damaged_vectors_are_told_and_can_be_replaced(folder: Path, tmp_path: Path) -> None:
    for at in (0, 300, 768, 1600, 3 * 768 - 1):
        copy = tmp_path / f"copy {at}"
        shutil.copytree(folder, copy)
        (copy / VECTORS).write_bytes(flipped((copy / VECTORS).read_bytes(), at))
        name = f"task {1 + at // 768}"
        with pytest.raises(UnembedError, match=f"{VECTORS} is damaged at '{name}'"):
            Index.open(copy)
        unchecked = Index.open(copy, check=False)
        with pytest.raises(UnembedError, match=f"damaged at '{name}'"):
            unchecked.query(ONES[4])
        unchecked.add([random_signature(name, 40)], replace=True)
        assert len(names(copy)) == 3
    path = next(folder.glob("vectors-*.bin"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UnembedError, match="is cut short"):
        Index.open(folder)


def test_what_is_missing_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "LEAST_JOURNAL", 4)
    index = Index.open(folder)
    index.add(ONES[3:5])
    index.remove(["task 1"])
    monkeypatch.setattr(ledger, "LEAST_JOURNAL", 1)
    index.add(ONES[5:])
    parts = sorted(path.name for path in folder.iterdir() if path.name != ".lock")
    kinds = {name.split("-")[0] for name in parts}
    assert kinds == {"vectors", "sieve", "scales", "journal", "entries", "removed", "index.json"}
    for name in parts:
        if name.startswith(("sieve", "scales")):
            continue
        path = folder / name
        data = path.read_bytes()
        path.unlink()
        with pytest.raises(UnembedError, match=name):
            Index.open(folder)
        if name.endswith("parquet"):
            path.write_bytes(flipped(data, len(data) // 2))
            with pytest.raises(UnembedError, match=f"{name} is damaged.*SHA-256"):
                Index.open(folder)
        path.write_bytes(data)
    assert names(folder) == [f"task {i}" for i in (2, 3, 4, 5, 6)]
    with pytest.raises(UnembedError, match="holds no index"):
        Index.open(folder / "nothing")
    later = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**later, "schema": 7}))
    with pytest.raises(UnembedError, match="schema 7, this version reads 1"):
        Index.open(folder)


@pytest.mark.parametrize("step", ["write", "fdatasync"])
@pytest.mark.parametrize("refused", [VECTORS, JOURNAL])
def test_a_full_disk_loses_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, refused: str, step: str
) -> None:
    index = Index.open(folder)
    sizes = {name: (folder / name).stat().st_size for name in (VECTORS, JOURNAL)}
    real, sync = Path.open, os.fdatasync
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    class Full:
        """A file that takes half of what it is given."""

        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            self.stream.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.stream, name)

        def write(self, data: bytes) -> int:
            self.stream.write(data[: len(data) // 2])
            self.stream.flush()
            raise full

    def opened(path: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        stream = real(path, mode, *rest, **more)
        return Full(stream) if path.name == refused and step == "write" and "+" in mode else stream

    def synced(descriptor: int) -> None:
        if step == "fdatasync" and Path(f"/proc/self/fd/{descriptor}").readlink().name == refused:
            raise full
        sync(descriptor)

    monkeypatch.setattr(Path, "open", opened)
    monkeypatch.setattr(os, "fdatasync", synced)
    with pytest.raises(WriteError, match="No space left on device"):
        index.add([ONES[3]])
    monkeypatch.undo()
    assert len(index) == 3
    assert (folder / JOURNAL).stat().st_size == sizes[JOURNAL]
    assert names(folder) == ["task 1", "task 2", "task 3"]
    index.add([ONES[3]])
    assert names(folder) == ["task 1", "task 2", "task 3", "task 4"]
    assert (folder / VECTORS).stat().st_size == sizes[VECTORS] // 3 * 4


def test_a_segment_that_cannot_be_written_can_wait(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "LEAST_JOURNAL", 4)
    index = Index.open(folder)

    def refused(path: Path, data: bytes) -> None:
        raise WriteError(f"{path} cannot be written")

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "write_whole", refused)
        index.add([ONES[3]])
        index.add([ONES[4]])
        assert names(folder) == [f"task {i}" for i in range(1, 6)]
        patch.setattr(growth, "write_whole", refused)
        index.remove(["task 1", "task 2", "task 3"])
        assert names(folder) == ["task 4", "task 5"]
    index.add([ONES[5]])
    assert names(folder) == ["task 4", "task 5", "task 6"]
    header = files.Header.from_bytes((folder / "index.json").read_bytes(), folder)
    assert header.generation == 1
    index.remove(["task 4"])
    assert names(folder) == ["task 5", "task 6"]
    assert not (folder / VECTORS).exists()


def test_a_second_writer_waits_and_then_names_the_first(folder: Path) -> None:
    index = Index.open(folder, wait_s=0.1)
    with files.writing(folder, 0.0):
        began = time.monotonic()
        with pytest.raises(UnembedError, match=rf"\(pid {os.getpid()}\).*0.1 s.*--wait"):
            index.add([ONES[3]])
        assert time.monotonic() - began >= 0.1
        assert len(names(folder)) == 3
    patient = Index.open(folder, wait_s=20.0)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with files.writing(folder, 0.0):
            held.set()
            done.wait(0.2)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(10)
    patient.add([ONES[3]])
    thread.join()
    assert len(names(folder)) == 4


def test_readers_and_writers_side_by_side(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every snapshot holds what was reported before it, whole, through segments and compactions."""
    monkeypatch.setattr(ledger, "LEAST_JOURNAL", 3)
    reported: list[int] = []
    stop = threading.Event()
    faults: list[str] = []

    def read() -> None:
        while not stop.is_set():
            least = len(reported)
            try:
                found = Index.open(folder)
            except UnembedError as error:
                faults.append(str(error))
                return
            numbers = [int(e.name.split()[1]) for e in found.entries if e.name.startswith("n ")]
            if not numbers or max(numbers) + 1 < least or sorted(numbers) != numbers:
                faults.append(f"{least} reported, found {numbers}")

    index = Index.open(folder)
    index.add([random_signature("n 0", 60), random_signature("n 1", 61)])
    reported += [0, 1]
    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    other = Index.open(folder)
    for i in range(2, 40):
        (index if i % 2 else other).add([random_signature(f"n {i}", i)])
        reported.append(i)
        if i % 4 == 3:
            other.remove([f"n {i - k}" for k in (1, 2, 3)])
    stop.set()
    for reader in readers:
        reader.join()
    assert not faults
    assert len(reported) == 40
    index.refresh()
    assert index._ledger.header.generation > 1


def test_leftovers_go_and_other_files_stay_out(folder: Path, tmp_path: Path) -> None:
    for name in ("vectors-000009.bin", "entries-000004.parquet", "index.json.part"):
        (folder / name).write_bytes(b"x")
    (folder / "notes.txt").write_text("mine")
    Index.open(folder).add([ONES[3]])
    left = {path.name for path in folder.iterdir()}
    assert not left & {"vectors-000009.bin", "entries-000004.parquet", "index.json.part"}
    assert "notes.txt" in left
    with pytest.raises(UnembedError, match="holds files that are no index"):
        Index.create(folder, IDENTITY)
    (folder / "notes.txt").unlink()
    with pytest.raises(UnembedError, match="holds an index already"):
        Index.create(folder, IDENTITY)
    assert len(names(folder)) == 4
    # A creation that was killed before its last step.
    begun = tmp_path / "begun"
    begun.mkdir()
    for name in (".lock", JOURNAL, VECTORS):
        (begun / name).write_bytes(b"torn")
    assert len(Index.create(begun, IDENTITY)) == 0


def test_a_line_is_read_back_or_not_at_all() -> None:
    record = Record(removed=(3, 9))
    line = record.as_line()
    assert line.endswith(b"\n")
    assert Record.from_line(line[:-1]) == record
    for at in range(len(line) - 1):
        assert Record.from_line(flipped(line[:-1], at)) is None


def test_a_killed_writer_loses_nothing_that_it_reported() -> None:
    script = ROOT / "benchmarks" / "index.py"
    command = [sys.executable, str(script), "--large", "0", "--crash", "4", "--m", "64"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["lost"] == []
    assert [one["lost"] for one in found["crashes"]] == [""] * 4
    assert sum(one["reported"] for one in found["crashes"]) > 4
