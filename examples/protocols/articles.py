"""Articles of an encyclopaedia as domains, for a model that knows none of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from passages import Domain, passages

from unembed.demo import Document

TITLE = re.compile(r"^ = ([^=].*) = $", re.MULTILINE)


def article_domains(files: Sequence[Path], count: int) -> list[Domain]:
    """The longest articles of WikiText files, the longest first; a document is a passage of one.

    Passages of one article are documents of their own here, for an article is the domain.
    """
    found = [one for file in files for one in _articles(file)]
    found.sort(key=lambda one: -len(one[1]))
    domains: dict[str, Domain] = {}
    for title, text in found[:count]:
        # WikiText's small version writes rare words, and so many a title, as <unk>.
        name = title if title not in domains else f"{title} ({len(domains) + 1})"
        documents = [Document(f"{name}/{i}", each) for i, each in enumerate(passages(text))]
        domains[name] = Domain(name, tuple(documents))
    return list(domains.values())


def _articles(file: Path) -> Iterator[tuple[str, str]]:
    pieces = TITLE.split(file.read_text(encoding="utf-8"))
    # What comes before the first title, then title and text in turn.
    yield from zip(pieces[1::2], pieces[2::2], strict=True)
