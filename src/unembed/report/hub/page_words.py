"""The words of a drawn page: title, extent, notes, cards and provenance, for a card to repeat."""

from __future__ import annotations

import re
from dataclasses import dataclass
from html.parser import HTMLParser

BLANKS = re.compile(r"[ \n]+")
"""Not those that hold a number and its unit together."""
VOID = frozenset({"br", "img", "input", "link", "meta", "wbr", "hr", "path"})


@dataclass(frozen=True)
class CardWords:
    """A headline number as the page says it; without a value, ``value`` says why."""

    label: str
    value: str
    interval: str
    remark: str


@dataclass(frozen=True)
class PageWords:
    """What a page says in its head, its cards and its provenance."""

    title: str
    extent: str
    notes: tuple[str, ...]
    cards: tuple[CardWords, ...]
    facts: tuple[tuple[str, str], ...]


def words_of(page: str) -> PageWords:
    """Read a page that was drawn; its figures and tables are left."""
    reader = _Reader()
    reader.feed(page)
    cards = []
    for label, words in reader.terms["cards"]:
        value = words.get("value") or words.get("none", "")
        rest = (words.get(name, "") for name in ("interval", "remark"))
        cards.append(CardWords(*map(_clean, (label, value, *rest))))
    return PageWords(
        _clean(reader.title),
        _clean(reader.extent),
        tuple(map(_clean, reader.notes)),
        tuple(cards),
        tuple((_clean(label), _clean(words.get("", ""))) for label, words in reader.terms["facts"]),
    )


def _clean(text: str) -> str:
    return BLANKS.sub(" ", text).strip(" ")


class _Reader(HTMLParser):
    """Collects the text of the parts by the elements that are open, each a tag and its class."""

    def __init__(self) -> None:
        super().__init__()
        self.title = self.extent = ""
        self.notes: list[str] = []
        self.terms: dict[str, list[tuple[str, dict[str, str]]]] = {"cards": [], "facts": []}
        """By the class of a list, each term with its words by the class of their paragraph."""
        self._open: list[tuple[str, str]] = []
        self._label, self._words = "", dict[str, str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in VOID:
            return
        self._open.append((tag, dict(attrs).get("class") or ""))
        if tag == "li" and self._within("ul", "notes"):
            self.notes.append("")
        elif tag == "dt":
            self._label, self._words = "", {}

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass
        for name, terms in self.terms.items():
            if tag == "dd" and self._within("dl", name):
                terms.append((self._label, self._words))

    def handle_data(self, data: str) -> None:
        if self._within("h1"):
            self.title += data
        elif self._within("p", "extent"):
            self.extent += data
        elif self._within("ul", "notes") and self._within("li"):
            self.notes[-1] += data
        elif self._within("dt"):
            self._label += data
        elif self._within("dd"):
            look = next((look for tag, look in reversed(self._open) if tag == "p"), "")
            self._words[look] = self._words.get(look, "") + data

    def _within(self, tag: str, look: str = "") -> bool:
        return any(one == tag and look in ("", *looks.split()) for one, looks in self._open)
