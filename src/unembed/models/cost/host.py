"""What Python, the disk and the page take of a run, fitted on whole commands."""

from __future__ import annotations

from dataclasses import dataclass

from unembed.short_repr import ShortRepr


@dataclass(frozen=True)
class HostWork(ShortRepr):
    """Seconds and bytes of a run that no rate of a device decides, of one process.

    Seconds are those of the machine that ``benchmarks/cost.py`` fitted them on; ``Rates.host``
    scales them. ``error`` is the largest error of a prediction on shapes that were not fitted on.
    """

    start: float = 1.9
    load: float = 1.45
    load_byte: float = 7e-10
    prepare: float = 0.06
    digest_byte: float = 6e-10
    character: float = 2.4e-7
    column: float = 2e-6
    write_position: float = 6e-7
    summary: float = 0.3
    summary_position: float = 4.5e-6
    slice_number: float = 2.1e-8
    page: float = 1.2
    process_bytes: float = 790e6
    packed: float = 0.68
    page_bytes: float = 3e5
    error: float = 0.25


HOST = HostWork()
