"""Terms of the glossary in a page's text: marked once, whole, and only where they are words."""

from __future__ import annotations

import re

from markupsafe import Markup

from made_up.pages import page_of
from unembed.report.parts.glossary import GLOSSARY
from unembed.report.parts.terms import PLAIN_WORDS, explain


def marked(text: str, seen: set[str] | None = None) -> list[str]:
    return re.findall("<dfn[^>]*>([^<]*)</dfn>", explain(text, set() if seen is None else seen))


def test_the_longest_term_is_marked_and_each_once() -> None:
    assert marked("The scale-free margin, a margin; margins and margin.") == [
        *("scale-free margin", "margin")
    ]
    assert marked("Churn, then churn") == ["Churn"]
    assert marked("Two facets, remargined, a margin-free one") == ["facets"]
    seen: set[str] = set()
    assert marked("churn", seen) == ["churn"]
    assert marked("churn", seen) == []


def test_the_sentence_is_the_glossary_s() -> None:
    assert f'data-tip="{GLOSSARY["churn"]}"' in explain("Churn", set())


def test_foreign_text_stays_text_and_tags_stay_tags() -> None:
    assert explain('<b title="margin">\u202e', set()).startswith("&lt;b title=&#34;<dfn")
    assert "\u202e" not in explain("x\u202e", set())
    assert explain(Markup('<i title="margin">a</i> &amp;'), set()) == (
        '<i title="margin">a</i> &amp;'
    )


def test_words_with_a_plain_sense_are_terms_too() -> None:
    assert set(GLOSSARY) >= PLAIN_WORDS


def test_pages_explain_their_terms_and_no_other_name_of_one() -> None:
    for kind in ("audit", "comparison", "refinement", "dose", "alignment"):
        html = page_of(kind)
        assert html.count("<dfn") >= 3, kind
        text = re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", html, flags=re.DOTALL)
        assert "relative distance" not in text.lower(), kind
