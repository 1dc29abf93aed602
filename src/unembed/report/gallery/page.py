"""A gallery: the pages of several runs, each with what it says first."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html.parser import HTMLParser

from unembed.report.parts.kin import Kin
from unembed.report.parts.page import template
from unembed.report.parts.wording import capital, counted, listed

BLANKS = re.compile("[ \n]+")
"""Not those that hold a number and its unit together."""

KINDS_IN_WORDS = {
    "dose": "grid of doses",
    "benchmarks": "comparison of benchmarks",
    "depths": "comparison of depths",
    "layers": "run of layers",
    "network": "map of alignments",
}
"""The kinds of runs that are called otherwise than their pages."""


@dataclass(frozen=True)
class Entry:
    """One run: its kind, the heading of its page, where that lies, and the pages inside it."""

    kind: str
    title: str
    sentence: str
    extent: str
    href: str
    parts: tuple[Kin, ...] = ()


def gallery_page(title: str, entries: Sequence[Entry], points: Sequence[Kin] = ()) -> str:
    """The page of several runs, in their order; it loads nothing, and links to theirs.

    ``points`` are what to know first, each with the page that shows it.
    """
    return template("gallery").render(
        title=title, reading=reading(entries), entries=entries, points=points, in_words=in_words
    )


def reading(entries: Sequence[Entry]) -> str:
    """How many runs there are of each kind, in one sentence."""
    kinds = Counter(in_words(entry.kind) for entry in entries)
    if len(kinds) == 1:
        [(kind, n)] = kinds.items()
        return f"{_several(n, kind)}."
    several = listed([_several(n, kind) for kind, n in kinds.items()])
    return f"{capital(counted(len(entries), 'run'))}: {several}."


def in_words(kind: str) -> str:
    """A kind of run as a reader knows it."""
    return KINDS_IN_WORDS.get(kind, kind)


def _several(n: int, kind: str) -> str:
    first, _, rest = kind.partition(" ")
    return counted(n, first) + (f" {rest}" if rest else "")


def heading_of(page: str) -> tuple[str, str, str]:
    """Title, first sentence and extent of a run's page, as its reader sees them."""
    found = _Heading()
    found.feed(page[: page.index("</header>")])
    title, sentence, extent = (
        BLANKS.sub(" ", found.words[name]).strip() for name in _Heading.NAMES
    )
    return title, sentence, extent


class _Heading(HTMLParser):
    """The text of the parts of a page's header."""

    NAMES = ("h1", "reading", "extent")

    def __init__(self) -> None:
        super().__init__()
        self.words = dict.fromkeys(self.NAMES, "")
        self._within = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        look = dict(attrs).get("class") or ""
        if not self._within:
            self._within = next((name for name in self.NAMES if name in (tag, *look.split())), "")
            self._tag = tag

    def handle_endtag(self, tag: str) -> None:
        if self._within and tag == self._tag:
            self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within:
            self.words[self._within] += data
