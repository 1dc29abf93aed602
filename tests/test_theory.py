"""Every citation of the theory, in code and pages, names a section that docs/theory.md has."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from places import ROOT

PLACES = ("src", "tests", "benchmarks", "examples", "scripts", "docs")
KINDS = (".py", ".pyi", ".md", ".cpp", ".jinja", ".js")
CITED = re.compile(r"theory §\s*(\d+(?:\s*(?:,|-|–|and)\s*§?\s*\d+)*)")
OTHER = re.compile(r"\bSPEC(?:\.md|\s*§|\s+section)")


def sources() -> Iterator[Path]:
    """Every file of ours that may cite the theory, this one apart."""
    for place in PLACES:
        for path in sorted((ROOT / place).rglob("*")):
            if path.suffix in KINDS and path != Path(__file__):
                yield path


def sections_cited(text: str) -> set[int]:
    """The sections of ``theory §5``, ``theory §7, §9`` and ``theory §8-10``, each by its number."""
    found: set[int] = set()
    for match in CITED.finditer(text):
        ends = [
            (int(first), int(last or first))
            for first, last in re.findall(r"(\d+)(?:\s*[-–]\s*§?\s*(\d+))?", match[1])
        ]
        found |= {number for first, last in ends for number in range(first, last + 1)}
    return found


@pytest.fixture(scope="module")
def headings() -> list[int]:
    """The numbers of the theory's sections, in the order of the page."""
    page = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
    return [int(number) for number in re.findall(r"^## §(\d+) ", page, re.MULTILINE)]


def test_sections_are_numbered_once_and_in_order(headings: list[int]) -> None:
    assert headings == sorted(set(headings))


def test_every_citation_has_its_section(headings: list[int]) -> None:
    cited = {path: sections_cited(path.read_text(encoding="utf-8")) for path in sources()}
    lost = {str(path.relative_to(ROOT)): s - set(headings) for path, s in cited.items()}
    assert {path: missing for path, missing in lost.items() if missing} == {}
    assert len(set().union(*cited.values())) > 5, "citations are written another way by now"


def test_nothing_cites_what_the_repository_does_not_hold() -> None:
    found = [path for path in sources() if OTHER.search(path.read_text(encoding="utf-8"))]
    assert [str(path.relative_to(ROOT)) for path in found] == []


@pytest.mark.parametrize(
    ("text", "sections"),
    [
        ("Source: theory §5.", {5}),
        ("(theory §7, §9)", {7, 9}),
        ("theory §8-10", {8, 9, 10}),
        ("theory §1, 3 and 4", {1, 3, 4}),
        ("theory §4\n and §6", {4, 6}),
    ],
)
def test_a_citation_is_read_whole(text: str, sections: set[int]) -> None:
    assert sections_cited(text) == sections
