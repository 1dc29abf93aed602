"""Two models at every depth of a text, a position and a depth after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from reference.forming import settled_depth


class Here(NamedTuple):
    """What is counted at one depth."""

    n: int
    changed: int
    reunited: int
    parted: int
    apart_in_the_end: int


def changes(
    before: Sequence[Sequence[int]],
    after: Sequence[Sequence[int]],
    finals: Sequence[tuple[int, int]],
) -> list[Here]:
    """Of each depth, from the leading tokens by position and depth and both final tokens."""
    found = []
    for depth in range(len(before[0])):
        changed = reunited = parted = apart = 0
        for old, new, (was, now) in zip(before, after, finals, strict=True):
            apart += was != now
            if old[depth] != new[depth]:
                changed += 1
                reunited += was == now
            if was != now and all(a != b for a, b in zip(old[depth:], new[depth:], strict=True)):
                parted += 1
        found.append(Here(len(before), changed, reunited, parted, apart))
    return found


def settling(
    before: Sequence[Sequence[int]],
    after: Sequence[Sequence[int]],
    finals: Sequence[tuple[int, int]],
    depths: Sequence[int],
) -> list[tuple[int, int]]:
    """Of each position the depths at which it settles before and after."""
    return [
        (settled_depth(old, was, depths), settled_depth(new, now, depths))
        for old, new, (was, now) in zip(before, after, finals, strict=True)
    ]
