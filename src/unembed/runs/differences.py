"""Where two sets of plain values differ, leaf by leaf."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any


def differing(theirs: dict[str, Any], ours: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Each leaf that is not the same in both: its dotted name, theirs and ours as short JSON."""
    old, new = dict(_leaves(theirs)), dict(_leaves(ours))
    names = [name for name in {**new, **old} if old.get(name) != new.get(name)]
    return [(name, shown(old.get(name)), shown(new.get(name))) for name in names]


def shown(value: Any) -> str:
    """A plain value as JSON, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 160 else f"{text[:157]}..."


def _leaves(values: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{above}{name}.")
        else:
            yield above + name, value
