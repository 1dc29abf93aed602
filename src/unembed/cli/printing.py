"""What a verb prints when it is done, and the page that it draws."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from unembed.cli.pages import write_page


def typed() -> str:
    """The command line as it was typed."""
    return shlex.join(["unembed", *sys.argv[1:]])


def show(done: Any, out: Path, as_json: bool) -> None:
    """Write the report and print the short table, or the summary as JSON."""
    print_run(done, out, page_of(done, out), as_json)


def page_of(done: Any, out: Path) -> Path | None:
    """Write the run's page; without the plotting library, say so."""
    from unembed.report.parts.drawing import ReportUnavailable

    try:
        return write_page(done, out, out / "report.html")
    except ReportUnavailable as error:
        click.echo(f"no report: {error}", err=True)
        return None


def print_run(done: Any, out: Path, report: Path | None, as_json: bool) -> None:
    """The short table and where everything lies, or the summary as JSON."""
    from unembed.runs.table import as_text

    if as_json:
        summary = json.loads((out / "summary.json").read_text())
        click.echo(json.dumps({"run": str(out), "summary": summary}, indent=1))
        return
    places = [("run", out), ("report", report)]
    click.echo(str(done))
    click.echo(as_text((name, str(path)) for name, path in places if path is not None))
