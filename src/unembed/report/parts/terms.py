"""Words of the field in a page's text, each with its sentence of the glossary to show."""

from __future__ import annotations

import re
from functools import cache

from markupsafe import Markup, escape

from unembed.report.parts.glossary import GLOSSARY
from unembed.report.parts.wording import visible

PLAIN_WORDS = frozenset(
    {
        *("position", "document", "target", "decision", "cell", "loss", "best", "net", "residual"),
        *("flip", "interval", "n", "pp", "nat", "logit", "held out", "control", "reliability"),
        *("right to wrong", "wrong to right"),
    }
)
"""Terms of the glossary that pages also use in their plain sense, or that need no help there."""


def explain(text: str, seen: set[str]) -> Markup:
    """The text with the first use of each term marked, as an element that says what it means.

    ``seen`` holds the terms that were marked before, and takes those that are now.
    """

    def marked(found: re.Match[str]) -> str:
        term = _terms()[found[1].lower()]
        if term in seen:
            return found[0]
        seen.add(term)
        return f'<dfn tabindex="0" data-tip="{escape(GLOSSARY[term])}">{found[0]}</dfn>'

    safe = text if isinstance(text, Markup) else escape(visible(text))
    # A term inside a tag or an entity is none.
    pieces = re.split(r"(<[^>]*>|&[^;\s]*;)", str(safe))
    return Markup(
        "".join(one if at % 2 else _pattern().sub(marked, one) for at, one in enumerate(pieces))
    )


@cache
def _terms() -> dict[str, str]:
    return {term.lower(): term for term in GLOSSARY if term not in PLAIN_WORDS}


@cache
def _pattern() -> re.Pattern[str]:
    """Any term, the longest that fits, also with the s of a plural."""
    longest = sorted(map(re.escape, _terms()), key=len, reverse=True)
    return re.compile(rf"(?<![\w-])({'|'.join(longest)})s?(?![\w-])", re.IGNORECASE)
