"""What a sketch of a whole network takes from each batch of a pass, and how batches become one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from unembed.errors import NonFiniteError, UnembedError
from unembed.head.head import final_hidden, input_device
from unembed.head.loss import hidden_gradient
from unembed.head.product import float32_products
from unembed.head.sweep import Sweep
from unembed.models.checkpoint import Checkpoint
from unembed.models.model_pass import ModelPass
from unembed.runs.phases import Phases
from unembed.short_repr import ShortRepr
from unembed.signatures.batch_sums import BatchSums, whole_state
from unembed.signatures.network.block_reader import BlockReader, NotFiniteAtError
from unembed.signatures.network.block_samples import BlockSamples
from unembed.signatures.network.capture import Capture, refuse_never_run
from unembed.signatures.network.modules import HEAD, NetworkModule, left_out, network_modules
from unembed.signatures.network.part_sums import PartSums
from unembed.signatures.network.products import EntrySums
from unembed.signatures.network.projections import ErrorsProjected
from unembed.signatures.network.signature import (
    NetworkSignature,
    module_part,
    modules_digest,
    parts_kept,
)
from unembed.signatures.reading.features import Sides, features_and_sides
from unembed.signatures.reading.sketcher import Sketcher, SketchOptions, refuse_not_finite
from unembed.signatures.sketches.constructions import sketch_of
from unembed.signatures.sketches.sketch import Sketch
from unembed.signatures.state import SUMMED, Features, State
from unembed.text.batches import Batch, Block

BlockSides = tuple[Shaped[Tensor, "samples features"], Shaped[Tensor, "samples features"]]

Backward = Literal["float32", "bfloat16", "float16"]
SAMPLES = {
    "token": "a position's error times its input; the error carries the losses of later tokens too",
    "sequence": "the gradient of a window's summed loss",
}
"""What a sample is, by unit, as facts say."""
MARGINALS = ("activation", "error")
"""Kinds of features that only a module by itself has."""


@dataclass(frozen=True)
class NetworkOptions(SketchOptions):
    """How to sketch the gradients of a whole network; what is not said here, ``SketchOptions`` do.

    ``modules`` are patterns of ``network_modules``; none take all. ``backward`` is the dtype that
    the model must have, forward and backward pass being in its own. A sample of unit "sequence" is
    the gradient of a window's summed loss, and one of unit "token" a position's ``δ aᵀ``, whose
    error carries the losses of later tokens too. Labels are the text's. Source: theory §12.
    """

    modules: tuple[str, ...] = ()
    backward: Backward = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backward not in get_args(Backward):
            known = ", ".join(get_args(Backward))
            raise UnembedError(f"backward {self.backward!r} is not one of {known}")
        if isinstance(self.modules, str):
            raise UnembedError(
                f"modules {self.modules!r} is one word: give a tuple, ({self.modules!r},)"
            )
        if not all(self.modules):
            raise UnembedError(
                "a pattern of modules is empty: give one such as depth:3, or none for all modules"
            )
        if self.fisher != "empirical":
            raise UnembedError(
                f"fisher {self.fisher!r} is of the head alone: of a network the labels are the "
                "text's, leave it at empirical (--labels text)"
            )
        if self.stored is not None:
            raise UnembedError("stored hidden states have no network below: read the text itself")

    def check_model(self, checkpoint: Checkpoint) -> None:
        """Raise UnembedError for what this model cannot give, before a text is read."""
        super().check_model(checkpoint)
        check_dtype(checkpoint, self.backward)
        network_modules(checkpoint.model, self.modules)


@dataclass(frozen=True)
class NetworkBatch:
    """The samples of a batch: the head's, as its own signature takes them, and all parts' sums."""

    head: BatchSums
    parts: PartSums


@dataclass(frozen=True)
class NetworkSketcher(ShortRepr):
    """A reader of a pass that runs each batch forward and backward and sums up projections.

    ``head`` is the reader of the head's own signature, which the head's part is bitwise.
    ``sketches`` are those of ``modules``, in their order, and ``entries`` the way of those that are
    taken entry by entry. Sums held do not grow with the text: of three kinds of
    features of each module and one of each other part, and, until its part of the text ends, a
    document's own that lies in several blocks of windows.
    """

    head: Sketcher
    modules: tuple[NetworkModule, ...]
    sketches: tuple[Sketch, ...]
    entries: tuple[EntrySums | None, ...]
    precision: str
    facts: dict[str, str]

    @staticmethod
    def of(
        reading: ModelPass,
        options: NetworkOptions,
        checkpoint: Checkpoint,
        task: str,
        modules: tuple[NetworkModule, ...],
    ) -> NetworkSketcher:
        """For this pass and these modules, which are those of ``network_modules``."""
        reading.head.must_be_whole("a sketch of a whole network")
        head = Sketcher.of(reading, options, checkpoint, task)
        device = reading.head.weight.device
        sketches = [
            head.sketch
            if one.name == HEAD
            else sketch_of(one.spec(options.construction, options.m, options.seed), device)
            for one in modules
        ]
        facts = head.facts | {
            "modules": ", ".join([f"{len(modules)}", *options.modules]),
            "left_out": str(left_out(checkpoint.model, modules)),
            "sample": SAMPLES[options.unit],
            "backward": options.backward,
        }
        by_entry = tuple(
            EntrySums.of(one) if options.unit == "sequence" else None for one in sketches
        )
        return NetworkSketcher(head, modules, tuple(sketches), by_entry, options.backward, facts)

    @property
    def key(self) -> dict[str, Any]:
        """The plain values that the sketch depends on, but for the pass."""
        return self.head.key | {
            "modules": modules_digest(self.modules),
            "backward": self.precision,
        }

    @cached_property
    def sizes(self) -> Mapping[int, int]:
        """How many predictions are read of the documents of each hash."""
        head = self.head
        return dict(zip(head.hashes.astype(np.uint64).tolist(), head.sizes.tolist(), strict=True))

    def read(
        self,
        reading: ModelPass,
        model: nn.Module,
        capture: Capture,
        batch: Batch,
        phases: Phases,
    ) -> NetworkBatch:
        """The samples of a batch, forward and backward, a block of windows at a time.

        Raises NonFiniteError where a logit or a gradient is not finite.
        """
        found, parts, start = list[Features](), PartSums(), 0
        for block in batch.blocks:
            rows = slice(start, start + int(block.real.sum()))
            start = rows.stop
            made, sums = self._block(reading, model, capture, batch, block, rows, phases)
            found.append(made)
            parts.add(sums, self.sizes)
        return NetworkBatch(self.head.summed(_joined(found), batch), parts)

    def gathering(self) -> Gathering:
        """What a part of the text's batches are gathered in."""
        return Gathering(self)

    def signature(self, states: Mapping[str, State]) -> NetworkSignature:
        """The signature of all samples, of the sums of the states of the text's parts."""
        identity = self.head.identity
        every = self.head.documents
        return NetworkSignature(
            name=self.head.name,
            head=identity.spec,
            unit=identity.unit,
            head_digest=identity.head_digest,
            model_digest=identity.model_digest,
            tokenizer=identity.tokenizer,
            support=identity.support,
            precision=self.precision,
            modules=self.modules,
            states={part: replace(state, documents=every) for part, state in states.items()},
            facts=self.facts,
        )

    def _block(
        self,
        reading: ModelPass,
        model: nn.Module,
        capture: Capture,
        batch: Batch,
        block: Block,
        rows: slice,
        phases: Phases,
    ) -> tuple[Features, PartSums]:
        """One block of windows: the head's features, and the sums of all parts."""
        head, unit = reading.head, self.head.identity.unit
        doc = batch.doc[rows]
        samples = BlockSamples.of(
            unit, block.real, self.head.hashes[doc].astype(np.uint64), self.head.sizes[doc]
        )
        reader = BlockReader(
            self.modules,
            self.sketches,
            self.entries,
            samples,
            first=self.head.first,
            blocks=self.head.blocks,
        )
        with (
            phases("body"),
            float32_products(reading.body_route),
            capture.forward(reader.take, block.input_ids.numel()),
        ):
            states = final_hidden(model, block.input_ids.to(input_device(model)))
            hidden = states[block.real.to(states.device)]
        refuse_never_run(capture.never_ran())
        reader.calls = capture.calls
        sequence = None
        if unit == "sequence":
            sequence = (block.real.nonzero()[:, 0]).to(hidden.device)
        final, targets = hidden.detach(), batch.targets[rows].to(hidden.device)
        with phases("head"):
            swept, made, sides = features_and_sides(
                final,
                head,
                targets,
                self.head.sketch,
                sequence=sequence,
                precision=reading.precision,
                first=self.head.first,
            )
            refuse_not_finite(reading, swept, batch, self.facts["model"], rows.start)
            gradient, sides, trace = self._head(
                reading, final, targets, swept, sides, made, sequence
            )
            if self.modules[-1].name == HEAD:
                reader.take_head(*sides, trace)
        if hidden.requires_grad:
            with phases("backward"), float32_products(reading.body_route):
                try:
                    hidden.backward(gradient)
                    reader.end()
                except NotFiniteAtError as bad:
                    self._refuse_gradient(reading, bad)
        else:
            reader.end()
        return made, reader.parts

    def _head(
        self,
        reading: ModelPass,
        hidden: Float[Tensor, "positions dim"],
        targets: Int[Tensor, " positions"],
        swept: Sweep,
        sides: Sides,
        made: Features,
        sequence: Int[Tensor, " positions"] | None,
    ) -> tuple[Float[Tensor, "positions dim"], BlockSides, float]:
        """The gradient in the hidden states, and both projections of the head's own with its trace.

        A scale multiplies the head's gradient, and a soft-cap bends it, entry by entry: its own
        signature is of ``softmax - onehot`` before both, the network's of the gradient itself.
        """
        head, sketch = reading.head, self.head.sketch
        calls = partial(
            hidden_gradient,
            hidden,
            head,
            targets,
            swept.logsumexp,
            precision=reading.precision,
        )
        assert made.squared_norm is not None
        if head.softcap is None:
            x, y = (sketch.unpack(side) * head.scale for side in sides)
            return calls(), (x, y), float(made.squared_norm.double().sum()) * head.scale**2
        observer = ErrorsProjected(sketch, len(hidden), hidden.device)
        gradient = calls(observe=observer.take)
        x, y, trace = observer.sides(hidden, sequence, len(made.joint))
        return gradient, (x, y), trace

    def _refuse_gradient(self, reading: ModelPass, bad: NotFiniteAtError) -> None:
        doc = int(np.flatnonzero(self.head.hashes.astype(np.uint64) == bad.document)[0])
        raise NonFiniteError(
            f"{self.facts['model']} has a gradient that is not finite at {bad.module} in document "
            f"{reading.windows.corpus.names[doc]!r} (doc {doc}): leave the document out, or run "
            "the model in a wider dtype"
        ) from None


class Gathering:
    """The batches of a part of a text, in order, as states of all parts of the network; in place.

    The head's are held as its own signature's reader holds them.
    """

    def __init__(self, sketcher: NetworkSketcher) -> None:
        self._sketcher = sketcher
        self._heads: list[BatchSums] = []
        self._parts = PartSums()

    def add(self, batch: NetworkBatch) -> None:
        """Add a batch's samples."""
        self._heads.append(batch.head)
        self._parts.add(batch.parts, self._sketcher.sizes)

    def states(self) -> dict[str, State]:
        """The states of all samples; documents that are open end here."""
        self._parts.end()
        head, modules = whole_state(self._heads), self._sketcher.modules
        own = {module_part(one) for one in modules}
        entries = [
            (part, kind)
            for part in parts_kept(modules)
            for kind in SUMMED
            if part != HEAD
            and (kind != "first" or self._sketcher.head.first)
            and (part in own or kind not in MARGINALS)
        ]
        made = self._parts.states(head, entries)
        if modules[-1].name == HEAD:
            made[HEAD] = head
        return {part: made[part] for part in parts_kept(modules)}


def check_dtype(checkpoint: Checkpoint, backward: str) -> None:
    """Raise UnembedError where a model is of another dtype than its backward pass should be, or
    lies on several devices.
    """
    devices = {str(one.device) for one in checkpoint.model.parameters()}
    if len(devices) > 1:
        raise UnembedError(
            f"{checkpoint.name} lies on {' and '.join(sorted(devices))}: a sketch of a network "
            "needs it on one device (no --device-map)"
        )
    found = {
        str(one.dtype).removeprefix("torch.")
        for one in checkpoint.model.parameters()
        if one.is_floating_point()
    }
    if found == {backward}:
        return
    other = min(found - {backward})
    label = f", or say so with --backward {other}" if found == {other} else ""
    if other == "float32":
        label = ", or leave --backward out"
    noise = " (a gradient in it can be noise)" if backward == "float32" else ""
    raise UnembedError(
        f"{checkpoint.name} is in {other}{noise} and the backward pass is to be in {backward}: "
        f"load it with --dtype {backward}{label}"
    )


def _joined(found: list[Features]) -> Features:
    """The features of several blocks, in their order."""
    if len(found) == 1:
        return found[0]

    def joined(name: str) -> Any:
        rows = [getattr(one, name) for one in found]
        return None if rows[0] is None else torch.cat(rows)

    return Features(*(joined(name) for name in Features.__dataclass_fields__))
