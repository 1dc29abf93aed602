"""The files of an index: damage, kills, full disks, and several processes at once."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
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


def test_a_cut_end_says_what_it_lost(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "PAUSE_S", 0)
    assert Index.open(folder).unfinished == ""
    journal, vectors = ((folder / name).read_bytes() for name in (JOURNAL, VECTORS))
    lines = journal.splitlines(keepends=True)
    before = b"".join(lines[:2])
    for cut, said in (
        (before + lines[2][:-1], f"{JOURNAL} ends with 'task 3' without its end"),
        (before + lines[2][:20], f"{JOURNAL} ends with an entry without"),
        (before, f"{VECTORS} ends with an entry without"),
        (lines[0] + lines[1][:60], f"{JOURNAL} ends with 'task 2' and 1 more without"),
    ):
        (folder / JOURNAL).write_bytes(cut)
        (folder / VECTORS).write_bytes(vectors)
        reader, writer = Index.open(folder), Index.open(folder)
        assert said in reader.unfinished
        assert "do that again" in reader.unfinished
        writer.add([ONES[5]])
        assert said in writer.unfinished
        # Others have gone on, and nothing is behind any more.
        assert reader.unfinished == Index.open(folder).unfinished == ""
    Index.open(folder).remove(["task 6"])
    torn = Record(removed=(0, 1)).as_line()[:-3]
    with (folder / JOURNAL).open("ab") as stream:
        stream.write(torn)
    assert "ends with a removal without its end" in Index.open(folder).unfinished


def test_what_a_writer_is_at_work_on_is_not_lost(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (folder / VECTORS).open("ab") as stream:
        stream.write(b"x" * 768)
    index = Index.open(folder)
    assert "an entry" in index.unfinished

    def written(_seconds: float) -> None:
        with (folder / VECTORS).open("ab") as stream:
            stream.write(b"x" * 768)

    monkeypatch.setattr(ledger.time, "sleep", written)
    assert index.unfinished == ""


def test_two_first_writers_make_one_index(tmp_path: Path) -> None:
    folder, start = tmp_path / "index", threading.Barrier(4)
    faults: list[Exception] = []

    def begin(number: int) -> None:
        start.wait()
        try:
            index = Index.create(folder, IDENTITY, join=True)
            index.add([random_signature(f"task {number}", number)])
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=begin, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert sorted(names(folder)) == [f"task {i}" for i in range(4)]
    other = dataclasses.replace(IDENTITY, tokenizer="another")
    with pytest.raises(UnembedError, match="has tokenizer"):
        Index.create(folder, other, join=True)


def test_entries_without_their_header_are_not_written_over(folder: Path) -> None:
    (folder / "index.json").unlink()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UnembedError, match=rf"index.json is damaged.*{JOURNAL} holds entries"):
        Index.create(folder, IDENTITY)
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {**after, ".lock": b""} == {**before, ".lock": b""}


@pytest.mark.parametrize("name", ["index.json", JOURNAL, VECTORS, "sieve-000001.bin"])
def test_links_are_refused_and_what_they_lead_to_is_kept(
    folder: Path, tmp_path: Path, name: str
) -> None:
    index = Index.open(folder)
    victim = tmp_path / "victim"
    (folder / name).rename(victim)
    before = victim.read_bytes()
    (folder / name).symlink_to(victim)
    for use in (
        lambda: Index.open(folder),
        lambda: index.add([ONES[4]]),
        lambda: index.remove(["task 1"]),
        lambda: Index.create(folder, IDENTITY, join=True),
    ):
        with pytest.raises(UnembedError, match=f"{name} is a link"):
            use()
    assert victim.read_bytes() == before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("generation", "x"),
        ("generation", -1),
        ("step", 1.5),
        ("sieved", True),
        ("dtype", "float64"),
        ("by", "nothing"),
        ("segments", [{"path": "../other/victim", "rows": 1, "sha256": "0" * 64}]),
        ("segments", [{"path": "/etc/passwd", "rows": 1, "sha256": "0" * 64}]),
        ("removed", {"path": "removed-000001.parquet", "rows": "1", "sha256": ""}),
        ("identity", None),
        ("sieved", 9),
    ],
)
def test_a_crafted_header_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, field: str, value: object
) -> None:
    """With the SHA-256 that it should state."""
    monkeypatch.setattr(ledger, "PAUSE_S", 0)
    plain = json.loads((folder / "index.json").read_text())
    del plain["sha256"]
    plain[field] = value
    sealed = {**plain, "sha256": files._seal(plain)}
    (folder / "index.json").write_text(json.dumps(sealed))
    with pytest.raises(UnembedError) as caught:
        Index.open(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"name": 3},
        {"samples": "many"},
        {"tags": "abc"},
        {"tags": [1]},
        {"reliability": 0.0},
        {"squared_norm": float("nan")},
        {"crc32": "x"},
        {"added": None},
    ],
)
def test_a_crafted_line_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object]
) -> None:
    """With the CRC-32 that it should have."""
    monkeypatch.setattr(ledger, "PAUSE_S", 0)
    lines = (folder / JOURNAL).read_bytes().splitlines()
    values = json.loads(lines[-1][9:])
    values["add"][0].update(change)
    body = json.dumps(values).encode()
    lines[-1] = b"%08x %s" % (zlib.crc32(body), body)
    (folder / JOURNAL).write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(UnembedError, match=f"{JOURNAL} is damaged"):
        Index.open(folder)


@pytest.mark.parametrize("data", [b"[" * 100_000, b" " * (files.MOST_HEADER_BYTES + 1)])
def test_a_header_of_absurd_depth_or_length_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    monkeypatch.setattr(ledger, "PAUSE_S", 0)
    (folder / "index.json").write_bytes(data)
    with pytest.raises(UnembedError, match=r"index\.json is damaged") as caught:
        Index.open(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("row", ["-1", "3", str(1 << 70), '"x"', "1.5", "null"])
def test_a_crafted_removal_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, row: str
) -> None:
    monkeypatch.setattr(ledger, "PAUSE_S", 0)
    body = b'{"add":[],"remove":[%s],"sieved":0}' % row.encode()
    with (folder / JOURNAL).open("ab") as stream:
        stream.write(b"%08x %s\n" % (zlib.crc32(body), body))
    with pytest.raises(UnembedError, match=f"{JOURNAL} is damaged"):
        Index.open(folder)


def test_crafted_segments_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the SHA-256 that the header should state."""
    monkeypatch.setattr(ledger, "LEAST_JOURNAL", 1)
    Index.open(folder).add([ONES[3]])
    monkeypatch.setattr(ledger, "PAUSE_S", 0)
    whole = json.loads((folder / "index.json").read_text())
    [part] = whole["segments"]
    table = pq.read_table(folder / part["path"])
    nothing = pa.array([None] * 4, pa.float64())
    for fault in (
        pa.table({"name": ["x"] * 4}),
        table.slice(1),
        table.set_column(14, "scale", nothing),
        table.set_column(14, "scale", pa.array([1.0, float("inf"), 1.0, 1.0])),
        table.set_column(1, "samples", nothing),
        pa.table({"row": [9]}),
    ):
        pq.write_table(fault, folder / part["path"])
        data = (folder / part["path"]).read_bytes()
        changed = {**part, "sha256": hashlib.sha256(data).hexdigest()}
        plain = {**whole, "segments": [changed]}
        if fault.column_names == ["row"]:
            pq.write_table(table, folder / part["path"])
            (folder / "removed-000001.parquet").write_bytes(data)
            gone = {"path": "removed-000001.parquet", "rows": 1, "sha256": changed["sha256"]}
            plain = {**whole, "removed": gone}
        del plain["sha256"]
        (folder / "index.json").write_text(json.dumps({**plain, "sha256": files._seal(plain)}))
        with pytest.raises(UnembedError, match="is damaged") as caught:
            Index.open(folder).query(ONES[4])
        assert "\n" not in str(caught.value)


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


@pytest.mark.parametrize("wait_s", [float("nan"), float("inf"), -1.0])
def test_no_time_to_wait_is_refused(folder: Path, wait_s: float) -> None:
    index = Index.open(folder, wait_s=wait_s)
    with pytest.raises(UnembedError, match=f"--wait {wait_s:g} is no time"):
        index.add([ONES[3]])
    with pytest.raises(UnembedError, match="is no time"):
        Index.create(folder, IDENTITY, wait_s=wait_s)
    assert len(names(folder)) == 3


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
