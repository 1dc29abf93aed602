"""``unembed compare`` of two folders of benchmark logs."""

from __future__ import annotations

from collections.abc import Callable

import click

from unembed.cli.printing import Output, typed
from unembed.errors import UnembedError
from unembed.runs.phases import current_phases

WITH_RUNS = ("out", "as_json", "quiet", "profile")
"""Options that go with whatever is compared."""


def given_logs(before: str, after: str) -> bool:
    """Whether both are logs of lm-evaluation-harness. Raises UnembedError where one is."""
    from unembed.decisions.benchmarks.logs import holds_logs

    return both_are(
        (before, after),
        holds_logs,
        "holds logs of lm-evaluation-harness",
        "give two folders that lm_eval --log_samples wrote",
    )


def both_are(given: tuple[str, str], is_one: Callable[[str], bool], what: str, remedy: str) -> bool:
    """Whether both are of a kind. Raises UnembedError, with what one is, where the other is not."""
    found = [name for name in given if is_one(name)]
    if len(found) == 1:
        other = next(name for name in given if name not in found)
        raise UnembedError(f"{found[0]} {what} and {other} none: {remedy}")
    return len(found) == 2


def compare_logs_command(before: str, after: str, corpus: str | None, output: Output) -> None:
    """Compare the logs; of the verb's options only --document goes with them."""
    from unembed.decisions.benchmarks.compare import compare_logs

    if corpus is not None:
        raise UnembedError(f"logs of lm-evaluation-harness take no CORPUS: leave {corpus} out")
    refuse_options("logs of lm-evaluation-harness", "document")
    with current_phases()("compare"):
        done = compare_logs(
            before,
            after,
            document=click.get_current_context().params["document"],
            out=output.folder,
            command=typed(),
        )
    output.end(done)


def refuse_options(what: str, *allowed: str) -> None:
    """Raise UnembedError where an option was given that says nothing of ``what`` is compared."""
    context = click.get_current_context()
    others = [
        option.opts[0]
        for option in context.command.params
        if isinstance(option, click.Option)
        and option.name not in (*WITH_RUNS, *allowed)
        and context.params.get(option.name or "") not in (None, (), False)
    ]
    if others:
        raise UnembedError(f"{', '.join(others)} says nothing of {what}: leave it out")
