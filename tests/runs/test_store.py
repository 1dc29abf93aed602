from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from unembed.errors import UnembedError
from unembed.runs import store
from unembed.runs.files import write_whole
from unembed.runs.lock import exclusive_lock
from unembed.runs.manifest import FinishedRun, read_run, verified_run
from unembed.runs.store import RunFolder

KEY: dict[str, Any] = {
    "kind": "audit",
    "schema": 1,
    "model": "m",
    "text": {"digest": "d", "context": 8},
}
PARTS = ["tokens/part-00000.parquet", "tokens/part-00001.parquet"]


def table(path: str) -> pa.Table:
    return pa.table({"doc": list(range(50)), "name": [path] * 50})


def fill(folder: Path, stop_after: int = 2, key: dict[str, Any] = KEY) -> list[str]:
    """Write a run of two parts and a summary; return what was not there already."""
    made = []
    with RunFolder.open(folder, key) as run:
        for path in PARTS:
            if path not in run.done:
                if len(made) == stop_after:
                    return made
                run.write_table(path, table(path))
                made.append(path)
        if stop_after == 2 and not run.finished:
            run.finish("unembed audit", {})
            made.append("summary.json")
    return made


def verified(folder: Path) -> FinishedRun:
    return verified_run(folder, "audit", 1)


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    assert fill(tmp_path / "run") == [*PARTS, "summary.json"]
    return tmp_path / "run"


def test_a_finished_run_lists_its_files(run: Path) -> None:
    manifest = verified(run)
    assert manifest.key == KEY
    assert [(part.path, part.rows) for part in manifest.parts] == [(path, 50) for path in PARTS]
    assert [part.path for part in manifest.files] == ["summary.json"]
    assert set(files(run)) == {*PARTS, "summary.json", "manifest.json"}


def test_a_finished_run_is_not_computed_again(run: Path) -> None:
    before = files(run)
    assert fill(run) == []
    assert files(run) == before


def test_an_unfinished_run_goes_on_to_the_same_bytes(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert fill(other, stop_after=1) == PARTS[:1]
    with pytest.raises(UnembedError, match="unfinished run: repeat its command"):
        read_run(other)
    assert fill(other) == [PARTS[1], "summary.json"]
    assert files(other) == files(run)


def test_every_byte_of_every_file_is_guarded(run: Path) -> None:
    for name, data in files(run).items():
        for at in range(0, len(data), max(1, len(data) // 25)):
            for mask in (0x01, 0x80):
                broken = bytearray(data)
                broken[at] ^= mask
                (run / name).write_bytes(broken)
                with pytest.raises(UnembedError, match=r"damaged|missing"):
                    verified(run)
        (run / name).write_bytes(data)
    verified(run)


@pytest.mark.parametrize("name", [PARTS[1], "summary.json"])
def test_a_missing_file_is_named(run: Path, name: str) -> None:
    (run / name).unlink()
    for opening in (verified, fill):
        with pytest.raises(UnembedError, match=f"{name} is missing from the run"):
            opening(run)


@pytest.mark.parametrize("name", [PARTS[0], "summary.json"])
def test_a_damaged_file_of_a_finished_run_is_named_when_the_command_is_repeated(
    run: Path, name: str
) -> None:
    (run / name).write_bytes(b"something else")
    before = files(run)
    with pytest.raises(UnembedError, match=f"{name} is damaged.*restore it, or repeat"):
        fill(run)
    assert files(run) == before


def test_a_part_that_is_not_listed_is_named(run: Path) -> None:
    (run / "tokens/part-00002.parquet").write_bytes((run / PARTS[0]).read_bytes())
    with pytest.raises(UnembedError, match=r"part-00002\.parquet"):
        verified(run)


@pytest.mark.parametrize("keep", [0, 1, 30, -2])
def test_a_truncated_manifest_is_damaged(run: Path, keep: int) -> None:
    manifest = run / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:keep])
    for opening in (read_run, verified, fill):
        with pytest.raises(UnembedError, match=r"manifest\.json is damaged .*new folder"):
            opening(run)


@pytest.mark.parametrize("content", ["[]", "null", '"text"', "{}", '{"sha256": "x"}'])
def test_a_manifest_of_something_else_is_damaged(run: Path, content: str) -> None:
    (run / "manifest.json").write_text(content)
    with pytest.raises(UnembedError, match="damaged"):
        read_run(run)


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(UnembedError, match=r"holds no run \(no manifest.json\)"):
        read_run(tmp_path)


@pytest.mark.parametrize("torn", [b'{"path":"tokens/par', b"\0" * 40, b"\n\n", b"\xff\xfe\n[1]\n"])
def test_a_torn_end_of_the_journal_is_left_out(run: Path, tmp_path: Path, torn: bytes) -> None:
    other = tmp_path / "other"
    fill(other, stop_after=1)
    with (other / "journal.jsonl").open("ab") as journal:
        journal.write(torn)
    assert fill(other) == [PARTS[1], "summary.json"]
    assert files(other) == files(run)


def test_a_journal_without_its_first_line_starts_again(tmp_path: Path, run: Path) -> None:
    other = tmp_path / "other"
    fill(other, stop_after=1)
    (other / "journal.jsonl").write_bytes(b"")
    assert fill(other) == [*PARTS, "summary.json"]
    assert files(other) == files(run)


def test_a_damaged_first_line_of_the_journal_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "run", stop_after=1)
    journal = tmp_path / "run/journal.jsonl"
    journal.write_bytes(b"x" + journal.read_bytes())
    with pytest.raises(UnembedError, match="damaged in its first line"):
        fill(tmp_path / "run")


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_part_is_computed_again_on_resume(run: Path, tmp_path: Path, damage: str) -> None:
    other = tmp_path / "other"
    fill(other, stop_after=1)
    part = other / PARTS[0]
    data = part.read_bytes()
    if damage == "gone":
        part.unlink()
    else:
        part.write_bytes(data[:-1] if damage == "cut" else bytes([data[0] ^ 1]) + data[1:])
    assert fill(other) == [*PARTS, "summary.json"]
    assert files(other) == files(run)


def test_what_a_killed_process_leaves_is_no_part(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    fill(other, stop_after=1)
    (other / "tokens/part-00001.parquet").write_bytes(b"whole, but never journalled")
    (other / "summary.json").write_bytes(b"likewise")
    (other / "manifest.json.part").write_bytes(b"{")
    (other / "tokens/part-00001.parquet.part").write_bytes(b"half")
    assert fill(other) == [PARTS[1], "summary.json"]
    assert files(other) == files(run)


@pytest.mark.parametrize("left", [[], [".lock"], [".lock", "journal.jsonl.part"]])
def test_a_process_killed_before_its_journal_leaves_an_open_folder(
    tmp_path: Path, left: list[str]
) -> None:
    for name in left:
        (tmp_path / name).write_text("1")
    assert fill(tmp_path) == [*PARTS, "summary.json"]
    assert "journal.jsonl.part" not in files(tmp_path)


def test_a_process_killed_between_manifest_and_journal_is_finished(run: Path) -> None:
    before = files(run)
    (run / "journal.jsonl").write_text("{}\n")
    assert fill(run) == []
    assert files(run) == before


def test_a_run_that_is_refused_before_it_began_leaves_the_folder_free(tmp_path: Path) -> None:
    with pytest.raises(UnembedError, match="no such layer"), RunFolder.open(tmp_path, {"a": 1}):
        raise UnembedError("no such layer")
    with RunFolder.open(tmp_path, {"a": 2}) as folder:
        folder.write_bytes("kept.txt", b"kept")
    with pytest.raises(UnembedError, match="later"), RunFolder.open(tmp_path, {"a": 2}):
        raise UnembedError("later")
    with RunFolder.open(tmp_path, {"a": 2}) as folder:
        assert set(folder.done) == {"kept.txt"}


@pytest.mark.parametrize("finished", [False, True])
def test_another_run_is_named_by_what_differs(tmp_path: Path, finished: bool) -> None:
    fill(tmp_path / "run", stop_after=2 if finished else 1)
    before = files(tmp_path / "run")
    other = {**KEY, "text": {"digest": "e", "context": 16}}
    with pytest.raises(UnembedError) as caught:
        fill(tmp_path / "run", key=other)
    assert (
        'holds another run: its text.digest is "d", this one\'s is "e" (and text.context); '
        "give another folder, or repeat that run's own command" in str(caught.value)
    )
    with pytest.raises(UnembedError, match='its model is "m", this one\'s is null'):
        fill(tmp_path / "run", key={k: v for k, v in KEY.items() if k != "model"})
    assert files(tmp_path / "run") == before


def test_a_run_of_another_kind_is_named_by_its_kind_alone(tmp_path: Path) -> None:
    for kind, more in (("audit", {"model": "m"}), ("comparison", {"before": {"model": "m"}})):
        caught: list[str] = []
        try:
            fill(tmp_path / "run", key={"kind": kind, **more})
        except UnembedError as error:
            caught.append(str(error))
    assert caught == [
        f'{tmp_path / "run"} holds another run: its kind is "audit", this one\'s is '
        '"comparison"; give another folder'
    ]


def test_what_is_no_run_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UnembedError, match="file is a file: give a folder"):
        fill(tmp_path / "file")
    with pytest.raises(UnembedError, match=r"file/below cannot be written: Not a directory"):
        fill(tmp_path / "file/below")
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UnembedError, match=r"no run of unembed \(file and 1 more\)"):
        fill(tmp_path)
    assert set(files(tmp_path)) == {"file", "thesis.tex"}


HOLD = """
import sys
from unembed.runs.store import RunFolder
with RunFolder.open(sys.argv[1], {"kind": "audit"}):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def held(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the folder open."""
    argv = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_a_folder_in_use_is_refused_until_its_process_is_gone(tmp_path: Path) -> None:
    with held(tmp_path / "run") as process:
        with pytest.raises(UnembedError, match=rf"another process \(pid {process.pid}\): wait"):
            fill(tmp_path / "run")
        process.send_signal(signal.SIGKILL)
        process.wait()
        with pytest.raises(UnembedError, match="holds another run"):
            fill(tmp_path / "run")


def test_a_lock_that_is_a_link_is_refused_and_what_it_points_to_is_kept(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("kept")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "other")
    with pytest.raises(UnembedError, match=r"\.lock is a link: delete it"):
        fill(tmp_path / "run")
    assert (tmp_path / "other").read_text() == "kept"


def test_a_lock_is_free_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), exclusive_lock(tmp_path):
        raise KeyError
    with (
        exclusive_lock(tmp_path),
        pytest.raises(UnembedError, match=r"within 0\.05 s: wait for it, or ask later"),
        exclusive_lock(tmp_path, 0.05, "ask later"),
    ):
        pass


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A finished run that lists every file below it, a run of its own among them."""
    with RunFolder.open(tmp_path / "whole", KEY) as run:
        fill(run.folder / "inner")
        write_whole(run.folder / "model" / "weights", b"1234")
        write_whole(run.folder / "note.json", b"{}")
        run.finish("", {}, everything=True)
    return tmp_path / "whole"


def test_a_run_may_list_every_file_below_it(whole: Path) -> None:
    listed = {part.path for part in verified(whole).listed}
    inner = {f"inner/{name}" for name in (*PARTS, "summary.json", "manifest.json")}
    assert listed == {"model/weights", "note.json", "summary.json", *inner}
    write_whole(whole / "report.html", b"page")
    write_whole(whole / "inner" / "report.html", b"page")
    fill(whole / "later")
    verified(whole)


@pytest.mark.parametrize("name", ["model/weights", "note.json", f"inner/{PARTS[0]}"])
@pytest.mark.parametrize("change", ["damaged", "missing"])
def test_a_changed_file_below_a_run_is_named(whole: Path, name: str, change: str) -> None:
    if change == "damaged":
        (whole / name).write_bytes(b"12345")
    else:
        (whole / name).unlink()
    with pytest.raises(UnembedError, match=f"{name} is {change}"):
        verified(whole)
    with pytest.raises(UnembedError, match=f"{name} is {change}"), RunFolder.open(whole, KEY):
        pass


def test_a_file_among_listed_ones_is_named(whole: Path) -> None:
    (whole / "model" / "more").write_bytes(b"")
    with pytest.raises(UnembedError, match="model/more does not belong to this run"):
        verified(whole)


def test_a_run_of_another_kind_or_schema_is_refused(run: Path) -> None:
    for kind, schema in (("comparison", 1), ("audit", 2)):
        with pytest.raises(
            UnembedError, match=rf"kind 'audit', schema 1, where one of kind '{kind}', .* {schema}"
        ):
            verified_run(run, kind, schema)


def test_a_file_is_flushed_before_it_is_named_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def flush(descriptor: int) -> None:
        events.append(f"fsync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        fsync(descriptor)

    def rename(self: Path, target: Path) -> Path:
        events.append(f"rename {self.name} {target.name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(Path, "replace", rename)
    with RunFolder.open(tmp_path / "run", KEY) as run:
        events.clear()
        run.write_bytes("tokens/part", b"data")
        assert events == [
            "fsync run",  # the new folder's entry
            "fsync part.part",
            "rename part.part part",
            "fsync tokens",
            "fsync journal.jsonl",
        ]
        events.clear()
        run.finish("")
    assert events == [
        "fsync manifest.json.part",
        "rename manifest.json.part manifest.json",
        "fsync run",
    ]


@contextlib.contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """No file of this process may grow beyond ``size`` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_cannot_grow_leaves_the_old_one(tmp_path: Path) -> None:
    write_whole(tmp_path / "page", b"old")
    with (
        files_limited_to(100),
        pytest.raises(UnembedError, match="page cannot be written: File too large; make room"),
    ):
        write_whole(tmp_path / "page", b"new" * 100)
    assert files(tmp_path) == {"page": b"old"}


@pytest.mark.parametrize("size", [50, 100, 200, 250, 300, 350, 900])
def test_a_run_that_found_no_room_goes_on_when_there_is_some(
    run: Path, tmp_path: Path, size: int
) -> None:
    other = tmp_path / "other"
    with files_limited_to(size), pytest.raises(UnembedError, match="make room"):
        fill(other)
    assert not any(name.endswith(".part") for name in files(other))
    fill(other)
    assert files(other) == files(run)


@contextlib.contextmanager
def without_rights(folder: Path, mode: int = 0o555) -> Iterator[None]:
    """Nobody may write to the folder, not even root, which becomes somebody else meanwhile."""
    root = os.geteuid() == 0
    folder.chmod(mode)
    try:
        if root:
            os.seteuid(65534)
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)


def test_a_folder_that_may_not_be_written() -> None:
    with tempfile.TemporaryDirectory() as place, without_rights(Path(place)):
        with pytest.raises(UnembedError, match="run cannot be written: Permission denied; make it"):
            fill(Path(place) / "run")
        with pytest.raises(UnembedError, match="page cannot be written: Permission denied"):
            write_whole(Path(place) / "page", b"")
        assert not list(Path(place).iterdir())


def test_a_folder_that_may_not_be_looked_into() -> None:
    with tempfile.TemporaryDirectory() as place, without_rights(Path(place), mode=0o000):
        for opening in (fill, verified):
            with pytest.raises(UnembedError, match="Permission denied"):
                opening(Path(place) / "run")


def test_the_names_that_a_folder_may_hold_are_all_written_by_the_store(run: Path) -> None:
    assert {"manifest.json", "journal.jsonl", ".lock"} <= set(store.OURS)
    assert json.loads((run / "manifest.json").read_text())["command"] == "unembed audit"
