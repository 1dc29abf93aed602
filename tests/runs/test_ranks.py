"""The processes of a launch, as threads that speak through one store."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Any

import pytest
from torch.distributed import DistNetworkError, HashStore

from threads_as_ranks import launch
from unembed.errors import UnembedError
from unembed.runs import heartbeat
from unembed.runs import ranks as module
from unembed.runs.heartbeat import OtherRankError
from unembed.runs.ranks import Ranks, current_ranks, joined


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(heartbeat, "SILENT_BEATS", 20)


def test_alone_nothing_is_waited_for() -> None:
    with joined() as ranks:
        assert ranks == Ranks() == current_ranks()
        assert ranks.first
        assert ranks.writes
        assert ranks.owns(7)
        assert ranks.shared("a value", (1, 2)) == [[1, 2]]
        assert ranks.from_first("a value", (1, 2)) == [1, 2]
        ranks.agree("a value", {"a": 1})
        ranks.wait("here")
        ranks.check()


def test_every_process_hears_every_other_in_order() -> None:
    def work(ranks: Ranks) -> Any:
        assert current_ranks() is ranks
        ranks.wait("here")
        said = ranks.shared("numbers", ranks.process * 10)
        return said, ranks.from_first("the first", ranks.process + 5), ranks.shared("again", 1)

    assert launch(3, work) == [([0, 10, 20], 5, [1, 1, 1])] * 3


def test_teams_share_parts_out_and_one_of_each_writes() -> None:
    whole = [Ranks(process, 4) for process in range(4)]
    assert [[n for n in range(7) if one.owns(n)] for one in whole] == [[0, 4], [1, 5], [2, 6], [3]]
    teams = [one.in_teams(2) for one in whole]
    assert [(one.team, one.place, one.writes, one.teams) for one in teams] == [
        (0, 0, True, 2),
        (0, 1, False, 2),
        (1, 0, True, 2),
        (1, 1, False, 2),
    ]
    assert [[n for n in range(5) if one.owns(n)] for one in teams] == [[0, 2, 4]] * 2 + [[1, 3]] * 2
    with pytest.raises(UnembedError, match="4 processes do not make teams of 3"):
        whole[0].in_teams(3)


def test_what_differs_between_processes_is_named_on_all_of_them() -> None:
    def work(ranks: Ranks) -> None:
        options = {"options": {"top_k": 5 if ranks.process < 2 else 3}, "seed": 0}
        ranks.agree("their options", options)

    found = launch(3, work)
    assert len({str(error) for error in found if not isinstance(error, OtherRankError)}) == 1
    assert "their options: options.top_k is 5 on rank 0 and 3 on rank 2; give" in str(found[0])
    launch(3, lambda ranks: ranks.agree("their options", {"a": [1, None]}))


def test_one_that_fails_ends_the_others_with_its_line() -> None:
    def work(ranks: Ranks) -> None:
        if ranks.process == 2:
            raise UnembedError("part 7 is damaged: mend it")
        if ranks.process == 1:
            ranks.wait("for ever")
        while True:
            ranks.check()

    first, second, third = launch(3, work)
    assert type(third) is UnembedError
    assert {type(first), type(second)} == {OtherRankError}
    assert str(first) == str(second) == "rank 2: part 7 is damaged: mend it"


GLOO = "[gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:53904: Connection reset by peer"


@pytest.mark.parametrize("lost", [RuntimeError(GLOO), DistNetworkError("closed")])
def test_one_whose_team_has_lost_a_process_says_so_in_a_line(lost: RuntimeError) -> None:
    """The process that ended says nothing; each of the others meets it where it waits for it."""

    def work(ranks: Ranks) -> None:
        assert ranks._watch is not None
        ranks._watch.made_group = True
        ranks.wait("here")
        raise lost

    for one in launch(2, work):
        assert isinstance(one, OtherRankError)
        assert str(one).removeprefix("rank 0: ").removeprefix("rank 1: ") == heartbeat.PARTNER_LOST


def test_the_line_of_one_that_failed_goes_before_what_its_team_met() -> None:
    def work(ranks: Ranks) -> None:
        assert ranks._watch is not None
        ranks._watch.made_group = True
        if ranks.process == 1:
            raise UnembedError("the text ends in the middle")
        while ranks._watch.first_line() is None:
            pass
        raise RuntimeError(GLOO)

    first, second = launch(2, work)
    assert str(first) == "rank 1: the text ends in the middle"
    assert str(second) == "the text ends in the middle"


def test_one_that_ends_early_is_not_waited_for() -> None:
    first, second = launch(2, lambda ranks: ranks.first and ranks.wait("the parts"))
    assert second is False
    assert "rank 1 has ended, and rank 0 waits for it (the parts)" in str(first)


def test_different_commands_are_told_apart() -> None:
    found = launch(2, lambda ranks: ranks.wait(f"step {ranks.process}"))
    assert any("is at 'step" in str(error) for error in found)


@pytest.mark.parametrize("silent", [0, 1])
def test_one_that_is_not_heard_of_is_given_up(silent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAVE_SECONDS", 0.1)
    run = heartbeat.Watch.run

    def dies(self: Any) -> None:
        if self.process != silent:
            run(self)

    monkeypatch.setattr(heartbeat.Watch, "run", dies)
    lines: list[str] = []

    def work(ranks: Ranks) -> None:
        if ranks.process == silent:
            threading.Event().wait(1.0)
            raise SystemExit
        ranks.wait("the parts")

    found = launch(2, work)
    assert str(found[1 - silent]).startswith(f"rank {silent} was not heard of for")
    assert not lines


def test_a_process_that_does_not_look_is_told_all_the_same() -> None:
    store, lines, told = HashStore(), [], threading.Event()

    def hear(line: str) -> None:
        lines.append(line)
        told.set()

    def fails() -> None:
        with suppress(UnembedError), joined(Ranks(1, 2, store=store)):
            raise UnembedError("no room")

    def works() -> None:
        with joined(Ranks(0, 2, store=store), unnoticed=hear) as ranks:
            assert told.wait(10)
            ranks.check()

    other = threading.Thread(target=fails)
    other.start()
    with pytest.raises(OtherRankError, match="rank 1: no room"):
        works()
    other.join()
    assert lines[0] == "rank 1: no room"


WHOLE = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"WORLD_SIZE": "2"}, "RANK, MASTER_ADDR, MASTER_PORT is not set"),
        (WHOLE | {"RANK": "2"}, "RANK is 2, of WORLD_SIZE 2"),
        (WHOLE | {"RANK": "one"}, "RANK is 'one'"),
    ],
)
def test_an_environment_that_is_no_launch_is_refused(
    environment: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in WHOLE:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UnembedError, match=said), joined():
        pass


def test_processes_meet_over_a_port_and_one_that_is_in_use_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in (WHOLE | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}).items():
        monkeypatch.setenv(name, value)
    first = module._launched_ranks()
    assert first._carries
    monkeypatch.setenv("RANK", "1")
    second = module._launched_ranks()
    assert (second.process, second.processes, second._carries) == (1, 2, False)
    found: list[Any] = []

    def work(given: Ranks) -> None:
        with joined(given) as ranks:
            found.append(ranks.shared("a value", ranks.process))

    other = threading.Thread(target=work, args=(second,))
    other.start()
    work(first)
    other.join()
    assert found == [[0, 1], [0, 1]]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("MASTER_PORT", str(taken.getsockname()[1]))
        with pytest.raises(UnembedError, match=r"MASTER_PORT \d+ is in use on 127.0.0.1: give"):
            module._launched_ranks()


def test_a_rank_that_reaches_nobody_says_so_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "JOIN_SECONDS", 0.05)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in (WHOLE | place).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(module.NoFirstRankError, match=f"rank 1 cannot reach rank 0 at .*:{port}"):
        module._launched_ranks()


def test_two_processes_that_say_they_are_one_are_refused() -> None:
    store = HashStore()
    store.add("here/0", 1)
    with pytest.raises(OtherRankError, match="another process is rank 0 of this launch already"):
        joined(Ranks(0, 2, store=store)).__enter__()
    assert not store.check(["trouble"])


def test_one_that_does_not_come_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "JOIN_SECONDS", 0.05)
    with pytest.raises(UnembedError, match=r"1 of 3 ranks came within 0 s: rank 1, 2 did not"):
        joined(Ranks(0, 3, store=HashStore())).__enter__()


def test_each_process_of_a_machine_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "5")
    assert [module.own_gpu(gpus) for gpus in (8, 4, 1, 0)] == [5, 1, 0, 0]
    monkeypatch.delenv("LOCAL_RANK")
    assert module.own_gpu(8) == 0
