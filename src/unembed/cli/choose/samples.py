"""The samples that a baseline reads, from tasks as the command line names them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unembed.cli.choose.tasks import Form, Reader, check_once, form_of, name_of
from unembed.errors import UnembedError

if TYPE_CHECKING:
    from unembed.cli.options import Source
    from unembed.head.head import Head
    from unembed.models.checkpoint import Checkpoint
    from unembed.models.model_pass import ReadingOptions
    from unembed.runs.manifest import Facts
    from unembed.signatures.samples import Samples


@dataclass(frozen=True)
class TaskSamples:
    """The samples of a target and its sources, the head, and label and value for the page."""

    target: Samples
    sources: list[Samples]
    head: Head
    facts: Facts


def read_tasks(
    given: Sequence[str],
    *,
    by: str,
    model: str,
    source: Source,
    reading: ReadingOptions,
    whole: bool,
    quiet: bool,
) -> TaskSamples:
    """TaskSamples the tasks, of which the first is the target, a text.

    Sources are texts too or, for a ``by`` that scores models, adapters, each of which reads the
    target's text. ``whole`` says that no text may have fewer positions than ``reading`` asks for.
    Raises UnembedError for sources of the other form, a task given twice, and what cannot be read.
    """
    from unembed.models.adapters import adapted
    from unembed.selection.scores import MODEL_BASELINES

    check_once(given)
    target, *others = given
    of_models = by in MODEL_BASELINES
    _check_form(target, "text", by)
    for name in others:
        _check_form(name, "adapter" if of_models else "text", by)
    texts = [target] if of_models else list(given)
    for text in texts:
        source.check(text)
    reader = Reader(model, source, quiet)
    base = reader.checkpoint
    names = [name_of(name) for name in given]
    called = [
        name if names.count(short) > 1 else short for name, short in zip(given, names, strict=True)
    ]

    def read(checkpoint: Checkpoint, text: str, task: str) -> tuple[Samples, Head, str]:
        from unembed.models.model_pass import ModelPass
        from unembed.signatures.alignment.texts import samples_of

        corpus = reader.read(text, reading)
        one = ModelPass.of(checkpoint.model, corpus, reading, checkpoint.name)
        asked, positions = reading.max_positions, one.windows.positions
        if whole and asked is not None and positions < asked:
            raise UnembedError(
                f"{text} has {positions:,} positions and {asked:,} were asked for: give more text, "
                "or ask for fewer"
            )
        return samples_of(one, task, progress=not quiet), one.head, corpus.rules

    first, head, rules = read(base, target, called[0])
    facts = [("Model", base.name), (called[0], rules)]
    found = []
    for name, task in zip(others, called[1:], strict=True):
        if of_models:
            found.append(read(adapted(base, name), target, task)[0])
            facts.append((task, name))
        else:
            samples, _, rules = read(base, name, task)
            found.append(samples)
            facts.append((task, rules))
    return TaskSamples(first, found, head, tuple(facts))


def _check_form(given: str, form: Form, by: str) -> None:
    found = form_of(given)
    if found == form or (form == "adapter" and found == "compact"):
        return
    need = "sources must be adapters" if form == "adapter" else "it must be a text"
    raise UnembedError(
        f"{by} reads samples, and {given} is {_A[found]}: {need}, or rank by a score of signatures "
        "such as joint"
    )


_A = {
    "signature": "a signature",
    "compact": "an adapter",
    "adapter": "an adapter",
    "text": "a text",
}
