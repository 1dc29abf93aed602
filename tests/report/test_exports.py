"""Figures and tables of a page as files: all of them, worded as there, and nothing replaced."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from command_line import Ended, invoke
from made_up.records import RECORDS
from unembed.errors import UnembedError
from unembed.report.exports import (
    as_csv,
    as_latex,
    as_markdown,
    export_figures,
    export_tables,
    for_latex,
    named_figures,
    named_tables,
)
from unembed.report.parts.parts import Table, estimates_table
from unembed.report.parts.plots import sections_of
from unembed.report.parts.wording import decimal
from unembed.selection.ranking.records import Ranking
from unembed.stats.estimate import Estimate

NASTY = Table(
    "50 % of a_b | c",
    ("name", "a|b"),
    (
        ("<b>#1", "−0.5 \u202e"),
        ("\\n & {x}", "2×"),
    ),
)


@pytest.fixture(params=RECORDS)
def record(request: pytest.FixtureRequest) -> Any:
    return RECORDS[request.param]()


def test_names_of_files_are_plain_and_no_two_the_same(record: Any) -> None:
    sections = sections_of(record)
    for named in (named_figures(sections), named_tables(sections)):
        names = [name for name, _ in named]
        assert len(set(names)) == len(names)
        assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in names)


def test_every_table_is_written_in_every_format(record: Any, tmp_path: Path) -> None:
    written = export_tables(record, tmp_path / "new", ["csv", "latex", "markdown"])
    tables = list(named_tables(sections_of(record)))
    assert len(written) == 3 * len(tables) > 0
    assert sorted(written) == sorted((tmp_path / "new").iterdir())
    for name, table in tables:
        with (tmp_path / "new" / f"{name}.csv").open(encoding="utf-8", newline="") as stream:
            head, *rows = csv.reader(stream)
        assert len(rows) == len(table.rows)
        assert head[: len(table.head)] == list(table.head)
        tex = (tmp_path / "new" / f"{name}.tex").read_text(encoding="utf-8")
        assert tex.count(r" \\") == len(rows) + 1
    assert export_tables(record, tmp_path / "new", ["csv", "latex", "markdown"]) == written


def test_estimates_stand_in_full_precision_beside_their_words() -> None:
    table = estimates_table("t", {"a": (Estimate(1 / 3, 0.25, 0.5, 7), decimal), "b": "words"})
    head, first, second = csv.reader(as_csv(table).splitlines())
    assert head[3:] == ["exact value", "exact low", "exact high", "exact n"]
    assert first == ["a", "0.33", *first[2:3], str(1 / 3), "0.25", "0.5", "7"]
    assert second == ["b", "words", "", "", "", "", ""]


def test_what_has_a_meaning_in_a_format_is_escaped() -> None:
    assert for_latex("50 % a_b & $x$ #1 ~^ \\ <b> −1") == (
        r"50 \% a\_b \& \$x\$ \#1 \textasciitilde{}\textasciicircum{} \textbackslash{} "
        r"\textless{}b\textgreater{} $-$1"
    )
    tex, text = as_latex(NASTY), as_markdown(NASTY)
    assert r"\{x\}" in tex
    assert "\u202e" not in tex + text
    assert r"a\|b" in text
    assert "&lt;b>" in text
    assert len({line.replace(r"\|", "").count("|") for line in text.splitlines()[3:-1]}) == 1


def test_a_row_that_begins_with_a_bracket_is_no_argument() -> None:
    tex = as_latex(Table("t", ("margin", "n"), (("[0, 0.5)", "3"), ("*", "4"), ("", "5"))))
    assert r"{}[0, 0.5) & 3" in tex
    assert r"{}* & 4" in tex


def test_one_figure_in_both_formats(tmp_path: Path) -> None:
    record = RECORDS["mixture"]()
    svg, png = export_figures(record, tmp_path, ["svg", "png"])
    assert (svg.name, png.name) == ("weights-forest.svg", "weights-forest.png")
    assert svg.read_text().startswith("<svg")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert export_figures(record, tmp_path, ["svg", "png"]) == [svg, png]


@pytest.mark.parametrize("name", ["weights-forest.csv", "weights-forest.md"])
def test_nothing_of_someone_else_is_replaced_and_nothing_written(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine, all of it\n1, 2\n")
    with pytest.raises(UnembedError, match="what unembed did not make"):
        export_tables(RECORDS["mixture"](), tmp_path, ["latex", "csv", "markdown"])
    assert [one.name for one in tmp_path.iterdir()] == [name]


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnembedError, match="'pdf' is no format here: give some of svg, png"):
        export_figures(RECORDS["mixture"](), tmp_path, ["pdf"])


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "ranking"
    plain = RECORDS["ranking"]().to_json()
    Ranking.keep(folder, {"sources": 5}, lambda _: plain, command="rank it")
    return folder


class TestCommand:
    def test_files_are_listed(
        self, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = ("--figures", tmp_path / "fig", "--tables", tmp_path / "tab")
        formats = ("--format", "csv,markdown", "--figure-format", "svg,png", "--json")
        assert invoke("report", run_folder, *out, *formats) == 0
        files = json.loads(capsys.readouterr().out)
        assert files["page"] == str(run_folder / "report.html")
        written = {*files["figures"], *files["tables"]}
        assert written == {str(one) for one in tmp_path.rglob("*.*")}
        assert len(written) == 2 + 2 * 2

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            (("--tables", "FILE"), "is a file: give a folder"),
            (("--figures", "FILE"), "is a file: give a folder"),
            (("--tables", "DIR", "--format", "csv,xls"), "'xls' is no format here"),
            (("--figures", "DIR", "--figure-format", "pdf"), "'pdf' is no format here"),
        ],
    )
    def test_what_cannot_be_is_refused_before_the_work(
        self,
        given: tuple[str, ...],
        said: str,
        run_folder: Path,
        tmp_path: Path,
        run: Callable[..., Ended],
    ) -> None:
        (tmp_path / "FILE").write_text("mine")
        ended = run(
            "report", run_folder, *(tmp_path / one if one.isupper() else one for one in given)
        )
        assert said in ended.line
        assert not (tmp_path / "DIR").exists()

    def test_a_record_that_was_kept_knows_its_run(self, run_folder: Path, tmp_path: Path) -> None:
        from unembed.report.pages import load_run

        page = load_run(run_folder).report(tmp_path / "x.html")
        assert "rank it" in page.read_text()
