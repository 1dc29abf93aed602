from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference.slices
from unembed.decisions.slices.cells import Window, area_of, tessellation
from unembed.errors import UnembedError


def random_logits(vocab: int, seed: int) -> np.ndarray:
    """Affine logits whose envelope has many cells near the origin: tangents of a bowl."""
    g = np.random.default_rng(seed)
    at = g.normal(size=(2, vocab))
    return np.stack([-(at**2).sum(0) / 2 + 0.05 * g.normal(size=vocab), *at])


@pytest.mark.parametrize("vocab", [2, 3, 50, 8_192, 50_257])
def test_a_fine_raster_of_all_logits_finds_the_owners(vocab: int) -> None:
    logits, window = random_logits(vocab, vocab), Window.around(0.2 if vocab > 50 else 2.0)
    found = tessellation(logits, window)
    side = np.linspace(window.left, window.right, 33)
    points = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    held = np.zeros(len(points), dtype=bool)
    best, winners = np.empty(len(points)), set()
    for at, (x, y) in enumerate(points):
        every = logits[0] + x * logits[1] + y * logits[2]
        best[at] = every.max()
        winners.add(int(every.argmax()))
    for token, polygon in zip(found.tokens, found.polygons, strict=True):
        own = reference.slices.inside(polygon, points)
        c, a, b = logits[:, token]
        assert (best[own] - (c + points[own] @ [a, b]) < 1e-9).all()
        held |= own
    assert held.all()
    assert winners <= set(found.tokens.tolist())
    assert found.certificate.holds
    assert found.certificate.tokens == vocab
    assert found.certificate.corners == sum(map(len, found.polygons))
    assert sum(map(area_of, found.polygons)) == pytest.approx(window.area, rel=1e-12)


def test_cells_that_a_raster_misses_are_found_at_corners() -> None:
    """The last token wins only in a corner of three cells, far smaller than the raster's steps."""
    angles = np.array([0.3, 2.4, 4.4])
    three = np.stack([np.zeros(3), np.cos(angles), np.sin(angles)])
    tiny = np.array([[1e-4], [0.0], [0.0]])
    found = tessellation(np.concatenate([three, tiny], axis=1), Window.around(1.0))
    assert found.tokens.tolist() == [0, 1, 2, 3]
    assert area_of(found.polygons[3]) < 1e-6
    assert found.certificate.rounds == 2
    assert found.certificate.holds


@settings(max_examples=40, deadline=None)
@given(vocab=st.integers(2, 9), seed=st.integers(0, 10_000), half=st.floats(0.1, 5))
def test_areas_are_those_of_meeting_half_planes(vocab: int, seed: int, half: float) -> None:
    logits = random_logits(vocab, seed)
    found = tessellation(logits, Window.around(half))
    areas = dict(zip(found.tokens.tolist(), map(area_of, found.polygons), strict=True))
    for token in range(vocab):
        want = reference.slices.area_where_largest(logits, token, half)
        assert areas.get(token, 0.0) == pytest.approx(want, abs=1e-7 * half**2)


def test_equal_rows_leave_the_cell_to_the_lowest_id() -> None:
    logits = random_logits(20, 0)
    whole = tessellation(logits, Window.around(1.0))
    twice = tessellation(np.concatenate([logits, logits], axis=1), Window.around(1.0))
    assert twice.tokens.tolist() == whole.tokens.tolist()
    assert twice.certificate.tokens == 40
    for one, other in zip(whole.polygons, twice.polygons, strict=True):
        assert np.array_equal(one, other)
    rounded = np.concatenate([logits, logits * (1 + 3e-16)], axis=1)
    assert max(tessellation(rounded, Window.around(1.0)).tokens) < 20


def test_what_is_no_token_never_owns_a_cell() -> None:
    logits = random_logits(60, 1)
    largest = tessellation(logits, Window.around(1.0)).tokens
    logits[0, largest] = -np.inf
    found = tessellation(logits, Window.around(1.0))
    assert not set(largest.tolist()) & set(found.tokens.tolist())
    assert found.certificate.tokens == 60 - len(largest)
    assert sum(map(area_of, found.polygons)) == pytest.approx(4.0, rel=1e-12)


def test_the_size_of_logits_and_of_the_window_changes_no_cell() -> None:
    logits = random_logits(300, 2)
    plain = tessellation(logits, Window.around(1.0))
    large = tessellation(1e6 * logits, Window.around(1.0))
    fine = tessellation(logits * np.array([[1.0], [1e6], [1e6]]), Window.around(1e-6))
    assert plain.tokens.tolist() == large.tokens.tolist() == fine.tokens.tolist()
    for one, same, small in zip(plain.polygons, large.polygons, fine.polygons, strict=True):
        assert np.allclose(one, same, atol=1e-9)
        assert np.allclose(one, 1e6 * small, atol=1e-9)


def test_many_walls_through_one_point_make_no_cells_of_no_area() -> None:
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    star = np.stack([np.zeros(12), np.cos(angles), np.sin(angles)])
    found = tessellation(star, Window.around(1.0))
    assert len(found.tokens) == 12
    assert found.certificate.holds
    assert sum(map(area_of, found.polygons)) == pytest.approx(4.0, rel=1e-12)


def test_one_cell_fills_a_window_without_walls() -> None:
    found = tessellation(np.array([[3.0, 0.0], [0.0, 0.0], [0.0, 0.0]]), Window.around(1.0))
    assert found.tokens.tolist() == [0]
    assert area_of(found.polygons[0]) == 4.0
    assert found.cell_at(0.3, -0.3) == 0


def test_cells_of_a_smaller_window_are_counted() -> None:
    logits = random_logits(200, 3)
    whole = tessellation(logits, Window.around(2.0))
    for half in (0.1, 0.5, 1.0, 2.0):
        assert whole.in_window(Window.around(half)) == len(
            tessellation(logits, Window.around(half)).tokens
        )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_refused(bad: float) -> None:
    logits = random_logits(5, 0)
    logits[1, 2] = bad
    with pytest.raises(UnembedError, match="not finite"):
        tessellation(logits, Window.around(1.0))
