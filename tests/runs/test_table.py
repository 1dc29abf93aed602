"""The short tables that verbs print."""

from __future__ import annotations

from unembed.runs.table import NAME_WIDTH, as_text, in_columns


def test_a_name_longer_than_the_column_does_not_run_into_its_value() -> None:
    names = ["n", "a" * (NAME_WIDTH - 2), "accepted, T = 0.7, top-k 20, top-p 0.9"]
    first, fits, longer = as_text((name, "90.8 %") for name in names).splitlines()
    assert first.index("90.8") == fits.index("90.8") == NAME_WIDTH
    assert longer.endswith("top-p 0.9  90.8 %")


def test_cells_stand_below_each_other() -> None:
    assert in_columns([("a", "bb", "c"), ("aaa", "b", "")]) == "a    bb  c\naaa  b"
