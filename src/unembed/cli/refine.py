"""``unembed refine``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unembed.cli.help import Verb, option, under
from unembed.cli.options import CONTEXT_IS, LOADING, PRINTING, TEXT, Source
from unembed.cli.printing import OUT, Output, echo, typed, with_output
from unembed.decisions.names import CLASSES
from unembed.errors import UnembedError
from unembed.training.recipe.names import DIRECTIONS, OBJECTIVES, SAVE_DTYPES, SCOPES

if TYPE_CHECKING:
    from unembed.text.corpus import Corpus
    from unembed.training.benchmarks.pair import Benchmarks
    from unembed.training.recipe.recipe import Recipe

Given = dict[str, Any]
FILE = click.Path(path_type=Path)

TERM = under(
    "Training",
    option(
        "--objective", type=click.Choice(list(OBJECTIVES)), help="Penalty.", default_is="fisher"
    ),
    option("--weight", type=float, help="Of the penalty.", default_is="0.6"),
    option(
        "--gradient-share",
        type=float,
        help="Set the weight so that its gradient is this share of the loss's.",
    ),
    option(
        "--penalty-after",
        type=float,
        rare=True,
        help="The penalty begins after this share of the steps.",
        default_is="0",
    ),
    option(
        "--penalty-ramp",
        type=float,
        rare=True,
        help="It rises over this share of the steps.",
        default_is="0",
    ),
    option(
        "--k",
        type=int,
        rare=True,
        help="Leading tokens that fisher and cosine read.",
        default_is="5",
    ),
    option(
        "--threshold",
        type=float,
        rare=True,
        help="Margins below it count, for margin.",
        default_is="1 logit",
    ),
    option(
        "--direction",
        type=click.Choice(DIRECTIONS),
        rare=True,
        help="For fisher.",
        default_is="contract",
    ),
)
CONTROL = under(
    "Training",
    option("--control", is_flag=True, help="Train without the penalty too: what it adds."),
)
MOVING = under(
    "Training",
    option("--scope", help=f"{', '.join(SCOPES)}.", default_is="full"),
    option(
        "--untie", is_flag=True, default=None, rare=True, help="Give a tied head its own matrix."
    ),
    option("--lora-rank", type=int, rare=True, help="With scope lora.", default_is="8"),
    option("--lora-alpha", type=int, rare=True, help="With scope lora.", default_is="16"),
    option(
        "--lora-target",
        "lora_targets",
        multiple=True,
        rare=True,
        help="A linear layer by the end of its path; repeatable.",
        default_is="all but the head",
    ),
)
TRAINING = under(
    "Training",
    option("--steps", type=int, help="Optimiser steps.", default_is="200"),
    option("--learning-rate", type=float, help="At its peak.", default_is="1e-05"),
    option("--batch-size", type=int, help="Windows a batch.", default_is="8"),
    option("--accumulation", type=int, rare=True, help="Batches a step.", default_is="1"),
    option("--clip", type=float, rare=True, help="Longest gradient; 0: any.", default_is="1"),
    option(
        "--row-bound",
        type=float,
        rare=True,
        help="Largest weight of a row, in its root mean squares: int8 then moves it less.",
    ),
    option("--seed", type=int, help="Of the order and of dropout.", default_is="0"),
    option("--context", type=int, help="Tokens a window.", default_is=CONTEXT_IS),
    option(
        "--save-dtype",
        type=click.Choice(SAVE_DTYPES),
        rare=True,
        help="Precision of what is saved.",
        default_is="the model's own",
    ),
    option("--bf16", is_flag=True, default=None, rare=True, help="Compute the body in bfloat16."),
    option(
        "--gradient-checkpointing",
        is_flag=True,
        default=None,
        rare=True,
        help="Less memory, slower.",
    ),
)
MEASURING = under(
    "Measuring",
    option("--heldout", type=float, help="Share of documents not trained on.", default_is="0.2"),
    option(
        "--audit-positions",
        type=int,
        help="Audited of either part.",
        default_is="100,000",
    ),
    option(
        "--watch-every",
        type=int,
        rare=True,
        help="Steps between measurements, held out.",
        default_is="50",
    ),
)
WEIGHTING = under(
    "Where the penalty counts",
    option(
        "--weight-frequency",
        type=float,
        metavar="POWER",
        rare=True,
        help="Targets weigh count^-POWER.",
        default_is="0",
    ),
    option(
        "--weight-class",
        "weight_classes",
        multiple=True,
        metavar="CLASS=VALUE",
        rare=True,
        help=f"Weight of targets of a class ({', '.join(CLASSES)}; * for the others); repeatable.",
    ),
    option(
        "--weight-values", type=FILE, rare=True, help="Table of tokens (or ids) and their values."
    ),
    option("--only-below", type=float, metavar="MARGIN", rare=True, help="Count margins below it."),
    option("--only-right", is_flag=True, default=None, rare=True, help="Count right decisions."),
    option("--positions", type=FILE, rare=True, help="Parquet with doc, pos, perhaps weight."),
)
HOLDING = under(
    "What to hold",
    option(
        "--protect-ewc",
        type=float,
        rare=True,
        help="Hold the weights, by their Fisher.",
        default_is="0",
    ),
    option(
        "--protect-margin",
        type=float,
        rare=True,
        help="Hold mean margin and logsumexp.",
        default_is="0",
    ),
    option("--protect-kl", type=float, help="Hold the distributions.", default_is="0"),
    option(
        "--protect-class",
        "protect_classes",
        multiple=True,
        type=click.Choice(CLASSES),
        rare=True,
        help="--protect-kl at targets of this class; repeatable.",
        default_is="everywhere",
    ),
    option("--budget-nll", type=float, help="Stop past this relative rise of the loss."),
    option("--budget-right-to-wrong", type=float, rare=True, help="Stop past this share."),
    option(
        "--budget-class",
        "budget_classes",
        multiple=True,
        type=click.Choice(CLASSES),
        rare=True,
        help="Count right to wrong at this class; repeatable.",
        default_is="everywhere",
    ),
)
BENCHMARKING = under(
    "Measuring",
    option(
        "--benchmark",
        "benchmark_tasks",
        multiple=True,
        metavar="TASK",
        help="Run a task of lm-eval (paper: six); repeatable.",
    ),
    option(
        "--benchmark-limit",
        type=int,
        rare=True,
        help="First documents of each task.",
        default_is="all",
    ),
    option("--benchmark-path", type=FILE, rare=True, help="Folder with tasks of your own."),
)
REPORTING = under(
    "Output",
    option(
        "--report-to",
        multiple=True,
        rare=True,
        help="Log to wandb, tensorboard …; repeatable.",
    ),
)


@click.command("refine", cls=Verb)
@click.argument("model")
@click.argument("corpus")
@OUT
@PRINTING
@REPORTING
@TERM
@CONTROL
@MOVING
@TRAINING
@MEASURING
@BENCHMARKING
@WEIGHTING
@HOLDING
@TEXT
@LOADING
@with_output
def refine_command(
    model: str,
    corpus: str,
    output: Output,
    report_to: tuple[str, ...],
    control: bool,
    positions: Path | None,
    weight_values: Path | None,
    benchmark_tasks: tuple[str, ...],
    benchmark_limit: int | None,
    benchmark_path: Path | None,
    **given: Any,
) -> None:
    """Train a copy of MODEL to move its decisions, and say the cost.

    \b
    Example:
      unembed refine ./my-model reviews.txt -o runs/fisher --steps 300
    \f
    Cross-entropy and a penalty of narrow decisions are minimised together. A share of the documents
    is held out; both models are audited and compared on either part. The refined model is in
    RUN/model, as any other checkpoint. A killed run goes on with the same command.

    Training changes decisions without any penalty too. --control trains on the same batches without
    it, in RUN/control, and says what the penalty adds, held out; --objective none is that training
    alone.

    \b
    More examples:
      unembed refine ./my-model reviews.txt -o runs/fisher --steps 300 --control
      unembed refine ./my-model reviews.txt -o runs/plain --steps 300 --objective none
    """
    from unembed.models.adapters import base_of, is_adapter_alone, refuse_untrainable
    from unembed.models.checkpoint import load_tokenizer
    from unembed.models.model_pass import ReadingOptions
    from unembed.training.recipe.recipe import control_of
    from unembed.training.recipe.weight_files import read_positions, read_values
    from unembed.training.run.engine import check_accelerate, check_report_to
    from unembed.training.run.refinement import refine

    refuse_untrainable(model, given.get("revision"))
    if benchmark_tasks and is_adapter_alone(model):
        raise UnembedError(
            f"--benchmark {benchmark_tasks[0]} loads the starting model by its name, and {model} "
            "is an adapter: merge it with PEFT's merge_and_unload(), save the model to a folder "
            "and refine that, or leave --benchmark out"
        )
    check_accelerate()
    check_report_to(report_to)
    source = Source.taken(given)
    recipe = recipe_of(given)
    if control:
        control_of(recipe)  # Refused before the model is loaded.
    benchmarks = _benchmarks(benchmark_tasks, benchmark_limit, benchmark_path)
    listed = None if positions is None else read_positions(positions)
    if weight_values is not None:
        base = source.loading["base"]
        whole = base_of(model, base) if is_adapter_alone(model) else model
        values = read_values(weight_values, load_tokenizer(whole))
        recipe = replace(recipe, weighting=replace(recipe.weighting, values=values))
    options = ReadingOptions(context=recipe.context)
    checkpoint, text = source.open(model, corpus, quiet=output.quiet, options=options)
    mind_little_text(text, recipe, output)
    done = refine(
        checkpoint,
        text,
        recipe,
        out=output.folder,
        control=control,
        positions=listed,
        benchmarks=benchmarks,
        command=typed(),
        progress=output.progress,
        report_to=report_to,
    )
    output.end(done)


def mind_little_text(text: Corpus, recipe: Recipe, output: Output) -> None:
    """Say before a training that few documents are held out; a finished run trains nothing."""
    from unembed.training.run.examples import little_text

    found = little_text(len(text.names), recipe.heldout)
    if found is not None and not output.finished:
        echo(f"note: {found}", err=True)


def recipe_of(given: Given) -> Recipe:
    """The recipe of what was given; what was left out is as in ``Recipe``."""
    from unembed.training.recipe.lora import Lora
    from unembed.training.recipe.objectives import Objective
    from unembed.training.recipe.protection import Protection
    from unembed.training.recipe.recipe import Budget, Recipe
    from unembed.training.recipe.schedule import Schedule
    from unembed.training.recipe.weighting import Weighting

    options = {name: value for name, value in given.items() if value not in (None, ())}
    asked = options.pop("objective", "fisher")
    objective = Objective(
        asked, **_part(options, k="k", threshold="threshold", direction="direction")
    )
    share, weight = options.get("gradient_share"), options.get("weight")
    if share is not None and weight is not None:
        raise UnembedError(
            f"--weight {weight:g} and --gradient-share {share:g} both say how much the penalty "
            "counts: give one of them"
        )
    schedule = Schedule(**_part(options, penalty_after="after", penalty_ramp="ramp"))
    adapters = _part(options, lora_rank="rank", lora_alpha="alpha", lora_targets="targets")
    weighting = Weighting(
        classes=_weights(options.pop("weight_classes", ())),
        **_part(
            options,
            weight_frequency="frequency",
            only_below="below_margin",
            only_right="only_right",
        ),
    )
    protection = Protection(
        **_part(
            options,
            protect_ewc="ewc",
            protect_margin="margin",
            protect_kl="kl",
            protect_classes="classes",
        )
    )
    budget = Budget(
        **_part(
            options,
            budget_nll="nll",
            budget_right_to_wrong="right_to_wrong",
            budget_classes="classes",
        )
    )
    return Recipe(
        objective=objective,
        lora=Lora(**adapters) if adapters else None,
        weighting=weighting,
        protection=protection,
        budget=budget,
        schedule=schedule,
        **options,
    )


def _benchmarks(asked: tuple[str, ...], limit: int | None, path: Path | None) -> Benchmarks | None:
    """What to run on both models; ``paper`` stands for the benchmarks of theory §6."""
    if not asked:
        for option, value in (("limit", limit), ("path", path)):
            if value is not None:
                raise UnembedError(
                    f"--benchmark-{option} {value} needs a task: give --benchmark too, such as "
                    "--benchmark paper"
                )
        return None
    from unembed.training.benchmarks.pair import Benchmarks
    from unembed.training.benchmarks.run import TASKS

    tasks = [task for name in asked for task in (TASKS if name == "paper" else (name,))]
    return Benchmarks(tuple(tasks), limit, include_path=None if path is None else str(path))


def _part(options: Given, **fields: str) -> Given:
    """Take options out of those given, by the names that a record has for them."""
    return {field: options.pop(name) for name, field in fields.items() if name in options}


def _weights(classes: tuple[str, ...]) -> dict[str, float]:
    """``CLASS=VALUE`` as numbers by class."""
    found: dict[str, float] = {}
    for asked in classes:
        name, equals, value = asked.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise UnembedError(f"--weight-class {asked!r} is not CLASS=VALUE: try numeric=2")
    return found
