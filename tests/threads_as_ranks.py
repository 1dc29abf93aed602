"""The processes of a launch as threads of this one, which speak through one store."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from torch.distributed import HashStore

from unembed.runs.ranks import Ranks, joined


def launch(processes: int, work: Callable[[Ranks], Any], *, within: float = 60) -> list[Any]:
    """What each process returned, or the error that it ended with; all end ``within`` seconds."""
    store, found = HashStore(), [None] * processes

    def one(process: int) -> None:
        try:
            with joined(Ranks(process, processes, store=store)) as ranks:
                found[process] = work(ranks)
        except BaseException as error:
            found[process] = error

    threads = [threading.Thread(target=one, args=(process,)) for process in range(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(within)
        assert not thread.is_alive()
    return found
