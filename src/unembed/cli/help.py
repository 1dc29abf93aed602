"""How a verb's help is laid out: options under headings, rare ones apart, verbs by job.

click has neither headings nor rare options. ``option`` and ``under`` take the place of
``click.option``::

    TEXT = under("Text", option("--document"), option("--overflow", rare=True))

    @click.command("audit", cls=Verb)
    @TEXT
    def audit_command(...): ...
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import click

Command = Callable[..., Any]
Placed = Callable[[str], Callable[[Command], Command]]
"""An option that does not know yet under which heading it stands."""

ALL = "unembed.help_all"
"""Where a context notes that ``--help-all`` was asked for."""

METAVARS: dict[Any, str] = {int: "N", float: "X"}
NAMES_WIDTH = 30
"""Columns that names of options take at most; longer ones have a line of their own."""


class Option(click.Option):
    """An option that stands under a ``heading``; a ``rare`` one is shown by ``--help-all`` alone.

    ``default_is`` says in words what happens without it, as ``[default: …]``, where click cannot
    know. ``was`` is the name that it had in an earlier version, which still works. Choices too
    many to stand beside the name follow the ``help``.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        heading: str,
        rare: bool = False,
        default_is: str | None = None,
        was: str | None = None,
        **attributes: Any,
    ) -> None:
        self.heading, self.rare, self.default_is, self.was = heading, rare, default_is, was
        kind, said = attributes.get("type"), attributes.pop("help")
        attributes.setdefault("metavar", METAVARS.get(kind))
        if isinstance(kind, click.Choice) and attributes["metavar"] is None:
            listed = [str(one) for one in kind.choices]
            if len(f"{names[0]} [{'|'.join(listed)}]") > NAMES_WIDTH:
                attributes["metavar"] = names[0].rpartition("-")[2].upper()
                said = f"{said.rstrip('.')}: {', '.join(listed)}."
        if default_is is not None:
            said = f"{said}  [default: {default_is}]"
        super().__init__(names, help=said, **{"show_default": True, **attributes})


def option(*names: str, **attributes: Any) -> Placed:
    """As ``click.option``, with what ``Option`` takes beside it; ``under`` gives it its heading."""
    return lambda heading: click.option(*names, cls=Option, heading=heading, **attributes)


def under(heading: str, *options: Placed) -> Callable[[Command], Command]:
    """A decorator that gives a command these options, in this order, under one heading.

    A heading that stands in several of a command's decorators is shown once, where it is first.
    """
    placed = [place(heading) for place in reversed(options)]
    return lambda command: reduce(lambda made, add: add(made), placed, command)


def together(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """One decorator of several, as if each stood on a line, in this order."""
    return lambda command: reduce(lambda made, add: add(made), reversed(decorators), command)


class Words(click.Choice):  # type: ignore[type-arg]  # plain before click 8.2
    """A choice between words that stand for the values of a record.

    The values themselves are understood too, so that what was typed before still is.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        super().__init__(list(values))
        self.values = values

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The value that a word stands for."""
        if value in self.values.values():
            return str(value)
        return self.values[super().convert(value, param, ctx)]


class Several(click.Choice):  # type: ignore[type-arg]  # plain before click 8.2
    """One or several of a choice, with commas between, each once: ``int8,int4``."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """The words in their order."""
        words = value if isinstance(value, tuple) else str(value).split(",")
        found = [str(super(Several, self).convert(word.strip(), param, ctx)) for word in words]
        for word in found:
            if found.count(word) > 1:
                self.fail(f"{word!r} is given twice", param, ctx)
        return tuple(found)


class Verb(click.Command):
    """A verb whose options stand under headings, with ``--help-all`` where some of them are rare.

    Of its docstring, what follows a form feed is shown by ``--help-all`` alone.
    """

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        if any(getattr(one, "rare", False) for one in self.params):
            every = Option(
                ["--help-all"],
                heading="Help",
                is_flag=True,
                is_eager=True,
                expose_value=False,
                callback=_show_all,
                help="Show the rarer options and more words, and exit.",
            )
            self.params.append(every)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, with names of an earlier version read as those of this one."""
        names = {one.was: one.opts[0] for one in self.params if isinstance(one, Option) and one.was}
        end = args.index("--") if "--" in args else len(args)
        return super().parse_args(ctx, [*(_renamed(one, names) for one in args[:end]), *args[end:]])

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The docstring as far as it is asked for."""
        first, _, more = inspect.cleandoc(self.help or "").partition("\f")
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(first.rstrip())
            if more and ctx.meta.get(ALL):
                formatter.write_paragraph()
                formatter.write_text(more.strip())

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options, heading by heading, in columns that align."""
        write_options(self, ctx, formatter)


class Listing(click.Group):
    """Verbs in the order in which they were added, each with its whole first sentence.

    ``jobs`` are headings, each with the verbs below it; a verb that none of them names is listed
    under "Verbs".
    """

    command_class = Verb

    def __init__(self, *args: Any, jobs: Mapping[str, Sequence[str]] | None = None, **more: Any):
        super().__init__(*args, **more)
        self.jobs = jobs or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the verbs."""
        return list(self.commands)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs, and then the options."""
        self.format_commands(ctx, formatter)
        write_options(self, ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs, by job."""
        named = {name for verbs in self.jobs.values() for name in verbs}
        others = [name for name in self.list_commands(ctx) if name not in named]
        wide = max(map(len, self.commands), default=0)
        for job, names in {**self.jobs, "Verbs": others}.items():
            rows = [
                (name.ljust(wide), summary_of(self.commands[name]))
                for name in names
                if name in self.commands and not self.commands[name].hidden
            ]
            if rows:
                with formatter.section(job):
                    formatter.write_dl(rows)


def summary_of(command: click.Command) -> str:
    """What a verb does: the first sentence of its docstring."""
    first = inspect.cleandoc(command.help or "").split("\n\n")[0]
    return command.short_help or " ".join(first.split())


def write_options(
    command: click.Command, ctx: click.Context, formatter: click.HelpFormatter
) -> None:
    """Write a command's options under their headings; click's own are the last."""
    rows: dict[str, list[tuple[str, str]]] = {}
    for one in command.get_params(ctx):
        if isinstance(one, click.Argument) or (getattr(one, "rare", False) and ALL not in ctx.meta):
            continue
        row = one.get_help_record(ctx)
        if row is not None:
            rows.setdefault(getattr(one, "heading", "Help"), []).append(row)
    lengths = [len(names) for some in rows.values() for names, _said in some]
    wide = max((length for length in lengths if length <= NAMES_WIDTH), default=0)
    rows["Help"] = rows.pop("Help", [])
    for heading, some in rows.items():
        if some:
            with formatter.section(heading):
                formatter.write_dl([(names.ljust(wide), said) for names, said in some], NAMES_WIDTH)


def _renamed(word: str, names: Mapping[str, str]) -> str:
    """A word of the command line, with the name that an option has now."""
    name, equals, value = word.partition("=")
    if name not in names:
        return word
    click.echo(f"note: {name} is called {names[name]} now", err=True)
    return f"{names[name]}{equals}{value}"


def _show_all(ctx: click.Context, _param: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        ctx.meta[ALL] = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()
