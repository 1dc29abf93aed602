"""What an index does now and then as it grows and shrinks: segments, the sieve, compaction."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np

from unembed.runs.files import write_whole
from unembed.selection.index.files import Record, refusals
from unembed.selection.index.ledger import Ledger
from unembed.selection.index.sieve import LEAST_ROWS, Sieve
from unembed.selection.index.vectors import spans

MOST_UNSIEVED = 1024
"""Rows that are not in the sieve at most, and looked at whole by every query."""
COPIED_AT_A_TIME = 1024
"""Rows that are copied at a time."""


def settle(ledger: Ledger) -> Ledger:
    """Do what is due after a commit, under the lock; gives the ledger to go on with.

    Raises WriteError where the system refuses; what was committed stays, and it is due again after
    the next commit.
    """
    if 2 * len(ledger.removed) > ledger.rows:
        _compact(ledger)
        ledger = Ledger.read(ledger.folder)
    lost = bool(ledger.sieved) and ledger.sieve is None
    if ledger.rows >= LEAST_ROWS and (lost or ledger.rows - ledger.sieved >= MOST_UNSIEVED):
        _sieve(ledger)
    if ledger.full:
        header = ledger.header
        following = replace(
            header, step=header.step + 1, sieved=ledger.sieved, sieve_crcs=ledger.sieve_crcs
        )
        ledger.seal(following, ledger.whole_table(), header.rows)
    ledger.map()
    return ledger


def _sieve(ledger: Ledger) -> None:
    """Put the rows that are not in the sieve into it, all where it is lost, and commit that."""
    ledger.map()
    scales, paths = ledger.scales, [ledger.folder / name for name in ledger.header.sieve]
    at, crcs = ledger.sieved, ledger.sieve_crcs
    if ledger.sieve is None:
        at, crcs = 0, (0, 0)
        for path in paths:
            write_whole(path, b"")
    for span in spans(ledger.rows - at, ledger.layout.m):
        some = slice(at + span.start, at + span.stop)
        sieve = Sieve.of(ledger.vectors.wide(some, scales))
        sieve.write(paths, some.start)
        crcs = sieve.crcs(crcs)
    ledger.commit(Record(sieved=ledger.rows, sieve_crcs=crcs))


def _compact(ledger: Ledger) -> None:
    """Write the rows that are not removed into new files, and go on with these."""
    old = ledger.header
    header = replace(
        old,
        generation=old.generation + 1,
        step=old.step + 1,
        segments=(),
        removed=None,
        sieved=0,
        sieve_crcs=(),
    )
    kept = np.flatnonzero(ledger.alive)
    ledger.map()
    for name in (header.vectors, *header.sieve):
        write_whole(ledger.folder / name, b"")
    path = ledger.folder / header.vectors
    with refusals(path), path.open("r+b") as stream:
        for start in range(0, len(kept), COPIED_AT_A_TIME):
            stream.write(ledger.vectors.rows[kept[start : start + COPIED_AT_A_TIME]].tobytes())
        stream.flush()
        os.fsync(stream.fileno())
    table = ledger.whole_table().take(kept)
    ledger.removed.clear()
    ledger.seal(header, table, 0)
