"""The end of every verb: its page, its short table, and where everything lies."""

from __future__ import annotations

import functools
import json
import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unembed.cli.help import option, under

if TYPE_CHECKING:
    from unembed.runs.run_record import RunRecord

Places = Iterable[tuple[str, Path | None]]
"""What lies where; None is left out."""


def typed() -> str:
    """The command line as it was typed."""
    return shlex.join(["unembed", *sys.argv[1:]])


def echo(text: str, *, err: bool = False) -> None:
    """Print, with control characters and bidirectional marks of names and paths spelt out.

    Spaces that do not break are for pages: a terminal gets plain ones, which ``grep`` finds.
    """
    from unembed.runs.visible import visible

    click.echo(visible(text.replace("\u00a0", " ")), err=err)


def say(text: str, values: Any, as_json: bool, places: Places = ()) -> None:
    """Print text and then where files lie, or the values as JSON."""
    from unembed.runs.phases import process_profile
    from unembed.runs.table import as_text

    if as_json:
        profile = process_profile()
        said = {} if profile is None else {"profile_seconds": profile}
        echo(json.dumps({**values, **said}, indent=1))
        return
    if text:
        echo(text)
    rows = [(name, str(path)) for name, path in places if path is not None]
    if rows:
        echo(as_text(rows))


def draw(folder: Path, record: RunRecord) -> Path | None:
    """Write the page of a run; where it cannot be drawn, say so once."""
    from unembed.report.pages import write_page
    from unembed.report.parts.drawing import ReportUnavailable
    from unembed.runs.phases import current_phases

    try:
        with current_phases()("page"):
            return write_page(folder, record=record)
    except ReportUnavailable as error:
        shared = click.get_current_context().meta
        if not shared.setdefault("unembed.no_report", False):
            echo(f"no report: {error}", err=True)
            shared["unembed.no_report"] = True
        return None


@dataclass(frozen=True)
class Output:
    """Where a verb keeps its run, and how it prints it.

    ``finished`` says that the folder held a finished run before the verb began.
    """

    folder: Path
    as_json: bool
    quiet: bool
    finished: bool = False

    @property
    def progress(self) -> bool:
        """Whether to show progress."""
        return not self.quiet

    def end(self, record: RunRecord, places: Places = (), **values: Any) -> None:
        """Print the verdict and the short table, draw the page, and print where everything lies.

        As JSON, the verdict, and the summary with ``values``. Figures come first, for drawing may
        fail, except where the page's time is to be among them. Of several processes the first does.
        """
        from unembed.runs.manifest import SUMMARY
        from unembed.runs.phases import process_profile
        from unembed.runs.ranks import current_ranks

        if not current_ranks().first:
            return
        if self.finished:
            echo(f"{self.folder} was finished before: verified, nothing computed again", err=True)
        if self.as_json:
            drawn = process_profile() is not None
            if drawn:
                draw(self.folder, record)
            summary = json.loads((self.folder / SUMMARY).read_text())
            found = {"run": str(self.folder), "verdict": record.verdict.to_json()}
            say("", {**found, "summary": {**summary, **values}}, True)
            if drawn:
                return
        else:
            say(f"{record.verdict}\n\n{record}", None, False)
        sys.stdout.flush()
        page = draw(self.folder, record)
        if not self.as_json:
            say("", None, False, (("run", self.folder), ("report", page), *places))


OUT = under(
    "Output",
    option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Run folder."),
)


def with_output(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb its ``output``, of -o and PRINTING; a folder that cannot be used is refused."""

    @functools.wraps(verb)
    def command(*, out: Path, as_json: bool, quiet: bool, **given: Any) -> None:
        from unembed.runs.files import check_regular
        from unembed.runs.manifest import PAGE
        from unembed.runs.store import check_folder, holds_finished_run

        check_folder(out)
        check_regular(out / PAGE)
        verb(output=Output(out, as_json, quiet, holds_finished_run(out)), **given)

    return command
