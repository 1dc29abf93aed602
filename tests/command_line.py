"""Run ``unembed`` in this process, as its script does."""

from __future__ import annotations

import sys
from collections.abc import Callable
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


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the command line, and say how it ended and what it printed."""

    def call(*argv: str | Path) -> Ended:
        capfd.readouterr()
        return Ended(invoke(*argv), *capfd.readouterr())

    return call
