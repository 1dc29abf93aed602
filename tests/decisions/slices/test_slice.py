from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import reference.facets
import reference.slices
from unembed.decisions.facets import facet_distance
from unembed.decisions.slices.cells import area_of
from unembed.decisions.slices.plane import facet_plane, move_plane, path_plane
from unembed.decisions.slices.slice import (
    Slice,
    slice_between,
    slice_of,
    slice_of_path,
    slices_of,
)
from unembed.decisions.slices.walls import walls_of
from unembed.errors import UnembedError
from unembed.head.head import Head
from unembed.head.precision import Precision
from unembed.runs.record import record_from_json, record_to_json


def make(
    vocab: int, dim: int, n: int = 4, *, bias: bool = False, padded: bool = False, cap: bool = False
) -> tuple[Head, torch.Tensor]:
    g = torch.Generator().manual_seed(vocab + dim)
    weight = torch.randn(vocab, dim, generator=g) / dim**0.5
    valid = None
    if padded:
        valid = torch.ones(vocab, dtype=torch.bool)
        valid[::5] = False
    offsets = 0.3 * torch.randn(vocab, generator=g) if bias else None
    head = Head.from_parts(weight, offsets, 0.5, 30.0 if cap else None, valid)
    return head, torch.randn(n, dim, generator=g)


def check_against_raster(found: Slice, head: Head, origin: torch.Tensor, axes: np.ndarray) -> None:
    """Every point of a raster lies in the cell of the token that wins there."""
    window = found.window
    side = np.linspace(window.left, window.right, 25), np.linspace(window.low, window.high, 25)
    points = np.stack(np.meshgrid(*side), -1).reshape(-1, 2)
    scaled = torch.from_numpy(found.unit * axes)
    every = reference.slices.logits_at(points, origin, scaled, head)
    held = np.zeros(len(points), dtype=bool)
    for cell in found.cells:
        own = reference.slices.inside(np.array(cell.corners), points)
        assert (every[own].max(1) - every[own, cell.token] < 1e-9).all()
        held |= own
    assert held.all()
    assert sum(cell.area for cell in found.cells) == pytest.approx(window.area, rel=1e-11)
    assert found.certificate.holds
    assert found.certificate.tokens == head.tokens


@pytest.mark.parametrize(
    ("vocab", "dim", "bias", "padded", "cap"),
    [
        (3, 5, False, False, False),
        (50, 16, True, True, True),
        (8_192, 12, False, True, False),
        (50_257, 8, True, False, True),
    ],
)
def test_a_raster_of_all_logits_of_the_head_finds_the_same_cells(
    vocab: int, dim: int, bias: bool, padded: bool, cap: bool
) -> None:
    head, hidden = make(vocab, dim, 1, bias=bias, padded=padded, cap=cap)
    plane = facet_plane(walls_of(hidden, head)[0])
    found = slice_of(hidden[0], head, None)
    check_against_raster(found, head, hidden[0], plane.axes)


@pytest.mark.parametrize(("vocab", "bias", "padded"), [(50, True, True), (8_192, False, False)])
def test_walls_on_the_picture_are_as_far_as_in_space(vocab: int, bias: bool, padded: bool) -> None:
    head, hidden = make(vocab, 24, bias=bias, padded=padded)
    every = walls_of(hidden, head)
    owners = torch.tensor([one.owner for one in every])
    near, distance = facet_distance(hidden, head, owners, Precision.probe(head.weight))
    tokens, exact = reference.facets.facet_distance(hidden, head)
    for i, found in enumerate(slices_of(hidden, head, None)):
        nearest = found.walls[0]
        assert nearest.token == int(near[i]) == tokens[i]
        assert nearest.distance == pytest.approx(float(distance[i]), rel=1e-5)
        assert nearest.distance == pytest.approx(exact[i], rel=1e-12)
        assert nearest.on_plane == pytest.approx(float(distance[i]), rel=1e-5)
        assert found.facet_distance == nearest.distance
        assert found.unit == pytest.approx(nearest.distance, rel=1e-12)
        told = {wall.token: wall for wall in found.walls}
        runner_up = told[every[i].runner_up]
        assert runner_up.on_plane == pytest.approx(runner_up.distance, rel=1e-12)
        assert all(
            w.on_plane is None or w.on_plane >= w.distance * (1 - 1e-12) for w in found.walls
        )


def test_walls_are_where_the_polygon_of_the_state_ends() -> None:
    """The line that the neighbour's cell shares with the state's is as far as the wall is said."""
    head, hidden = make(400, 6, 8)
    for found in slices_of(hidden, head, None):
        (own,) = [cell for cell in found.cells if cell.token == found.marks[0].token]
        corners = np.array(own.corners)
        edges = np.roll(corners, -1, 0) - corners
        lines = np.abs(corners[:, 0] * edges[:, 1] - corners[:, 1] * edges[:, 0])
        lines = lines / np.linalg.norm(edges, axis=1) * found.unit
        seen = {cell.token for cell in found.cells}
        drawn = [wall for wall in found.walls if wall.token in seen and wall.on_plane is not None]
        assert len(drawn) >= 2
        assert min(lines) == pytest.approx(min(wall.on_plane for wall in drawn), rel=1e-9)
        assert found.marks[0].x == found.marks[0].y == found.marks[0].beside == 0


def test_the_second_wall_is_an_edge_of_the_cell() -> None:
    head, hidden = make(2_000, 32, 24)
    for walls, found in zip(walls_of(hidden, head), slices_of(hidden, head, None), strict=True):
        others = [at for at in range(len(walls.tokens)) if walls.tokens[at] != walls.runner_up]
        second = int(walls.tokens[min(others, key=walls.reach)])
        assert second in {cell.token for cell in found.cells}
        assert found.axes[1].text == f"[{second}]"


def test_a_wall_behind_that_of_the_runner_up_is_passed_over() -> None:
    """Of walls at distances .05, .5 and .6, the second lies behind the first for a long way."""
    toward = torch.tensor([[1.0, 0.0, 0.0], [0.9, 0.19**0.5, 0.0], [0.0, 0.0, 1.0]])
    weight = torch.cat([torch.zeros(1, 3), toward])
    head = Head.from_parts(weight, torch.tensor([0.0, -0.05, -0.5, -0.6]))
    (walls,) = walls_of(torch.zeros(1, 3), head)
    assert walls.tokens.tolist() == [1, 2, 3]
    assert walls.reach(1) == pytest.approx(((0.25 + 0.0025 - 0.045) / 0.19) ** 0.5, rel=1e-6)
    assert walls.reach(2) == pytest.approx(0.6, rel=1e-6)
    assert slice_of(torch.zeros(3), head, None).axes[1].text == "[3]"


def test_two_rows_have_a_plane_too_and_it_says_so() -> None:
    head, hidden = make(2, 5, 1)
    found = slice_of(hidden[0], head, None)
    assert len(found.cells) == 2
    assert found.axes[1].words.endswith("along the state")
    assert "No other wall" in found.remarks[0]
    assert found.walls[0].on_plane == pytest.approx(found.walls[0].distance, rel=1e-12)


def test_parallel_walls_give_way_to_the_next() -> None:
    """Rows on one line have parallel walls: a third direction is taken, and nothing is NaN."""
    weight = torch.zeros(5, 4)
    weight[:4, 0] = torch.tensor([1.0, 0.5, 0.0, -1.0])
    weight[4, 1] = 0.2
    head = Head.from_parts(weight)
    found = slice_of(torch.tensor([1.0, -2.0, 0.0, 0.0]), head, None)
    assert "parallel" in found.remarks[0]
    assert found.axes[1].text == "[4]"
    line = Head.from_parts(weight[:4])
    other = slice_of(torch.tensor([1.0, -2.0, 0.0, 0.0]), line, None)
    assert "No other wall" in other.remarks[0]
    for one in (found, other):
        numbers = [x for cell in one.cells for corner in cell.corners for x in corner]
        assert np.isfinite([*numbers, one.unit, *(wall.on_plane for wall in one.walls)]).all()
        assert one.certificate.holds


def test_a_state_on_a_wall_and_twin_rows() -> None:
    weight = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    tied = slice_of(torch.tensor([1.0, 1.0, 0.2]), Head.from_parts(weight), None)
    assert tied.marks[0].token == 0
    assert tied.facet_distance == 0
    assert tied.margin == 0
    assert "facet distance is 0" in tied.remarks[-1]
    assert tied.unit_words == "distance to the next wall"
    assert 3 not in {cell.token for cell in tied.cells}
    apart = slice_of(torch.tensor([1.0, 0.7, 0.2]), Head.from_parts(weight), None)
    assert apart.walls[0].token == 1
    assert apart.margin == pytest.approx(0.3, rel=1e-6)


def test_near_twins_are_measured_from_their_difference() -> None:
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(300, 64, generator=g)
    aside = torch.randn(64, generator=g)
    hidden = 2 * weight[7]
    aside -= (aside @ hidden / hidden.square().sum() + 0.002) * hidden
    weight[200] = weight[7] + 1e-5 * aside
    head = Head.from_parts(weight)
    found = slice_of(hidden, head, None)
    want_tokens, want = reference.facets.facet_distance(hidden[None], head)
    assert found.walls[0].token == want_tokens[0] == 200
    assert found.walls[0].distance == pytest.approx(want[0], rel=1e-7)
    assert found.walls[0].on_plane == pytest.approx(want[0], rel=1e-6)


def test_before_and_after_lie_on_one_plane() -> None:
    head, hidden = make(3_000, 10, 2, bias=True)
    plane = move_plane(*walls_of(hidden, head))
    found = slice_between(hidden[0], hidden[1], head, None)
    assert [(mark.label, mark.beside) for mark in found.marks] == [("before", 0.0), ("after", 0.0)]
    assert (found.marks[1].x, found.marks[1].y) == pytest.approx((1.0, 0.0), abs=1e-12)
    check_against_raster(found, head, hidden[0], plane.axes)
    logits = reference.slices.logits_at(np.zeros((1, 2)), hidden[1], torch.zeros(2, 10), head)
    assert found.marks[1].token == int(logits.argmax())
    assert found.later_cells == ()


def test_two_heads_have_two_tessellations_on_the_plane() -> None:
    head, hidden = make(800, 8, 2)
    later = Head.from_parts(head.weight + 0.05 * torch.randn(800, 8), None, 0.5)
    found = slice_between(hidden[0], hidden[1], head, None, later_head=later)
    alone = slice_of(hidden[1], later, None)
    assert found.marks[1].token == alone.marks[0].token
    assert found.later_certificate is not None
    assert found.later_certificate.holds
    area = sum(area_of(np.array(cell.corners)) for cell in found.later_cells)
    assert area == pytest.approx(found.window.area, rel=1e-11)
    assert {c.corners for c in found.later_cells} != {c.corners for c in found.cells}
    same = slice_between(hidden[0], hidden[1], head, None, later_head=head)
    assert same.later_cells == ()


def test_states_that_did_not_move_are_drawn_around_themselves() -> None:
    head, hidden = make(500, 8, 1)
    found = slice_between(hidden[0], hidden[0], head, None)
    assert "the same" in found.remarks[0]
    assert found.marks[1].x == 0
    assert found.window == slice_of(hidden[0], head, None).window
    with pytest.raises(UnembedError, match="8 and 4 numbers"):
        slice_between(hidden[0], hidden[0, :4], head, None)


def test_a_path_ends_where_the_last_state_decides() -> None:
    head, states = make(4_000, 12, 7)
    plane = path_plane(states.double().numpy())
    found = slice_of_path(states, head, None)
    check_against_raster(found, head, states[-1], plane.axes)
    last, *rest = found.marks
    assert (last.label, last.x, last.y, last.beside) == ("6", 0.0, 0.0, 0.0)
    assert [mark.label for mark in rest] == ["0", "1", "2", "3", "4", "5"]
    logits = reference.slices.logits_at(np.zeros((1, 2)), states[2], torch.zeros(2, 12), head)
    assert rest[2].token == int(logits.argmax())
    away = (states[2].double() - states[-1].double()).numpy()
    foot = plane.axes @ away
    beside = np.sqrt(away @ away - foot @ foot) / found.unit
    assert rest[2].beside == pytest.approx(beside, rel=1e-9)
    seen = ((plane.axes @ (states - states[-1]).double().numpy().T) ** 2).sum()
    g = torch.Generator().manual_seed(1)
    for _ in range(50):
        other = torch.linalg.qr(torch.randn(12, 2, generator=g).double())[0].T.numpy()
        assert ((other @ (states - states[-1]).double().numpy().T) ** 2).sum() <= seen


def test_paths_that_are_none_are_refused() -> None:
    head, states = make(100, 6, 3)
    with pytest.raises(UnembedError, match="1 states make no way"):
        slice_of_path(states[:1], head, None)
    with pytest.raises(UnembedError, match="the same"):
        slice_of_path(states[:1].expand(3, -1), head, None)
    states[0, 0] = torch.nan
    with pytest.raises(UnembedError, match="not finite"):
        slice_of_path(states, head, None)
    line = torch.linspace(0.5, 1, 4)[:, None] * states[1]
    assert "on one line" in slice_of_path(line, head, None).remarks[0]


def test_what_cannot_be_drawn_is_refused() -> None:
    head, hidden = make(50, 6, 1)
    with pytest.raises(UnembedError, match="hidden state is not finite"):
        slice_of(hidden[0] * torch.nan, head, None)
    same = Head.from_parts(torch.ones(5, 6))
    with pytest.raises(UnembedError, match="every row of the head is the same"):
        slice_of(hidden[0], same, None)
    flat = Head.from_parts(torch.randn(5, 1, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(UnembedError, match="one dimension"):
        slice_of(torch.ones(1), flat, None)


def test_a_slice_is_kept_as_plain_values() -> None:
    head, hidden = make(300, 6, 2)
    for found in (slice_of(hidden[0], head, None), slice_between(*hidden, head, None)):
        text = json.dumps(record_to_json(found), allow_nan=False)
        assert record_from_json(Slice, json.loads(text)) == found
        assert "certified" in repr(found)


def test_a_window_can_be_asked_for() -> None:
    head, hidden = make(300, 6, 1)
    found = slice_of(hidden[0], head, None, half=7.0)
    assert (found.window.left, found.window.high) == (-7.0, 7.0)
