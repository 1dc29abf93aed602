"""The command line: parse, call the verb, save, print."""

from __future__ import annotations

import errno
import json
import shlex
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from unembed.errors import UnembedError

MODEL_HELP = "MODEL is a local folder or a hub id."


def main() -> None:
    """Run the command line; exit 2 with one line for anything that the user can mend."""
    sys.exit(cli.main(standalone_mode=False, prog_name="unembed") or 0)


def guarded(verb: Callable[..., None]) -> Callable[..., None]:
    """Turn errors that the user can mend into one line on stderr and exit status 2."""

    @wraps(verb)
    def run(*args: Any, **options: Any) -> None:
        try:
            verb(*args, **options)
        except UnembedError as error:
            _fail(str(error))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
                raise
            _fail(
                f"{error.filename or 'the run folder'}: {error.strerror}; finished parts are kept, "
                "and the same command goes on from there"
            )
        except KeyboardInterrupt:
            click.echo("stopped; with -o, the same command goes on from here", err=True)
            sys.exit(130)

    return run


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="unembed")
def cli() -> None:
    """The geometry of a language model's output head: measure, compare and move token decisions."""


@cli.command("audit")
@click.argument("model")
@click.argument("corpus")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Run folder.")
@click.option("--top-k", type=int, default=5, show_default=True, help="Candidates to keep; 0: none.")
@click.option("--facets", is_flag=True, help="Add the exact distance to the nearest facet.")
@click.option("--native-head", is_flag=True, help="Add what the checkpoint-precision head decides.")
@click.option("--context", type=int, help="Tokens of context [the model's, at most 2048].")
@click.option(
    "--overflow",
    type=click.Choice(["windows", "truncate"]),
    default="windows",
    show_default=True,
    help="Rows longer than the context: consecutive windows, or drop the rest.",
)
@click.option("--max-positions", type=int, help="Stop after so many predicted tokens.")
@click.option("--text-column", default="text", show_default=True, help="Column of a record's text.")
@click.option(
    "--document",
    help="What a document is, for the intervals: a regular expression that its first line matches "
    "(.txt), or the column that names it (records). [a row]",
)
@click.option("--max-nonfinite", type=int, default=0, show_default=True, help="Bad rows allowed.")
@click.option("--batch-tokens", type=int, help="Padded tokens a batch [2048 on CPU, 16384 on GPU].")
@click.option("--dtype", default="auto", show_default=True, help="Precision of the model's body.")
@click.option("--device", help="Where to run [a GPU if there is one].")
@click.option("--revision", help="Branch, tag or commit of a hub model.")
@click.option("--trust-remote-code", is_flag=True, help="Let the checkpoint run its own code.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@guarded
def audit_command(model: str, corpus: str, out: Path, as_json: bool, quiet: bool, **given: Any) -> None:
    """Measure every token decision of MODEL on CORPUS, and write table, summary and report.

    MODEL is a local folder or a hub id. CORPUS is a .txt, .jsonl or .parquet file, a folder of
    them, or a hub data set name[:config[:split]]. A killed run goes on with the same command.

    \b
    Example:
      unembed audit ./my-model reviews.jsonl -o runs/reviews --text-column body
    """
    from unembed.cells.audit import AuditOptions, audit
    from unembed.corpus import Corpus
    from unembed.models import load

    loading = {k: given.pop(k) for k in ("dtype", "device", "revision", "trust_remote_code")}
    reading = {k: given.pop(k) for k in ("text_column", "document")}
    options = AuditOptions(**given)
    checkpoint = load(model, **loading)
    text = Corpus.read(corpus, checkpoint.tokenizer, **reading)
    done = audit(
        checkpoint.model,
        text,
        options,
        out=out,
        name=checkpoint.name,
        command=shlex.join(["unembed", *sys.argv[1:]]),
        progress=not quiet,
    )
    report = _write_report(done, out)
    _print_audit(done, out, report, as_json)


def _write_report(done: Any, out: Path) -> Path | None:
    from unembed.report.audit import write_audit_report
    from unembed.report.charts import ReportUnavailable

    try:
        return write_audit_report(done, out / "report.html")
    except ReportUnavailable as error:
        click.echo(f"no report: {error}", err=True)
        return None


def _print_audit(done: Any, out: Path, report: Path | None, as_json: bool) -> None:
    if as_json:
        summary = json.loads((out / "summary.json").read_text())
        click.echo(json.dumps({"run": str(out), "summary": summary}, indent=1))
        return
    click.echo(str(done))
    click.echo(f"{'run':<26}{out}")
    if report is not None:
        click.echo(f"{'report':<26}{report}")


def _fail(message: str) -> None:
    click.echo(f"unembed: {' '.join(message.split())}", err=True)
    sys.exit(2)
