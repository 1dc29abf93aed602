"""``unembed dose`` on the command line: weights by objective, shares of gradient and of work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command_line import Run
from unembed.cli.dose import _weights
from unembed.models import checkpoint
from unembed.training.doses.dose import Doses

QUICK = (
    *("--steps", "2", "--batch-size", "2", "--context", "32", "--learning-rate", "1e-3"),
    *("--heldout", "0.4", "--seeds", "1", "--objectives", "margin", "--quiet"),
)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory, topics: list[str]) -> Path:
    file = tmp_path_factory.mktemp("corpus") / "short.txt"
    file.write_text("\n".join(topic[:80].replace("\n", " ") for topic in topics[:8]))
    return file


def test_weights_of_every_objective_or_of_each() -> None:
    assert _weights("0, .3,1e-1") == (0.0, 0.3, 0.1)
    assert _weights(" fisher = 0.5,2; margin=0.1; ") == {"fisher": (0.5, 2.0), "margin": (0.1,)}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--weights", "fisher=0.5;0.1"), "has no objective before '0.1'"),
        (("--weights", "margin=1;margin=2"), "gives margin twice"),
        (("--weights", "margin="), "--weights '' are no numbers"),
        (("--weights", "margin=0.1;fischer=1"), "'fischer' is in one of them alone"),
        (("--weights", "margin=nan"), "must be 0 or more"),
        (("--gradient-shares", "0.1,x"), "--gradient-shares '0.1,x' are no numbers"),
        (("--gradient-shares", "margin=0.1"), "serve all objectives alike"),
        (("--gradient-shares", "0.1,-2"), "--gradient-shares -2 is no share"),
        (("--gradient-shares", "0.1", "--weights", "1"), "exclude each other"),
        (("--share", "0/4"), "--share 0/4 is none: give one of 1/4 to 4/4"),
        (("--share", "5/4"), "--share 5/4 is none: give one of 1/4 to 4/4"),
        (("--share", "1/0"), "--share 1/0 is none"),
        (("--share", "half"), "--share 'half' is no share: give such as 1/4"),
        (("--position-budget", "10"), "a budget of 10 positions leaves 0 for each of"),
    ],
)
def test_what_is_refused_before_the_work(
    run: Run,
    llama_folder: Path,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: tuple[str, ...],
    words: str,
) -> None:
    monkeypatch.setattr(checkpoint, "load", lambda *_a, **_k: pytest.fail("it was loaded"))
    ended = run("dose", llama_folder, text, "-o", tmp_path / "run", *QUICK, *given)
    assert words in ended.line


def test_shares_of_a_grid_make_it_together(
    run: Run, llama_folder: Path, text: Path, tmp_path: Path
) -> None:
    grid = ("dose", llama_folder, text, "-o", tmp_path / "run", *QUICK, "--gradient-shares", "0.3")
    first = run(*grid, "--share", "1/2")
    assert first.code == 0, first.err
    assert first.out == (
        "share 1/2 is done; the last model is left to others, of whom the last makes the tables\n"
    )
    assert json.loads(run(*grid, "--share", "1/2", "--json").out)["models_left"] == 1
    other = run("dose", llama_folder, text, "-o", tmp_path / "run", *QUICK, "--share", "2/2")
    assert "holds another run" in other.err
    last = run(*grid, "--share", "2/2")
    assert last.code == 0, last.err
    assert "margin at share 0.3" in last.out
    assert "; weight " in last.out
    found = Doses.load(tmp_path / "run")
    assert found.heldout.rows[1].gradient_share == 0.3
    page = (tmp_path / "run" / "report.html").read_text()
    assert "share of the loss’s gradient" in page
