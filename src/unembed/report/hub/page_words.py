"""The words of a drawn page: title, extent, notes, cards and provenance, for a card to repeat."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
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
    terms = [(where, label, dict(words)) for where, label, words in reader.terms]
    return PageWords(
        BLANKS.sub(" ", reader.title).strip(),
        BLANKS.sub(" ", reader.extent).strip(),
        tuple(BLANKS.sub(" ", note).strip() for note in reader.notes),
        tuple(
            CardWords(
                label,
                words.get("value") or words.get("none", ""),
                words.get("interval", ""),
                words.get("remark", ""),
            )
            for where, label, words in terms
            if where == "cards"
        ),
        tuple((label, words.get("", "")) for where, label, words in terms if where == "facts"),
    )


@dataclass
class _Place:
    tag: str
    look: str


@dataclass
class _Text:
    parts: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return BLANKS.sub(" ", "".join(self.parts)).strip()


class _Reader(HTMLParser):
    """Collects the text of the parts by the elements that are open."""

    def __init__(self) -> None:
        super().__init__()
        self.title = self.extent = ""
        self.notes: list[str] = []
        self.terms: list[tuple[str, str, list[tuple[str, str]]]] = []
        self._open: list[_Place] = []
        self._label = _Text()
        self._words: dict[str, _Text] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in VOID:
            return
        self._open.append(_Place(tag, dict(attrs).get("class") or ""))
        if tag == "li" and self._within("ul", "notes"):
            self.notes.append("")
        elif tag == "dt":
            self._label, self._words = _Text(), {}

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop().tag != tag:
            pass
        if tag == "dd":
            where = next((name for name in ("cards", "facts") if self._within("dl", name)), "")
            words = [(name, str(text)) for name, text in self._words.items()]
            self.terms.append((where, str(self._label), words))

    def handle_data(self, data: str) -> None:
        if self._within("h1", ""):
            self.title += data
        elif self._within("p", "extent"):
            self.extent += data
        elif self._within("ul", "notes") and self._within("li", ""):
            self.notes[-1] += data
        elif self._within("dt", ""):
            self._label.parts.append(data)
        elif self._within("dd", ""):
            look = next((one.look for one in reversed(self._open) if one.tag == "p"), "")
            self._words.setdefault(look, _Text()).parts.append(data)

    def _within(self, tag: str, look: str) -> bool:
        return any(one.tag == tag and look in ("", *one.look.split()) for one in self._open)
