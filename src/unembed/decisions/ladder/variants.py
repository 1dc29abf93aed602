"""The models of a ladder: how each is called, and how it is opened, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unembed.decisions.comparison.tokenizers import (
    refuse_other_rows,
    refuse_other_tokenizers,
    refuse_other_vocabularies,
)
from unembed.errors import UnembedError
from unembed.models.adapters import is_adapter_alone, load_whole
from unembed.models.checkpoint import CONTEXT_LIMIT, Checkpoint, gguf_file
from unembed.models.names import CAST
from unembed.models.outline import Outline, outline_of
from unembed.models.quantization import check_scheme, quantized
from unembed.models.stored_size import (
    WeightBytes,
    bytes_in,
    bytes_of_weights,
    bytes_when_rounded,
)
from unembed.runs.store import OURS
from unembed.short_repr import ShortRepr
from unembed.text.corpus import Corpus

BASE = "base"
STATES = "states"
"""Where the base's hidden states lie while variants are missing."""
RESERVED = (BASE, STATES, "report.html", "index.html", "summary.json", *OURS)
"""What a variant cannot be called, as its folder lies beside these."""


@dataclass(frozen=True)
class Variant(ShortRepr):
    """A model of a ladder, opened when its turn comes.

    ``name`` is short, that of its folder in the run; ``model`` a checkpoint, an adapter's folder or
    a GGUF file. ``scheme`` rounds its weights here: ``int8`` and ``int4`` as ``quantized`` does,
    ``head`` included on request, and ``bf16`` casts them. ``base`` is the model below an adapter.
    """

    name: str
    model: str
    scheme: str | None = None
    head: bool = False
    dtype: str = "auto"
    device: str | None = None
    base: str | None = None
    opened: Callable[..., Checkpoint] = field(default=load_whole, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.scheme is not None and self.scheme != CAST:
            check_scheme(self.scheme)
        if Path(self.name).name != self.name or self.name.startswith("."):
            raise UnembedError(
                f"{self.name!r} cannot be a folder's name: name the variant, as NAME={self.model}"
            )

    @staticmethod
    def of(given: str, **loading: Any) -> Variant:
        """A variant as it is given on the command line: ``MODEL``, or ``NAME=MODEL``."""
        name, equals, model = given.partition("=")
        if not equals or not name or "/" in name or Path(given).exists():
            name, model = Path(given).resolve().name.removesuffix(".gguf"), given
        return Variant(name, model, **loading)

    def rounded(self, scheme: str, *, head: bool = False) -> Variant:
        """The variant that rounding this model's weights here makes."""
        name = f"{scheme}-head" if head and scheme != CAST else scheme
        dtype = "bfloat16" if scheme == CAST else self.dtype
        return replace(self, name=name, scheme=scheme, head=head and scheme != CAST, dtype=dtype)

    @property
    def given(self) -> str:
        """What it was made from, and how."""
        return self.model if self.scheme is None else f"{self.model} in {self.name}"

    @property
    def reads_base_tokens(self) -> bool:
        """Whether it is given the base's tokens, though its own tokenizer may split a text
        otherwise: a GGUF file names a way to split that few readers know, and lists its tokens.
        """
        return gguf_file(self.model) is not None

    @cached_property
    def outline(self) -> Outline:
        """What is known of it before it is opened."""
        return outline_of(self.model, self.base if is_adapter_alone(self.model) else None)

    def open(self) -> tuple[Checkpoint, WeightBytes]:
        """The model and the bytes of its weights. Raises UnembedError as ``load_whole`` does."""
        base = self.base if is_adapter_alone(self.model) else None
        found = self.opened(self.model, dtype=self.dtype, device=self.device, base=base)
        if self.scheme is None:
            return found, bytes_of_weights(found, self.model, base)
        if self.scheme == CAST:
            return found, bytes_in(found.model, torch.bfloat16.itemsize, CAST)
        stored = bytes_of_weights(found, self.model, base)
        size = bytes_when_rounded(found.model, self.scheme, stored, head=self.head)
        return quantized(found, self.scheme, head=self.head, in_place=True), size


def check_variants(base: Variant, variants: Sequence[Variant]) -> None:
    """Raise UnembedError for a variant given twice, the base given as one, and names that collide.

    Nothing is opened.
    """
    seen: set[Any] = set()
    names = {name.casefold(): base for name in RESERVED}
    for one in variants:
        if _what(one) == _what(base):
            raise UnembedError(f"{one.model} is the base itself: give another variant")
        if _what(one) in seen:
            raise UnembedError(f"{one.given} is given twice: give each variant once")
        seen.add(_what(one))
        other = names.setdefault(one.name.casefold(), one)
        if other is not one:
            clash = "a name that the run needs" if other is base else f"as {other.given} would be"
            raise UnembedError(
                f"{one.given} would be called {one.name}, {clash}: name it, as NAME={one.model}"
            )


def _what(one: Variant) -> tuple[Any, ...]:
    """What makes two variants one: the place, and what is done to the weights."""
    place = Path(one.model)
    return str(place.resolve()) if place.exists() else one.model, one.scheme, one.head, one.dtype


def shared_context(base: Variant, variants: Sequence[Variant], asked: int | None) -> int:
    """The context that all models read: the one asked for, or the shortest, at most 2,048.

    Raises UnembedError, with its name, for a model that reads less than is asked for.
    """
    limits = [(one.outline.context, one) for one in (base, *others_than(base, variants))]
    for limit, one in limits:
        if asked is not None and limit is not None and asked > limit:
            raise UnembedError(
                f"--context {asked} is more than the {limit} tokens that {one.given} is configured "
                f"for: give at most {limit}"
            )
    return asked or min([CONTEXT_LIMIT, *(limit for limit, _one in limits if limit is not None)])


def others_than(base: Variant, variants: Sequence[Variant]) -> list[Variant]:
    """The variants that are not made here from the base, and have a tokenizer of their own."""
    return [one for one in variants if one.model != base.model]


def refuse_unlike(base: Variant, variants: Sequence[Variant], corpus: Corpus) -> None:
    """Raise UnembedError for a variant of another tokenizer, or whose head has other tokens.

    By their files alone; what those do not say is found when the variant is opened.
    """
    ours = base.outline
    for one in others_than(base, variants):
        theirs = one.outline
        if one.reads_base_tokens:
            refuse_other_vocabularies(ours, theirs, more=True)
        else:
            refuse_other_tokenizers(ours, theirs, corpus)
        if ours.rows is not None and theirs.rows is not None:
            refuse_other_rows((ours.name, theirs.name), (ours.rows, theirs.rows), corpus)


class HeadAlone(nn.Module):
    """A model of which only the output head is left, as far as others ask for no more."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def get_output_embeddings(self) -> nn.Module:
        """The output head."""
        return self.head
