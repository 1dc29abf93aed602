"""64-bit words that look random: a counter's multiples, mixed by the finaliser of splitmix64."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt64

STEP = np.uint64(0x9E3779B97F4A7C15)
"""The golden ratio of 2^64: odd, so that a counter's multiples are distinct words."""
FIRST = np.uint64(0xBF58476D1CE4E5B9)
SECOND = np.uint64(0x94D049BB133111EB)


def mixed(word: UInt64[np.ndarray, " count"]) -> UInt64[np.ndarray, " count"]:
    """The finaliser of splitmix64: a bijection in which each bit depends on all."""
    word = (word ^ (word >> np.uint64(30))) * FIRST
    word = (word ^ (word >> np.uint64(27))) * SECOND
    out: UInt64[np.ndarray, " count"] = word ^ (word >> np.uint64(31))
    return out
