from __future__ import annotations

import io
import os
import sys
from typing import Any

import pytest

from unembed.runs import progress
from unembed.runs.progress import Steps, progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def drawn(stream: Any, monkeypatch: pytest.MonkeyPatch, total: int | None = 50) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar("audit", "tok", total, shown=True) as bar:
        for _ in range(40):
            bar.update(1)
            bar.refresh()
    text: str = stream.getvalue()
    return text


def test_a_terminal_sees_one_bar_with_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "DELAY_SECONDS", 0)
    text = drawn(Terminal(), monkeypatch)
    assert text.count("\r") > 10
    assert text.count("\n") == 1
    assert "80%" in text
    assert "tok/s" in text
    assert "<" in text


def test_a_log_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0)
    text = drawn(io.StringIO(), monkeypatch, total=None)
    assert "\r" not in text
    assert all("tok" in line for line in text.splitlines())
    assert len(text.splitlines()) > 10


def test_what_is_over_soon_leaves_a_log_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar("audit", "tok", 3, shown=True) as bar:
        bar.update(3)
    assert stream.getvalue() == ""


def test_nothing_is_drawn_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "DELAY_SECONDS", 0)
    with progress_bar("audit", "tok", 3, shown=False) as bar:
        bar.update(3)
    assert stream.getvalue() == ""


def test_bars_are_called_by_their_steps_and_share_one_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream, now = io.StringIO(), [0.0]
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    points = Steps(3, alike=True)
    for point in ("fisher", "margin"):
        with points(point):
            steps = Steps(2)
            for name in ("training", "held out, before"):
                with steps(name), progress_bar("audit", "tok", 100, shown=True) as bar:
                    now[0] += 20
                    bar.update(50)
                    bar.refresh()
    first, second = stream.getvalue().splitlines()
    assert first.startswith("fisher: 1 of 3 | held out, before: 2 of 2, 50 %, 50.0 of 100 tok, ")
    assert second.startswith("margin: 2 of 3 (01:20 left) | held out, before: 2 of 2, 50 %")
    assert all(line.endswith(" left") for line in (first, second))


def test_a_terminal_that_says_no_width_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unsized(Terminal):
        def fileno(self) -> int:
            return 2

    monkeypatch.setattr(progress, "LINE_SECONDS", 0)
    monkeypatch.setattr(progress.os, "get_terminal_size", lambda _fd: os.terminal_size((0, 0)))
    text = drawn(Unsized(), monkeypatch)
    assert "\r" not in text
    assert "audit, 80 %, 40.0 of 50.0 tok" in text
