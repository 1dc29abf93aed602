"""Estimates and what is made of them."""

from __future__ import annotations

import math

from unembed.stats.estimate import Estimate, exponential


def test_an_exponential_keeps_its_interval_and_names_what_is_too_large() -> None:
    found = exponential(Estimate(0.5, 0.25, 1.0, n=7, documents=3))
    assert found == Estimate(math.exp(0.5), math.exp(0.25), math.e, n=7, documents=3)
    assert exponential(Estimate(0.5, n=7)) == Estimate(math.exp(0.5), n=7)
    for wide in (Estimate(800.0, n=7), Estimate(1.0, 0.5, 800.0, n=7)):
        assert exponential(wide).value is None
        assert "too large to represent" in (exponential(wide).reason or "")
