"""Terminal and page say the same of a run: its verdict word for word, its numbers to the digit."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from made_up.records import RECORDS

NUMBER = r"[+−]?[\d,]*\d(?:\.\d+)?"
ESTIMATE = re.compile(rf"({NUMBER}(?: %| pp)?) (\[{NUMBER}, {NUMBER}\](?:·10[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)?)")
"""A value and its interval, as all of them are written; a page's table may part the two."""

UNWRITTEN = re.compile("<(style|script)>.*?</\\1>", re.DOTALL)


def words(text: str) -> str:
    """Without marks, in plain blanks."""
    plain = re.sub("<[^>]*>", " ", UNWRITTEN.sub(" ", text))
    return re.sub(r"\s+", " ", unescape(plain))


KINDS = [kind for kind in RECORDS if kind != "live comparison"]
"""That one knows nothing of its models, and so has no page of its own."""


@pytest.fixture(scope="module", params=KINDS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    record = RECORDS[request.param]()
    page: Path = tmp_path_factory.mktemp("same") / "page.html"
    record.report(page)
    return record, words(page.read_text(encoding="utf-8"))


def test_the_verdict_is_the_same_word_for_word(both: Any) -> None:
    record, page = both
    for line in (record.verdict.sentence, *record.verdict.bullets):
        assert words(line) in page


def test_every_estimate_of_the_terminal_is_on_the_page(both: Any) -> None:
    record, page = both
    terminal = words(f"{record.verdict} {record}")
    found = ESTIMATE.findall(terminal)
    missing = [pair for pair in found if not all(one in page for one in pair)]
    assert missing == []
