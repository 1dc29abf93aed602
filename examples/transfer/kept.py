"""Results kept in small files as they come, so that a killed run goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unembed.runs import write_whole


def kept(place: Path | None, key: object, find: Callable[[], Any]) -> Any:
    """Plain values from the file, where it was written under the same key; else found and written.

    ``key`` are plain values that the result depends on. Without a place nothing is kept.
    """
    if place is None:
        return find()
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()
    if place.exists():
        there = json.loads(place.read_text(encoding="utf-8"))
        if there["key"] == digest:
            return there["found"]
    found = find()
    place.parent.mkdir(parents=True, exist_ok=True)
    write_whole(place, json.dumps({"key": digest, "found": found}).encode())
    return found
