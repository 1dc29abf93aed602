"""``unembed states``, and the options of a verb that reads stored states in place of a text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from unembed.cli.help import Command, Verb, option, under
from unembed.cli.options import (
    BATCHES,
    LARGE_MODELS,
    LOADING,
    PRINTING,
    TEXT,
    WINDOWS,
    Source,
    opened,
)
from unembed.cli.printing import OUT, Output, echo, say, typed, with_output

if TYPE_CHECKING:
    from unembed.models.checkpoint import Checkpoint
    from unembed.models.stored.states import StoredStates

SIDES = ("before-norm", "after-norm")
OF_A_TEXT = ("text_column", "document", "completion_only", "context", "overflow")
"""Options that say how a text is read; stored states were read before."""


def hidden_options(command: Command) -> Command:
    """The options by which a verb reads stored states."""
    return _HIDDEN(command)


_HIDDEN: Callable[[Command], Command] = under(
    "Text",
    option(
        "--hidden",
        type=click.Path(path_type=Path),
        help="Stored states in place of CORPUS: of unembed states, vLLM's extractor, or Parquet.",
    ),
    option(
        "--states-are",
        type=click.Choice(SIDES),
        rare=True,
        help="Where they lie, if nothing shows it: what is said is still checked.",
        default_is="found by test",
    ),
)


def stored_in_place_of(corpus: str | None, hidden: Path | None, states_are: str | None) -> bool:
    """Whether stored states are read. Raises for both a text and states, and for neither."""
    from unembed.errors import UnembedError

    context = click.get_current_context()
    if hidden is None:
        if states_are is not None:
            raise UnembedError("--states-are is of stored states: give --hidden, their folder")
        if corpus is None:
            raise click.UsageError("Missing argument 'CORPUS' (or --hidden, stored states)")
        return False
    if corpus is not None:
        raise UnembedError(
            f"CORPUS {corpus} and --hidden {hidden} are two texts: leave one of them out"
        )
    for one in context.command.params:
        given = context.get_parameter_source(one.name or "") is ParameterSource.COMMANDLINE
        if given and one.name in OF_A_TEXT:
            raise UnembedError(
                f"{one.opts[0]} says how a text is read, and the states in {hidden} were read "
                "before: leave it out"
            )
    return True


def open_stored(
    model: str, source: Source, hidden: Path, states_are: Any, *, quiet: bool
) -> tuple[Checkpoint, StoredStates]:
    """The head and the tail of MODEL, and the stored states, with a line for what was found."""
    from unembed.errors import UnembedError
    from unembed.models.stored.head_and_tail import load_head_and_tail
    from unembed.models.stored.states import StoredStates
    from unembed.runs.phases import current_phases

    if not hidden.exists():
        raise UnembedError(f"{hidden}: no such folder of stored states")
    with current_phases()("load"):
        why: list[str | None] = []

        def load(name: str, **loading: Any) -> Checkpoint:
            made, reason = load_head_and_tail(name, **loading)
            why.append(reason)
            return made

        checkpoint = opened(model, by=load, **source.loading)
    if why[0] is not None:
        echo(f"{model}: all of its weights are read: {why[0]}", err=True)
    with current_phases()("read"):
        stored = StoredStates.read(hidden, checkpoint, states_are=states_are)
    for note in stored.notes if not quiet else ():
        echo(f"{hidden}: {note}", err=True)
    return checkpoint, stored


@click.command("states", cls=Verb)
@click.argument("model")
@click.argument("corpus")
@OUT
@PRINTING
@under(
    "Measure",
    option(
        "--before-norm",
        is_flag=True,
        help="Store what the last block leaves, not what the head reads.",
    ),
    option("--max-positions", type=int, help="Stop after so many predicted tokens."),
)
@WINDOWS
@TEXT
@BATCHES
@LOADING
@LARGE_MODELS
@with_output
def states_command(model: str, corpus: str, output: Output, **given: Any) -> None:
    """Store MODEL's final hidden states on CORPUS, for audits without it.

    MODEL is a local folder or a hub id. CORPUS is a .txt, .jsonl, .json, .csv, .tsv or .parquet
    file (.gz or .zst too), a folder of them, or a hub data set name[:config[:split]].

    \b
    Example:
      unembed states ./my-model reviews.jsonl -o runs/states --text-column body
      unembed audit ./my-model --hidden runs/states -o runs/reviews
    \f
    The folder holds states/part-*.safetensors, with hidden_states [positions, width], doc, pos,
    token_ids and target_ids, in order of the text; text/part-*.safetensors with all token ids; and
    documents.parquet. A killed run goes on with the same command. An audit of them gives what one
    of the text gives, with head and tail in memory alone.
    """
    from unembed.models.stored.written import StatesOptions, states
    from unembed.runs.ranks import current_ranks

    source = Source.taken(given)
    options = StatesOptions(**given)
    checkpoint, text = source.open(model, corpus, quiet=output.quiet, options=options, notes=False)
    made = states(
        checkpoint.model,
        text,
        output.folder,
        options,
        name=checkpoint.name,
        command=typed(),
        progress=output.progress,
    )
    if not current_ranks().first:
        return
    if output.finished:
        echo(f"{output.folder} was finished before: verified, nothing computed again", err=True)
    values = {name: value for name, value in asdict(made).items() if name != "provenance"}
    say(str(made), {**values, "folder": str(made.folder)}, output.as_json, [("run", output.folder)])
