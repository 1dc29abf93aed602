"""One part of a network's signature of a text, from no more modules than it is of."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from unembed.models.checkpoint import Checkpoint
from unembed.signatures.network.modules import HEAD
from unembed.signatures.network.names import BLOCKS, FULL, MODULE
from unembed.signatures.network.run import sketch_network
from unembed.signatures.network.signature import NetworkSignature
from unembed.signatures.network.sketcher import NetworkOptions
from unembed.signatures.reading.run import sketch
from unembed.signatures.reading.sketcher import SketchOptions
from unembed.signatures.signature import Signature
from unembed.text.corpus import Corpus


def sketch_part(
    checkpoint: Checkpoint,
    corpus: Corpus,
    part: str,
    options: SketchOptions,
    *,
    like: NetworkSignature | None = None,
    backward: Any = "float32",
    out: str | Path | None = None,
    task: str | None = None,
    at_most: bool = False,
    progress: bool = False,
) -> Signature:
    """Equivalent to ``sketch_network(...).part(part)``; of the head, to ``sketch``.

    Modules are those of the part or, of "full" and "blocks", those of ``like`` where it is given.
    ``out`` gets the signature of these modules. Raises UnembedError as ``sketch_network`` does.
    """
    how: dict[str, Any] = {"out": out, "task": task, "at_most": at_most, "progress": progress}
    if part in ("", HEAD):
        return sketch(checkpoint, corpus, options, **how)
    given = {field.name: getattr(options, field.name) for field in fields(SketchOptions)}
    patterns: tuple[str, ...] = (part.removeprefix(MODULE),)
    if part in (FULL, BLOCKS):
        patterns = () if like is None else tuple(module.name for module in like.modules)
    precision: Any = backward if like is None else like.precision
    wanted = NetworkOptions(**given, modules=patterns, backward=precision)
    return sketch_network(checkpoint, corpus, wanted, **how).part(part)
