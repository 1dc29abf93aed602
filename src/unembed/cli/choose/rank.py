"""``unembed rank``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from unembed.cli.help import Verb, option, under
from unembed.cli.options import LOADING, NO_DEBIAS, PART, PRINTING, TEXT, WINDOWS, Source
from unembed.cli.printing import OUT, Output, typed, with_output
from unembed.errors import UnembedError
from unembed.selection.scores import BASELINES, MODEL_BASELINES, SCORES, SIGNATURE_SCORES

if TYPE_CHECKING:
    from unembed.selection.ranking.records import Ranking

POSITIONS = 2000
"""Positions of each text that a baseline reads."""


@click.command("rank", cls=Verb)
@click.argument("target")
@click.argument("sources", nargs=-1, required=True)
@OUT
@PRINTING
@under(
    "Score",
    option(
        "--by",
        type=click.Choice(list(SCORES)),
        default="joint",
        metavar="SCORE",
        help=f"Of signatures: {', '.join(SIGNATURE_SCORES)}; baselines, of texts: "
        f"{', '.join(BASELINES)}; of adapters: {', '.join(MODEL_BASELINES)}.",
    ),
    NO_DEBIAS,
    PART,
    option(
        "--blocks",
        type=int,
        rare=True,
        help="Blocks of documents to delete for a baseline's errors, 0 for none.",
        default_is="16",
    ),
)
@under(
    "Model",
    option("--model", help="Model to read texts and adapters on."),
    option("--probe", help="Text to sketch adapters on.", default_is="the target's"),
)
@LOADING
@under(
    "Text",
    option(
        "--max-positions",
        type=int,
        help="Of each text at most so many, from all over it.",
        default_is=f"all; baselines: {POSITIONS:,}",
    ),
)
@WINDOWS
@TEXT
@with_output
def rank_command(
    target: str,
    sources: tuple[str, ...],
    output: Output,
    by: str,
    model: str | None,
    probe: str | None,
    no_debias: bool,
    part: str | None,
    max_positions: int | None,
    blocks: int | None,
    **given: Any,
) -> None:
    """Say which source promises most for TARGET, before training on any.

    \b
    Example:
      unembed rank target.safetensors reviews.safetensors manuals.safetensors -o runs/rank
      unembed rank target.txt reviews.txt manuals.txt --model ./my-model -o runs/quick
    \f
    TARGET and SOURCES are files of unembed sketch or folders of unembed audit --sketch; with
    --model also texts, and SOURCES adapters: folders that PEFT saved. An adapter stands for the
    compact signature beside it (unembed sketch --export), else for a sketch of the model with the
    adapter in place. best is the probability that of all true scores this is the largest. For tasks
    that share their inputs give --by gradient --no-debias, and for adapters --by loss.

    \b
    More examples:
      unembed rank target.txt reviews.txt manuals.txt --model ./my-model --by gradient -o runs/rank
      unembed rank target.txt adapters/* --model ./my-model -o runs/adapters
    """
    tasks, source = (target, *sources), Source.taken(given)
    if by in SIGNATURE_SCORES:
        if blocks is not None:
            raise UnembedError(f"--blocks {blocks} is for baselines: {by} has blocks in signatures")
        done = _by_signatures(
            tasks,
            output,
            by,
            debias=not no_debias,
            part=part,
            model=model,
            probe=probe,
            source=source,
            reading={"max_positions": max_positions, **given},
        )
    else:
        if no_debias or probe is not None or part is not None:
            asked = "--no-debias" if no_debias else f"--probe {probe}"
            asked = asked if part is None else f"--part {part}"
            raise UnembedError(f"{asked} is for scores of signatures: {by} is a baseline")
        done = _by_samples(
            tasks,
            output,
            by,
            model=model,
            blocks=blocks,
            source=source,
            max_positions=max_positions,
            windows=given,
        )
    output.end(done)


def _by_signatures(
    tasks: tuple[str, ...],
    output: Output,
    by: str,
    *,
    debias: bool,
    part: str | None,
    model: str | None,
    probe: str | None,
    source: Source,
    reading: dict[str, Any],
) -> Ranking:
    from unembed.cli.choose.tasks import signatures_of
    from unembed.selection.ranking.rank import rank
    from unembed.signatures.reading.sketcher import SketchOptions

    if model is None and (reading["max_positions"] is not None or probe is not None):
        asked = "--probe" if probe is not None else "--max-positions"
        raise UnembedError(f"{asked} needs --model and texts: a signature is finished")
    first, *rest = signatures_of(
        tasks,
        model=model,
        source=source,
        options=SketchOptions(first_moment=True, **reading),
        out=output.folder,
        quiet=output.quiet,
        probe=probe,
        part=part,
    )
    return rank(first, rest, by=by, debias=debias, out=output.folder, command=typed())


def _by_samples(
    tasks: tuple[str, ...],
    output: Output,
    by: str,
    *,
    model: str | None,
    blocks: int | None,
    source: Source,
    max_positions: int | None,
    windows: dict[str, Any],
) -> Ranking:
    from unembed.cli.choose.samples import read_tasks
    from unembed.models.model_pass import ReadingOptions
    from unembed.selection.ranking.samples import DELETED_BLOCKS, rank_samples

    if model is None:
        raise UnembedError(f"{by} reads samples, not signatures: give --model and texts")
    positions = POSITIONS if max_positions is None else max_positions
    reading = ReadingOptions(max_positions=positions, spread=True, **windows)
    read = read_tasks(
        tasks,
        by=by,
        model=model,
        source=source,
        reading=reading,
        asked=max_positions is not None,
        quiet=output.quiet,
    )
    return rank_samples(
        read.target,
        read.sources,
        read.head,
        by=by,
        blocks=DELETED_BLOCKS if blocks is None else blocks,
        heads=read.heads,
        facts=read.facts,
        out=output.folder,
        command=typed(),
        progress=output.progress,
    )
