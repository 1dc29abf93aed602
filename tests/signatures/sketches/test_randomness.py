from __future__ import annotations

import hashlib

import numpy as np
import pytest

from unembed.signatures.sketches.randomness import (
    balanced,
    quarter_turns,
    signs,
    words,
    words_at,
)

FULL = (1 << 64) - 1


def one_word(seed: int, stream: str, i: int) -> int:
    """The formula of the docstring in whole numbers of any size."""

    def mix(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & FULL
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & FULL
        return z ^ (z >> 31)

    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    a, b = (int.from_bytes(digest[at : at + 8], "little") for at in (0, 8))
    return mix(mix((a + (i + 1) * 0x9E3779B97F4A7C15) & FULL) ^ b)


@pytest.mark.parametrize(("seed", "stream"), [(0, ""), (7, "error r"), ((1 << 63) - 1, "é 🙂")])
def test_words_are_the_formula(seed: int, stream: str) -> None:
    assert words(seed, stream, 50).tolist() == [one_word(seed, stream, i) for i in range(50)]


def test_words_never_change() -> None:
    """Sketches that were stored with these numbers are compared with ones drawn today."""
    assert [hex(word) for word in words(0, "a", 3)] == [
        "0x3de72d057821ac38",
        "0xaee6c3ed117cf9eb",
        "0x5699d91299210851",
    ]
    assert signs(1, "b", 12).tolist() == [-1, 1, 1, 1, 1, -1, 1, 1, 1, -1, 1, 1]
    assert quarter_turns(1, "b", 12).tolist() == [2, 1, 1, 0, 0, 3, 1, 1, 0, 2, 0, 1]
    assert balanced(1, "b", 10, 4).tolist() == [3, 2, 1, 0, 0, 2, 3, 1, 2, 0]


def test_words_can_be_drawn_in_pieces() -> None:
    whole = words(3, "x", 1000)
    pieces = [words(3, "x", 10, start) for start in range(990, -1, -10)]
    assert np.array_equal(np.concatenate(pieces[::-1]), whole)
    far = 1 << 40
    assert words(3, "x", 1, far).tolist() == [one_word(3, "x", far)]
    assert len(words(3, "x", 0)) == 0
    assert np.array_equal(words_at(3, "x", np.array([7, 0, 999])), whole[[7, 0, 999]])


def chi_squared(values: np.ndarray, below: int) -> float:
    """Standard deviations by which a count's χ² exceeds what uniform values give."""
    counts = np.bincount(values, minlength=below)
    expected = len(values) / below
    found = float(((counts - expected) ** 2 / expected).sum())
    return (found - (below - 1)) / (2 * (below - 1)) ** 0.5


@pytest.mark.parametrize("shift", [0, 8, 28, 56])
def test_bytes_and_their_neighbours_are_uniform(shift: int) -> None:
    """A byte of each word, and the pairs of two words next to each other; 4 deviations."""
    drawn = (words(5, "bytes", 1 << 18) >> np.uint64(shift)).astype(np.int64) & 255
    assert abs(chi_squared(drawn, 256)) < 4
    assert abs(chi_squared(drawn[::2] // 16 * 16 + drawn[1::2] // 16, 256)) < 4


def test_every_bit_changes_with_the_index_the_seed_and_the_stream() -> None:
    """Half of the bits of words next to each other differ, in every place; 5 deviations."""
    count = 1 << 14
    base = words(0, "error r", count)
    others = [
        words(0, "error r", count, 1),
        words(1, "error r", count),
        words(0, "error s", count),
        words(0, "error r ", count),
    ]
    for other in others:
        shared = np.unpackbits((base ^ other).view(np.uint8)).reshape(count, 64).mean(0)
        assert np.abs(shared - 0.5).max() < 5 * 0.5 / count**0.5


def test_signs_and_quarter_turns_are_balanced_and_unrelated() -> None:
    """Means of n signs lie within 4 / √n, those of products of two streams too."""
    count = 1 << 16
    a, b = signs(0, "a", count), signs(0, "b", count)
    for drawn in (a, b, a * b, a[1:] * a[:-1]):
        assert abs(drawn.mean()) < 4 / count**0.5
    assert set(a.tolist()) == {-1, 1}
    turns = quarter_turns(0, "a", count)
    assert abs(chi_squared(turns, 4)) < 4
    phases = 1j**turns
    for power in (1, 2, 3):
        assert abs((phases**power).mean()) < 4 / count**0.5


@pytest.mark.parametrize(("count", "below"), [(10, 4), (64, 64), (5, 64), (50_257, 2048)])
def test_balanced_integers_take_each_value_once_a_run(count: int, below: int) -> None:
    drawn = balanced(0, "b", count, below)
    assert len(drawn) == count
    for start in range(0, count, below):
        run = drawn[start : start + below]
        assert len(set(run.tolist())) == len(run)
    assert drawn.min() >= 0
    assert drawn.max() < below


def test_balanced_runs_are_independent() -> None:
    """Two ids in different runs agree as often as chance has it; 4 deviations."""
    drawn = balanced(0, "b", 2 * 4096, 4096).reshape(2, -1)
    agreeing = np.array([(drawn[0] == np.roll(drawn[1], by)).sum() for by in range(2000)])
    assert abs(agreeing.mean() - 1) < 4 * (1 / 2000) ** 0.5
    assert abs(agreeing.var() - 1) < 4 * (3 / 2000) ** 0.5
