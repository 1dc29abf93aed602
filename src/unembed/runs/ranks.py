"""The processes that a launcher such as torchrun started together, and how they tell each other.

They speak through torch's key-value store alone: plain values, a heartbeat of each, and the line of
the first that fails. Nothing of torch.distributed is imported where there is one process.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from unembed.errors import UnembedError
from unembed.runs.differences import differing
from unembed.runs.heartbeat import STOPPED, OtherRankError, Watch, reached
from unembed.short_repr import ShortRepr

LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What a launcher puts into the environment of each process."""
JOIN_SECONDS = 300.0
"""How long the processes of a launch wait for one that has not begun."""
KNOCK_SECONDS = 5.0
"""How long one try to reach process 0 may take."""
LEAVE_SECONDS = 10.0
"""How long a process that ends stays until the others have heard of it."""
POLL_SECONDS = (0.002, 0.02)
LOOK_SECONDS = 0.5
"""How often one that waits asks whether the other has left."""


class NoFirstRankError(UnembedError):
    """Process 0 is not reached: nobody but the process that misses it can say so."""


@dataclass(frozen=True)
class Ranks(ShortRepr):
    """The processes of one launch: which this is, and how they tell each other plain values.

    ``tensor`` processes are a team, which holds one model together. Every method that waits is
    called by all processes, in the same order.
    """

    process: int = 0
    processes: int = 1
    tensor: int = 1
    store: Any = field(default=None, repr=False, compare=False)
    _calls: Iterator[int] = field(default_factory=itertools.count, repr=False, compare=False)
    _watch: Watch | None = field(default=None, repr=False, compare=False)
    _carries: bool = field(default=False, repr=False, compare=False)
    """Whether the store ends with this process."""

    @property
    def team(self) -> int:
        """Which team this process is of."""
        return self.process // self.tensor

    @property
    def teams(self) -> int:
        """How many teams there are; each measures parts of its own."""
        return self.processes // self.tensor

    @property
    def place(self) -> int:
        """Which of its team this process is."""
        return self.process % self.tensor

    @property
    def first(self) -> bool:
        """Whether this process prints, summarises, and locks the folder."""
        return self.process == 0

    @property
    def writes(self) -> bool:
        """Whether this process writes the parts of its team."""
        return self.place == 0

    def owns(self, number: int) -> bool:
        """Whether the part of this number, among those left to do, is this team's."""
        return number % self.teams == self.team

    def in_teams(self, tensor: int) -> Ranks:
        """The same processes in teams of ``tensor``.

        Raises UnembedError where they do not share out evenly.
        """
        if tensor < 1 or self.processes % tensor:
            raise UnembedError(
                f"{self.processes} processes do not make teams of {tensor}: launch a multiple of "
                f"{tensor}, or give a number that divides {self.processes}"
            )
        return replace(self, tensor=tensor)

    def shared(self, what: str, value: Any) -> list[Any]:
        """Every process's plain value, in order; ``what`` says what it is of."""
        if self.processes == 1:
            return [json.loads(json.dumps(value))]
        call = next(self._calls)
        self._put(f"said/{call}/{self.process}", json.dumps([what, value]))
        return [self._said(call, what, process) for process in range(self.processes)]

    def from_first(self, what: str, value: Any) -> Any:
        """Process 0's plain value; it waits for nobody."""
        if self.processes == 1:
            return json.loads(json.dumps(value))
        call = next(self._calls)
        if self.first:
            self._put(f"said/{call}/0", json.dumps([what, value]))
        return self._said(call, what, 0)

    def agree(self, what: str, value: dict[str, Any]) -> None:
        """Raise UnembedError, naming the first leaf that differs, where values are not alike."""
        first, *others = self.shared(what, value)
        for process, other in enumerate(others, start=1):
            if found := differing(first, other):
                (name, theirs, ours), *rest = found
                more = f" (and {', '.join(one for one, *_ in rest)})" if rest else ""
                raise UnembedError(
                    f"the ranks do not do the same work, {what}: {name} is {theirs} on rank 0 and "
                    f"{ours} on rank {process}{more}; give all of them the same files, options and "
                    "versions"
                )

    def wait(self, what: str) -> None:
        """Wait until all processes are here. Raises UnembedError where one of them has ended."""
        self.shared(what, None)

    def check(self) -> None:
        """Raise UnembedError where another process has failed or is not heard of; cheap."""
        if self._watch is not None:
            self._watch.check()

    def process_group(self) -> Any:
        """torch.distributed's group of this process's team: gloo on a CPU, NCCL on a GPU.

        It is all that torch.distributed knows of, so that what splits a model over its processes
        splits it over the team. It meets over the same store, and is left when the launch is.
        """
        import torch
        import torch.distributed as dist

        if not dist.is_initialized():
            if self.store is None:
                raise UnembedError("one process makes no group: launch several, or leave --tp out")
            cuda = torch.cuda.is_available()
            if cuda:
                torch.cuda.set_device(own_gpu(torch.cuda.device_count()))
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if cuda else "gloo",
                store=_stores().PrefixStore(f"team/{self.team}", self.store),
                rank=self.place,
                world_size=self.tensor,
            )
            if self._watch is not None:
                self._watch.made_group = True
        return dist.group.WORLD

    def _put(self, key: str, text: str) -> None:
        with reached():
            self.store.set(key, text)

    def _said(self, call: int, what: str, process: int) -> Any:
        """What a process said at a call, once it has."""
        key, pause, since = f"said/{call}/{process}", POLL_SECONDS[0], time.monotonic()
        while not self._there(key):
            self.check()
            if time.monotonic() - since > LOOK_SECONDS:
                since = time.monotonic()
                # In this order: it may have said it and ended in between.
                if self._there(f"left/{process}") and not self._there(key):
                    with reached():
                        line = None if self._watch is None else self._watch.look()
                    if line is not None:
                        raise OtherRankError(line)
                    raise OtherRankError(
                        f"rank {process} has ended, and rank {self.process} waits for it ({what}): "
                        "give all of them the same command"
                    )
            time.sleep(pause)
            pause = min(2 * pause, POLL_SECONDS[1])
        with reached():
            theirs, value = json.loads(self.store.get(key))
        if theirs != what:
            raise OtherRankError(
                f"rank {process} is at {theirs!r}, where rank {self.process} is at {what!r}: give "
                "all of them the same command"
            )
        return value

    def _there(self, key: str) -> bool:
        with reached():
            return bool(self.store.check([key]))


def current_ranks() -> Ranks:
    """The launch that this thread has joined; one process alone where it has joined none."""
    return _CURRENT.get()


@contextmanager
def alone() -> Iterator[None]:
    """Within it this process works by itself: what it opens, it writes alone."""
    token = _CURRENT.set(Ranks())
    try:
        yield
    finally:
        _CURRENT.reset(token)


def launched() -> bool:
    """Whether a launcher started this process with others."""
    return os.environ.get("WORLD_SIZE", "1").strip() not in ("", "0", "1")


def own_gpu(gpus: int) -> int:
    """Which of a machine's GPUs is this process's: dealt out by LOCAL_RANK."""
    place = os.environ.get("LOCAL_RANK", "").strip()
    return int(place) % gpus if place.isdecimal() and gpus else 0


@contextmanager
def joined(
    ranks: Ranks | None = None, *, unnoticed: Callable[[str], None] | None = None
) -> Iterator[Ranks]:
    """Work together with the processes of this launch: each measures parts of a run folder.

    Around what every process calls alike::

        with unembed.runs.joined():
            unembed.audit(model, corpus, out="runs/reviews")

    The launch is that of torchrun, or of any launcher that sets RANK, WORLD_SIZE, MASTER_ADDR and
    MASTER_PORT; without one, this does nothing. What fails in one process ends the others:
    OtherRankError, at the latest between two batches; where that is not reached within ten
    seconds, ``unnoticed`` is called with the line, from another thread. Raises UnembedError where
    the processes do not find each other.
    """
    ranks = _launched_ranks() if ranks is None else ranks
    if ranks.processes == 1:
        yield ranks
        return
    watch = Watch(ranks.store, ranks.process, ranks.processes, unnoticed)
    ranks = replace(ranks, _watch=watch)
    _gather(ranks)
    watch.start()
    token = _CURRENT.set(ranks)
    try:
        ranks.agree("their packages", _versions())
        yield ranks
        if watch.made_group:
            _leave_group()
        _leave(ranks, failed=False)
    except SystemExit:
        _leave(ranks, failed=False)
        raise
    except BaseException as error:
        with suppress(OtherRankError):
            if isinstance(error, KeyboardInterrupt) and (line := watch.first_line()):
                # A launcher ends all where it sees one end: that one's line is the reason.
                error = OtherRankError(line)
            if watch.made_group and _is_of_the_group(error):
                error = watch.lost()
            if not isinstance(error, OtherRankError):
                watch.report(_line_of(error))
            _leave(ranks, failed=True)
        raise error
    finally:
        _CURRENT.reset(token)
        watch.stop()


@contextmanager
def tensor_parallel(processes: int | None = None) -> Iterator[Ranks]:
    """Teams of so many processes of a launch each hold one model together; all of them by default.

    A model that is loaded within is split over its team: the body by transformers' own plan, the
    head by its rows. Several teams share the parts of a run as single processes do::

        with joined(), tensor_parallel(2):  # of unembed.runs
            unembed.audit(unembed.load("my-model"), corpus, out="runs/reviews")

    Raises UnembedError without a launch, and where the processes do not make such teams.
    """
    ranks = current_ranks()
    if ranks.processes == 1:
        raise UnembedError(
            "--tp holds a model on several processes, and there is one: launch several "
            "(torchrun --nproc-per-node 2 -m unembed ...), or leave it out"
        )
    wanted = ranks.processes if processes is None else processes
    if wanted > ranks.processes:
        raise UnembedError(
            f"--tp {wanted} is more than the {ranks.processes} processes of this launch: launch "
            f"{wanted}, or give at most {ranks.processes}"
        )
    ranks = ranks.in_teams(wanted)
    token = _CURRENT.set(ranks)
    try:
        yield ranks
    finally:
        _CURRENT.reset(token)


def _launched_ranks() -> Ranks:
    """The launch that the environment tells of, connected to its store."""
    if not launched():
        return Ranks()
    missing = [name for name in LAUNCHED if not os.environ.get(name)]
    if missing:
        raise UnembedError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, and {', '.join(missing)} is not set: "
            "launch with torchrun, or set " + ", ".join(LAUNCHED) + " for each process"
        )
    process, processes, port = (_whole(name) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    if process >= processes:
        raise UnembedError(f"RANK is {process}, of WORLD_SIZE {processes}: count ranks from 0")
    carries = process == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    store = _connect(process, port, carries)
    return Ranks(process, processes, store=store, _carries=carries)


def _whole(name: str) -> int:
    value = os.environ[name].strip()
    if not value.isdecimal():
        raise UnembedError(f"{name} is {value!r}: give a whole number")
    return int(value)


def _connect(process: int, port: int, carries: bool) -> Any:
    """The store of this launch: torchrun's own, or one that process 0 carries."""
    environment, stores = os.environ, _stores()
    host = environment["MASTER_ADDR"]
    unreached = (
        f"rank {process} cannot reach rank 0 at {host}:{port} (MASTER_ADDR, MASTER_PORT) within "
        f"{JOIN_SECONDS:.0f} s: start it, and give an address and a port that every rank reaches"
    )
    if not carries and not _answers(host, port):
        raise NoFirstRankError(unreached)
    try:
        store = stores.TCPStore(
            host,
            port,
            is_master=carries,
            timeout=timedelta(seconds=JOIN_SECONDS),
            wait_for_workers=False,
            multi_tenant=carries,
        )
    except (RuntimeError, ValueError) as error:
        if "EADDRINUSE" in str(error) or "address already in use" in str(error).lower():
            raise UnembedError(
                f"MASTER_PORT {port} is in use on {host}: give a free one, the same to every rank"
            ) from None
        raise NoFirstRankError(unreached) from None
    run = environment.get("TORCHELASTIC_RUN_ID", "")
    # Ranks that a launcher starts again must not hear what those before them said.
    again = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
    return stores.PrefixStore(f"unembed/{run}/{again}", store)


def _answers(host: str, port: int) -> bool:
    """Whether somebody listens there, before the others are given up.

    torch's own wait takes no Ctrl-C, and tries again for as long where it has waited in vain.
    """
    until, pause = time.monotonic() + JOIN_SECONDS, POLL_SECONDS[0]
    while True:
        try:
            socket.create_connection((host, port), timeout=KNOCK_SECONDS).close()
        except OSError:
            if time.monotonic() > until:
                return False
            time.sleep(pause)
            pause = min(2 * pause, LOOK_SECONDS)
        except (OverflowError, UnicodeError):
            return False  # No port, no name of a host.
        else:
            return True


def _stores() -> Any:
    import torch.distributed

    return torch.distributed


def _gather(ranks: Ranks) -> None:
    """Wait for all processes of the launch to be there."""
    store, here = ranks.store, f"here/{ranks.process}"
    with reached():
        if store.add(here, 1) > 1:
            raise OtherRankError(
                f"another process is rank {ranks.process} of this launch already: give each launch "
                "a MASTER_PORT of its own"
            )
        store.set(f"beat/{ranks.process}", "0")
        until, pause = time.monotonic() + JOIN_SECONDS, POLL_SECONDS[0]
        awaited = list(range(ranks.processes))
        while awaited := [one for one in awaited if not store.check([f"beat/{one}"])]:
            if time.monotonic() > until:
                who = ", ".join(map(str, awaited))
                raise UnembedError(
                    f"{ranks.processes - len(awaited)} of {ranks.processes} ranks came within "
                    f"{JOIN_SECONDS:.0f} s: rank {who} did not"
                )
            time.sleep(pause)
            pause = min(2 * pause, POLL_SECONDS[1])


def _leave(ranks: Ranks, *, failed: bool) -> None:
    """Say that this process leaves, and stay until the others that live can do without it.

    Process 0 stays for all others, unless it failed and does not carry the store; one that failed
    stays until process 0 knows, as a launcher that sees it end would end process 0 too.
    """
    ranks._put(f"left/{ranks.process}", "1")
    if failed if ranks.first and not ranks._carries else not (failed or ranks.first):
        return
    gone = set() if ranks._watch is None else ranks._watch.gone
    awaited = set(range(1, ranks.processes)) if ranks.first else {0}
    until = time.monotonic() + LEAVE_SECONDS
    while awaited := {one for one in awaited - gone if not ranks._there(f"left/{one}")}:
        if failed:
            if time.monotonic() > until:
                return
        else:
            ranks.check()
        time.sleep(POLL_SECONDS[1])


def _versions() -> dict[str, str]:
    from unembed.runs.provenance import versions_of_packages

    return {"python": platform.python_version(), **versions_of_packages()}


def _leave_group() -> None:
    import torch.distributed as dist

    dist.destroy_process_group()


def _is_of_the_group(error: BaseException) -> bool:
    """Whether torch.distributed could not send or receive: gloo says so in words alone."""
    import torch.distributed as dist

    if not isinstance(error, RuntimeError):
        return False
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def _line_of(error: BaseException) -> str:
    if isinstance(error, UnembedError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return STOPPED
    return f"{type(error).__name__}: {error}"


_CURRENT: ContextVar[Ranks] = ContextVar("_CURRENT", default=Ranks())  # noqa: B039
"""As with phases, passing it to every verb would make it a part of what is measured."""
