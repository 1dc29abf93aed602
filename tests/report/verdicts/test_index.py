"""The verdict on a map of an index: a test for each rule that chooses its words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from made_up.selection import plane
from unembed.report.verdicts.index import NEXT, of_record


def test_a_map_says_how_much_it_shows() -> None:
    words = of_record(plane(30, tags=4))
    assert words.sentence == "Two axes show 49\u00a0% of what tells 30 signatures apart."
    assert "may differ in the 51\u00a0% that it does not show" in words.quality
    assert "the first axis holds 31.2\u00a0% of the squared distances" in words.change
    assert "the second 17.4\u00a0%" in words.change
    assert "the smallest signature has 200." in words.trust
    assert words.next == NEXT


@pytest.mark.parametrize("held", [0.0, float("nan")])
def test_a_map_of_one_place(held: float) -> None:
    same = replace(plane(5), explained=(held, held))
    assert of_record(same).sentence == "Nothing tells the 5 signatures of the map apart."
    assert "one place" in of_record(same).quality


def test_a_map_of_nothing() -> None:
    assert of_record(plane(0)).sentence == "The index holds no signature."
    assert of_record(plane(0)).next == "unembed index add INDEX SIGNATURE"
