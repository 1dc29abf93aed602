"""Options that several verbs have, and the model and the text that they open."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from unembed.cli.help import Command, option, under
from unembed.models.names import DTYPES
from unembed.runs.phases import current_phases, profile_process
from unembed.signatures.network.names import DEFAULT_PART

if TYPE_CHECKING:
    from unembed.models.checkpoint import Checkpoint
    from unembed.models.model_pass import ReadingOptions
    from unembed.signatures.verbalizers import Verbalizers
    from unembed.text.corpus import Corpus

CONTEXT_IS = "the model's, to 2048"
DEVICE_HELP = "Such as cpu, cuda:1, mps."
DEVICE_IS = "a GPU if any"


def _profile_process(_context: click.Context, _option: click.Parameter, asked: bool) -> None:
    if asked:
        profile_process()


class TeamSize(click.ParamType):  # type: ignore[type-arg]  # plain before click 8.2
    """How many processes hold a model together: a number, or ALL of the launch."""

    name = "integer"
    ALL = "all"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | None:
        """The number; None for all."""
        if value is None or value == self.ALL:
            return None
        if not str(value).isdecimal() or int(value) < 1:
            self.fail(f"{value!r} is no number of processes: give --tp 2, or --tp last", param, ctx)
        return int(value)


def _in_teams(context: click.Context, one: click.Parameter, size: int | None) -> None:
    """Let the processes of this launch hold the model in teams, until the verb is done."""
    if context.get_parameter_source(one.name or "") is ParameterSource.COMMANDLINE:
        from unembed.runs.ranks import tensor_parallel

        context.with_resource(tensor_parallel(size))


WINDOWS = under(
    "Text",
    option("--context", type=int, help="Tokens a window.", default_is=CONTEXT_IS),
    option(
        "--overflow",
        type=click.Choice(["windows", "truncate"]),
        default="windows",
        rare=True,
        help="Rows longer than the context: consecutive windows, or drop the rest.",
    ),
)
TEXT = under(
    "Text",
    option("--text-column", default="text", help="Column of a record's text."),
    option(
        "--document",
        help="What a document is: its first line's pattern, or a column.",
        default_is="a row",
    ),
    option(
        "--completion-only",
        is_flag=True,
        help="Read columns prompt, completion; count completions.",
    ),
)


def batches(part_positions: int) -> Callable[[Command], Command]:
    """The options of the plan, a part being of so many positions unless that is given."""
    return under(
        "Text",
        option(
            "--batch-tokens",
            type=int,
            rare=True,
            help="Tokens a batch at most; a longer window is read alone.",
            default_is="2048 on CPU, 16384 on GPU",
        ),
        option(
            "--part-positions",
            type=int,
            default=part_positions,
            rare=True,
            help="Positions a file holds: a killed run loses at most one file, ranks share files.",
        ),
    )


BATCHES = batches(1 << 15)
LOADING = under(
    "Model",
    option("--dtype", type=click.Choice(DTYPES), default="auto", help="Precision of the body."),
    option("--device", help=DEVICE_HELP, default_is=DEVICE_IS),
    option(
        "--base", rare=True, help="With an adapter: the model below it.", default_is="what it names"
    ),
    option("--revision", rare=True, help="Branch, tag or commit of a hub model."),
    option(
        "--trust-remote-code", rare=True, is_flag=True, help="Let the checkpoint run its own code."
    ),
)
TP = option(
    "--tp",
    type=TeamSize(),
    is_flag=False,
    flag_value=TeamSize.ALL,
    rare=True,
    expose_value=False,
    callback=_in_teams,
    help="Processes of a launch that hold the model together; all where no number is given.",
    default_is="1",
)
LARGE_MODELS = under(
    "Model",
    TP,
    option(
        "--device-map",
        type=click.Choice(["auto"]),
        rare=True,
        help="Spread the model over all devices, memory and disk.",
    ),
)
NO_DEBIAS = option(
    "--no-debias",
    is_flag=True,
    was="--plug-in",
    help="Leave in a sample's pairs with itself: for one set of prompts.",
)
PART = option(
    "--part",
    metavar="PART",
    help="Of networks' signatures: full, blocks, head, depth:N, kind:NAME or module:NAME.",
    default_is=DEFAULT_PART,
)
PRINTING = under(
    "Output",
    option("--json", "as_json", is_flag=True, help="Print the summary as JSON."),
    option("--quiet", is_flag=True, help="No progress."),
    option(
        "--profile",
        is_flag=True,
        rare=True,
        expose_value=False,
        callback=_profile_process,
        help="Print where the time went, from the process's start to its end.",
    ),
)


def opened(
    model: str, *, by: Callable[..., Checkpoint] | None = None, **loading: Any
) -> Checkpoint:
    """MODEL, or an adapter on its base, with a line for what takes no part, or is in place.

    ``by`` loads it in another way than ``load_whole``.
    """
    from unembed.models.adapters import has_adapter_in_place, load_whole
    from unembed.models.unused_weights import left_out_of

    checkpoint = (by or load_whole)(model, **loading)
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
        loading = ("dtype", "device", "base", "revision", "trust_remote_code", "device_map")
        reading = ("text_column", "document", "completion_only")
        _refuse_without_model((*loading, *reading, "context", "overflow"))
        return Source(
            *(
                {name: given.pop(name) for name in some if name in given}
                for some in (loading, reading)
            )
        )

    def open(
        self,
        model: str,
        corpus: str,
        *,
        quiet: bool,
        verbalizers: Verbalizers | None = None,
        options: ReadingOptions | None = None,
        notes: bool = True,
    ) -> tuple[Checkpoint, Corpus]:
        """MODEL and CORPUS; a bad name of a text fails before a long load."""
        phases = current_phases()
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
        self,
        model: str,
        corpora: Sequence[str],
        *,
        quiet: bool,
        options: ReadingOptions | None = None,
    ) -> tuple[Checkpoint, dict[str, Corpus]]:
        """MODEL and several texts, by the names that were given for them."""
        from unembed.errors import UnembedError
        from unembed.runs.progress import Steps

        for corpus in corpora:
            self.check(corpus)
        twice = {name for name in corpora if corpora.count(name) > 1}
        if twice:
            raise UnembedError(f"{min(twice)} is given twice: give each text once")
        with current_phases()("load"):
            checkpoint = opened(model, **self.loading)
        if options is not None:
            options.check_model(checkpoint)
        texts, steps = {}, Steps(len(corpora))
        for corpus in corpora:
            with steps(f"reading {Path(corpus).name}"):
                texts[corpus] = self.read(corpus, checkpoint, quiet=quiet)
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
    for one in context.command.params:
        given = context.get_parameter_source(one.name or "") is ParameterSource.COMMANDLINE
        if given and one.name in names:
            raise UnembedError(
                f"{one.opts[0]} needs --model and texts: a signature is read as it is"
            )
