"""What Python, the disk and the page take of a run, fitted on whole commands."""

from __future__ import annotations

from dataclasses import dataclass

from unembed.short_repr import ShortRepr


@dataclass(frozen=True)
class HostWork(ShortRepr):
    """Seconds and bytes of a run that no rate of a device decides, of one process.

    Seconds are those of the machine that ``benchmarks/run_cost.py --fit`` fitted them on, and
    ``Rates.host`` scales them. The summary takes so much a position (as ``benchmarks/scale.py``
    found), a row of the text, and a number of the head where it cuts cells; ``held_position`` are
    the bytes that it holds of each of at most ``most_held``. ``packed`` is the share of its bytes
    that a table takes on disk, ``error`` what predictions were off at most, at other shapes.
    """

    start: float = 1.9
    launch: float = 2.2
    load: float = 1.5
    load_byte: float = 7e-10
    prepare: float = 0.06
    digest_byte: float = 6e-10
    character: float = 2.4e-7
    column: float = 2e-6
    write_position: float = 6e-7
    summary: float = 0.27
    summary_position: float = 4.5e-6
    summary_row: float = 5.2e-4
    slice_number: float = 2.4e-8
    page: float = 1.2
    process_bytes: float = 790e6
    held_position: float = 600.0
    most_held: int = 1 << 18
    packed: float = 0.64
    error: float = 0.25


HOST = HostWork()
