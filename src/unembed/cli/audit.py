"""``unembed audit``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from unembed.cli.options import BATCHES, LOADING, PRINTING, TEXT, WINDOWS, Source, with_options
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
@click.option(
    "--sketch",
    is_flag=True,
    help="Sketch the text in the same pass, for unembed align: RUN/signature.safetensors.",
)
@with_options(*WINDOWS)
@click.option("--max-positions", type=int, help="Stop after so many predicted tokens.")
@with_options(*TEXT)
@click.option("--max-nonfinite", type=int, default=0, show_default=True, help="Bad rows allowed.")
@with_options(*BATCHES, *LOADING, *PRINTING)
@click.option("--profile", is_flag=True, help="Print on stderr where the time went.")
def audit_command(
    model: str,
    corpus: str,
    out: Path,
    sketch: bool,
    as_json: bool,
    quiet: bool,
    profile: bool,
    **given: Any,
) -> None:
    """Measure every token decision of MODEL on CORPUS, and write table, summary and report.

    MODEL is a local folder or a hub id. CORPUS is a .txt, .jsonl or .parquet file, a folder of
    them, or a hub data set name[:config[:split]]. A killed run goes on with the same command.

    \b
    Example:
      unembed audit ./my-model reviews.jsonl -o runs/reviews --text-column body
    """
    from unembed.decisions.audit.audit import audit
    from unembed.decisions.audit.run import AuditOptions
    from unembed.models.checkpoint import synchronizer
    from unembed.runs.phases import Phases
    from unembed.runs.store import check_folder, holds_finished_run
    from unembed.signatures.reading.sketcher import FILE, Sketcher, SketchOptions

    phases = Phases()
    check_folder(out)
    source = Source.taken(given)
    options = AuditOptions(**given)
    checkpoint, text = source.open(model, corpus, quiet=quiet, phases=phases)
    if profile:
        phases = Phases(phases.seconds, synchronizer(checkpoint.model))
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
        second_reader=(
            (lambda reading: Sketcher.of(reading, SketchOptions(), checkpoint, out.name))
            if sketch
            else None
        ),
    )
    if finished:
        click.echo(f"{out} was finished before: verified, nothing computed again", err=True)
    with phases("report"):
        show(done, out, as_json)
    if sketch and not as_json:
        click.echo(f"{'signature':<30}{out / FILE}")
    if profile:
        click.echo(str(phases), err=True)
