"""``unembed report``."""

from __future__ import annotations

from pathlib import Path

import click

from unembed.cli.help import Verb, option, under
from unembed.cli.printing import echo
from unembed.errors import UnembedError


@click.command("report", cls=Verb)
@click.argument("run", type=click.Path(path_type=Path))
@under(
    "Output",
    option(
        "-o",
        "--out",
        type=click.Path(path_type=Path),
        help="Page to write.",
        default_is="report.html in RUN",
    ),
)
def report_command(run: Path, out: Path | None) -> None:
    """Check every file of a finished run, and draw its page again.

    \b
    Example:
      unembed report runs/reviews -o reviews.html
    """
    from unembed.report.pages import write_page
    from unembed.report.parts.drawing import ReportUnavailable

    if out is not None and out.is_dir():
        raise UnembedError(f"{out} is a folder: give a file for the page, such as {out}/page.html")
    try:
        echo(str(write_page(run, out)))
    except ReportUnavailable as error:
        raise UnembedError(str(error)) from error
