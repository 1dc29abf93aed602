"""Run ``unembed`` in this process, as its script does."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from unembed import cli


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line that the user is told on stderr."""
        assert self.code == 2, self.err
        assert self.out == ""
        [line] = self.err.splitlines()
        assert line.startswith("unembed: ")
        return line.removeprefix("unembed: ")


Run = Callable[..., Ended]


def invoke(*argv: str | Path) -> int:
    """Run the command line and return its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["unembed", *map(str, argv)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
    return int(caught.value.code or 0)


QUICK = ("--size", "256", "--context", "32", "--quiet")
"""A sketch of short windows to few numbers."""


def write_texts(folder: Path, topics: list[str], names: Sequence[str]) -> list[Path]:
    """A file for each name, with the beginnings of paragraphs dealt out in turn."""
    files = []
    for i, name in enumerate(names):
        files.append(folder / f"{name}.txt")
        rows = (topic[:100].replace("\n", " ") for topic in topics[i :: len(names)])
        files[-1].write_text("\n".join(rows))
    return files


def sketch_all(model: Path, texts: list[Path], folder: Path, *options: str) -> list[Path]:
    """A signature of each text."""
    found = []
    for text in texts:
        found.append(folder / f"{text.stem}.safetensors")
        assert invoke("sketch", model, text, "-o", found[-1], *QUICK, *options) == 0
    return found


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the command line, and say how it ended and what it printed."""

    def call(*argv: str | Path) -> Ended:
        capfd.readouterr()
        return Ended(invoke(*argv), *capfd.readouterr())

    return call
