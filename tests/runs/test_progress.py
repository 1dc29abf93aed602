from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from unembed.runs import progress
from unembed.runs.progress import progress_bar


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
