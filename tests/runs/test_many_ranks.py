"""Runs that torchrun's processes share are those of one process, byte for byte."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from command_line import Run
from made_up.corpora import TEXTS
from places import ROOT
from shared_work import measure_all

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


def torchrun(processes: int, *argv: str | Path) -> subprocess.CompletedProcess[str]:
    """Start the processes on this machine, each with one thread, and wait for them."""
    path = os.pathsep.join((str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")))
    return subprocess.run(
        [*TORCHRUN, str(processes), *map(str, argv)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def files(folder: Path) -> dict[str, bytes]:
    """What lies in a folder, but for locks, which name the process that held them."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(f"{text} {word}." for text in TEXTS for word in ("again", "no")))
    return path


@pytest.fixture(scope="module")
def by_one(llama_folder: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("one")
    measure_all(llama_folder, text, out)
    return out


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_runs_are_the_same_bytes_whatever_the_number_of_ranks(
    processes: int, llama_folder: Path, text: Path, by_one: Path, tmp_path: Path
) -> None:
    done = torchrun(processes, ROOT / "tests" / "shared_work.py", llama_folder, text, tmp_path)
    assert done.returncode == 0, done.stderr
    one, several = files(by_one), files(tmp_path)
    assert set(several) == set(one)
    assert [name for name in one if several[name] != one[name]] == []


def test_ranks_of_the_command_line_that_read_other_texts_are_refused_in_one_line(
    llama_folder: Path, text: Path, tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    both = []
    for rank in range(2):
        place = tmp_path / str(rank)
        place.mkdir()
        (place / "text.txt").write_text(text.read_text() + f"And {rank}.")
        argv = ("audit", llama_folder, "text.txt", "-o", "../run", "--part-positions", "60")
        both.append(
            subprocess.Popen(
                [sys.executable, "-m", "unembed", *argv],
                cwd=place,
                env=os.environ | where | {"RANK": str(rank), "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    (out, err), silent = (one.communicate(timeout=60) for one in both)
    assert [one.returncode for one in both] == [2, 2]
    assert out == ""
    [line] = err.splitlines()
    assert line.startswith("unembed: the ranks do not do the same work, the run in ../run: text.")
    assert "text.digest" in line
    assert silent == ("", "")
    assert not (tmp_path / "run").exists()


def test_a_verb_for_one_process_is_refused_under_a_launcher(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert run("demo").line.startswith("demo is the work of one process: leave the launcher out")
    monkeypatch.setenv("RANK", "1")
    ended = run("demo")
    assert (ended.code, ended.out, ended.err) == (2, "", "")
