"""``unembed compare`` of one base and several variants."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unembed.cli.options import opened
from unembed.cli.printing import Output, echo
from unembed.errors import UnembedError
from unembed.models.names import CAST, SCHEMES
from unembed.runs.phases import current_phases

if TYPE_CHECKING:
    from unembed.decisions.ladder.ladder import Ladder


@dataclass(frozen=True)
class Asked:
    """What ``BEFORE AFTER... [CORPUS]``, ``--quantize`` and ``--corpus`` come to."""

    base: str
    given: tuple[str, ...]
    schemes: tuple[str, ...]
    texts: tuple[str, ...]

    @property
    def is_ladder(self) -> bool:
        """Whether there is more than one model to compare with the base, or more than one text."""
        return len(self.given) + len(self.schemes) > 1 or len(self.texts) > 1

    @property
    def pair(self) -> tuple[str, str, str | None]:
        """BEFORE, AFTER and CORPUS of a comparison of two."""
        after = self.given[0] if self.given else self.base
        return self.base, after, next(iter(self.texts), None)

    def rounding(self, dtype: str | None) -> tuple[str | None, str | None]:
        """Of a comparison of two, the scheme that rounds AFTER, and its precision."""
        scheme = next(iter(self.schemes), None)
        return (None, "bfloat16") if scheme == CAST else (scheme, dtype)


def asked_of(
    models: Sequence[str], schemes: tuple[str, ...] | None, more_texts: Sequence[str]
) -> Asked:
    """Tell models and texts apart. Raises UnembedError for too few.

    The last is the text, unless it is a model and ``more_texts`` are there, or there are two alone.
    """
    base, *others = models
    schemes, texts = schemes or (), list(more_texts)
    if len(others) > (0 if schemes else 1) and not (texts and _is_model(others[-1])):
        last = others.pop()
        if _is_model(last):
            raise UnembedError(f"{last} is a model, where CORPUS is wanted: give the text last")
        texts.insert(0, last)
    if (not others and not schemes) or (schemes and not texts):
        raise UnembedError(
            f"{' '.join(models)} is too little to compare: give BEFORE AFTER (two runs), "
            "BEFORE AFTER... CORPUS (models), or MODEL CORPUS with --quantize"
        )
    return Asked(base, tuple(others), schemes, tuple(texts))


def _is_model(place: str) -> bool:
    """Whether this is a checkpoint, an adapter or a GGUF file, as far as its name says."""
    path = Path(place.partition("=")[2] if "=" in place and not Path(place).exists() else place)
    names = ("config.json", "adapter_config.json")
    return path.suffix == ".gguf" or any((path / name).is_file() for name in names)


def climb(
    asked: Asked,
    output: Output,
    kept: dict[str, Any],
    spelled_by: str | None,
    command: str,
    *,
    text_column: str | None,
    document: str | None,
    dtype: str | None,
    dtype_after: str | None,
    quantize: tuple[str, ...] | None,
    quantize_head: bool | None,
    device: str | None,
    base: str | None,
    **given: Any,
) -> None:
    """Measure a ladder, print it, and exit with 2 where a variant was refused."""
    from unembed.decisions.audit.run import AuditOptions
    from unembed.decisions.comparison.positions import PositionFilter
    from unembed.decisions.comparison.tokenizers import refuse_other_texts, surely_alike
    from unembed.decisions.ladder.ladder import ladder
    from unembed.decisions.ladder.variants import (
        Variant,
        check_variants,
        others_than,
        shared_context,
    )
    from unembed.models.adapters import is_adapter_alone
    from unembed.models.checkpoint import load_tokenizer
    from unembed.text.corpus import Corpus
    from unembed.text.rows import RowRules, read_rows
    from unembed.text.tokenised import ReadingLimit

    if quantize_head and not set(asked.schemes) & set(SCHEMES):
        raise UnembedError("--quantize-head needs --quantize int8 or int4")
    if not asked.texts:
        raise UnembedError("several variants need a CORPUS: give a text last")
    options = AuditOptions(**{name: n for name, n in given.items() if n is not None})
    reading: dict[str, Any] = {"text_column": text_column or "text", "document": document}
    names = names_of(asked.texts)
    for text in asked.texts:
        next(read_rows(text, RowRules(**reading)), None)
    below: dict[str, Any] = {"device": device, "base": base, "opened": opened}
    first = Variant("base", asked.base, dtype=dtype or "auto", **below)
    kind = dtype_after or dtype or "auto"
    rounded = Variant("base", asked.base, dtype=kind, **below)
    variants = [
        *(Variant.of(one, dtype=kind, **below) for one in asked.given),
        *(rounded.rounded(scheme, head=bool(quantize_head)) for scheme in asked.schemes),
    ]
    if base is not None and not any(is_adapter_alone(one.model) for one in (first, *variants)):
        raise UnembedError(f"--base {base} is for an adapter, and none is given: leave --base out")
    check_variants(first, variants)
    tokenizer = first.outline.tokenizer
    context = shared_context(first, variants, options.context)
    for one in (first, *others_than(first, variants)):
        options.check_outline(one.outline)
    limit = None
    if options.max_positions is not None:
        limit = ReadingLimit.of(options.max_positions, context=context)
    others = [
        one for one in others_than(first, variants) if not surely_alike(first.outline, one.outline)
    ]
    corpora = {}
    with current_phases()("read"):
        for name, text in zip(names, asked.texts, strict=True):
            how = {**reading, "limit": limit, "progress": output.progress}
            corpora[name] = Corpus.read(text, tokenizer, **how)
            for one in others:
                again = Corpus.read(text, one.outline.tokenizer, **how)
                refuse_other_texts(first.outline, one.outline, corpora[name], again)
            for note in corpora[name].notes:
                click.echo(f"{text}: {note}", err=True)
    if spelled_by is not None:
        kept["tokenizer"] = load_tokenizer(spelled_by)
    held = _summary_in(output.folder)
    done = ladder(
        first,
        variants,
        corpora,
        options,
        out=output.folder,
        only=PositionFilter(**kept),
        command=command,
        progress=output.progress,
    )
    same = output.finished and _summary_in(output.folder) == held
    _name_what_is_left(held, done, output.folder)
    replace(output, finished=same).end(done)
    for refused in done.summary.refused:
        echo(f"unembed: {refused.name} was not measured: {refused.reason}", err=True)
    if done.summary.refused:
        sys.exit(2)


def _summary_in(folder: Path) -> bytes:
    """The summary that lies in a folder; nothing where there is none."""
    from unembed.runs.manifest import SUMMARY

    place = folder / SUMMARY
    return place.read_bytes() if place.exists() else b""


def _name_what_is_left(held: bytes, done: Ladder, folder: Path) -> None:
    """Say which variants of the ladder that was there before are not in its table any more."""
    if not held:
        return
    asked = {one.name for one in done.summary.variants}
    asked |= {one.name for one in done.summary.refused}
    left = [one["name"] for one in json.loads(held)["variants"] if one["name"] not in asked]
    if left:
        echo(
            f"{folder} keeps {', '.join(left)} of the ladder before, and this table does not: "
            "give every variant that it shall have",
            err=True,
        )


def names_of(texts: Sequence[str]) -> list[str]:
    """A short name for each text. Raises UnembedError where two have one."""
    names = [Path(text).name.partition(".")[0] or text for text in texts]
    for name, text in zip(names, texts, strict=True):
        if [one.casefold() for one in names].count(name.casefold()) > 1:
            raise UnembedError(
                f"two texts are called {name} (one of them {text}), as their folders in the run "
                "would be: give each once, under names of their own"
            )
    return names
