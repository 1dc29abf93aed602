from __future__ import annotations

import os
import time
from contextvars import copy_context

import pytest

from unembed.runs import phases as module
from unembed.runs.phases import (
    REST,
    START,
    Phases,
    current_phases,
    process_profile,
    profile_process,
    seconds_alive,
)


def test_phases_add_up_in_order_of_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    phases, clock = Phases(), iter((0.0, 1.0, 5.0, 7.0, 10.0, 14.0))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    for name in ("read", "body", "read"):
        with phases(name):
            pass
    assert phases.seconds == {"read": 5.0, "body": 2.0}
    assert list(phases.seconds) == ["read", "body"]
    lines = str(phases).splitlines()
    assert [line.split()[0] for line in lines] == ["read", "body", "total"]
    assert lines[-1].endswith("100.0%")


def test_a_phase_waits_for_the_device_and_counts_what_failed() -> None:
    waited: list[bool] = []
    phases = Phases(finish=lambda: waited.append(True))
    with phases("body"):
        assert not waited
    assert waited == [True]
    with pytest.raises(ValueError, match="no"), phases("head"):
        raise ValueError("no")
    assert "head" in phases.seconds


def test_workers_count_their_share() -> None:
    phases = Phases()
    with phases.among(1000)("body"):
        time.sleep(0.01)
    assert 0 < phases.seconds["body"] < 0.005


def test_a_phase_within_another_is_not_counted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    phases, clock = Phases(), iter((0.0, 1.0, 4.0, 10.0))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    with phases("training"), phases("body"):
        pass
    assert phases.seconds == {"training": 7.0, "body": 3.0}
    assert list(phases.seconds) == ["training", "body"]


def test_what_workers_do_meanwhile_is_theirs() -> None:
    phases = Phases()
    start = time.perf_counter()
    with phases("held out"):
        with phases.among(1)("head"):
            time.sleep(0.02)
        time.sleep(0.01)
    whole = time.perf_counter() - start
    assert sum(phases.seconds.values()) == pytest.approx(whole, abs=0.005)
    assert phases.seconds["head"] >= 0.02 > phases.seconds["held out"] - 0.005


def test_a_process_is_accounted_for_whole() -> None:
    def profiled() -> dict[str, float] | None:
        profile_process()
        with current_phases()("load"):
            time.sleep(0.01)
        return process_profile()

    seconds = copy_context().run(profiled)
    assert seconds is not None
    assert process_profile() is None, "the account ends with its context"
    assert next(iter(seconds)) == START
    assert list(seconds)[-1] == REST
    assert sum(seconds.values()) == pytest.approx(seconds_alive(), abs=0.5)


def test_the_age_of_a_process_is_that_of_its_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    alive = seconds_alive()
    since_import = time.perf_counter() - module._IMPORTED
    assert alive >= since_import - 0.02
    monkeypatch.setattr(os, "sysconf", _unknown)
    assert seconds_alive() == pytest.approx(time.perf_counter() - module._IMPORTED, abs=0.1)


def _unknown(_name: str) -> int:
    raise ValueError("unrecognized configuration name")
