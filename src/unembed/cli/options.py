"""Options that several verbs have, and the model and the text that they open."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from unembed.models.checkpoint import Checkpoint
    from unembed.models.model_pass import ReadingOptions
    from unembed.runs.phases import Phases
    from unembed.signatures.verbalizers import Verbalizers
    from unembed.text.corpus import Corpus

Command = Callable[..., None]

WINDOWS = (
    click.option("--context", type=int, help="Tokens of context [the model's, at most 2048]."),
    click.option(
        "--overflow",
        type=click.Choice(["windows", "truncate"]),
        default="windows",
        show_default=True,
        help="Rows longer than the context: consecutive windows, or drop the rest.",
    ),
)
TEXT = (
    click.option(
        "--text-column", default="text", show_default=True, help="Column of a record's text."
    ),
    click.option(
        "--document",
        help="What a document is, for the intervals: a regular expression that its first line "
        "matches (.txt), or the column that names it (records). [a row]",
    ),
    click.option(
        "--completion-only",
        is_flag=True,
        help="Read the columns prompt and completion; only the completions' tokens count.",
    ),
)
BATCHES = (
    click.option(
        "--batch-tokens", type=int, help="Padded tokens a batch [2048 on CPU, 16384 on GPU]."
    ),
    click.option(
        "--part-positions",
        type=int,
        default=1 << 15,
        show_default=True,
        help="Positions a file holds; a killed run loses at most one file.",
    ),
)
LOADING = (
    click.option("--dtype", default="auto", show_default=True, help="Precision of the body."),
    click.option("--device", help="Where to run [a GPU if there is one]."),
    click.option("--base", help="With an adapter as MODEL: its model [the folder that it names]."),
    click.option("--revision", help="Branch, tag or commit of a hub model."),
    click.option("--trust-remote-code", is_flag=True, help="Let the checkpoint run its own code."),
)
PRINTING = (
    click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON."),
    click.option("--quiet", is_flag=True, help="No progress bar."),
)


def with_options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """A decorator that gives a command these options, listed in this order."""
    return lambda command: reduce(lambda made, option: option(made), reversed(options), command)


def opened(model: str, **loading: Any) -> Checkpoint:
    """MODEL, or an adapter on its base, with a line for what takes no part, or is in place."""
    from unembed.models.adapters import has_adapter_in_place, load_whole
    from unembed.models.unused_weights import left_out_of

    checkpoint = load_whole(model, **loading)
    if has_adapter_in_place(checkpoint):
        click.echo(
            f"{model}: an adapter lies beside the weights and is in place; move its "
            "adapter_config.json elsewhere to measure the model without it",
            err=True,
        )
    parts = left_out_of(checkpoint.model)
    if parts:
        click.echo(f"{model}: left out: {'; '.join(parts)}", err=True)
    return checkpoint


@dataclass(frozen=True)
class Source:
    """What was given for LOADING and TEXT: how MODEL is loaded, and how CORPUS is read."""

    loading: dict[str, Any]
    reading: dict[str, Any]

    @staticmethod
    def taken(given: dict[str, Any]) -> Source:
        """Take these options out of all that were given."""
        loading = ("dtype", "device", "base", "revision", "trust_remote_code")
        reading = ("text_column", "document", "completion_only")
        _refuse_without_model((*loading, *reading, "context", "overflow"))
        return Source(*({name: given.pop(name) for name in some} for some in (loading, reading)))

    def open(
        self,
        model: str,
        corpus: str,
        *,
        quiet: bool,
        phases: Phases | None = None,
        verbalizers: Verbalizers | None = None,
        options: ReadingOptions | None = None,
        notes: bool = True,
    ) -> tuple[Checkpoint, Corpus]:
        """MODEL and CORPUS; a bad name of a text fails before a long load."""
        from unembed.runs.phases import Phases

        phases = phases or Phases()
        self.check(corpus)
        with phases("load"):
            checkpoint = opened(model, **self.loading)
            if options is not None:
                options.check_model(checkpoint)
        with phases("read"):
            text = self.read(
                corpus,
                checkpoint,
                quiet=quiet,
                verbalizers=verbalizers,
                options=options,
                notes=notes,
            )
        return checkpoint, text

    def open_all(
        self, model: str, corpora: Sequence[str], *, quiet: bool
    ) -> tuple[Checkpoint, dict[str, Corpus]]:
        """MODEL and several texts, by the names that were given for them."""
        from unembed.errors import UnembedError

        for corpus in corpora:
            self.check(corpus)
        twice = {name for name in corpora if corpora.count(name) > 1}
        if twice:
            raise UnembedError(f"{min(twice)} is given twice: give each text once")
        checkpoint = opened(model, **self.loading)
        texts = {corpus: self.read(corpus, checkpoint, quiet=quiet) for corpus in corpora}
        return checkpoint, texts

    def check(self, corpus: str) -> None:
        """Raise UnembedError for a text that cannot be read."""
        from unembed.text.rows import RowRules, read_rows

        next(read_rows(corpus, RowRules(**self.reading)), None)

    def read(
        self,
        corpus: str,
        checkpoint: Checkpoint,
        *,
        quiet: bool,
        verbalizers: Verbalizers | None = None,
        options: ReadingOptions | None = None,
        notes: bool = True,
    ) -> Corpus:
        """CORPUS by a model's tokenizer, as far as ``options`` need it.

        ``notes`` are printed unless what the verb prints has them.
        """
        from unembed.models.checkpoint import context_of
        from unembed.text.corpus import Corpus
        from unembed.text.tokenised import ReadingLimit

        limit = None
        if options is not None and options.max_positions is not None:
            limit = ReadingLimit.of(
                options.max_positions,
                context=context_of(checkpoint.model, options.context),
                truncate=options.overflow == "truncate",
                spread=options.spread,
            )
        found = Corpus.read(
            corpus,
            checkpoint.tokenizer,
            **self.reading,
            reword=None if verbalizers is None else verbalizers.apply,
            limit=limit,
            progress=not quiet,
        )
        for note in found.notes if notes else ():
            click.echo(f"{corpus}: {note}", err=True)
        return found


def _refuse_without_model(names: Sequence[str]) -> None:
    """Raise UnembedError where one of these options was given to a verb that reads no model."""
    from unembed.errors import UnembedError

    context = click.get_current_context()
    if context.params.get("model", "") is not None:
        return
    for option in context.command.params:
        given = context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
        if given and option.name in names:
            raise UnembedError(
                f"{option.opts[0]} needs --model and texts: a signature is read as it is"
            )
