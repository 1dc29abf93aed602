"""``unembed align``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from unembed.cli.options import LOADING, PRINTING, TEXT, Source, with_options
from unembed.cli.printing import page_of, typed
from unembed.errors import UnembedError

FILE = click.Path(path_type=Path)


@click.command("align")
@click.argument("tasks", nargs=-1, required=True)
@click.option("-o", "--out", type=FILE, required=True, help="Run folder.")
@click.option("--model", help="Read TASKS as texts, and sketch them on this model.")
@click.option(
    "--exact/--sketched",
    default=None,
    help="With --model: by Gram matrices or sketches [exact up to 1,000 tokens].",
)
@click.option(
    "--plug-in",
    is_flag=True,
    help="Leave in the pairs of a sample with itself, which draw cosines towards 0.",
)
@with_options(*TEXT, *LOADING, *PRINTING)
def align_command(
    tasks: tuple[str, ...],
    out: Path,
    model: str | None,
    exact: bool | None,
    plug_in: bool,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Say how alike the moves are that fine-tuning on several texts would make.

    TASKS are files of unembed sketch, or folders of unembed audit --sketch; with --model, texts.
    joint is the cosine of the Fishers of the head's gradients: 1 for the same directions, 0 for
    none in common. activation and error are what the inputs and the mistakes alone say; coupling is
    the joint over their product. Intervals hold the sketch's error and the sample's.

    \b
    Example:
      unembed sketch ./my-model reviews.txt -o reviews.safetensors
      unembed sketch ./my-model manuals.txt -o manuals.safetensors
      unembed align reviews.safetensors manuals.safetensors -o runs/align
      unembed align reviews.txt manuals.txt --model ./my-model -o runs/quick
    """
    from unembed.runs.store import check_folder
    from unembed.signatures.alignment.run import align_corpora, align_files
    from unembed.signatures.alignment.tables import alignments_text

    check_folder(out)
    source, debias = Source.taken(given), not plug_in
    if model is None:
        if exact is not None:
            raise UnembedError("--exact needs --model and texts: a signature is a sketch")
        done = align_files(tasks, out=out, debias=debias, command=typed())
    else:
        checkpoint, texts = source.open_all(model, tasks, quiet=quiet)
        done = align_corpora(
            checkpoint,
            texts,
            out=out,
            exact=exact,
            debias=debias,
            command=typed(),
            progress=not quiet,
        )
    report = page_of(done, out)
    if as_json:
        click.echo(json.dumps({"run": str(out), "summary": done.alignments.to_json()}, indent=1))
        return
    click.echo(alignments_text(done.alignments))
    for name, path in (("run", out), ("report", report)):
        if path is not None:
            click.echo(f"{name:<30}{path}")
