"""What a block's backward pass brings to each module, projected and summed as it comes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from unembed.errors import UnembedError
from unembed.signatures.network.block_samples import BlockSamples
from unembed.signatures.network.capture import Call
from unembed.signatures.network.modules import DEPTH, HEAD, NetworkModule
from unembed.signatures.network.names import BLOCKS, FULL
from unembed.signatures.network.part_sums import Entry, PartSums
from unembed.signatures.network.products import EntrySums
from unembed.signatures.network.projections import (
    Rows,
    by_document,
    grouped_sums,
    single_sums,
    trace_of,
)
from unembed.signatures.network.signature import module_part
from unembed.signatures.sketches.sketch import Sketch
from unembed.signatures.state import SUMMED


class BlockReader:
    """Takes the modules' inputs and errors of one block, in whatever order they come; in place.

    Of a module nothing stays but sums over documents, in ``parts``; of the whole network both
    projections of every sample. ``calls`` says how often each module ran.
    """

    def __init__(
        self,
        modules: Sequence[NetworkModule],
        sketches: Sequence[Sketch],
        entries: Sequence[EntrySums | None],
        samples: BlockSamples,
        *,
        first: bool,
        blocks: int,
    ) -> None:
        self.modules, self.sketches, self.samples = modules, sketches, samples
        self._entries = entries
        self.parts = PartSums()
        self.calls: Sequence[int] = ()
        self._first, self._blocks = first, blocks
        self._sides: tuple[Tensor, Tensor] | None = None
        self._waiting: dict[int, list[Call]] = {}
        self._shared: dict[str, dict[str, Tensor]] = {}
        self._held: dict[Entry, Float[np.ndarray, "open sketch"]] = {}

    def take_head(
        self,
        x: Shaped[Tensor, "samples features"],
        y: Shaped[Tensor, "samples features"],
        trace: float,
    ) -> None:
        """Take both projections of the head's own gradient, sample by sample."""
        head = next(one for one in self.modules if one.name == HEAD)
        self._add_sides(slice(0, len(x)), x, y)
        joint, first = (by_document(each, self.samples) for each in (x * y, x))
        self._share(head, joint, first, trace)

    def take(self, number: int, call: Call) -> None:
        """Take one call of a module, and what came back to it."""
        waiting = self._waiting.setdefault(number, [])
        waiting.append(call)
        if len(waiting) == self.calls[number]:
            self._project(number, self._waiting.pop(number))

    def end(self) -> None:
        """Sum up what is of several modules, once the backward pass is over."""
        for number in sorted(self._waiting):
            self._project(number, self._waiting.pop(number))
        for part, sums in self._shared.items():
            self._reduce(part, sums)
        if self._sides is not None:
            x, y = self._sides
            whole = {"joint": by_document(x * y, self.samples)}
            self._reduce(FULL, whole | {"first": self._shared[BLOCKS]["first"]})
            exact = self.samples.unit == "token"
            trace = self.parts.traces[BLOCKS] if exact else trace_of(self.sketches[0], x, y)
            self.parts.add_trace(FULL, trace)
        self.parts.hold(self.samples.documents, self.samples.positions, self._held)

    def _add_sides(self, rows: slice, x: Tensor, y: Tensor) -> None:
        """Add some samples' projections by one module to those of the network."""
        if self._sides is None:
            count = self.samples.count
            self._sides = x.new_zeros(count, x.shape[1]), y.new_zeros(count, y.shape[1])
        for into, each in zip(self._sides, (x, y), strict=True):
            into[rows] += each

    def _project(self, number: int, calls: list[Call]) -> None:
        module, sketch = self.modules[number], self.sketches[number]
        given = [rows for call in calls for rows in rows_of(call, self.samples.numbers, module)]
        single = len(given) == 1 and self.samples.unit == "token" and given[0].every
        made = (
            single_sums(sketch, given[0], self.samples, self._add_sides)
            if single
            else grouped_sums(sketch, given, self.samples, self._add_sides, self._entries[number])
        )
        if not (torch.isfinite(made.joint.real).all() and torch.isfinite(made.error.real).all()):
            bad = ~torch.isfinite(made.joint.real + made.error.real).all(1)
            raise NotFiniteAtError(
                module.name, int(self.samples.documents.hashes[int(bad.nonzero()[0, 0])])
            )
        kinds = {name: getattr(made, name) for name in SUMMED}
        self._reduce(module_part(module), kinds)
        self.parts.add_trace(module_part(module), made.trace)
        self._share(module, made.joint, made.first, made.trace)

    def _share(self, module: NetworkModule, joint: Tensor, first: Tensor, trace: float) -> None:
        """Add a module's sums to those of its depth and of all blocks."""
        for part in (BLOCKS, *(() if module.depth is None else (f"{DEPTH}{module.depth}",))):
            sums = self._shared.setdefault(
                part, {"joint": torch.zeros_like(joint), "first": torch.zeros_like(first)}
            )
            sums["joint"] += joint
            sums["first"] += first
            self.parts.add_trace(part, trace)

    def _reduce(self, part: str, sums: Mapping[str, Tensor]) -> None:
        """Add sums over documents to a part, by their folds and blocks."""
        for kind, rows in sums.items():
            if kind == "first" and not self._first:
                continue
            packed = self.sketches[0].pack(rows)
            held = self.parts.take((part, kind), packed, self.samples.documents, self._blocks)
            self._held[part, kind] = held


def rows_of(call: Call, numbers: Int[Tensor, "batch seq"], module: NetworkModule) -> list[Rows]:
    """The rows of a module's call that are of a sample, in the order of samples.

    A module may see positions in rows, flattened, several rows of each (such as heads), or some
    that were chosen; of fused experts, each has its rows apart. Raises UnembedError where nothing
    says whose rows they are.
    """
    inputs = call.inputs.reshape(-1, call.inputs.shape[-1])
    errors = call.errors.reshape(-1, call.errors.shape[-1])
    own = _numbers(call, numbers, len(inputs), module.name)
    groups = [(0, 0, len(own))] if call.groups is None else call.groups
    found = []
    for expert, first, last in groups:
        each = own[first:last]
        kept = np.flatnonzero(each >= 0)
        order = kept[np.argsort(each[kept], kind="stable")]
        rows = (inputs[first:last], errors[first:last])
        if not np.array_equal(order, np.arange(len(each))):
            index = torch.from_numpy(order).to(inputs.device)
            rows = (rows[0][index], rows[1][index])
        found.append(Rows(*rows, each[order], expert * errors.shape[1]))
    return found


def _numbers(
    call: Call, numbers: Int[Tensor, "batch seq"], rows: int, name: str
) -> Int[np.ndarray, " rows"]:
    """The sample that each row of a call is of, -1 for none."""
    lead, (batch, seq) = tuple(call.inputs.shape[:-1]), numbers.shape
    if call.selection is not None and (call.groups is not None or lead == (len(call.selection),)):
        chosen: Int[np.ndarray, " rows"] = numbers.reshape(-1)[call.selection].numpy()
        return chosen
    if call.groups is not None:
        own = None
    elif lead[:2] == (batch, seq):
        own = numbers.view(batch, seq, *[1] * (len(lead) - 2))
    elif lead[:1] == (batch * seq,):
        own = numbers.reshape(-1, *[1] * (len(lead) - 1))
    elif lead[:1] == (batch,) and seq in lead[1:]:
        at = lead.index(seq, 1)
        own = numbers.view(batch, *[1] * (at - 1), seq, *[1] * (len(lead) - at - 1))
    elif lead[:2] == (seq, batch):
        own = numbers.T.reshape(seq, batch, *[1] * (len(lead) - 2))
    else:
        own = None
    if own is None:
        raise UnembedError(
            f"{name} is given {' x '.join(map(str, lead))} rows for {batch} x {seq} positions, so "
            "that nothing says which is whose: leave it out with --modules"
        )
    found: Int[np.ndarray, " rows"] = own.expand(lead).reshape(-1).numpy()
    return found


class NotFiniteAtError(Exception):
    """Says at which module, and in the document of which hash, a gradient is not finite."""

    def __init__(self, module: str, document: int) -> None:
        super().__init__(module, document)
        self.module, self.document = module, document
