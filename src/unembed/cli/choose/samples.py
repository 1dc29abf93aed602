"""The samples that a baseline reads, from tasks as the command line names them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unembed.cli.choose.tasks import (
    Form,
    Reader,
    check_cap,
    check_once,
    form_of,
    name_of,
    say_capped,
)
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
    """The samples of a target and its sources, the heads, and label and value for the page.

    ``heads`` are those of the sources' models where one of them differs from ``head``.
    """

    target: Samples
    sources: list[Samples]
    head: Head
    heads: list[Head]
    facts: Facts


def read_tasks(
    given: Sequence[str],
    *,
    by: str,
    model: str,
    source: Source,
    reading: ReadingOptions,
    asked: bool,
    quiet: bool,
) -> TaskSamples:
    """The samples of the tasks, of which the first is the target, a text.

    Sources are texts too or, for a ``by`` that scores models, adapters, each of which reads the
    target's text. ``asked`` says that ``reading`` has the user's number of positions, which caps
    each text: a shorter one is read whole, with a line that says so.
    Raises UnembedError for sources of the other form, a task given twice, a number of positions
    that no text has, and what cannot be read.
    """
    from unembed.models.adapters import adapted
    from unembed.runs.progress import Steps
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

    corpora = {text: reader.read(text, reading) for text in texts}
    if asked:
        check_cap(reading.max_positions, corpora)

    def read(checkpoint: Checkpoint, text: str, task: str) -> tuple[Samples, Head]:
        from unembed.models.model_pass import ModelPass
        from unembed.signatures.alignment.texts import samples_of

        one = ModelPass.of(checkpoint.model, corpora[text], reading, checkpoint.name)
        if asked and not quiet:
            say_capped(text, one.windows.positions, reading.max_positions)
        return samples_of(one, task, progress=not quiet), one.head

    steps = Steps(len(given), alike=True)
    with steps(called[0]):
        first, head = read(base, target, called[0])
    facts = [("Model", base.name), (called[0], corpora[target].rules)]
    found, heads = [], []
    for name, task in zip(others, called[1:], strict=True):
        model_of = adapted(base, name, any_head=True) if of_models else base
        with steps(task):
            samples, own = read(model_of, target if of_models else name, task)
        found.append(samples)
        heads.append(own)
        facts.append((task, name if of_models else corpora[name].rules))
    differ = any(own.digest != head.digest for own in heads)
    return TaskSamples(first, found, head, heads if differ else [], tuple(facts))


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
