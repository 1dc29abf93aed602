"""Random integers that are a function of a seed, a stream's name and an index, and of nothing else.

A sketch is compared with sketches drawn years later on another device, so its random numbers come
from arithmetic on 64-bit words that is written out here, and not from a library's generator.
"""

from __future__ import annotations

import hashlib

import numpy as np
from jaxtyping import Int, UInt64

from unembed.stats.splitmix import STEP, mixed


def words(seed: int, stream: str, count: int, start: int = 0) -> UInt64[np.ndarray, " count"]:
    """``count`` uniform 64-bit words of one stream, from index ``start`` on.

    Equivalent to::

        a, b = two words of sha256(f"{seed}/{stream}"), little-endian
        word[i] = mixed(mixed(a + (i + 1) * STEP) ^ b)      # modulo 2^64

    with the finaliser of splitmix64 as ``mixed``. Another seed or stream gives unrelated words, and
    so does another index: words can be drawn in any order and in any pieces. Source: theory §9.
    """
    return words_at(seed, stream, np.arange(start, start + count))


def words_at(
    seed: int, stream: str, index: Int[np.ndarray, " count"]
) -> UInt64[np.ndarray, " count"]:
    """The words of a stream at these indices, in the formula of ``words``."""
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    first, second = np.frombuffer(digest[:16], dtype="<u8").astype(np.uint64)
    return mixed(mixed(first + (index.astype(np.uint64) + np.uint64(1)) * STEP) ^ second)


def signs(seed: int, stream: str, count: int) -> Int[np.ndarray, " count"]:
    """``count`` independent signs, -1 or 1: the top bit of each word."""
    return 1 - 2 * (words(seed, stream, count) >> np.uint64(63)).astype(np.int64)


def quarter_turns(seed: int, stream: str, count: int) -> Int[np.ndarray, " count"]:
    """``count`` independent q of 0 to 3, that stand for the phases i^q: each word's top two bits.

    Phases multiply where quarter turns add, modulo 4.
    """
    return (words(seed, stream, count) >> np.uint64(62)).astype(np.int64)


def balanced(seed: int, stream: str, count: int, below: int) -> Int[np.ndarray, " count"]:
    """``count`` integers of 0 to ``below - 1``; every run of ``below`` of them holds each once.

    Runs begin at multiples of ``below``; each is an independent permutation, the order of
    its words. So no value is taken more than ``ceil(count / below)`` times.
    """
    runs = -(-count // below)
    drawn = words(seed, stream, runs * below).reshape(runs, below)
    order: Int[np.ndarray, " runs*below"] = np.argsort(drawn, axis=1, kind="stable").ravel()
    return order[:count]
