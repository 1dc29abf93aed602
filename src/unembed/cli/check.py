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
@LOADING
def check_command(
    model: str,
    as_json: bool,
    context: int | None,
    quantize: str | None,
    quantize_head: bool,
    **loading: Any,
) -> None:
    """Say what was recovered and proved of MODEL, and what to mind.

    In seconds, and without a text. MODEL is a local folder, a hub id or an adapter's folder.

    \b
    Example:
      unembed check ./my-model
    \f
    The head is recovered and must give the model's own logits; later tokens are changed, and must
    move no earlier hidden state; a short row is read beside a long one. A model that cannot be
    measured is refused in one line, with exit status 2, as every verb would. A run proves its own
    body again, at the lengths that it reads.
    """
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
