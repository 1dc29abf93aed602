"""The figures of every kind of record: from Python, whole, in plain colours, saved offline."""

from __future__ import annotations

import contextlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from made_up.records import RECORDS
from made_up.selection import ranking
from unembed.errors import UnembedError
from unembed.report import parts
from unembed.report.pages import RECORDS as KINDS
from unembed.report.parts import drawing
from unembed.report.parts.colours import declared, plain_colour, resolved
from unembed.report.parts.drawing import ReportUnavailable
from unembed.report.parts.parts import Figure
from unembed.report.parts.plots import Plots, figures_of, sections_of
from unembed.report.parts.standalone import look_of, standalone, whole_spec

ARGUMENTS: dict[str, list[tuple[Any, ...]]] = {
    "comparison.reliability": [("before",), ("after",)],
    "comparison.kl_by": [("band-before",), ("frequency",), ("token-class",)],
    "comparison.acceptance_by": [("band-before",), ("frequency",), ("token-class",)],
    "depths.settling_by": [("outcome",), ("class",), ("frequency",)],
    "depths.moved": [("accuracy",), ("loss",), ("kl",), ("margin",)],
    "depths.by_depth": [
        ("agreement",),
        ("accuracy",),
        ("loss",),
        ("kl",),
        ("margin",),
        ("scale-free",),
    ],
    "layers.by_depth": [
        (name,) for name in ("accuracy", "loss", "margin", "kl", "entropy", "acceptance")
    ],
    "layers.settling_by": [("class",), ("frequency",)],
    "layers.rho": [("margin",), ("cosine",), ("fisher",)],
    "layers.cloud": [
        (name,)
        for name in (
            *("effective-rank", "participation", "two-nn", "levina-bickel"),
            *("off-plane", "turning"),
        )
    ],
    "layers.gap": [("slope",), ("density",)],
    "alignment.map": [("joint",), ("activation",), ("error",)],
    "transfer.scores": [(one.method,) for one in RECORDS["transfer"]().transfer.scores],
    "transfer.points": [(one.method,) for one in RECORDS["transfer"]().transfer.scores],
    "refinement.curve": [
        (name,)
        for name in (
            *("cross-entropy", "penalty", "gradient-norm"),
            *("gradient-ratio", "gradient-cosine"),
        )
    ],
    "refinement.watched": [
        (name,) for name in ("loss", "margin", "relative", "flips", "accuracy", "stable")
    ],
    "dose.frontier": [
        (damage, gain)
        for damage in ("nll_rise", "right_to_wrong", "churn")
        for gain in ("median_margin_gain", "scale_free_gain")
    ],
    "dose.response": [
        (name,)
        for name in (
            *("median_margin_gain", "scale_free_gain", "below_half", "nll_change"),
            *("accuracy_change", "churn", "right_to_wrong", "wrong_to_right"),
            *("flip_ratio", "rotation"),
        )
    ],
    "audit.slice": [(0,), (1,)],
    "comparison.slice": [],  # on no page, for it takes the models
    "layers.slice": [],
    "layers.early_exit": [("normed",), ("fitted",)],
    "comparison.draft": [(1,), (2,)],
    "comparison.mined": [("rose",), ("fell",)],
    "dose.read_out": [(0,), (1,)],
}
"""What a method that takes something is called with."""


@pytest.fixture(params=RECORDS)
def record(request: pytest.FixtureRequest) -> Any:
    return RECORDS[request.param]()


def figures(record: Any) -> list[Figure]:
    return list(figures_of(sections_of(record)))


def methods(plots: Plots) -> Iterator[tuple[str, Any]]:
    for name in dir(plots):
        if not name.startswith("_") and name not in ("all", "curves"):
            yield name, getattr(plots, name)


def test_every_figure_of_every_page_has_a_method(
    record: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unembed.report.parts.plots.standalone", lambda figure: figure.name)
    found: set[str] = set()
    for name, method in methods(record.plot):
        assert method.__doc__.rstrip().endswith("."), name
        for given in ARGUMENTS.get(f"{record.KIND}.{name}", [()]):
            with contextlib.suppress(UnembedError):
                found.add(method(*given))
    assert found == {figure.name for figure in figures(record)}


def test_every_kind_of_page_has_plots() -> None:
    assert {record().KIND for record in RECORDS.values()} == {*KINDS, "index"}


def test_making_the_figures_of_a_page_draws_nothing(
    record: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_drawing(*_: object) -> str:
        raise AssertionError("drawn")

    monkeypatch.setattr(drawing, "_svg", no_drawing)
    assert figures(record)


def test_figures_say_what_they_are_in_plain_colours(record: Any) -> None:
    for figure in figures(record):
        whole = whole_spec(figure)
        assert whole["title"]["text"] == figure.title
        assert whole["description"].startswith(figure.chart.description)
        words = repr(whole)
        assert not re.search(r"var\(|color-mix|light-dark", words), figure.name
        assert "'description': {'field'" not in words
        if "'tip'" in words:
            assert "'tooltip': {'field': 'tip'" in words
        for key in figure.keys:
            assert key.look.startswith("ramp") or look_of(key)[2]


def test_one_figure_of_each_kind_is_shown_and_saved(record: Any, tmp_path: Path) -> None:
    first = figures(record)[0]
    chart = standalone(first)
    assert "vega-lite" in chart._repr_mimebundle_()["text/html"]
    chart.save(tmp_path / "x.svg")
    svg = (tmp_path / "x.svg").read_text()
    assert first.title in svg
    assert all(key.label in svg for key in first.keys)


@pytest.mark.slow
def test_every_figure_is_saved_as_svg_and_png(record: Any, tmp_path: Path) -> None:
    for name, chart in record.plot.all().items():
        chart.save(tmp_path / f"{name}.svg")
        chart.save(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_html_holds_its_scripts(tmp_path: Path) -> None:
    chart = RECORDS["ranking"]().plot.forest()
    chart.save(tmp_path / "x.html", inline=True)
    assert not re.search(r'<script[^>]+src="?http', (tmp_path / "x.html").read_text())


def test_curves_of_a_refinement_stand_side_by_side(tmp_path: Path) -> None:
    chart = RECORDS["refinement"]().plot.curves()
    chart.save(tmp_path / "x.svg")
    svg = (tmp_path / "x.svg").read_text()
    assert all(title in svg for title in ("Cross-entropy", "Median margin", "Changed decisions"))


def test_a_figure_that_is_not_there_is_refused_in_one_line() -> None:
    with pytest.raises(UnembedError, match="this ranking has no figure 'forest': give one of none"):
        ranking(2, missing=2).plot.forest()
    with pytest.raises(UnembedError, match="'nothing' is no method here: give one of joint"):
        RECORDS["transfer"]().plot.scores("nothing")


def test_without_altair_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "altair", None)
    with pytest.raises(ReportUnavailable, match=re.escape("pip install 'unembed[plot]'")):
        RECORDS["mixture"]().plot.forest()


def test_plots_print_short_and_name_their_methods() -> None:
    words = repr(RECORDS["comparison"]().plot)
    assert "flow" in words
    assert len(words) < 400


@pytest.mark.parametrize("kind", [kind for kind in RECORDS if kind != "live comparison"])
def test_a_record_in_memory_writes_its_page(kind: str, tmp_path: Path) -> None:
    page = RECORDS[kind]().report(tmp_path / "x.html")
    text = page.read_text()
    assert text.startswith("<!DOCTYPE html>")
    assert text.count("<h2") >= 2


def test_a_page_replaces_nothing_of_someone_else(tmp_path: Path) -> None:
    (tmp_path / "x.html").write_text("mine")
    with pytest.raises(UnembedError, match="what unembed did not make"):
        RECORDS["mixture"]().report(tmp_path / "x.html")


class TestColours:
    def test_those_of_the_light_theme(self) -> None:
        assert plain_colour("var(--right)") == "#3a6ea5"
        assert plain_colour("var(--gained)") == plain_colour("var(--right)")
        assert plain_colour("light-dark(#abc, var(--x))") == "#abc"
        assert plain_colour("var(--paper)") == "#ffffff"
        assert plain_colour("transparent") == "transparent"

    def test_mixed_as_a_browser_does(self) -> None:
        # Chromium: color-mix(in oklab, #472f96 30%, #ffffff), computed style in a canvas.
        assert plain_colour("color-mix(in oklab, #000000 50%, #ffffff)") == "#636363"
        assert plain_colour("color-mix(in oklab, #ff0000 100%, #ffffff)") == "#ff0000"

    def test_no_two_stylesheets_mean_different_colours_by_one_name(self) -> None:
        found: dict[str, str] = {}
        for sheet in Path(inspect.getfile(parts)).parents[1].rglob("*.css"):
            for name, value in re.findall(r"(--[\w-]+):\s*([^;{}]+);", sheet.read_text()):
                if re.match(r"#|var\(|light-dark\(|color-mix\(", value):
                    assert name in declared()
                    assert found.setdefault(name, value) == value, name

    def test_specs_keep_everything_else(self) -> None:
        spec = {"a": [1, {"color": "var(--ink)"}], "b": "various"}
        assert resolved(spec) == {"a": [1, {"color": "#1b1d22"}], "b": "various"}
