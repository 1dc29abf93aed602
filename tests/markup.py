"""A page as an HTML parser reads it, and the cells of its heat maps."""

from __future__ import annotations

import re
from html.parser import HTMLParser


class Elements(HTMLParser):
    """Every start tag, as an HTML parser that runs no script sees it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def without_terms(page: str) -> str:
    """The page as it reads where no term is marked."""
    return re.sub("</?dfn[^>]*>", "", page)


def painted(svg: str, tasks: int) -> dict[tuple[int, int], str]:
    """The colour of each cell of a heat map, by row and column, from its paths."""
    found: dict[tuple[int, int], str] = {}
    for colour, lines in re.findall(r'<path stroke="([^"]*)" d="([^"]*)"/>', svg):
        for x, y, length in re.findall(r"M(\d+) (\d+)\.5h(\d+)", lines):
            for column in range(int(x), int(x) + int(length)):
                assert (int(y), column) not in found
                found[int(y), column] = colour
    assert len(found) == tasks**2
    return found
