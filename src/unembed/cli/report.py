"""``unembed report``."""

from __future__ import annotations

from pathlib import Path

import click

from unembed.cli.help import Verb, option, under
from unembed.cli.printing import echo
from unembed.errors import UnembedError


@click.command("report", cls=Verb)
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@under(
    "Output",
    option(
        "-o",
        "--out",
        type=click.Path(path_type=Path),
        help="Page to write.",
        default_is="report.html in RUN, index.html in a folder of runs",
    ),
)
def report_command(runs: tuple[Path, ...], out: Path | None) -> None:
    """Check every file of a finished run, and draw its page again.

    Of several runs, or of a folder that holds runs, the page of each, and one that leads to them
    with what each says first.

    \b
    Example:
      unembed report runs/reviews -o reviews.html
      unembed report runs
      unembed report runs/base runs/int8 runs/int4 -o index.html
    """
    from unembed.report.pages import GALLERY, find_runs, write_gallery, write_page
    from unembed.report.parts.drawing import ReportUnavailable

    if out is not None and out.is_dir():
        raise UnembedError(f"{out} is a folder: give a file for the page, such as {out}/page.html")
    try:
        if len(runs) == 1 and find_runs(runs[0]) == [runs[0]]:
            page = write_page(runs[0], out)
        elif out is None and len(runs) > 1:
            raise UnembedError(
                f"{len(runs)} runs: name the page that leads to theirs, -o index.html"
            )
        else:
            page = write_gallery(runs, out or runs[0] / GALLERY)
    except ReportUnavailable as error:
        raise UnembedError(str(error)) from error
    echo(str(page))
