"""What a run will take, with what it is made of: a record that prints as a verdict and a table."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from unembed.models.costs.text_size import TextSize
from unembed.runs.table import as_text
from unembed.short_repr import ShortRepr
from unembed.stats.forms import in_bytes

SHARED, EACH, FIRST = "shared", "each rank", "first rank alone"
"""By whom a term is done."""
ROOM = 0.92
"""Share of a GPU's memory that a process can take; the rest is the driver's, and holes."""


@dataclass(frozen=True)
class Term(ShortRepr):
    """Seconds of a part of the run: by whom it is done, and what it is made of."""

    name: str
    seconds: float
    by: str
    made_of: str

    @property
    def said(self) -> str:
        """What it is made of, and by whom."""
        return f"{self.made_of} ({self.by})"


@dataclass(frozen=True)
class Size(ShortRepr):
    """Bytes of one kind."""

    name: str
    bytes: float
    made_of: str


@dataclass(frozen=True)
class Cost(ShortRepr):
    """Seconds, memory and disk of a run, with what they are made of; ``cost`` makes it.

    ``seconds`` lie between ``low`` and ``high`` as far as the rates' assumptions, or the errors on
    shapes that the constants were not fitted on, allow. ``memory`` is of one process, on its device
    (``device_memory`` bytes of it, None: not known), ``disk`` of the run's folder. Python's work is
    taken to last ``host`` times as long as on the machine where its constants were fitted;
    ``fitting_tp`` is the least ``tp`` at which a process' share fits, None where none does.
    """

    run: str
    model: str
    text: TextSize
    device: str
    ranks: int
    tp: int
    positions: int
    terms: tuple[Term, ...]
    memory: tuple[Size, ...]
    disk: tuple[Size, ...]
    low: float
    high: float
    host: float
    device_memory: float | None
    fitting_tp: int | None
    to_mind: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Of the whole command, the slowest rank's."""
        return sum(term.seconds for term in self.terms)

    @property
    def memory_bytes(self) -> float:
        """Of one process, at its most."""
        return sum(size.bytes for size in self.memory)

    @property
    def disk_bytes(self) -> float:
        """Of the run's folder."""
        return sum(size.bytes for size in self.disk)

    @property
    def fits(self) -> bool:
        """Whether one process' share fits in its device's memory; so where that is not known."""
        return self.device_memory is None or self.memory_bytes <= ROOM * self.device_memory

    @property
    def verdict(self) -> str:
        """What all this comes to, in a sentence."""
        held = in_bytes(int(self.memory_bytes))
        if not self.fits and self.device_memory is not None:
            remedy = "no --tp holds it"
            if self.fitting_tp is not None:
                remedy = f"give --tp {self.fitting_tp}"
            return (
                f"{self.model} does not fit in the {in_bytes(int(self.device_memory))} of one "
                f"{self.device}: {'a share of it' if self.tp > 1 else 'it'} takes {held}; {remedy}."
            )
        several = f"{self.ranks} × {self.device}" if self.ranks > 1 else f"one {self.device}"
        of = "" if self.device_memory is None else f" of {in_bytes(int(self.device_memory))}"
        each = " each" * (self.ranks > 1)
        return (
            f"{article(self.run).capitalize()} of {self.positions:,} positions on {several} takes "
            f"about {in_time(self.seconds)} ({in_time(self.low)} to {in_time(self.high)}), "
            f"{held}{of} of memory{each}, and {in_bytes(int(self.disk_bytes))} of disk."
        )

    @property
    def lines(self) -> list[tuple[str, str]]:
        """Name and value of everything, with what it is made of."""
        whole = self.seconds or 1.0
        rows = [
            (one.name, f"{in_time(one.seconds):<11}{one.seconds / whole:>5.0%}  {one.said}")
            for one in self.terms
        ]
        rows.append(("in all", f"{in_time(self.seconds):<11}{1:>5.0%}"))
        for title, sizes in (("memory", self.memory), ("disk", self.disk)):
            rows += [
                (f"{title}: {size.name}", f"{in_bytes(int(size.bytes)):<18}{size.made_of}")
                for size in sizes
            ]
        return rows

    def __str__(self) -> str:
        mind = "".join(f"  • {one}\n" for one in self.to_mind)
        return f"{self.verdict}\n{mind}\n{as_text(self.lines)}"

    def _phrases(self) -> Iterator[str]:
        yield f"{self.run} of {self.positions:,} positions with {self.model}"
        yield f"{self.ranks} × {self.device}" + (f", --tp {self.tp}" if self.tp > 1 else "")
        yield f"{in_time(self.seconds)} ({in_time(self.low)} to {in_time(self.high)})"
        yield f"{in_bytes(int(self.memory_bytes))} of memory"
        yield f"{in_bytes(int(self.disk_bytes))} of disk"

    def _rows(self) -> list[tuple[str, str]]:
        to_mind = (("to mind", one) for one in self.to_mind)
        return [("verdict", self.verdict), *to_mind, *self.lines]


def in_time(seconds: float) -> str:
    """A duration in two units at most: ``4.2 s``, ``3 min 20 s``, ``2 h 05 min``, ``3 d 4 h``."""
    if seconds < 9.95:
        return f"{seconds:.2g} s" if seconds < 0.95 else f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if seconds < 600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"


def in_operations(count: float) -> str:
    """Operations with their unit: ``16.1 GFLOP``."""
    units = ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP")
    step = min(len(units) - 1, max(0, int(math.log10(max(count, 1.0)) // 3)))
    return f"{count / 1000**step:.3g} {units[step]}"


def times(count: float) -> str:
    """``once``, ``twice``, or so many times."""
    return {1.0: "once", 2.0: "twice"}.get(count, f"{count:.3g} times")


def article(name: str) -> str:
    """A kind of run with its article."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
