"""``unembed align``."""

from __future__ import annotations

from typing import Any

import click

from unembed.cli.help import Verb, option, under
from unembed.cli.options import LOADING, NO_DEBIAS, PRINTING, TEXT, Source
from unembed.cli.printing import OUT, Output, typed, with_output
from unembed.errors import UnembedError


@click.command("align", cls=Verb)
@click.argument("tasks", nargs=-1, required=True)
@OUT
@PRINTING
@under(
    "Alignment",
    option(
        "--exact/--sketched",
        default=None,
        help="With --model: by Gram matrices or sketches.",
        default_is="exact up to 1,000 tokens",
    ),
    NO_DEBIAS,
    option(
        "--part",
        metavar="PART",
        help="Of networks' signatures: full, blocks, head, depth:N, kind:NAME or module:NAME.",
        default_is="a map of all",
    ),
)
@under("Model", option("--model", help="Read TASKS as texts, and sketch them on this model."))
@LOADING
@TEXT
@with_output
def align_command(
    tasks: tuple[str, ...],
    output: Output,
    model: str | None,
    exact: bool | None,
    no_debias: bool,
    part: str | None,
    **given: Any,
) -> None:
    """Say how alike several texts would move the head or network.

    TASKS are files of unembed sketch, or folders of unembed audit --sketch; with --model, texts.

    \b
    Example:
      unembed align reviews.safetensors manuals.safetensors -o runs/align
      unembed align reviews.txt manuals.txt --model ./my-model -o runs/quick
    \f
    joint is the cosine of the Fishers of the head's gradients: 1 for the same directions, 0 for
    none in common. activation and error are what the inputs and the mistakes alone say; coupling is
    the joint over their product. Intervals hold the sketch's error and the sample's.

    Of files of unembed sketch --network it is a map of the joint along the network: by depth, by
    kind of module, of the head and of all. --part compares one part of them as heads are compared.

    \b
    From the texts on:
      unembed sketch ./my-model reviews.txt -o reviews.safetensors
      unembed sketch ./my-model manuals.txt -o manuals.safetensors
      unembed align reviews.safetensors manuals.safetensors -o runs/align
    """
    from unembed.signatures.alignment.align import align
    from unembed.signatures.alignment.texts import align_texts
    from unembed.signatures.network.align import align_networks
    from unembed.signatures.reading.files import loaded, networks_of, parts_of

    if len(tasks) < 2:
        raise UnembedError(f"{len(tasks)} task has nothing to compare with: give two or more")
    source = Source.taken(given)
    kept: dict[str, Any] = {"debias": not no_debias, "out": output.folder, "command": typed()}
    if model is None:
        if exact is not None:
            raise UnembedError("--exact needs --model and texts: a signature is a sketch")
        given_files = loaded(tasks)
        networks = networks_of(given_files)
        if part is None and len(networks) == len(tasks):
            output.end(align_networks(networks, **kept))
            return
        done = align(parts_of(given_files, part), **kept)
    else:
        if part not in (None, "head"):
            raise UnembedError(
                f"--part {part} needs signatures: sketch the texts with unembed sketch --network"
            )
        checkpoint, texts = source.open_all(model, tasks, quiet=output.quiet)
        done = align_texts(checkpoint, texts, exact=exact, progress=output.progress, **kept)
    output.end(done)
