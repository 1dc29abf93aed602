"""The buttons of a page that save its figures, its tables and its summary, in a real browser."""

from __future__ import annotations

import csv
from pathlib import Path
from xml.etree import ElementTree

import pytest

from browser import Watched, browser_test
from made_up.pages import page_of

pytestmark = browser_test


@pytest.fixture(scope="module", params=["audit", "alignment", "transfer"])
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / f"{request.param}.html"
    path.write_text(page_of(request.param), encoding="utf-8")
    return path.as_uri()


def saved(opened: Watched, label: str, folder: Path) -> Path:
    button = opened.page.locator("main .save button", has_text=label).locator("visible=true").first
    button.focus()
    with opened.page.expect_download() as found:
        opened.page.keyboard.press("Enter")
    path = folder / found.value.suggested_filename
    found.value.save_as(path)
    opened.trouble[:] = [one for one in opened.trouble if not one.startswith("request: blob:")]
    return path


def test_figures_and_tables_are_saved_without_a_network(opened: Watched, tmp_path: Path) -> None:
    svg = saved(opened, "SVG", tmp_path)
    root = ElementTree.parse(svg).getroot()
    assert root.tag.endswith("svg")
    text = svg.read_text()
    assert "var(" not in text
    assert "oklab" not in text
    assert opened.page.locator("figure h3").first.text_content() in "".join(root.itertext())
    png = saved(opened, "PNG", tmp_path)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert png.stat().st_size > 3000


def test_a_table_is_saved_as_csv(opened: Watched, tmp_path: Path) -> None:
    opened.page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    with saved(opened, "CSV", tmp_path).open(encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    assert len(rows) > 2
    assert len({len(row) for row in rows}) == 1


@pytest.mark.parametrize("file", ["audit"], indirect=True)
def test_the_summary_is_copied_as_markdown(opened: Watched) -> None:
    opened.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened.page.get_by_role("button", name="Copy the summary as Markdown").click()
    opened.page.get_by_text("Copied").wait_for()
    text = opened.page.evaluate("navigator.clipboard.readText()")
    assert text.startswith("### Token decisions of base")
    assert text.count("\n- **") >= 8


def test_nothing_of_it_is_printed(opened: Watched) -> None:
    opened.page.emulate_media(media="print")
    assert not opened.page.locator(".save").locator("visible=true").count()
