from __future__ import annotations

import time

import pytest

from unembed.runs.phases import Phases


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
