"""Which entries of an index a prompt, or a handful of texts, is most alike: one pass of the model.

A prompt of a few tokens has one document and no debiased norm, so that its cosines are not known;
the order of the entries is, which needs their products with it alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

from unembed.errors import UnembedError
from unembed.models.checkpoint import Checkpoint
from unembed.runs.provenance import digest_of
from unembed.selection.index.index import Index
from unembed.selection.index.query import Answer
from unembed.signatures.network.sketch_part import sketch_part
from unembed.signatures.reading.sketcher import SketchOptions
from unembed.signatures.signature import Identity, merge
from unembed.text.corpus import Corpus

MOST_LETTERS = 24


def route(
    index: Index,
    checkpoint: Checkpoint,
    texts: Sequence[Corpus],
    *,
    name: str = "the text",
    top: int = 3,
    context: int | None = None,
    approximate: bool = False,
    progress: bool = False,
) -> Answer:
    """The entries that some texts, taken together, are most alike, nearest first.

    They are sketched as the index's signatures were. Raises UnembedError where the model is not
    that of the index, before the pass, and as ``sketch`` and ``Index.query`` do.
    """
    if not texts:
        raise UnembedError("nothing to route: give a text")
    identity = index.identity
    found = digest_of(checkpoint.model)
    if found != identity.model_digest:
        raise UnembedError(
            f"{index.folder} has model digest {identity.model_digest[:MOST_LETTERS]} and "
            f"{checkpoint.name} model digest {found[:MOST_LETTERS]}: route with the model that its "
            "signatures are of"
        )
    options = replace(options_of(identity, index.by == "gradient"), context=context)
    made = [
        sketch_part(
            checkpoint,
            text,
            identity.part,
            options,
            backward=identity.backward or "float32",
            task=name,
            progress=progress,
        )
        for text in texts
    ]
    return index.query(reduce(merge, made), top, approximate=approximate)


def options_of(identity: Identity, first_moment: bool) -> SketchOptions:
    """What gives signatures of this identity, without what only their errors need."""
    spec = identity.spec
    return SketchOptions(
        construction=spec.construction,
        m=spec.m,
        seed=spec.seed,
        fisher=identity.fisher,
        unit=identity.unit,
        first_moment=first_moment,
        blocks=0,
    )
