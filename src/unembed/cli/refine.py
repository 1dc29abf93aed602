"""``unembed refine``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unembed.cli.options import LOADING, PRINTING, TEXT, Source, with_options
from unembed.cli.printing import OUT, Output, typed, with_output
from unembed.errors import UnembedError
from unembed.training.recipe.names import DIRECTIONS, OBJECTIVES, SCOPES

if TYPE_CHECKING:
    from unembed.training.benchmarks.pair import Benchmarks
    from unembed.training.recipe.recipe import Recipe

Given = dict[str, Any]
FILE = click.Path(path_type=Path)

TERM = (
    click.option("--objective", help=f"{', '.join(OBJECTIVES)} [fisher]."),
    click.option("--weight", type=float, help="Of the penalty beside the cross-entropy [0.6]."),
    click.option("--k", type=int, help="Leading tokens that fisher and cosine read [5]."),
    click.option("--threshold", type=float, help="Margins below it count, for margin [1 logit]."),
    click.option("--direction", help=f"{' or '.join(DIRECTIONS)}, for fisher [contract]."),
)
MOVING = (
    click.option("--scope", help=f"{', '.join(SCOPES)} [full]."),
    click.option("--untie", is_flag=True, default=None, help="Give a tied head its own matrix."),
    click.option("--lora-rank", type=int, help="With scope lora [8]."),
    click.option("--lora-alpha", type=int, help="With scope lora [16]."),
    click.option(
        "--lora-target",
        "lora_targets",
        multiple=True,
        help="A linear layer by the end of its path; repeatable [all but the head].",
    ),
)
TRAINING = (
    click.option("--steps", type=int, help="Optimiser steps [200]."),
    click.option("--learning-rate", type=float, help="At its peak [1e-05]."),
    click.option("--batch-size", type=int, help="Windows a batch [8]."),
    click.option("--accumulation", type=int, help="Batches a step [1]."),
    click.option("--clip", type=float, help="Longest gradient [1; 0: none]."),
    click.option("--seed", type=int, help="Of the order and of dropout [0]."),
    click.option("--context", type=int, help="Tokens of context [the model's, at most 2048]."),
    click.option("--heldout", type=float, help="Share of documents never trained on [0.2]."),
    click.option("--save-dtype", help="float32, bfloat16 or float16 [the model's own]."),
    click.option("--bf16", is_flag=True, default=None, help="Compute the body in bfloat16."),
    click.option(
        "--gradient-checkpointing", is_flag=True, default=None, help="Less memory, slower."
    ),
)
WEIGHTING = (
    click.option(
        "--weight-frequency", type=float, metavar="POWER", help="Targets weigh count^-POWER [0]."
    ),
    click.option(
        "--weight-class",
        "weight_classes",
        multiple=True,
        metavar="CLASS=VALUE",
        help="Weight of targets of a class, * for the others; repeatable.",
    ),
    click.option("--weight-values", type=FILE, help="Table of tokens (or ids) and their values."),
    click.option("--only-below", type=float, metavar="MARGIN", help="Count margins below it."),
    click.option("--only-right", is_flag=True, default=None, help="Count right decisions."),
    click.option("--positions", type=FILE, help="Parquet with doc, pos, perhaps weight."),
)
HOLDING = (
    click.option("--protect-ewc", type=float, help="Hold the weights, by their Fisher [0]."),
    click.option("--protect-margin", type=float, help="Hold mean margin and logsumexp [0]."),
    click.option("--protect-kl", type=float, help="Hold the distributions [0]."),
    click.option(
        "--protect-class",
        "protect_classes",
        multiple=True,
        help="--protect-kl at targets of this class; repeatable [everywhere].",
    ),
    click.option("--budget-nll", type=float, help="Stop past this relative rise of the loss."),
    click.option("--budget-right-to-wrong", type=float, help="Stop past this share."),
    click.option(
        "--budget-class",
        "budget_classes",
        multiple=True,
        help="Count right to wrong at this class; repeatable [everywhere].",
    ),
    click.option("--watch-every", type=int, help="Steps between measurements, held out [50]."),
)
BENCHMARKING = (
    click.option(
        "--benchmark",
        "benchmark_tasks",
        multiple=True,
        metavar="TASK",
        help="Run this task of lm-eval on both models; paper: the usual six; repeatable.",
    ),
    click.option("--benchmark-limit", type=int, help="First documents of each task [all]."),
    click.option("--benchmark-path", type=FILE, help="Folder with tasks of your own."),
)
RUNNING = (
    click.option("--report-to", multiple=True, help="Log to wandb, tensorboard …; repeatable."),
    *LOADING,
    *TEXT,
    *PRINTING,
)


@click.command("refine")
@click.argument("model")
@click.argument("corpus")
@OUT
@with_options(*TERM, *MOVING, *TRAINING, *WEIGHTING, *HOLDING, *BENCHMARKING, *RUNNING)
@with_output
def refine_command(
    model: str,
    corpus: str,
    output: Output,
    report_to: tuple[str, ...],
    positions: Path | None,
    weight_values: Path | None,
    benchmark_tasks: tuple[str, ...],
    benchmark_limit: int | None,
    benchmark_path: Path | None,
    **given: Any,
) -> None:
    """Train a copy of MODEL on CORPUS to move its decisions, and say what that cost.

    Cross-entropy and a penalty of narrow decisions are minimised together. A share of the documents
    is held out; both models are audited and compared on either part. The refined model is in
    RUN/model, as any other checkpoint. A killed run goes on with the same command.

    --objective none is the control: the same training without a penalty.

    \b
    Example:
      unembed refine ./my-model reviews.txt -o runs/fisher --steps 300 --learning-rate 2e-5
      unembed refine ./my-model reviews.txt -o runs/control --steps 300 --learning-rate 2e-5 \\
        --objective none
    """
    from unembed.models.adapters import base_of, is_adapter_alone, refuse_untrainable
    from unembed.models.checkpoint import load_tokenizer
    from unembed.training.recipe.weight_files import read_positions, read_values
    from unembed.training.run.engine import check_accelerate, check_report_to
    from unembed.training.run.train import refine

    refuse_untrainable(model)
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
    benchmarks = _benchmarks(benchmark_tasks, benchmark_limit, benchmark_path)
    listed = None if positions is None else read_positions(positions)
    if weight_values is not None:
        base = source.loading["base"]
        whole = base_of(model, base) if is_adapter_alone(model) else model
        values = read_values(weight_values, load_tokenizer(whole))
        recipe = replace(recipe, weighting=replace(recipe.weighting, values=values))
    checkpoint, text = source.open(model, corpus, quiet=output.quiet)
    done = refine(
        checkpoint,
        text,
        recipe,
        out=output.folder,
        positions=listed,
        benchmarks=benchmarks,
        command=typed(),
        progress=output.progress,
        report_to=report_to,
    )
    output.end(done)


def recipe_of(given: Given) -> Recipe:
    """The recipe of what was given; what was left out is as in ``Recipe``."""
    from unembed.training.recipe.lora import Lora
    from unembed.training.recipe.objectives import Objective
    from unembed.training.recipe.protection import Protection
    from unembed.training.recipe.recipe import Budget, Recipe
    from unembed.training.recipe.weighting import Weighting

    options = {name: value for name, value in given.items() if value not in (None, ())}
    asked = options.pop("objective", "fisher")
    objective = Objective(
        asked, **_part(options, k="k", threshold="threshold", direction="direction")
    )
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
