"""``unembed layers``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from unembed.cli.help import Several, Verb, option, under
from unembed.cli.options import LARGE_MODELS, LOADING, PRINTING, TEXT, WINDOWS, Source, batches
from unembed.cli.printing import OUT, Output, typed, with_output
from unembed.decisions.layers.names import LENSES, depths_of

ALL_LENSES = ",".join(LENSES)


@click.command("layers", cls=Verb)
@click.argument("model")
@click.argument("corpus")
@OUT
@PRINTING
@under(
    "Measure",
    option(
        "--depths",
        default="all",
        help="Such as 0,4,8-12; 0 enters the first block, and the last is always in.",
    ),
    option(
        "--lens",
        "lenses",
        type=Several(LENSES),
        default=ALL_LENSES,
        metavar="LENSES",
        help="Some of normed (the model's own tail), raw (nothing), fitted (a fitted map).",
    ),
    option(
        "--fitted-lens",
        type=click.Path(path_type=Path),
        help="An earlier run's, in place of one that is fitted on half of the documents.",
    ),
    option("--top-k", type=int, default=5, help="Candidates to keep, 2 at least."),
    option(
        "--max-positions",
        type=int,
        default=20_000,
        help="Predicted tokens to read, from all over the text.",
    ),
    option(
        "--cloud-points",
        type=int,
        default=5_000,
        help="Positions whose cloud of states is measured; 0: none.",
    ),
    option(
        "--cloud-last",
        is_flag=True,
        rare=True,
        help="Those at the end of each document, as published work does.",
    ),
    option("--max-nonfinite", type=int, default=0, rare=True, help="Bad positions allowed."),
    option(
        "--seed",
        type=int,
        default=0,
        rare=True,
        help="Draws the half that is fitted on, and the cloud.",
    ),
)
@WINDOWS
@TEXT
@batches(1 << 13)
@LOADING
@LARGE_MODELS
@with_output
def layers_command(
    model: str,
    corpus: str,
    output: Output,
    depths: str,
    **given: Any,
) -> None:
    """See how decisions form at every depth of MODEL on CORPUS.

    MODEL is a local folder or a hub id. CORPUS is a .txt, .jsonl, .json, .csv, .tsv or .parquet
    file (.gz or .zst too), a folder of them, or a hub data set name[:config[:split]].

    \b
    Example:
      unembed layers ./my-model reviews.jsonl -o runs/depths --text-column body
      unembed layers ./my-model reviews.jsonl -o runs/ends --depths 0,8-12 --lens normed,raw
    \f
    The run folder holds a table of the positions for each lens and depth, tokens/lens=…/depth=…,
    which Arrow and Polars open as one; a summary; and fitted-lens.safetensors, which
    --fitted-lens takes. A killed run goes on with the same command. The lens normed is always
    measured, and its last depth is what unembed audit measures, to the bit.
    """
    from unembed.decisions.layers.fitted import LENS_FILE, FittedLens
    from unembed.decisions.layers.layers import layers
    from unembed.decisions.layers.options import LayersOptions

    source = Source.taken(given)
    options = LayersOptions(depths=depths_of(depths), **given)
    if options.fitted_lens is not None:
        FittedLens.read(options.fitted_lens)
    checkpoint, text = source.open(model, corpus, quiet=output.quiet, options=options, notes=False)
    done = layers(
        checkpoint.model,
        text,
        options,
        out=output.folder,
        name=checkpoint.name,
        command=typed(),
        progress=output.progress,
    )
    lens = None if done.fitted is None else output.folder / LENS_FILE
    output.end(done, (("fitted lens", lens),))
