"""The lenses, by name: what stands between a depth's states and the head."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, get_args

from unembed.errors import UnembedError

Lens = Literal["normed", "raw", "fitted"]
LENSES: tuple[Lens, ...] = get_args(Lens)
"""``normed``: the model's own tail, its norm taken anew of each depth's states. ``raw``: nothing.
``fitted``: an affine map that was fitted on half of the documents. Source: theory §3."""

EVERY_DEPTH = "all"


def lenses_of(asked: Sequence[str]) -> tuple[Lens, ...]:
    """The lenses asked for, in the order of ``LENSES``; the first, which is exact, always among
    them. Raises UnembedError for another name.
    """
    for name in asked:
        if name not in LENSES:
            raise UnembedError(f"--lens {name!r} is none of {', '.join(LENSES)}: give some of them")
    return tuple(lens for lens in LENSES if lens in asked or lens == LENSES[0])


def depths_of(asked: str) -> tuple[int, ...] | None:
    """The depths of a list such as ``0,4,8-12``, ascending, each once; None for ``all``.

    Raises UnembedError for what is no such list.
    """
    if asked.strip() == EVERY_DEPTH:
        return None
    found: set[int] = set()
    for word in asked.split(","):
        ends = re.fullmatch(r"\s*(\d{1,6})\s*(?:-\s*(\d{1,6})\s*)?", word)
        if ends is None or (ends[2] is not None and int(ends[2]) < int(ends[1])):
            raise UnembedError(
                f"--depths {asked!r} is no list of depths: give numbers and ranges such as "
                f"0,4,8-12, or {EVERY_DEPTH}"
            )
        found |= set(range(int(ends[1]), int(ends[2] or ends[1]) + 1))
    return tuple(sorted(found))
