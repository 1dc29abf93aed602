"""Tasks as the command line names them: signatures, audits, adapters, or texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from unembed.errors import UnembedError

if TYPE_CHECKING:
    from unembed.cli.options import Source
    from unembed.models.checkpoint import Checkpoint
    from unembed.models.model_pass import ReadingOptions
    from unembed.signatures.reading.sketcher import SketchOptions
    from unembed.signatures.signature import Signature
    from unembed.text.corpus import Corpus

FOLDER = "signatures"
"""Where a run keeps the signatures that it made of texts."""

Form = Literal["signature", "compact", "adapter", "text"]
"""What a task was given as; "compact" is an adapter's folder with a signature in it."""


@dataclass(frozen=True)
class Reader:
    """The model that texts are read on, loaded when the first of them is."""

    model: str
    source: Source
    quiet: bool

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The model with its tokenizer."""
        from unembed.cli.options import opened

        return opened(self.model, **self.source.loading)

    def read(self, text: str, options: ReadingOptions) -> Corpus:
        """A text by the model's tokenizer, as far as ``options`` need it."""
        return self.source.read(text, self.checkpoint, quiet=self.quiet, options=options)


def form_of(given: str) -> Form:
    """What a task was given as, by its name and its folder alone."""
    from unembed.models.adapters import is_adapter
    from unembed.signatures.file import COMPACT_FILE
    from unembed.signatures.reading.files import file_of

    path = Path(given)
    if is_adapter(path):
        return "compact" if (path / COMPACT_FILE).is_file() else "adapter"
    return "signature" if file_of(path).name.endswith(".safetensors") else "text"


def name_of(given: str) -> str:
    """A short name: a file's without its suffix, or an adapter's folder's."""
    path = Path(given)
    return path.resolve().name if path.is_dir() else path.stem


def check_once(given: Sequence[str]) -> None:
    """Raise UnembedError where a task is given twice, under whatever path."""
    places = [str(Path(name).resolve()) if Path(name).exists() else name for name in given]
    for name, place in zip(given, places, strict=True):
        if places.count(place) > 1:
            raise UnembedError(f"{name} is given twice: give each task once")


def check_cap(asked: int | None, corpora: Mapping[str, Corpus]) -> None:
    """Raise UnembedError for a number of positions that no text has, which would do nothing."""
    text, tokens = max(((name, one.tokens) for name, one in corpora.items()), key=lambda x: x[1])
    if asked is not None and tokens < asked:
        raise UnembedError(
            f"the longest text, {text}, has {tokens:,} tokens and {asked:,} were asked for: give "
            "more text, or ask for fewer"
        )


def say_capped(text: str, positions: int, asked: int | None) -> None:
    """Say that a text has fewer positions than it might have given."""
    if asked is not None and positions < asked:
        click.echo(f"{text}: all {positions:,} positions are read, of {asked:,} at most", err=True)


def signatures_of(
    given: Sequence[str],
    *,
    model: str | None,
    source: Source,
    options: SketchOptions,
    out: Path,
    quiet: bool,
    probe: str | None = None,
    part: str | None = None,
) -> list[Signature]:
    """The signatures of some tasks, in their order; texts are sketched on ``model``, into ``out``.

    Of networks' signatures it is a ``part`` of each, as ``parts_of``, and texts are sketched for
    that part.

    Without a model every task is a signature's file, an audit's folder, or the folder of an adapter
    with a compact signature in it: that of the text it was trained on. An adapter without one is
    sketched in the model's place, on the text ``probe`` or else the first task's. Texts are
    sketched as the signatures that are given were, so that they compare. Two of one name are
    called by what was given. Raises UnembedError for a task given twice, and for what cannot be
    read.
    """
    from unembed.runs.progress import Steps
    from unembed.signatures.file import COMPACT_FILE, load
    from unembed.signatures.network.modules import HEAD
    from unembed.signatures.network.signature import NetworkSignature
    from unembed.signatures.network.sketch_part import sketch_part
    from unembed.signatures.reading.files import Loaded, load_any, parts_of

    check_once(given)
    forms = {name: form_of(name) for name in given}
    bare = [name for name in given if forms[name] == "text" and Path(name).is_file()]
    if bare and model is None:
        raise UnembedError(
            f"{bare[0]} is no signature: give --model to read it as a text, or sketch it before"
        )
    texts = [name for name in given if forms[name] == "text" and model is not None]
    adapters = [name for name in given if forms[name] == "adapter"]
    loaded: dict[str, Loaded] = {}
    for name in given:
        if forms[name] == "compact":
            loaded[name] = replace(load(Path(name) / COMPACT_FILE), name=name_of(name))
        elif name not in texts and name not in adapters:
            loaded[name] = load_any(Path(name))
    parts = parts_of(list(loaded.items()), part)
    found = dict(zip(loaded, parts, strict=True))
    wanted = next((one.identity.part for one in parts), part or "") or HEAD
    if adapters and wanted != HEAD:
        raise UnembedError(
            f"{adapters[0]} is an adapter, whose modules are not those of its model: compare it by "
            f"--part {HEAD}, not by {wanted!r}"
        )
    network = next((one for one in loaded.values() if isinstance(one, NetworkSignature)), None)
    if adapters:
        probe = _probe(adapters[0], given[0] if given[0] in texts else None, model, probe)
        source.check(probe)
    for text in texts:
        source.check(text)
    if model is not None and (texts or adapters):
        reader = Reader(model, source, quiet)
        if found:
            options = _alike(options, next(iter(found.values())))
        options.check_model(reader.checkpoint)
        read = [*texts, *([probe] if adapters and probe is not None else [])]
        corpora = {name: reader.read(name, options) for name in dict.fromkeys(read)}
        check_cap(options.max_positions, corpora)
        steps = Steps(len(texts) + len(adapters), alike=True)
        for number, name in enumerate(texts):
            with steps(f"sketch of {name_of(name)}"):
                found[name] = sketch_part(
                    reader.checkpoint,
                    corpora[name],
                    wanted,
                    options,
                    like=network,
                    at_most=True,
                    out=out / FOLDER / f"{number:03d}-{name_of(name)}.safetensors",
                    task=name_of(name),
                    progress=not quiet,
                )
            if options.unit == "token" and not quiet:
                say_capped(name, round(found[name].state.samples), options.max_positions)
        for number, name in enumerate(adapters):
            assert probe is not None
            file = out / FOLDER / f"adapter-{number:03d}-{name_of(name)}.safetensors"
            with steps(f"sketch by {name_of(name)}"):
                found[name] = _adapted(reader, name, corpora[probe], options, file)
    names = [one.name for one in found.values()]
    return [
        replace(found[name], name=name) if names.count(found[name].name) > 1 else found[name]
        for name in given
    ]


def _probe(adapter: str, target: str | None, model: str | None, probe: str | None) -> str:
    """The text to sketch adapters on."""
    if model is None:
        raise UnembedError(
            f"{adapter} is an adapter without a signature: give --model, the model it was trained "
            f"on, or sketch its text with --export {adapter}"
        )
    found = probe or target
    if found is None:
        raise UnembedError(
            f"{adapter} is an adapter without a signature: give --probe, a text to sketch it on"
        )
    return found


def _alike(options: SketchOptions, signature: Signature) -> SketchOptions:
    """Options that give signatures which compare with this one."""
    identity = signature.identity
    spec = identity.spec
    return replace(
        options,
        construction=spec.construction,
        m=spec.m,
        seed=spec.seed,
        unit=identity.unit,
        fisher=identity.fisher,
        first_moment=options.first_moment and identity.fisher == "empirical",
    )


def _adapted(
    reader: Reader, folder: str, probe: Corpus, options: SketchOptions, file: Path
) -> Signature:
    """The signature of a text by the adapted model, as one of the model's own.

    Its file says which weights it is of. The basis of the activations is the model's but for what
    the adapter adds, and the head is the same, so that here it compares with the model's.
    """
    from unembed.models.adapters import adapted
    from unembed.runs.provenance import digest_of
    from unembed.signatures.reading.run import sketch

    base = reader.checkpoint
    made = sketch(
        adapted(base, folder),
        probe,
        options,
        at_most=True,
        out=file,
        task=name_of(folder),
        progress=not reader.quiet,
    )
    identity = replace(made.identity, model_digest=digest_of(base.model))
    facts = {"adapter": folder, **made.facts, "model": base.name}
    return replace(made, identity=identity, facts=facts)
