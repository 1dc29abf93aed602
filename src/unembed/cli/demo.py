"""``unembed demo``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unembed.cli.help import Verb, option, under
from unembed.cli.options import PRINTING
from unembed.cli.printing import echo, say, typed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unembed.demo.findings import Finding
    from unembed.demo.story import DemoRuns


@click.command("demo", cls=Verb)
@under(
    "Output",
    option(
        "-o",
        "--out",
        type=click.Path(path_type=Path),
        default=Path("unembed-demo"),
        help="Run folder, written afresh each time.",
    ),
)
@PRINTING
def demo_command(out: Path, as_json: bool, quiet: bool) -> None:
    """Tell the whole story on a small bundled model, in a few minutes.

    The model is audited on your own Python's library text, and read at every depth. bfloat16 and
    int8 versions of it are compared with it (int8 takes the extra quant). Then it is trained a
    little further, with and without a penalty of narrow decisions (the extra train), and a dozen
    topics of the library are sketched: which of them would move its head alike? And which of a
    dozen listings that it has not read helps which: predicted by scores, and measured.

    Six findings are printed, each with the page that shows it, and OUT/index.html leads to every
    page.

    The model is a small Llama trained on other modules of the standard library; the text is held
    out from its training. Nothing is downloaded.

    \b
    Example:
      unembed demo -o unembed-demo
    """
    from unembed.demo.findings import findings, findings_text, left_out
    from unembed.demo.story import run_demo
    from unembed.runs.manifest import SUMMARY

    told = run_demo(out, progress=not quiet, command=typed())
    found = findings(told)
    index = _draw(told, found)
    if not as_json:
        echo(findings_text(told, found, pages=index is not None))
        say("", None, False, [("every page", index), ("runs", out)])
        return
    told_as = [
        {
            "number": number,
            "sentence": finding.sentence,
            "page": None if index is None else str(out / finding.page),
        }
        for number, finding in enumerate(found, 1)
    ]
    values = {
        "run": str(out),
        "summary": json.loads((out / SUMMARY).read_text()),
        "findings": told_as,
        "left_out": left_out(told),
        "index": None if index is None else str(index),
    }
    say("", values, True)


def _draw(told: DemoRuns, found: Sequence[Finding]) -> Path | None:
    """The pages of all runs, and the one that leads to them; where none can be drawn, say so."""
    from unembed.report.pages import GALLERY, write_gallery
    from unembed.report.parts.drawing import ReportUnavailable

    try:
        points = [(one.sentence, told.folder / one.page) for one in found]
        index = told.folder / GALLERY
        return write_gallery(told.places, index, title="What a head decides", points=points)
    except ReportUnavailable as error:
        echo(f"no report: {error}", err=True)
        return None
