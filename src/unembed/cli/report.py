"""``unembed report``."""

from __future__ import annotations

import json
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
    option("--json", "as_json", is_flag=True, help="Print the list of files as JSON."),
)
@under(
    "To take away",
    option(
        "--figures",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Write every figure of the page into this folder.",
    ),
    option(
        "--figure-format",
        metavar="LIST",
        default="svg",
        help="Formats of the figures, of svg,png.",
    ),
    option(
        "--tables",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Write every table of the page into this folder.",
    ),
    option(
        "--format",
        "table_format",
        metavar="LIST",
        default="csv",
        help="Formats of the tables, of csv,latex,markdown.",
    ),
    option(
        "--card",
        is_flag=True,
        help="Write a section for a model card, with its metadata, into RUN/card.",
    ),
    option(
        "--as-dataset",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Write the run's rows into this folder, which datasets and the Hub's viewer load.",
    ),
)
def report_command(
    runs: tuple[Path, ...],
    out: Path | None,
    as_json: bool,
    figures: Path | None,
    figure_format: str,
    tables: Path | None,
    table_format: str,
    card: bool,
    as_dataset: Path | None,
) -> None:
    """Check every file of a finished run, and draw its page again.

    Of several runs, or of a folder that holds runs, the page of each, and one that leads to them
    with what each says first. Figures and tables of one run can be had as files.

    \b
    Example:
      unembed report runs/reviews -o reviews.html
      unembed report runs
      unembed report runs/reviews --figures fig --tables tab --format csv,latex
      unembed report runs/base runs/int8 runs/int4 -o index.html
      unembed report runs/int8 --card --as-dataset int8-rows
    \f
    A card is README.md in RUN/card: the verdict, every figure in numbers, what the run rests on and
    the command, below the metadata (model-index) of the model that the run is about. Benchmark
    scores on data sets of the Hub are in RUN/card/.eval_results too. A data set is a folder of
    Parquet with a README.md that names its configurations. Nothing is uploaded.
    """
    from unembed.report.exports import (
        FIGURE_FORMATS,
        TABLE_FORMATS,
        check_formats,
        export_figures,
        export_tables,
    )
    from unembed.report.hub.card import CARD, write_card
    from unembed.report.hub.dataset import write_dataset
    from unembed.report.pages import GALLERY, find_runs, load_run, write_gallery, write_page
    from unembed.report.parts.drawing import ReportUnavailable

    if out is not None and out.is_dir():
        raise UnembedError(f"{out} is a folder: give a file for the page, such as {out}/page.html")
    pictures, forms = (
        [one.strip() for one in given.split(",")] for given in (figure_format, table_format)
    )
    check_formats(pictures, FIGURE_FORMATS)
    check_formats(forms, list(TABLE_FORMATS))
    for folder in (figures, tables, as_dataset):
        if folder is not None and folder.exists() and not folder.is_dir():
            raise UnembedError(f"{folder} is a file: give a folder, such as {folder}.d")
    found = [run for place in runs for run in find_runs(place)]
    if (figures or tables or card or as_dataset) and found != [runs[0]]:
        raise UnembedError(
            f"figures, tables, cards and data sets are of one run, and {len(found)} were given: "
            "give one"
        )
    drawn: list[Path] = []
    listed: list[Path] = []
    carded: list[Path] = []
    rows: list[Path] = []
    try:
        if len(runs) == 1 and found == [runs[0]]:
            record = load_run(runs[0])
            if tables is not None:
                listed = export_tables(record, tables, forms)
            if figures is not None:
                drawn = export_figures(record, figures, pictures)
            if as_dataset is not None:
                rows = write_dataset(record, as_dataset)
            page = write_page(runs[0], out, record=record)
            if card:
                carded = write_card(record, page, runs[0] / CARD)
        elif out is None and len(runs) > 1:
            raise UnembedError(
                f"{len(runs)} runs: name the page that leads to theirs, -o index.html"
            )
        else:
            page = write_gallery(runs, out or runs[0] / GALLERY)
    except ReportUnavailable as error:
        raise UnembedError(str(error)) from error
    if as_json:
        files = {"page": page, "figures": drawn, "tables": listed}
        files |= {"card": carded, "dataset": rows}
        echo(json.dumps(files, default=lambda one: str(one), indent=1))
        return
    echo(str(page))
    for what, folder, written in (("figures", figures, drawn), ("tables", tables, listed)):
        if folder is not None:
            echo(f"{folder}: {len(written)} files of {what}")
    for path in carded:
        echo(str(path))
    if as_dataset is not None:
        echo(f"{as_dataset}: {len(rows)} files of a data set")
