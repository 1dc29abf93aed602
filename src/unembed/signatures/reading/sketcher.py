"""What a sketch takes from each batch of a pass over a text, and how the parts become one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unembed.errors import NonFiniteError, UnembedError
from unembed.head.head import Head, bytes_of
from unembed.head.precision import Precision
from unembed.head.sweep import Sweep
from unembed.models.checkpoint import Checkpoint, token_ids
from unembed.models.model_pass import ModelPass, ReadingOptions
from unembed.runs.provenance import versions_of_packages
from unembed.runs.store import RunFolder
from unembed.short_repr import ShortRepr
from unembed.signatures.batch_sums import BatchSums, batch_sums, whole_state
from unembed.signatures.file import as_bytes, from_bytes
from unembed.signatures.reading.features import features
from unembed.signatures.signature import Fisher, Identity, Signature, Unit
from unembed.signatures.sketches.constructions import sketch_of
from unembed.signatures.sketches.names import DEFAULT
from unembed.signatures.sketches.sketch import Sketch, SketchSpec
from unembed.signatures.state import DOCUMENT_BLOCKS, Features, State, empty
from unembed.text.batches import Batch

FILE = "signature.safetensors"
"""The finished signature in the folder of an audit."""


@dataclass(frozen=True)
class SketchOptions(ReadingOptions):
    """How to sketch a text that is read as ``ReadingOptions`` says.

    ``fisher`` "empirical" takes the text's own next tokens as labels, "true" the model's
    distribution over them, which needs no labels. A sample is a ``unit``: a "token", or a
    "sequence" (a window), whose gradients are summed before they are squared: these are other
    Fishers. ``first_moment`` keeps the mean gradient too, whose cosine is signed. ``blocks`` of
    documents give sampling errors; 0 keeps none. Source: theory §7, §9.
    """

    spread: bool = True
    construction: str = DEFAULT
    m: int = 4096
    seed: int = 0
    fisher: Fisher = "empirical"
    unit: Unit = "token"
    first_moment: bool = False
    blocks: int = DOCUMENT_BLOCKS

    @property
    def whole_windows(self) -> bool:
        """Whether ``spread`` takes windows whole, as samples that are windows need."""
        return self.spread and self.unit == "sequence"

    def __post_init__(self) -> None:
        super().__post_init__()
        SketchSpec(2, 1, self.construction, self.m, self.seed)
        empty(self.m, blocks=self.blocks)
        for name, value, known in (
            ("fisher", self.fisher, ("empirical", "true")),
            ("unit", self.unit, ("token", "sequence")),
        ):
            if value not in known:
                raise UnembedError(f"{name} {value!r} is not one of {', '.join(known)}")
        if self.first_moment and self.fisher == "true":
            raise UnembedError(
                "the true Fisher's mean gradient is 0: ask for no first moment of it, or for the "
                "empirical Fisher"
            )


@dataclass(frozen=True)
class Sketcher(ShortRepr):
    """A reader of a pass that sums up sketched gradients; ``hashes`` are those of the documents.

    It can be an audit's second reader. ``sizes`` is how many positions are read of each document,
    of all with its hash, and ``documents`` how many of them are read. A document that goes on over
    a part's end (of 32,768 positions) is cut there: its pieces count as two where norms leave out
    the pairs within a document. Until its part ends, the sums of a document that several batches
    share are held for each: batches x 3 kinds x m x 8 bytes, 96 KiB at m = 4096.
    """

    name: str
    identity: Identity
    sketch: Sketch
    first: bool
    blocks: int
    hashes: Int[np.ndarray, " documents"]
    sizes: Int[np.ndarray, " documents"]
    documents: int
    facts: dict[str, str]

    @staticmethod
    def of(
        reading: ModelPass, options: SketchOptions, checkpoint: Checkpoint, task: str
    ) -> Sketcher:
        """For this pass; where its head is restricted to some tokens, so is the sketch's softmax.

        The restriction is part of the identity only where it leaves out tokens of the tokenizer.
        """
        head, windows = reading.head, reading.windows
        corpus = windows.corpus
        spec = SketchSpec(head.vocab, head.dim, options.construction, options.m, options.seed)
        identity = Identity(
            spec,
            options.unit,
            options.fisher,
            head.hash_of_rows().hexdigest(),
            reading.model_digest(),
            _tokenizer_digest(corpus.tokenizer),
            _support(head, len(token_ids(corpus.tokenizer))),
        )
        hashes = corpus.document_hashes()
        _, same = np.unique(hashes, return_inverse=True)
        read = np.bincount(windows.doc, windows.counts, len(hashes))
        facts = {
            "model": checkpoint.name,
            "text": corpus.rules,
            "text_digest": corpus.digest,
            "context": f"{windows.context}, {windows.overflow}" + ", spread" * options.spread,
            "positions": str(windows.positions),
            "tokenizer": windows.facts.tokenizer,
            "versions": ", ".join(f"{k} {v}" for k, v in versions_of_packages().items()),
        }
        if notes := windows.facts.notes:
            facts["notes"] = "; ".join(notes)
        return Sketcher(
            task,
            identity,
            sketch_of(spec, head.weight.device),
            options.first_moment,
            options.blocks,
            hashes,
            np.bincount(same, read)[same].astype(np.int64),
            len(np.unique(windows.doc)),
            facts,
        )

    @property
    def key(self) -> dict[str, Any]:
        """The plain values that the sketch depends on, but for the pass."""
        return {**self.identity.plain(), "first_moment": self.first, "blocks": self.blocks}

    def swept(
        self,
        hidden: Float[Tensor, "positions dim"],
        head: Head,
        targets: Int[Tensor, " positions"],
        batch: Batch,
        k: int,
        precision: Precision,
    ) -> tuple[Sweep, BatchSums]:
        """The sweep of a batch, and its samples; rows not finite are left out."""
        sequence = None
        if self.identity.unit == "sequence":
            sequence = torch.from_numpy(batch.window).to(hidden.device)
        found, made = features(
            hidden,
            head,
            targets,
            self.sketch,
            sequence=sequence,
            fisher=self.identity.fisher,
            precision=precision,
            k=k,
            first=self.first,
        )
        kept = found.finite
        if sequence is not None:
            bad = torch.zeros(len(made.joint), dtype=torch.float32, device=hidden.device)
            kept = bad.index_add_(0, sequence, (~found.finite).float()) == 0
        return found, self.summed(made, batch, None if bool(kept.all()) else kept)

    def summed(
        self, made: Features, batch: Batch, kept: Bool[Tensor, " samples"] | None = None
    ) -> BatchSums:
        """The sums of a batch's samples; None keeps all of them."""
        hashes = self.hashes[batch.doc]
        _, same, here = np.unique(hashes, return_inverse=True, return_counts=True)
        whole = here[same] == self.sizes[batch.doc]
        if self.identity.unit == "sequence":
            _, where = np.unique(batch.window, return_index=True)
            hashes, whole = hashes[where], whole[where]
        if kept is not None:
            some = kept.cpu().numpy()
            made, hashes, whole = _some(made, kept), hashes[some], whole[some]
        like = empty(self.identity.spec.m, first=self.first, blocks=self.blocks)
        return batch_sums(like, made, hashes, whole)

    def signature(self, states: Sequence[State]) -> Signature:
        """The signature of all samples, of the states of the parts."""
        state = replace(reduce(State.__add__, states), documents=self.documents)
        return Signature(self.name, self.identity, state, self.facts)

    def keep(self, folder: RunFolder, part: str, found: list[BatchSums]) -> None:
        """Write what was found in a part's batches, in order of the text."""
        folder.write_bytes(_file(part), as_bytes(self.signature([whole_state(found)])))

    def kept(self, folder: RunFolder, part: str) -> bool:
        """Whether a part's was written before."""
        return _file(part) in folder.done

    def finish(self, folder: RunFolder) -> None:
        """Write the signature of all parts."""
        folder.write_bytes(FILE, as_bytes(self.gathered(folder)))

    def gathered(self, folder: RunFolder) -> Signature:
        """The signature of all parts that were kept."""
        paths = sorted(path for path in folder.done if path.startswith("sketch/"))
        return self.signature(
            [from_bytes((folder.folder / path).read_bytes(), path).state for path in paths]
        )


def refuse_not_finite(
    reading: ModelPass, swept: Sweep, batch: Batch, model: str, first_row: int = 0
) -> None:
    """Raise NonFiniteError for a logit that is not, at a row of a batch from ``first_row`` on."""
    if bool(swept.finite.all()):
        return
    row = first_row + int((~swept.finite).nonzero()[0, 0])
    raise NonFiniteError(
        f"{model} gives logits that are not finite at document "
        f"{reading.windows.corpus.names[int(batch.doc[row])]!r} (doc {batch.doc[row]}) "
        f"position {batch.pos[row]}: mend the weights"
    )


def _file(part: str) -> str:
    return f"sketch/{part}.safetensors"


def _some(made: Features, kept: Bool[Tensor, " rows"]) -> Features:
    """The rows that are kept."""
    first, norm = made.first, made.squared_norm
    return Features(
        made.joint[kept],
        made.activation[kept],
        made.error[kept],
        None if first is None else first[kept],
        None if norm is None else norm[kept],
    )


def _support(head: Head, known: int) -> str:
    """A digest of the tokens that the softmax is over, or "" where they are all that there are."""
    if head.valid is None or head.tokens == min(known, head.vocab):
        return ""
    return hashlib.sha256(bytes_of(head.valid)).hexdigest()


def _tokenizer_digest(tokenizer: Any) -> str:
    tokens = sorted((int(i), token) for token, i in tokenizer.get_vocab().items())
    return hashlib.sha256(json.dumps(tokens).encode()).hexdigest()
