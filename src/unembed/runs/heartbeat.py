"""How each process of a launch knows that the others live, and hears of the first that fails."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

from unembed.errors import UnembedError

BEAT_SECONDS = 1.0
SILENT_BEATS = 30
"""A process that did not beat for so many of another's beats is taken to have ended.

Counted in the other's own beats, so that a machine that slept for an hour accuses nobody.
"""
UNNOTICED_BEATS = 10
"""How long after a failure elsewhere a process may work on before it is ended."""
STOP_SECONDS = 5.0
STOPPED = "stopped"
"""The line of a process that was interrupted."""
LOST = (
    "the launch has ended: rank 0, or the launcher that carries what ranks tell each other, is not "
    "there any more"
)
PARTNER_LOST = (
    "a process that holds the model together with others has ended: the same command goes on from "
    "here"
)


class OtherRankError(UnembedError):
    """Another process of the launch failed, ended, or does other work; process 0 prints it."""


class Watch(Thread):
    """Beats for this process, and hears of others: process 0 of all, the others of process 0."""

    def __init__(
        self,
        store: Any,
        process: int,
        processes: int,
        unnoticed: Callable[[str], None] | None,
    ) -> None:
        super().__init__(name="unembed-ranks", daemon=True)
        self.store = store
        self.process = process
        self.others = range(1, processes) if process == 0 else range(1)
        self.unnoticed = unnoticed
        self.trouble: str | None = None
        self.noticed = False
        self.made_group = False
        self.ended = Event()
        self.gone: set[int] = set()
        self.heard: dict[int, tuple[bytes, int]] = {}

    def check(self) -> None:
        """Raise OtherRankError where there is trouble."""
        if self.trouble is not None:
            self.noticed = True
            raise OtherRankError(self.trouble)

    def report(self, line: str) -> None:
        """Tell the others that this process fails, unless another did before."""
        self.noticed = True
        with reached():
            said = json.dumps({"rank": self.process, "line": line})
            self.store.compare_set("trouble", "", said)

    def look(self) -> str | None:
        """The line of the process that failed first, if it is another one."""
        if not self.store.check(["trouble"]):
            return None
        trouble = json.loads(self.store.get("trouble"))
        if trouble["rank"] == self.process:
            return None
        return f"rank {trouble['rank']}: {trouble['line']}"

    def first_line(self) -> str | None:
        """``look``, now; None where the others are merely stopped as this process is."""
        with reached():
            line = self.look()
        return None if line is None or line.endswith(f": {STOPPED}") else line

    def lost(self) -> OtherRankError:
        """Why what the processes of a team send each other did not arrive, which all are told."""
        line = self.first_line()
        if line is None:
            line = PARTNER_LOST
            self.report(line)
        return OtherRankError(line)

    def run(self) -> None:
        """Beat until this process leaves."""
        late = 0
        for beat in itertools.count():
            try:
                self.store.set(f"beat/{self.process}", str(beat))
                self.trouble = self.trouble or self.look() or self._silent(beat)
            except RuntimeError:
                # What carried the store has ended, and with it the launch.
                self.trouble = self.trouble or LOST
            late += self.trouble is not None and not self.noticed
            if late > UNNOTICED_BEATS and self.unnoticed is not None:
                self.unnoticed(str(self.trouble))
            if self.ended.wait(BEAT_SECONDS):
                return

    def _silent(self, beat: int) -> str | None:
        """Why a process is taken to have ended, if one is."""
        for process in self.others:
            last = self.store.get(f"beat/{process}")
            said, when = self.heard.get(process, (b"", beat))
            if last != said or self.store.check([f"left/{process}"]):
                self.heard[process] = last, beat
            elif beat - when > SILENT_BEATS:
                self.gone.add(process)
                seconds = SILENT_BEATS * BEAT_SECONDS
                return f"rank {process} was not heard of for {seconds:.0f} s, and has ended"
        return None

    def stop(self) -> None:
        """Beat no more."""
        self.ended.set()
        self.join(STOP_SECONDS)


@contextmanager
def reached() -> Iterator[None]:
    """Say what it means that the store does not answer."""
    try:
        yield
    except RuntimeError as error:
        raise OtherRankError(LOST) from error
