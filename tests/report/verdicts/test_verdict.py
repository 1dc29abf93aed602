from __future__ import annotations

import html
import re

from made_up.comparisons import make_comparison
from unembed.report.comparison.page import comparison_page
from unembed.report.verdicts.verdict import Verdict, verdict_of


def test_a_verdict_is_a_sentence_and_three_points() -> None:
    said = Verdict("It is.", "Quality.", "Change.", "Trust.", "unembed demo -o RUN")
    assert str(said) == "It is.\n  • Quality.\n  • Change.\n  • Trust. Next: unembed demo -o RUN"
    assert Verdict("It is.", "a", "b", "c").bullets == ("a", "b", "c")
    assert said.to_json()["next"] == "unembed demo -o RUN"


def test_the_page_shows_the_words_of_the_terminal() -> None:
    comparison = make_comparison()
    page = comparison_page("t", comparison.summary, [], [])
    header = re.sub("<[^>]*>", "", page[page.index('class="reading"') : page.index("</header>")])
    said = " ".join(html.unescape(header).split(" ")).replace("\n", " ")
    said = re.sub("[ \n]+", " ", said)
    assert verdict_of(comparison) == comparison.verdict
    for line in (comparison.verdict.sentence, *comparison.verdict.bullets):
        assert line in said
