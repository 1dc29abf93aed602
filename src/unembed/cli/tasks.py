"""Tasks as the command line names them: files of signatures, folders of audits, or texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unembed.errors import UnembedError

if TYPE_CHECKING:
    from unembed.cli.options import Source
    from unembed.updates.signature import Signature
    from unembed.updates.sketcher import SketchOptions

FOLDER = "signatures"
"""Where a run keeps the signatures that it made of texts."""


def signatures_of(
    given: Sequence[str],
    *,
    model: str | None,
    source: Source,
    options: SketchOptions,
    out: Path,
    quiet: bool,
) -> list[Signature]:
    """The signatures of some tasks, in their order; texts are sketched on ``model``, into ``out``.

    Without a model every task is a signature's file or an audit's folder. Two of one name are
    called by what was given. Raises UnembedError for a task given twice, and for what cannot be
    read.
    """
    from unembed.updates.run import sketch
    from unembed.updates.tasks import file_of, load_all

    twice = {name for name in given if given.count(name) > 1}
    if twice:
        raise UnembedError(f"{min(twice)} is given twice: give each task once")
    texts = [name for name in given if not file_of(Path(name)).name.endswith(".safetensors")]
    if model is None or not texts:
        return load_all(given)
    checkpoint, corpora = source.open_all(model, texts, quiet=quiet)
    made: dict[str, Path] = {}
    for number, (name, corpus) in enumerate(corpora.items()):
        made[name] = out / FOLDER / f"{number:03d}-{Path(name).stem}.safetensors"
        sketch(
            checkpoint, corpus, options, out=made[name], task=Path(name).stem, progress=not quiet
        )
    return load_all([made.get(name, Path(name)) for name in given])
