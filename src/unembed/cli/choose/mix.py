"""``unembed mix``."""

from __future__ import annotations

from typing import Any

import click

from unembed.cli.choose.tasks import signatures_of
from unembed.cli.help import Verb, option, under
from unembed.cli.options import LOADING, NO_DEBIAS, PART, PRINTING, TEXT, WINDOWS, Source
from unembed.cli.printing import OUT, Output, typed, with_output
from unembed.errors import UnembedError
from unembed.selection.scores import FEATURES


@click.command("mix", cls=Verb)
@click.argument("target")
@click.argument("sources", nargs=-1, required=True)
@OUT
@PRINTING
@under(
    "Mixture",
    option(
        "--by",
        type=click.Choice(list(FEATURES)),
        default="joint",
        help="What the mixture and TARGET have in common",
    ),
    NO_DEBIAS,
    PART,
)
@under(
    "Model",
    option("--model", help="Read what is no signature as texts, and sketch them on this model."),
    option("--probe", help="With --model: text to sketch adapters on.", default_is="TARGET"),
)
@LOADING
@under(
    "Text",
    option(
        "--max-positions", type=int, help="With --model: of each text, so many.", default_is="all"
    ),
)
@WINDOWS
@TEXT
@with_output
def mix_command(
    target: str,
    sources: tuple[str, ...],
    output: Output,
    by: str,
    model: str | None,
    probe: str | None,
    max_positions: int | None,
    no_debias: bool,
    part: str | None,
    **given: Any,
) -> None:
    """Say how much of each source to mix, to move a head as TARGET would.

    \b
    Example:
      unembed mix target.safetensors web.safetensors code.safetensors -o runs/mix
      unembed mix wanted.txt web.txt code.txt --model ./my-model -o runs/quick
    \f
    TARGET and SOURCES are files of unembed sketch, or folders of unembed audit --sketch; with
    --model, texts too. Weights are shares of the tokens and sum to 1; intervals hold 95 %. residual
    is the share of the target that no mixture expresses. The last line is for the datasets library:
    its probabilities are shares of the documents, by the tokens a document had when it was
    sketched. --by gradient reads signatures that were sketched with --first-moment.
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
    for name, asked in (("--max-positions", max_positions), ("--probe", probe)):
        if model is None and asked is not None:
            raise UnembedError(f"{name} needs --model and texts: a signature is finished")
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
        part=part,
    )
    done = mix(wanted, others, by=by, debias=not no_debias, out=output.folder, command=typed())
    output.end(done, interleave=interleave_line(done))
