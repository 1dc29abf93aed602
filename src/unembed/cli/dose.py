"""``unembed dose``."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import click

from unembed.cli.help import Verb, option, under
from unembed.cli.options import LOADING, PRINTING, TEXT, Source
from unembed.cli.printing import OUT, Output, say, typed, with_output
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

if TYPE_CHECKING:
    from unembed.training.doses.grid import Grid

OURS = ("--report-to", "--positions", "--weight-values", "--seed")
"""Options of a single refinement that a grid has no use for."""
WEIGHTS = "0,0.15,0.3,0.6"


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
        help="Of the penalty, or 'fisher=0.5,2;margin=0.1'.",
        default_is=WEIGHTS,
    ),
    option(
        "--gradient-shares",
        metavar="LIST",
        help="Or of the loss's gradient: 0.05,0.1,0.2.",
    ),
    option("--seeds", type=int, default=3, help="Runs of each dose."),
    option("--share", rare=True, help="Do 1/4 of the models, beside processes that do 2/4 …"),
    option(
        "--position-budget",
        type=int,
        rare=True,
        help="Read at most so many positions in all to measure.",
        default_is="no bound",
    ),
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
    weights: str | None,
    gradient_shares: str | None,
    seeds: int,
    share: str | None,
    position_budget: int | None,
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

    Weights of two objectives have different units; --gradient-shares are alike for all: the weight
    is chosen at every step so that the penalty's gradient is that share of the loss's. --share 1/4
    to 4/4, each a process on any machine that sees RUN, make one grid together.

    \b
    More examples:
      unembed dose ./my-model reviews.txt -o runs/dose --gradient-shares 0.05,0.1,0.2
      unembed dose ./my-model reviews.txt -o runs/dose --share 1/4
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
    if weights is not None and gradient_shares is not None:
        raise UnembedError(
            f"--weights {weights!r} and --gradient-shares {gradient_shares!r} exclude each other: "
            "give one of them"
        )
    mine = None if share is None else _share(share)
    grid = Grid(
        tuple(_objective(name.strip()) for name in objectives.split(",")),
        () if gradient_shares is not None else _weights(weights or WEIGHTS),
        tuple(range(seeds)),
        recipe_of({**given, "objective": "none"}),
        gradient_shares=() if gradient_shares is None else _shares(gradient_shares),
        budget=position_budget,
    )
    options = ReadingOptions(context=grid.recipe.context)
    checkpoint, text = source.open(model, corpus, quiet=output.quiet, options=options)
    mind_little_text(text, grid.recipe, output)
    done = dose(
        checkpoint,
        text,
        grid,
        out=output.folder,
        share=mine,
        keep_models=keep_models,
        command=typed(),
        progress=output.progress,
    )
    if done is None:
        _leave(output, grid, share or "")
    else:
        output.end(done)


for _one in dose_command.params:
    if _one.opts[0] in OURS and isinstance(_one, click.Option):
        _one.hidden = True


def _objective(name: str) -> Any:
    from unembed.training.recipe.objectives import Objective

    if name == "fisher-expand":
        return Objective("fisher", direction="expand")
    return Objective(name)


def _leave(output: Output, grid: Grid, share: str) -> None:
    """Say that a share is done, and who makes the tables."""
    from unembed.training.doses.dose import models_left

    left = models_left(grid, output.folder)
    words = "the last model is" if left == 1 else f"{left} models are"
    text = f"share {share} is done; {words} left to others, of whom the last makes the tables"
    say(text, {"run": str(output.folder), "share": share, "models_left": left}, output.as_json)


def _weights(asked: str) -> tuple[float, ...] | dict[str, tuple[float, ...]]:
    """``0,0.3`` as numbers, ``fisher=0.5,2;margin=0.1`` as those of each objective."""
    if "=" not in asked and ";" not in asked:
        return _numbers("--weights", asked)
    found: dict[str, tuple[float, ...]] = {}
    for part in filter(None, (part.strip() for part in asked.split(";"))):
        name, equals, values = (text.strip() for text in part.partition("="))
        if not equals:
            raise UnembedError(
                f"--weights {asked!r} has no objective before {part!r}: give such as "
                "fisher=0.5,2;margin=0.1"
            )
        if name in found:
            raise UnembedError(
                f"--weights {asked!r} gives {name} twice: give all of its weights once"
            )
        found[name] = _numbers("--weights", values)
    return found


def _shares(asked: str) -> tuple[float, ...]:
    """The shares of ``0.05,0.1``, all above 0."""
    if "=" in asked:
        raise UnembedError(
            f"--gradient-shares {asked!r} serve all objectives alike: give numbers such as "
            "0.05,0.1,0.2"
        )
    found = _numbers("--gradient-shares", asked)
    odd = next((one for one in found if not 0 <= one < math.inf), None)
    if odd is not None:
        raise UnembedError(f"--gradient-shares {odd:g} is no share: give numbers from 0 up")
    return found


def _share(asked: str) -> tuple[int, int]:
    """``1/4`` as two numbers; which there are, ``dose`` knows."""
    found = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", asked)
    if found is None:
        raise UnembedError(f"--share {asked!r} is no share: give such as 1/4, 2/4, 3/4 and 4/4")
    number, shares = map(int, found.groups())
    if not 1 <= number <= shares:
        known = f"1/{shares} to {shares}/{shares}" if shares else "1/4 to 4/4, for example"
        raise UnembedError(f"--share {asked} is none: give one of {known}")
    return number, shares


def _numbers(option: str, texts: str) -> tuple[float, ...]:
    try:
        return tuple(float(text) for text in texts.split(","))
    except ValueError:
        by = " or fisher=0.5,2;margin=0.1" if option == "--weights" else ""
        raise UnembedError(
            f"{option} {texts!r} are no numbers: give such as 0.1,0.3,0.6{by}"
        ) from None
