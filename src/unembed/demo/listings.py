"""Text that programs make and the bundled model has not read: listings, names and numbers."""

from __future__ import annotations

import ast
import dis
import io
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator

from unembed.demo.text import Document

ROWS = 64
"""Names of a document."""
LEFT_OUT = ("CJK ", "HANGUL SYLLABLE", "TANGUT")
"""Names that are numbers."""
TERMS, MODULUS = 400, 9973
STARTS = range(1, 31)


def disassembly(modules: Iterable[Document]) -> Iterator[Document]:
    """Bytecode of modules, listed by ``dis``."""

    def listing(tree: ast.Module, name: str) -> str:
        out = io.StringIO()
        dis.dis(compile(tree, name, "exec"), file=out, depth=0)
        return out.getvalue()

    return _compiled(modules, listing)


def syntax_trees(modules: Iterable[Document]) -> Iterator[Document]:
    """Syntax trees of modules, as ``ast.dump`` writes them."""
    return _compiled(modules, lambda tree, _name: ast.dump(tree, indent=1))


def character_names(kinds: str) -> Iterator[Document]:
    """Names of the characters whose category begins with one of some letters, such as "L"."""
    rows = []
    for code in range(0x20000):
        name, category = unicodedata.name(chr(code), ""), unicodedata.category(chr(code))
        if name and category[0] in kinds and not name.startswith(LEFT_OUT):
            rows.append(f"{code:04X};{name};{category}\n")
    for start in range(0, len(rows) - ROWS + 1, ROWS):
        yield Document(rows[start].strip(), "".join(rows[start : start + ROWS]))


def steps() -> Iterator[Document]:
    """Whole numbers at equal distances, from many starts."""
    return (_series(f"steps of {7 * k}", range(k, k + 7 * k * TERMS, 7 * k)) for k in STARTS)


def powers() -> Iterator[Document]:
    """Powers of whole numbers, modulo a prime."""
    for k in STARTS:
        yield _series(f"powers of {k + 1}", (pow(k + 1, n, MODULUS) for n in range(TERMS)))


def sums() -> Iterator[Document]:
    """Numbers that are the sum of the two before, modulo a prime, from many starts."""
    for k in STARTS:
        found = [k, k + 1]
        while len(found) < TERMS:
            found.append((found[-1] + found[-2]) % MODULUS)
        yield _series(f"sums from {k}", found)


def _series(name: str, terms: Iterable[int]) -> Document:
    return Document(name, f"{name}: " + " ".join(map(str, terms)) + "\n")


def _compiled(
    modules: Iterable[Document], listing: Callable[[ast.Module, str], str]
) -> Iterator[Document]:
    for one in modules:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in old files
            try:
                yield Document(one.name, listing(ast.parse(one.text), one.name))
            except (SyntaxError, ValueError):
                continue
