"""``unembed audit``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from unembed.cli.printing import show, typed


@click.command("audit")
@click.argument("model")
@click.argument("corpus")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Run folder.")
@click.option(
    "--top-k",
    type=int,
    default=5,
    show_default=True,
    help="Candidates to keep; 0: none.",
)
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
@click.option(
    "--part-positions",
    type=int,
    default=1 << 15,
    show_default=True,
    help="Positions a file holds; a killed run loses at most one file.",
)
@click.option("--dtype", default="auto", show_default=True, help="Precision of the model's body.")
@click.option("--device", help="Where to run [a GPU if there is one].")
@click.option("--revision", help="Branch, tag or commit of a hub model.")
@click.option("--trust-remote-code", is_flag=True, help="Let the checkpoint run its own code.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@click.option("--profile", is_flag=True, help="Print on stderr where the time went.")
def audit_command(
    model: str, corpus: str, out: Path, as_json: bool, quiet: bool, profile: bool, **given: Any
) -> None:
    """Measure every token decision of MODEL on CORPUS, and write table, summary and report.

    MODEL is a local folder or a hub id. CORPUS is a .txt, .jsonl or .parquet file, a folder of
    them, or a hub data set name[:config[:split]]. A killed run goes on with the same command.

    \b
    Example:
      unembed audit ./my-model reviews.jsonl -o runs/reviews --text-column body
    """
    from unembed.cells.audit import audit
    from unembed.cells.run import AuditOptions
    from unembed.corpus import Corpus
    from unembed.models import load, waiter
    from unembed.phases import Phases
    from unembed.rows import RowRules, read_rows
    from unembed.store import check_folder, holds_finished_run

    loading = {k: given.pop(k) for k in ("dtype", "device", "revision", "trust_remote_code")}
    reading = {k: given.pop(k) for k in ("text_column", "document")}
    options = AuditOptions(**given)
    check_folder(out)
    next(read_rows(corpus, RowRules(**reading)), None)  # a bad name fails before a long load
    phases = Phases()
    with phases("load"):
        checkpoint = load(model, **loading)
    if profile:
        phases = Phases(phases.seconds, waiter(checkpoint.model))
    with phases("read"):
        text = Corpus.read(corpus, checkpoint.tokenizer, **reading, progress=not quiet)
    finished = holds_finished_run(out)
    done = audit(
        checkpoint.model,
        text,
        options,
        out=out,
        name=checkpoint.name,
        command=typed(),
        progress=not quiet,
        phases=phases,
    )
    if finished:
        click.echo(f"{out} was finished before: verified, nothing computed again", err=True)
    with phases("report"):
        show(done, out, as_json)
    if profile:
        click.echo(str(phases), err=True)
