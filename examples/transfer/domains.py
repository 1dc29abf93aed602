"""Kinds of real text that a machine with Python and this package holds, found without a download.

Each function gives documents, or none where the machine lacks them; nothing is copied anywhere.
"""

from __future__ import annotations

import gettext
import html.entities
import importlib.metadata
import importlib.util
import mimetypes
import sys
import sysconfig
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import chain
from pathlib import Path

from produced import disassembly, import_traces, number_series, syntax_trees, test_logs

from unembed.demo import Document, documents

MOST = 400
"""Documents that are read of one domain, evenly over all there are."""
LONGEST = 12_000
"""Characters that are read of a document."""
MESSAGE, MESSAGES = 30, 40
"""Characters of a translated message at least, and messages of a document."""


@cache
def library() -> tuple[Document, ...]:
    """Every document of the running interpreter's library."""
    return tuple(chain(documents("train"), documents("heldout")))


def of_library(*beginnings: str) -> Iterator[Document]:
    """Those whose names begin so."""
    return (one for one in library() if one.name.startswith(beginnings))


def files(root: Path | None, pattern: str, left_out: tuple[str, ...] = ()) -> Iterator[Document]:
    """The files under a folder that fit a pattern, named by their paths in it."""
    paths = [] if root is None or not root.is_dir() else sorted(root.glob(pattern))
    named = [(path.relative_to(root or path).as_posix(), path) for path in paths]
    kept = [(name, path) for name, path in named if not any(word in name for word in left_out)]
    for name, path in evenly(kept):
        if path.is_file():
            yield Document(name, path.read_text(encoding="utf-8", errors="replace")[:LONGEST])


def evenly(some: list[tuple[str, Path]]) -> list[tuple[str, Path]]:
    """At most MOST of them, from beginning to end."""
    step = max(1, -(-len(some) // MOST))
    return some[::step]


def package(name: str) -> Path | None:
    """The folder of an installed package; it is not imported."""
    found = importlib.util.find_spec(name)
    return None if found is None or found.origin is None else Path(found.origin).parent


def mapping_tables() -> Iterator[Document]:
    """The library's tables of character sets."""
    folder = Path(sysconfig.get_path("stdlib"), "encodings")
    for one in files(folder, "*.py"):
        start = max(one.text.find("decoding_table = ("), one.text.find("decoding_map"))
        if start >= 0:
            yield Document(one.name, one.text[start:])


def character_names() -> Iterator[Document]:
    """Names of characters by blocks of 256."""
    for block in range(0, 0x20000, 256):
        rows = []
        for code in range(block, block + 256):
            name = unicodedata.name(chr(code), "")
            if name and not name.startswith(("CJK ", "HANGUL SYLLABLE", "TANGUT")):
                rows.append(f"{code:04X};{name};{unicodedata.category(chr(code))}\n")
        yield Document(f"U+{block:04X}", "".join(rows))


def entities() -> Iterator[Document]:
    """HTML's named characters and the types of files, by how they begin."""
    rows: dict[str, list[str]] = {}
    for name, text in sorted(html.entities.html5.items()):
        if name.endswith(";"):
            codes = " ".join(f"U+{ord(c):05X}" for c in text)
            rows.setdefault(f"&{name[:2].lower()}", []).append(f"&{name} [{codes}] {text!r}\n")
    for ending, kind in sorted(mimetypes.types_map.items()):
        rows.setdefault(f"types {kind.split('/')[0]}", []).append(f"{ending} {kind}\n")
    return (Document(name, "".join(some)) for name, some in sorted(rows.items()))


def of_distributions(words: tuple[str, ...]) -> Iterator[Document]:
    """Files of installed distributions whose names hold one of some words."""
    for one in sorted(importlib.metadata.distributions(), key=lambda d: str(d.metadata["Name"])):
        for file in one.files or ():
            path = Path(str(one.locate_file(file)))
            named = any(word in file.name.upper() for word in words) and path.suffix != ".py"
            if named and path.is_file():
                text = path.read_text(encoding="utf-8", errors="replace")
                yield Document(f"{one.metadata['Name']}/{file.name}", text[:LONGEST])


def licences() -> Iterator[Document]:
    """The interpreter's licence, and those of installed distributions."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    yield from files(stdlib, "LICENSE*")
    yield from of_distributions(("LICENSE", "LICENCE", "COPYING", "NOTICE"))


def descriptions() -> Iterator[Document]:
    """What installed distributions say of themselves."""
    for one in sorted(importlib.metadata.distributions(), key=lambda d: str(d.metadata["Name"])):
        text = one.metadata.get_payload()
        if isinstance(text, str):
            yield Document(str(one.metadata["Name"]), text[:LONGEST])


def translations(language: str) -> Iterator[Document]:
    """Messages of programs in another language, from the machine's catalogues."""
    roots = dict.fromkeys(Path(p, "share", "locale") for p in (sys.base_prefix, "/usr"))
    paths = [p for root in roots for p in sorted((root / language).glob("LC_MESSAGES/*.mo"))]
    for path in paths:
        try:
            with path.open("rb") as file:
                found = gettext.GNUTranslations(file)
        except (OSError, UnicodeDecodeError):
            continue  # a few catalogues are not what they say they are
        every = getattr(found, "_catalog", {})
        said = [text for text in every.values() if isinstance(text, str) and len(text) >= MESSAGE]
        # The empty message's translation is the catalogue's own header.
        said = [text for text in said if "Content-Type:" not in text]
        for at in range(0, len(said), MESSAGES):
            yield Document(f"{path.stem}/{at}", "\n".join(said[at : at + MESSAGES])[:LONGEST])


def wikitext(path: Path) -> Iterator[Document]:
    """The articles of a WikiText file: they begin with `` = Title = ``."""
    title, lines = "beginning", []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.startswith(" = ") and not line.startswith(" = ="):
            yield Document(title, "".join(lines)[:LONGEST])
            title, lines = line.strip(), []
        lines.append(line)
    yield Document(title, "".join(lines)[:LONGEST])


def sources(wiki: Path | None) -> list[tuple[str, Callable[[], Iterable[Document]]]]:
    """Every domain's name and what gives its documents, the first ones to be taken first."""
    include = Path(sysconfig.get_path("include"))
    found: list[tuple[str, Callable[[], Iterable[Document]]]] = [
        ("manual", lambda: of_library("topic:")),
        ("docstrings", lambda: of_library("doc:")),
        ("descriptions", descriptions),
        ("licences", licences),
        ("asyncio", lambda: of_library("asyncio/", "test/test_asyncio/", "concurrent/")),
        ("email", lambda: of_library("email/", "test/test_email/", "mailbox", "smtp")),
        ("numpy", lambda: files(package("numpy"), "**/*.py", ("/tests/",))),
        ("unit tests", lambda: of_library("test/test_")),
        ("C headers", lambda: files(include, "**/*.h")),
        ("C++ headers", lambda: files(package("torch"), "include/c10/**/*.h")),
        ("character names", character_names),
        ("import traces", import_traces),
        ("disassembly", lambda: disassembly(library())),
        ("number series", number_series),
        ("French", lambda: translations("fr")),
        ("German", lambda: translations("de")),
        ("mapping tables", mapping_tables),
        ("syntax trees", lambda: syntax_trees(library())),
        ("test logs", test_logs),
        ("model code", lambda: files(package("transformers"), "models/*/modeling_*.py")),
        ("tkinter", lambda: of_library("tkinter/", "idlelib/", "turtledemo/")),
        ("type stubs", lambda: files(package("numpy"), "**/*.pyi")),
        ("entities", entities),
        ("Russian", lambda: translations("ru")),
    ]
    if wiki is not None:
        found.append(("WikiText", lambda: wikitext(wiki)))
    return found
