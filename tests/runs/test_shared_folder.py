"""A run folder that the processes of a launch write together; here they are threads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from threads_as_ranks import launch
from unembed.errors import UnembedError
from unembed.runs import heartbeat, store
from unembed.runs.heartbeat import OtherRankError
from unembed.runs.lock import exclusive_lock
from unembed.runs.manifest import verified_run
from unembed.runs.ranks import Ranks
from unembed.runs.store import RunFolder

KEY: dict[str, Any] = {"kind": "audit", "schema": 1, "text": {"digest": "d"}}
PARTS = [f"tokens/part-{number:05d}.parquet" for number in range(7)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.01)


class Killed(BaseException):
    """As if the process were no more: nothing is told to anybody, and nothing tidied up."""


def fill(folder: Path, key: dict[str, Any] = KEY, stop_after: int = 9) -> Callable[[Ranks], Any]:
    """Write a run of seven parts; give what this process wrote."""

    def work(ranks: Ranks) -> list[str]:
        made: list[str] = []
        with RunFolder.open(folder, key) as run:
            todo = [path for path in PARTS if path not in run.done]
            for number, path in enumerate(todo):
                if run.ranks.owns(number):
                    if len(made) == stop_after:
                        raise Killed
                    run.write_table(path, pa.table({"name": [path] * 50}))
                    made.append(path)

            def finish() -> int:
                assert set(run.done) == set(PARTS)
                run.write_bytes("vocabulary", b"words")
                run.finish("unembed audit", {"parts": 7})
                return len(run.done)

            count = run.by_first(finish)
            assert run.finished
            assert (count is not None) == ranks.first
            assert set(run.done) >= {*PARTS, "vocabulary", "summary.json"}
        return made

    return work


def finished(folder: Path) -> Callable[[Ranks], bool]:
    """Whether each process finds the run finished."""

    def work(_ranks: Ranks) -> bool:
        with RunFolder.open(folder, KEY) as run:
            return run.finished

    return work


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


@pytest.fixture
def alone(tmp_path: Path) -> dict[str, bytes]:
    fill(tmp_path / "alone")(Ranks())
    return files(tmp_path / "alone")


@pytest.mark.parametrize("processes", [2, 4])
def test_a_run_is_the_same_whatever_the_number_of_ranks(
    tmp_path: Path, alone: dict[str, bytes], processes: int
) -> None:
    found = launch(processes, fill(tmp_path / "run"))
    assert sorted(path for paths in found for path in paths) == PARTS
    assert found[0] == PARTS[::processes]
    assert files(tmp_path / "run") == alone
    assert launch(processes, finished(tmp_path / "run")) == [True] * processes
    verified_run(tmp_path / "run", "audit", 1)


@pytest.mark.parametrize("then", [1, 2, 4])
def test_what_was_killed_goes_on_with_another_number_of_ranks(
    tmp_path: Path, alone: dict[str, bytes], then: int
) -> None:
    killed = launch(3, fill(tmp_path / "run", stop_after=2))
    assert any(isinstance(error, Killed) for error in killed)
    written = {path for path in files(tmp_path / "run") if path in PARTS}
    assert written
    found = [fill(tmp_path / "run")(Ranks())] if then == 1 else launch(then, fill(tmp_path / "run"))
    assert sorted(path for paths in found for path in paths) == sorted(set(PARTS) - written)
    assert files(tmp_path / "run") == alone


def test_ranks_with_other_keys_are_refused_before_a_folder_is_made(tmp_path: Path) -> None:
    def work(ranks: Ranks) -> None:
        fill(tmp_path / "run", {**KEY, "text": {"digest": f"d{ranks.process}"}})(ranks)

    found = launch(2, work)
    assert 'text.digest is "d0" on rank 0 and "d1" on rank 1' in str(found[0])
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_not_shared_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "SEEN_SECONDS", 0.05)
    monkeypatch.setattr(store, "_read", lambda _path: None)
    first, second = launch(2, fill(tmp_path / "run"))
    assert f"rank 1 does not see in {tmp_path / 'run'} what rank 0 wrote there" in str(second)
    assert isinstance(first, OtherRankError)


def test_ranks_that_outlive_their_launch_are_waited_for(
    tmp_path: Path, alone: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "ENDING_SECONDS", 0.05)
    launch(2, fill(tmp_path / "run", stop_after=2))
    place = tmp_path / "run" / ".ranks" / "00001"
    with exclusive_lock(place), pytest.raises(UnembedError, match=r"00001 is being written by"):
        fill(tmp_path / "run")(Ranks())
    fill(tmp_path / "run")(Ranks())
    assert files(tmp_path / "run") == alone


def test_another_runs_journal_beside_the_folders_own_is_not_taken(
    tmp_path: Path, alone: dict[str, bytes]
) -> None:
    launch(2, fill(tmp_path / "run", stop_after=1))
    journal = tmp_path / "run" / ".ranks" / "00001" / "journal.jsonl"
    journal.parent.mkdir(parents=True, exist_ok=True)
    journal.write_bytes(
        b'{"kind":"other"}\n{"path":"odd","rows":0,"sha256":"' + b"0" * 64 + b'"}\n'
    )
    fill(tmp_path / "run")(Ranks())
    assert files(tmp_path / "run") == alone
