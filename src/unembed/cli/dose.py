"""``unembed dose``."""

from __future__ import annotations

from typing import Any

import click

from unembed.cli.help import Verb, option, under
from unembed.cli.options import LOADING, PRINTING, TEXT, Source
from unembed.cli.printing import OUT, Output, typed, with_output
from unembed.cli.refine import (
    HOLDING,
    MEASURING,
    MOVING,
    REPORTING,
    TRAINING,
    WEIGHTING,
    mind_little_text,
    recipe_of,
)
from unembed.errors import UnembedError
from unembed.training.recipe.names import OBJECTIVES

OURS = ("--report-to", "--positions", "--weight-values", "--seed")
"""Options of a single refinement that a grid has no use for."""


@click.command("dose", cls=Verb)
@click.argument("model")
@click.argument("corpus")
@OUT
@PRINTING
@REPORTING
@under(
    "Grid",
    option(
        "--objectives",
        default="fisher,margin,entropy",
        help=f"Of {', '.join(name for name in OBJECTIVES if name != 'none')}, fisher-expand.",
    ),
    option(
        "--weights",
        default="0,0.15,0.3,0.6",
        help="Of the penalty, or 'fisher=0.5,2;margin=0.1'.",
    ),
    option("--seeds", type=int, default=3, help="Runs of each dose."),
    option("--keep-models", is_flag=True, rare=True, help="Keep every refined model."),
)
@MOVING
@TRAINING
@MEASURING
@WEIGHTING
@HOLDING
@TEXT
@LOADING
@with_output
def dose_command(
    model: str,
    corpus: str,
    output: Output,
    objectives: str,
    weights: str,
    seeds: int,
    keep_models: bool,
    **given: Any,
) -> None:
    """Refine MODEL by several penalties, and compare them at equal gain.

    \b
    Example:
      unembed dose ./my-model reviews.txt -o runs/dose --objectives fisher,margin
    \f
    Every objective is trained at every weight with every seed. Beside them stand the same training
    without a penalty (weight 0) and a mere temperature. Says, with intervals over seeds and
    documents, what each dose gained, what it cost, and whether the objectives differ. Refined
    models are deleted once they are measured. A killed grid goes on with the same command. Options
    are those of unembed refine.
    """
    from unembed.models.adapters import refuse_untrainable
    from unembed.models.model_pass import ReadingOptions
    from unembed.training.doses.dose import dose
    from unembed.training.doses.grid import Grid
    from unembed.training.run.engine import check_accelerate

    check_accelerate()
    refuse_untrainable(model, given.get("revision"))
    for name in OURS:
        if given.pop(name.removeprefix("--").replace("-", "_")) not in (None, ()):
            raise UnembedError(f"{name} is not for a grid: give it to unembed refine")
    if seeds < 1:
        raise UnembedError(f"--seeds {seeds} trains nothing: give at least 1")
    source = Source.taken(given)
    grid = Grid(
        tuple(_objective(name.strip()) for name in objectives.split(",")),
        _weights(weights),
        tuple(range(seeds)),
        recipe_of({**given, "objective": "none"}),
    )
    options = ReadingOptions(context=grid.recipe.context)
    checkpoint, text = source.open(model, corpus, quiet=output.quiet, options=options)
    mind_little_text(text, grid.recipe, output)
    done = dose(
        checkpoint,
        text,
        grid,
        out=output.folder,
        keep_models=keep_models,
        command=typed(),
        progress=output.progress,
    )
    output.end(done)


for _one in dose_command.params:
    if _one.opts[0] in OURS and isinstance(_one, click.Option):
        _one.hidden = True


def _objective(name: str) -> Any:
    from unembed.training.recipe.objectives import Objective

    if name == "fisher-expand":
        return Objective("fisher", direction="expand")
    return Objective(name)


def _weights(asked: str) -> tuple[float, ...] | dict[str, tuple[float, ...]]:
    """``0,0.3`` as numbers, ``fisher=0.5,2;margin=0.1`` as those of each objective."""
    if "=" not in asked:
        return _numbers(asked)
    parts = (part.partition("=") for part in asked.split(";"))
    return {name.strip(): _numbers(values) for name, _equals, values in parts}


def _numbers(texts: str) -> tuple[float, ...]:
    try:
        return tuple(float(text) for text in texts.split(","))
    except ValueError:
        raise UnembedError(
            f"--weights {texts!r} are no numbers: give such as 0,0.3,0.6 or fisher=0.5,2;margin=0.1"
        ) from None
