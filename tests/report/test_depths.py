"""The page of two runs of layers."""

from __future__ import annotations

from made_up.layers import make_layers_comparison
from unembed.report.depths.page import MEANS, depths_page, sections_of
from unembed.report.parts.parts import Figure
from unembed.stats.forms import points

FOUND = make_layers_comparison()


def figure(name: str) -> Figure:
    return next(one for part in sections_of(FOUND) for one in part.figures if one.name == name)


def rows(name: str, mark: str) -> list[dict]:
    return [
        row
        for layer in figure(name).chart.spec["layer"]
        if layer["mark"]["type"] == mark
        for row in layer["data"]["values"]
    ]


def test_curves_are_those_of_the_record() -> None:
    drawn = rows("changed", "point")
    wanted = [row.changed.value for one in FOUND.lenses for row in one.by_depth]
    assert [row["y"] for row in drawn] == wanted
    sides = rows("margin", "point")
    means = [row.margin for row in FOUND.own.by_depth]
    assert [row["y"] for row in sides] == [
        *(one.before.value for one in means),
        *(one.after.value for one in means),
    ]


def test_differences_of_shares_are_drawn_in_percentage_points() -> None:
    drawn = {row["tip"]: row["y"] for row in rows("accuracy-change", "point")}
    for row in FOUND.own.by_depth:
        words = next(tip for tip in drawn if tip.startswith(f"normed, depth {row.depth}\n"))
        assert points(row.accuracy.difference.value)[-3:] == "\u00a0pp"
        assert drawn[words] == 100 * row.accuracy.difference.value


def test_bars_are_after_and_diamonds_before() -> None:
    bars, marks = rows("settling", "bar"), rows("settling", "point")
    assert [row["y"] for row in bars] == [one.share.after.value for one in FOUND.settling.by_depth]
    assert [row["y"] for row in marks] == [
        one.share.before.value for one in FOUND.settling.by_depth
    ]


def test_the_table_by_depth_has_every_difference() -> None:
    changed = sections_of(FOUND)[0]
    assert len(changed.folded) == len(FOUND.lenses)
    for table in changed.folded:
        assert len(table.rows) == len(FOUND.depths)
        assert len([name for name in table.head if name.startswith("Δ ")]) == len(MEANS)


def test_the_page_says_what_was_left_out() -> None:
    page = depths_page(FOUND, title="x")
    assert "2 more, not finite at some depth, are left out" in page
    assert "the fitted lens is not compared: not measured after" in page
    assert page == depths_page(FOUND, title="x")
