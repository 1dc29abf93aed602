"""What each kind of run asks of a model and of the machine, beside what its text and model do."""

from __future__ import annotations

from dataclasses import dataclass

from unembed.errors import UnembedError
from unembed.short_repr import ShortRepr


@dataclass(frozen=True)
class RunKind(ShortRepr):
    """How often a run reads and multiplies, and what it keeps; defaults of its verb throughout.

    ``reads`` of every position by the body of each of ``models``; ``products`` and ``statistics``
    of whole passes over the vocabulary, with so many more of each for a depth; ``row_bytes`` of a
    position in its tables, before they are packed, and for a depth. ``position_seconds`` are what
    else a position takes, ``depth_seconds`` what a depth does whatever the text, and ``held_bytes``
    what a batch holds beside its states. At most ``most_positions`` are read; a part is of so many.
    ``summaries`` are those of an audit that its end takes, with ``end_seconds`` of its own, and
    ``slices`` says that it cuts the cells around the narrowest decisions. ``file_bytes`` are those
    of its summary and page.
    """

    name: str
    models: int = 1
    reads: float = 1.0
    products: float = 1.0
    statistics: float = 1.0
    depth_products: float = 0.0
    depth_statistics: float = 0.0
    row_bytes: float = 97.0
    depth_row_bytes: float = 0.0
    position_seconds: float = 0.0
    depth_seconds: float = 0.0
    held_bytes: float = 0.0
    most_positions: int | None = None
    part_positions: int = 1 << 15
    summaries: float = 1.0
    end_seconds: float = 0.0
    slices: bool = False
    pages: float = 1.0
    file_bytes: float = 7.2e5


KINDS = {
    "audit": RunKind("audit", slices=True),
    "compare": RunKind(
        "comparison",
        models=2,
        reads=1.0,
        products=4.0,
        statistics=2.5,
        row_bytes=2 * 97.0 + 24.0 + 60.0,
        summaries=2.0,
        end_seconds=3.5,
    ),
    "sketch": RunKind(
        "sketch",
        statistics=3.4,
        row_bytes=0.0,
        position_seconds=6.4e-5,
        summaries=0.0,
        pages=0.0,
        file_bytes=4e5,
    ),
    "layers": RunKind(
        "run of layers",
        reads=2.0,
        depth_products=2.5,
        depth_statistics=3.3,
        row_bytes=0.0,
        depth_row_bytes=2.5 * 108.0,
        depth_seconds=2.65,
        end_seconds=2.2,
        pages=1.7,
        held_bytes=2 * 134e6,
        most_positions=20_000,
        part_positions=1 << 13,
    ),
}
"""By the verb's name."""


def kind_named(name: str) -> RunKind:
    """The kind of a verb. Raises UnembedError, with all of them, for another name."""
    if name not in KINDS:
        raise UnembedError(f"--run {name!r} is none of {', '.join(KINDS)}: give one of them")
    return KINDS[name]
