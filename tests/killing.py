"""A run that is killed at a chosen call, for the tests of what goes on afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def killed_at(
    monkeypatch: pytest.MonkeyPatch, owner: type, method: str, number: int
) -> Iterator[None]:
    """Within the block this call of a method, counted from 1, interrupts; the block must be so."""
    plain, calls = getattr(owner, method), 0

    def killed(*args: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            raise KeyboardInterrupt
        return plain(*args, **named)

    with monkeypatch.context() as during:
        during.setattr(owner, method, killed)
        with pytest.raises(KeyboardInterrupt):
            yield
