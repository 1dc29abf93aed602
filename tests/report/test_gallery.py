"""The page of several runs: what it says is what their own pages say, and its links lead there."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import pytest

from command_line import Ended
from made_up.selection import mixture, ranking
from markup import Elements
from unembed.errors import UnembedError
from unembed.report.gallery.page import Entry, gallery_page, heading_of, reading
from unembed.report.pages import find_runs, write_gallery, write_page
from unembed.report.parts.kin import PLACE, Kin, with_kin
from unembed.selection.mixing.record import Mixture
from unembed.selection.ranking.records import Ranking


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder with a ranking and, in a folder whose name needs care, a mixture."""
    place = tmp_path / "runs"
    Ranking.keep(place / "a ranking #1", {"seed": 1}, lambda _: ranking(5).to_json())
    Mixture.keep(place / "deeper/mixture", {"seed": 2}, lambda _: mixture(4).to_json())
    return place


def hrefs(page: Path) -> list[str]:
    tags = Elements(page.read_text()).tags
    return [given["href"] or "" for tag, given in tags if tag == "a"]


def leads_to(page: Path, href: str) -> Path:
    return Path(os.path.normpath(page.parent / unquote(href)))


def test_a_card_says_what_the_page_says_and_both_lead_to_each_other(runs: Path) -> None:
    page = write_gallery([runs], runs / "index.html")
    html = page.read_text()
    pages = [runs / "a ranking #1/report.html", runs / "deeper/mixture/report.html"]
    found = [href for href in hrefs(page) if not href.startswith("#")]
    assert [leads_to(page, href) for href in found] == pages
    assert "2 runs: 1 ranking and 1 mixture." in " ".join(html.split())
    for one in pages:
        title, sentence, extent = heading_of(one.read_text())
        assert title
        assert sentence.endswith(".")
        assert re.search("[0-9]\u00a0%|0\\.[0-9]", sentence)
        assert all(words in html for words in (title, sentence, extent))
        up = [href for href in hrefs(one) if not href.startswith("#")]
        assert [leads_to(one, href) for href in up] == [page]
    before = html
    assert write_gallery([runs], runs / "index.html").read_text() == before


def test_points_stand_first_with_the_pages_that_show_them(runs: Path) -> None:
    shown = runs / "deeper/mixture/report.html"
    page = write_gallery([runs], runs / "index.html", points=[("Two & two.", shown)])
    html = page.read_text()
    assert '<li>Two &amp; two. <a href="deeper/mixture/report.html">' in html
    assert html.index("Two &amp; two.") < html.index('<ul class="gallery">')


def test_a_page_drawn_again_keeps_its_link_to_the_gallery(runs: Path) -> None:
    page = write_gallery([runs], runs / "index.html")
    again = write_page(runs / "a ranking #1")
    [up] = [href for href in hrefs(again) if not href.startswith("#")]
    assert leads_to(again, up) == page
    assert "all runs" in again.read_text()
    page.write_text("no gallery")
    assert "all runs" not in write_page(runs / "a ranking #1").read_text()


def test_what_is_refused_is_refused_before_a_page_is_drawn(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnembedError, match="empty holds no finished run: give the folder of a run"):
        write_gallery([runs, tmp_path / "empty"], tmp_path / "index.html")
    with pytest.raises(UnembedError, match="missing holds no run"):
        write_gallery([runs, tmp_path / "missing"], tmp_path / "index.html")
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(UnembedError, match="holds what unembed did not make"):
        write_gallery([runs], tmp_path / "index.html")
    assert (tmp_path / "index.html").read_text() == "mine"
    assert not list(runs.rglob("report.html"))


def test_an_unfinished_run_is_passed_over_and_a_run_inside_one_is_not_listed(runs: Path) -> None:
    (runs / "begun").mkdir()
    (runs / "begun/journal.jsonl").write_text("")
    inner = runs / "deeper/mixture/points/ranking"
    Ranking.keep(inner, {"seed": 3}, lambda _: ranking(3).to_json())
    assert find_runs(runs) == [runs / "a ranking #1", runs / "deeper/mixture"]


def test_the_command_takes_runs_or_a_folder_of_them(
    runs: Path, tmp_path: Path, run: Callable[..., Ended]
) -> None:
    assert run("report", runs) == Ended(0, f"{runs / 'index.html'}\n", "")
    two = [runs / "deeper/mixture", runs / "a ranking #1"]
    assert "name the page that leads to theirs, -o index.html" in run("report", *two).line
    out = tmp_path / "two.html"
    assert run("report", *two, "-o", out) == Ended(0, f"{out}\n", "")
    links = [leads_to(out, href) for href in hrefs(out) if not href.startswith("#")]
    assert links == [one / "report.html" for one in two]


def test_foreign_words_stay_text() -> None:
    bad = '"><b>x\u202e'
    html = gallery_page(bad, [Entry("audit", bad, bad, bad, "a.html", (Kin(bad, "b.html"),))])
    assert "<b>" not in html
    assert "\u202e" not in html
    up = with_kin(f"<p>{PLACE}</p>", Kin(bad, "a%22.html"), [])
    assert "<b>" not in up
    assert "\u202e" not in up


def test_kinds_are_counted_in_words() -> None:
    def of(*kinds: str) -> str:
        return reading([Entry(kind, "t", "s.", "e", "h") for kind in kinds])

    assert of("dose", "dose") == "2 grids of doses."
    assert of("audit", "dose", "audit") == "3 runs: 2 audits and 1 grid of doses."
