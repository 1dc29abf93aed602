"""``unembed check``."""

from __future__ import annotations

from typing import Any

import click

from unembed.cli.help import Verb, option, under
from unembed.cli.options import LOADING
from unembed.cli.printing import say
from unembed.errors import UnembedError
from unembed.models.names import SCHEMES


@click.command("check", cls=Verb)
@click.argument("model")
@under("Output", option("--json", "as_json", is_flag=True, help="Print as JSON."))
@under(
    "Check",
    option(
        "--context",
        type=int,
        help="Tokens at which the body is proved.",
        default_is="the model's, to 512",
    ),
    option("--quantize", type=click.Choice(list(SCHEMES)), help="With its weights rounded."),
    option("--quantize-head", is_flag=True, help="The head's weights too."),
)
@under(
    "Cost",
    option(
        "--cost",
        "corpus",
        metavar="CORPUS",
        help="What a run would take on this text, or on so many tokens (1e9).",
    ),
    option("--run", metavar="VERB", help="audit, layers, compare or sketch.", default_is="audit"),
    option("--ranks", type=int, help="Processes, a device each.", default_is="1"),
    option("--tp", type=int, help="Of them hold one model together.", default_is="1"),
    option(
        "--part-positions",
        type=int,
        rare=True,
        help="Positions a file holds; ranks share files.",
        default_is="the verb's",
    ),
)
@LOADING
def check_command(
    model: str,
    as_json: bool,
    context: int | None,
    quantize: str | None,
    quantize_head: bool,
    corpus: str | None,
    run: str | None,
    ranks: int | None,
    tp: int | None,
    part_positions: int | None,
    **loading: Any,
) -> None:
    """Say what was recovered and proved of MODEL, and what to mind.

    In seconds, and without a text. MODEL is a local folder, a hub id or an adapter's folder.

    \b
    Example:
      unembed check ./my-model
      unembed check ./my-model --cost 1e9 --device h100 --ranks 8
    \f
    The head is recovered and must give the model's own logits; later tokens are changed, and must
    move no earlier hidden state; a short row is read beside a long one. A model that cannot be
    measured is refused in one line, with exit status 2, as every verb would. A run proves its own
    body again, at the lengths that it reads.

    --cost reads no weights, so that a folder with config.json alone will do. It says the time,
    memory and disk of a run, by what they are made of and how far they may be off, at the published
    rates of --device h100, h200, a100, l40s or rtx4090, or at those of this machine, which are
    measured. A comparison is taken to be of two such models.
    """
    asked = {"run": run, "ranks": ranks, "tp": tp, "part_positions": part_positions}
    given = {name: value for name, value in asked.items() if value is not None}
    if corpus is not None:
        for name, value in (("--quantize", quantize), ("--base", loading["base"])):
            if value is not None:
                raise UnembedError(f"{name} {value} has no cost of its own: leave it out of --cost")
        _say_cost(model, corpus, as_json, context=context, **given, **loading)
        return
    for name, value in given.items():
        raise UnembedError(
            f"--{name.replace('_', '-')} {value} is of a cost: add --cost with a text, or with a "
            "number of tokens such as 1e9"
        )
    from unembed.models.adapters import load_whole
    from unembed.models.model_check import check
    from unembed.models.quantization import check_scheme, quantized
    from unembed.runs.record import record_to_json

    if quantize is not None:
        check_scheme(quantize)
    elif quantize_head:
        raise UnembedError(f"--quantize-head needs --quantize: give one of {', '.join(SCHEMES)}")
    checkpoint = load_whole(model, **loading)
    if quantize is not None:
        checkpoint = quantized(checkpoint, quantize, head=quantize_head)
    found = check(checkpoint, context=context)
    say(str(found), {"verdict": found.verdict, **record_to_json(found)}, as_json)


def _say_cost(model: str, corpus: str, as_json: bool, **given: Any) -> None:
    """Print what a run would take."""
    from unembed.models.costs.cost import cost
    from unembed.runs.record import record_to_json

    del given["base"]
    found = cost(model, corpus, **given)
    say(str(found), {"verdict": found.verdict, **record_to_json(found)}, as_json)
