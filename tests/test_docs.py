"""The pages are true of the repository: their links lead somewhere, what they name is there."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from places import ROOT

LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#[^)]*)?\)")
NAMED = re.compile(r"`((?:[\w-]+/)+[\w.-]*)`")
EXAMPLE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
PLACES = (ROOT, ROOT / "src" / "unembed")


def pages() -> Iterator[Path]:
    """Every page of ours."""
    yield from sorted(ROOT.glob("*.md"))
    yield from sorted((ROOT / "docs").rglob("*.md"))


def test_links_lead_somewhere() -> None:
    links = [(page, link) for page in pages() for link in LINK.findall(page.read_text("utf-8"))]
    lost = [(page.name, to) for page, to in links if not (page.parent / to).exists()]
    assert lost == []
    assert len(links) > 30


def test_files_that_the_guides_name_are_there() -> None:
    lost = []
    for page in (ROOT / "CONTRIBUTING.md", ROOT / "docs" / "architecture.md"):
        text = EXAMPLE.sub("", page.read_text("utf-8"))
        named = NAMED.findall(text)
        assert len(named) > 10
        lost += [name for name in named if not any((at / name).exists() for at in PLACES)]
    assert lost == []


def test_every_decision_is_in_the_index() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = LINK.findall((folder / "README.md").read_text("utf-8"))
    assert sorted(listed) == sorted(p.name for p in folder.glob("*.md") if p.name != "README.md")


def test_the_drawing_has_every_room() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    [layers] = [
        contract["layers"]
        for contract in project["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    ]
    rooms = {room.split(".")[-1] for layer in layers for room in re.split(r"[ :|]+", layer)}
    drawing = (ROOT / "docs" / "architecture.svg").read_text("utf-8")
    assert rooms == set(re.findall(r'class="room"[^>]*>(\w+)<', drawing))


def test_the_changelog_leads_to_public_names() -> None:
    import unembed

    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    rows = re.findall(r"\| `unembed\.(\w+)\.(\w+)(?:\([^)]*\))?` \|$", text, re.MULTILINE)
    assert len(rows) >= 5
    for package, name in rows:
        home = getattr(unembed, package)
        assert hasattr(home, name), f"unembed.{package}.{name}"
