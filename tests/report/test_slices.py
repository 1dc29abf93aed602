"""Pictures of cells: what is drawn where, in which colours, and how a reader opens one."""

from __future__ import annotations

import re
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from browser import Watched, browser_test
from made_up.pages import page_of
from made_up.slices import WORDS, made_move, made_path, made_slices, small_head
from markup import Elements
from unembed.decisions.slices.cells import depth_in
from unembed.decisions.slices.slice import Slice, slice_between, slice_of
from unembed.head.head import Head
from unembed.report.parts import wording
from unembed.report.parts.colours import declared, plain_colour
from unembed.report.parts.standalone import whole_spec
from unembed.report.slices.figure import slice_figure
from unembed.report.slices.layout import LETTER, Layout, lay_out
from unembed.report.slices.section import decision_figure, slices_section

PICTURES = {
    "near": lambda: made_slices([(0, 0)])[0].slice,
    "wide": lambda: slice_of(small_head()[1][3], small_head()[0], WORDS, half=14.0),
    "move": made_move,
    "path": made_path,
}
BLINDNESS = {
    "none": np.eye(3),
    "protan": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deutan": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritan": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}
"""What is left of linear sRGB in full blindness (Machado, Oliveira and Fernandes, 2009)."""


@pytest.fixture(params=PICTURES)
def picture(request: pytest.FixtureRequest) -> Slice:
    found: Slice = PICTURES[request.param]()
    return found


@pytest.mark.parametrize("side", [278.0, 452.0])
def test_names_stand_in_their_cells_and_meet_nothing(picture: Slice, side: float) -> None:
    laid = lay_out(picture, side)
    by_words = {wording.token(patch.cell.text, 22): patch for patch in laid.patches}
    boxes = []
    for name in laid.names:
        wide, high = len(name.text) * LETTER * name.size / 2, name.size * 0.5
        boxes.append((name.x - wide, name.y - high, name.x + wide, name.y + high))
        if name.number:
            patch = by_words[laid.listed[int(name.text) - 1]]
        elif name.text in by_words:
            patch = by_words[name.text]
        else:
            assert name.look in ("way", "tag")
            continue
        upright = np.array([(x, -y) for x, y in patch.corners])
        left, top, right, foot = boxes[-1]
        for corner in ((left, top), (right, top), (left, foot), (right, foot)):
            assert depth_in(upright, corner[0], -corner[1]) >= 0, name
    tags = [at for at, name in enumerate(laid.names) if name.look == "tag"]
    for i, j in combinations(range(len(boxes)), 2):
        if i in tags and j in tags:
            continue  # states may lie on each other
        apart = boxes[i][2] <= boxes[j][0] or boxes[j][2] <= boxes[i][0]
        assert apart or boxes[i][3] <= boxes[j][1] or boxes[j][3] <= boxes[i][1]
    assert everyone(laid) == sorted(wording.token(cell.text, 22) for cell in picture.cells)


def everyone(laid: Layout) -> list[str]:
    """What all cells are called, on the picture or below."""
    words = [n.text for n in laid.names if n.look not in ("way", "tag") and not n.number]
    return sorted([*words, *laid.listed, *laid.unnamed])


def test_neighbours_have_different_tints(picture: Slice) -> None:
    laid = lay_out(picture, 452.0)
    assert [patch.cell.token for patch in laid.patches if patch.look == 0] == [
        picture.marks[0].token
    ]
    for one, other in combinations(laid.patches, 2):
        near = [
            (a, b)
            for a in one.corners
            for b in other.corners
            if abs(a[0] - b[0]) + abs(a[1] - b[1]) < 1e-6
        ]
        if len(near) > 1:
            assert one.look != other.look


def test_tints_are_told_apart_whatever_the_eye() -> None:
    """Least distance in OKLab, of which 0.02 is seen side by side, under each blindness."""
    from unembed.report.parts.colours import _LAB, _LMS

    both = [re.findall("#[0-9a-f]{6}", declared()[f"--cell-{look}"]) for look in range(7)]
    for theme in (0, 1):
        linear = [
            ((np.array([int(one[theme][i : i + 2], 16) for i in (1, 3, 5)]) / 255 + 0.055) / 1.055)
            ** 2.4
            for one in both
        ]
        for matrix in BLINDNESS.values():
            seen = [_LAB @ np.cbrt(_LMS @ np.clip(np.array(matrix) @ one, 0, 1)) for one in linear]
            apart = min(np.linalg.norm(a - b) for a, b in combinations(seen, 2))
            assert apart > 0.06
    assert plain_colour("var(--cell-0)") == both[0][0]


def test_the_drawing_holds_every_cell_once_and_nothing_unescaped(picture: Slice) -> None:
    figure = slice_figure(picture, "x", "Title", target=picture.cells[0].token, target_text="<b>")
    for drawing in (figure.chart.wide, figure.chart.narrow):
        tags = [(tag, attributes) for tag, attributes in Elements(drawing).tags]
        cells = [one for tag, one in tags if tag == "path" and one.get("class") == "cell"]
        assert len(cells) == len(picture.cells)
        assert {tag for tag, _ in tags} <= {
            "svg",
            "g",
            "path",
            "circle",
            "text",
            "clippath",
            "rect",
        }
        assert "NaN" not in drawing
    assert len(re.findall(' class="state', figure.chart.wide)) == len(picture.marks)


def test_the_figure_that_leaves_the_page_draws_the_same(picture: Slice) -> None:
    figure = slice_figure(picture, "x", "Title")
    whole = whole_spec(figure)
    assert not re.search(r"var\(|nan", repr(whole).lower())
    layers = whole["layer"]
    assert {row["line"] for row in layers[0]["data"]["values"]} == set(range(len(picture.cells)))
    assert whole["width"] == whole["height"]
    words = {row["text"] for row in rows_of(layers) if "text" in row}
    laid = lay_out(picture, whole["width"])
    assert words == {name.text for name in laid.names}


def rows_of(layers: list) -> list:
    inner = [one for layer in layers for one in layer.get("layer", [layer])]
    return [row for one in inner for row in one["data"]["values"]]


def test_captions_say_what_is_seen() -> None:
    near, wide, move, path = (make() for make in PICTURES.values())
    figure = slice_figure(near, "x", "Title", target=7, target_text=" word7")
    nearest = near.walls[0]
    assert wording.decimal(nearest.distance) in figure.caption
    assert "The text goes on with “·word7”." in figure.caption
    assert f"{near.certificate.corners:,} corners none of 60 tokens" in figure.caption
    (walls,) = figure.tables
    assert walls.rows[0] == (
        wording.token(nearest.text),
        wording.decimal(nearest.distance),
        "1.00",
        wording.decimal(nearest.on_plane),
    )
    assert "Dashed: the cells of the head after." in slice_figure(move, "x", "T").caption
    states = slice_figure(path, "x", "T").tables[0]
    assert [row[0] for row in states.rows] == [str(depth) for depth in range(7)]
    assert states.rows[-1][2] == "0"
    laid = lay_out(wide, 560.0)
    caption = slice_figure(wide, "x", "T").caption
    assert all(f"{at}\u00a0“{text}”" in caption for at, text in enumerate(laid.listed, 1))
    assert all(f"“{text}”" in caption for text in laid.unnamed)


def test_distances_stand_on_the_ways_to_walls() -> None:
    one = slice_of(small_head()[1][3], small_head()[0], WORDS)
    laid = lay_out(one, 452.0)
    assert laid.ways
    scale = 452.0 / (one.window.right - one.window.left)
    told = {wording.decimal(wall.on_plane) for wall in one.walls if wall.on_plane is not None}
    for way in laid.ways:
        assert way.text in told
        across = np.hypot(way.end[0] - way.start[0], way.end[1] - way.start[1])
        assert wording.decimal(across / scale * one.unit) == way.text


def test_borders_of_the_later_head_are_dashed_once_and_told() -> None:
    one = made_move()
    laid = lay_out(one, 452.0)
    assert 0 < len(laid.outlines) < sum(len(cell.corners) for cell in one.later_cells) / 2
    for (a, b), (c, d) in combinations(laid.outlines, 2):
        assert max(np.hypot(*np.subtract(a, d)), np.hypot(*np.subtract(b, c))) > 0.1
    for border in laid.outlines:
        x, y = np.mean(border, axis=0)
        assert 0 < x < 452
        assert 0 < y < 452
    words = [key.label for key in slice_figure(one, "x", "T").keys]
    assert words[-1] == "cells of the head after"


def test_a_figure_says_what_each_state_decides() -> None:
    for one in (made_move(), made_path()):
        title = whole_spec(slice_figure(one, "x", "T"))["layer"][0]["encoding"]["x"]["axis"][
            "title"
        ]
        told = " ".join(title)
        assert told.count("decisions: ") == 1
        for mark in one.marks:
            assert f"“{wording.token(mark.text, 22)}”" in told


def test_a_window_without_a_wall_is_not_taken_where_a_larger_one_has_one() -> None:
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    head = Head.from_parts(weight, torch.tensor([0.0, -12.0]))
    one = slice_between(torch.zeros(2), torch.tensor([1.0, 1.0]), head, WORDS)
    assert len(one.cells) == 2


def test_a_path_is_drawn_in_order_of_its_depths() -> None:
    one = made_path()
    drawing = slice_figure(one, "x", "T").chart.wide
    way = re.search(r'class="path" d="M([^"]+)"', drawing)
    assert way is not None
    xs = [float(point.split()[0]) for point in way[1].split("L")]
    assert len(xs) == 7
    places = sorted(one.marks, key=lambda mark: int(mark.label))
    for (x, to_x), (mark, to_mark) in zip(pairwise(xs), pairwise(places), strict=True):
        assert np.sign(to_x - x) == np.sign(to_mark.x - mark.x)


def test_the_section_has_a_figure_for_each_picture() -> None:
    slices = made_slices([(0, 1), (2, 3)])
    section = slices_section(slices)
    assert [figure.name for figure in section.figures] == ["slice-1", "slice-2"]
    assert section.figures[0].title.startswith("… it </script> stood this text “")
    assert decision_figure(slices[1], "slice-2").caption == section.figures[1].caption


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("report") / "audit.html"
    path.write_text(page_of("audit"), encoding="utf-8")
    return path.as_uri()


class TestInTheBrowser:
    pytestmark = browser_test

    def test_one_picture_is_seen_at_a_time(self, opened: Watched) -> None:
        view = opened.page
        figures = view.locator("#cells figure")
        assert figures.count() == 3
        assert [figures.nth(i).is_visible() for i in range(3)] == [True, False, False]
        view.locator("button[data-picture='2']").click()
        assert [figures.nth(i).is_visible() for i in range(3)] == [False, False, True]
        pressed = view.locator("button[data-picture][aria-pressed='true']")
        assert pressed.get_attribute("data-picture") == "2"

    def test_a_click_on_a_token_opens_its_picture(self, opened: Watched) -> None:
        view = opened.page
        view.locator(".token").nth(9).click()
        assert view.locator("#cells figure").nth(1).is_visible()
        assert view.evaluate("document.activeElement.dataset.picture") == "1"
        view.locator(".token").nth(6).click()
        assert view.locator("#cells figure").nth(1).is_visible()

    def test_enter_opens_it_from_the_keyboard(self, opened: Watched) -> None:
        view = opened.page
        view.locator("button[data-picture='2']").click()
        view.locator(".token").nth(4).focus()
        view.keyboard.press("Enter")
        assert view.locator("#cells figure").nth(2).is_visible()
        view.keyboard.press("ArrowRight")
        assert "press Enter" in view.locator("#details").inner_text()
        view.keyboard.press("Enter")
        assert view.locator("#cells figure").nth(0).is_visible()
        assert view.locator("#details").is_hidden()

    def test_cells_say_whose_they_are(self, opened: Watched) -> None:
        cell = opened.page.locator("#figure-slice-1 .chart:visible .cell").first
        cell.hover()
        assert "of the picture" in opened.page.locator("#hint").inner_text()
