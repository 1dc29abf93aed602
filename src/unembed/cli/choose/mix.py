"""``unembed mix``."""

from __future__ import annotations

from typing import Any

import click

from unembed.cli.choose.tasks import signatures_of
from unembed.cli.options import LOADING, PRINTING, TEXT, WINDOWS, Source, with_options
from unembed.cli.printing import OUT, Output, typed, with_output
from unembed.errors import UnembedError
from unembed.selection.scores import FEATURES


@click.command("mix")
@click.argument("target")
@click.argument("sources", nargs=-1, required=True)
@OUT
@click.option(
    "--by",
    type=click.Choice(list(FEATURES)),
    default="joint",
    show_default=True,
    help="What the mixture has in common with TARGET: the Fisher, what inputs or mistakes alone "
    "say, or the mean gradient (signatures sketched with --first-moment).",
)
@click.option("--model", help="Read what is no signature as texts, and sketch them on this model.")
@click.option("--probe", help="With --model: text to sketch adapters on [TARGET].")
@click.option("--max-positions", type=int, help="With --model: of each text, so many [all].")
@click.option(
    "--plug-in",
    is_flag=True,
    help="Leave in the pairs of a sample with itself, which draw weights off small sources.",
)
@with_options(*WINDOWS, *TEXT, *LOADING, *PRINTING)
@with_output
def mix_command(
    target: str,
    sources: tuple[str, ...],
    output: Output,
    by: str,
    model: str | None,
    probe: str | None,
    max_positions: int | None,
    plug_in: bool,
    **given: Any,
) -> None:
    """Say how much of each of SOURCES to mix, to move a head as TARGET would.

    TARGET and SOURCES are files of unembed sketch, or folders of unembed audit --sketch; with
    --model, texts too. Weights are shares of the tokens and sum to 1; intervals hold 95 %. residual
    is the share of the target that no mixture expresses. The last line is for the datasets library:
    its probabilities are shares of the documents, by the tokens a document had when it was
    sketched.

    \b
    Example:
      unembed mix target.safetensors web.safetensors code.safetensors books.safetensors -o runs/mix
      unembed mix wanted.txt web.txt code.txt --model ./my-model -o runs/quick
    """
    from unembed.selection.mixing.mixture import mix
    from unembed.selection.mixing.text import interleave_line
    from unembed.signatures.reading.sketcher import SketchOptions

    if target in sources:
        raise UnembedError(f"the target {target} is among the sources: leave it out of them")
    if len(sources) < 2:
        raise UnembedError(
            f"{len(sources)} source is nothing to mix: give two or more after the target"
        )
    for option, asked in (("--max-positions", max_positions), ("--probe", probe)):
        if model is None and asked is not None:
            raise UnembedError(f"{option} needs --model and texts: a signature is finished")
    source = Source.taken(given)
    options = SketchOptions(max_positions=max_positions, first_moment=by == "gradient", **given)
    wanted, *others = signatures_of(
        (target, *sources),
        model=model,
        source=source,
        options=options,
        out=output.folder,
        quiet=output.quiet,
        probe=probe,
    )
    done = mix(wanted, others, by=by, debias=not plug_in, out=output.folder, command=typed())
    output.end(done, interleave=interleave_line(done))
