"""Both projections of one module's gradients, sample by sample, from its inputs and errors.

With the maps r and s of a module's own sketch and its ``factor`` f, a sample's projections are
``x = Σ f(r δ) f(r a)`` and ``y = Σ f(s δ) f(s a)`` over its positions (theory §12).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Shaped
from torch import Tensor

from unembed.signatures.network.block_samples import BlockSamples, Runs, runs_of, within
from unembed.signatures.network.products import EntrySums
from unembed.signatures.reading.features import SLICE
from unembed.signatures.sketches.sketch import LinearMap, Sketch
from unembed.signatures.sketches.tensorsketch import ComplexTensorSketch, CountSketch


@dataclass(frozen=True)
class ModuleSums:
    """Of one module in a block: sums over each document of its samples' features.

    ``joint`` are those of ``x y``, ``activation`` of ``Σ f(r a) f(s a)``, ``error`` of
    ``Σ f(r δ) f(s δ)``, and ``first`` of x. ``trace`` is ``Σ ‖g‖²`` over all samples, exact where
    a sample is one row (of each expert), else estimated by the means of ``x²`` and ``y²``.
    """

    joint: Shaped[Tensor, "documents features"]
    activation: Shaped[Tensor, "documents features"]
    error: Shaped[Tensor, "documents features"]
    first: Shaped[Tensor, "documents features"]
    trace: float


@dataclass(frozen=True)
class Factors:
    """Of some rows, a position each: features of the error and of the input by r and by s."""

    u: Shaped[Tensor, "rows features"]
    v: Shaped[Tensor, "rows features"]
    alpha: Shaped[Tensor, "rows features"]
    beta: Shaped[Tensor, "rows features"]


LEAST_RUN = 4
"""Rows of one sample that follow each other, on average, from which they are summed run by run."""
COLUMNS = 512
"""Multiples of which a map's blocks of columns begin at."""

AddSides = Callable[[slice, Tensor, Tensor], None]
"""Takes some samples' x and y."""


@dataclass(frozen=True)
class Rows:
    """The inputs and errors of one call of a module, a position each, and whose they are.

    ``start`` is the column of the module's errors that the first of these is, of an expert its own.
    """

    inputs: Float[Tensor, "rows inputs"]
    errors: Float[Tensor, "rows outputs"]
    numbers: Int[np.ndarray, " rows"]
    start: int = 0

    @property
    def every(self) -> bool:
        """Whether each sample has one row, and the rows are in the order of samples."""
        return np.array_equal(self.numbers, np.arange(len(self.numbers)))


def single_sums(sketch: Sketch, rows: Rows, samples: BlockSamples, add: AddSides) -> ModuleSums:
    """The sums where every sample is one row, in their order."""
    sums = _zeros(sketch, 4, len(samples.documents.hashes), rows.inputs.device)
    for at, some in factors(sketch, rows):
        x, y = some.u * some.alpha, some.v * some.beta
        add(at, x, y)
        made = (x * y, some.alpha * some.beta, some.u * some.v, x)
        _add_runs(sums, made, within(samples.document_runs, at.start, at.stop))
    joint, activation, error, first = sums
    return ModuleSums(joint, activation, error, first, float(_squared_norms(rows).sum()))


def grouped_sums(
    sketch: Sketch,
    calls: list[Rows],
    samples: BlockSamples,
    add: AddSides,
    entries: EntrySums | None = None,
) -> ModuleSums:
    """The sums where a sample has any number of rows, of several calls of the module.

    With ``entries`` samples that it pays for are taken entry by entry, which is the same but for
    rounding.
    """
    sums = _zeros(sketch, 4, samples.count, calls[0].inputs.device)
    for call in calls:
        rest = call
        if entries is not None and call.start == 0:
            rest = _by_entries(entries, call, sums)
        runs = runs_of(rest.numbers)
        scattered = len(runs) * LEAST_RUN > len(rest.numbers)
        index = torch.from_numpy(rest.numbers).to(rest.inputs.device)
        for at, some in factors(sketch, rest):
            made = (
                some.u * some.alpha,
                some.v * some.beta,
                some.alpha * some.beta,
                some.u * some.v,
            )
            if scattered:
                for into, each in zip(sums, made, strict=True):
                    into.index_add_(0, index[at], each)
            else:
                _add_runs(sums, made, within(runs, at.start, at.stop))
    x, y, activation, error = sums
    add(slice(0, samples.count), x, y)
    joint, activation, error, first = (
        by_document(each, samples) for each in (x * y, activation, error, x)
    )
    apart = samples.unit == "token" and _apart(calls)
    trace = sum(float(_squared_norms(one).sum()) for one in calls) if apart else None
    return ModuleSums(
        joint, activation, error, first, trace_of(sketch, x, y) if trace is None else trace
    )


def _by_entries(entries: EntrySums, call: Rows, sums: Sequence[Tensor]) -> Rows:
    """Add the samples that entries pay for; what comes back are the rows of the others."""
    left = np.ones(len(call.numbers), dtype=bool)
    for sample, begin, end in runs_of(call.numbers):
        if entries.pays(end - begin):
            left[begin:end] = False
            made = entries.features(call.errors[begin:end], call.inputs[begin:end])
            for into, each in zip(sums, made, strict=True):
                into[sample] += each
    if left.all():
        return call
    index = torch.from_numpy(left).to(call.inputs.device)
    return Rows(call.inputs[index], call.errors[index], call.numbers[left])


def _add_runs(sums: Sequence[Tensor], rows: Sequence[Tensor], runs: Runs) -> None:
    """Add each run's rows to its own sum."""
    for number, begin, end in runs:
        for into, each in zip(sums, rows, strict=True):
            into[number] += each[begin:end].sum(0)


def _zeros(sketch: Sketch, kinds: int, rows: int, device: torch.device) -> list[Tensor]:
    """Sums of features of nothing, as the sketch's factors are."""
    none = torch.zeros(rows, sketch.spec.m, dtype=torch.float32, device=device)
    return [torch.zeros_like(sketch.unpack(none)) for _ in range(kinds)]


def by_document(
    rows: Shaped[Tensor, "samples features"], samples: BlockSamples
) -> Shaped[Tensor, "documents features"]:
    """The sum of the rows of each document."""
    sums = rows.new_zeros(len(samples.documents.hashes), rows.shape[1])
    for document, first, last in samples.document_runs:
        sums[document] += rows[first:last].sum(0)
    return sums


def trace_of(
    sketch: Sketch, x: Shaped[Tensor, "samples features"], y: Shaped[Tensor, "samples features"]
) -> float:
    """An estimate of ``Σ ‖g‖²``: the mean of both sides' squares."""
    squares = [sketch.pack(side).double().square().mean(1).sum() for side in (x, y)]
    return float(sum(squares) / 2)


def factors(sketch: Sketch, rows: Rows) -> Iterator[tuple[slice, Factors]]:
    """The factors of SLICE rows at a time, so that they stay in the cache."""
    for top in range(0, len(rows.numbers), SLICE):
        at = slice(top, min(top + SLICE, len(rows.numbers)))
        errors, inputs = rows.errors[at].float(), rows.inputs[at].float()
        u, v = (_factor(sketch, side, errors, rows.start) for side in sketch.error)
        alpha, beta = (_factor(sketch, side, inputs) for side in sketch.activation)
        yield at, Factors(u, v, alpha, beta)


def _factor(
    sketch: Sketch, side: LinearMap, rows: Float[Tensor, "rows dim"], start: int = 0
) -> Shaped[Tensor, "rows features"]:
    """``sketch.factor`` of mapped rows, to the bit.

    Complex buckets are filled as they lie in memory, which saves a pass over them.
    """
    if not (isinstance(sketch, ComplexTensorSketch) and isinstance(side, CountSketch)):
        return sketch.factor(mapped(side, rows, start))
    at = slice(start, start + rows.shape[1])
    index, sign = side.index[at].long(), side.sign[at]
    buckets = side.width // 2
    into = torch.zeros(len(rows), side.width, dtype=torch.float32, device=rows.device)
    where = (index % buckets) * 2 + index // buckets
    into.scatter_add_(1, where.expand_as(rows), rows * sign)
    found: Tensor = torch.fft.fft(torch.view_as_complex(into.view(len(rows), buckets, 2)))
    return found


def _apart(calls: list[Rows]) -> bool:
    """Whether a sample's rows are of different experts each, so that their squares add up."""
    rows = np.concatenate(
        [np.stack([one.numbers, 0 * one.numbers + one.start]) for one in calls], 1
    )
    return bool(np.unique(rows, axis=1).shape[1] == rows.shape[1])


def _squared_norms(rows: Rows) -> Float64[Tensor, " rows"]:
    """``‖δ‖² ‖a‖²`` of each row."""
    errors, inputs = (each.float() for each in (rows.errors, rows.inputs))
    found: Float64[Tensor, " rows"] = (errors * errors).sum(1).double()
    found *= (inputs * inputs).sum(1).double()
    return found


def mapped(
    side: LinearMap, rows: Float[Tensor, "rows dim"], start: int = 0
) -> Float[Tensor, "rows width"]:
    """``rows @ S.T`` of a map S, or of its columns from ``start`` on."""
    into = torch.zeros(len(rows), side.width, dtype=torch.float32, device=rows.device)
    before = start % COLUMNS  # a map is taken from multiples of this
    if before:
        rows = torch.nn.functional.pad(rows, (before, 0))
    side.add(rows, start - before, into)
    return into


class ErrorsProjected:
    """Both projections of a head's errors, taken from blocks of the vocabulary; in place."""

    def __init__(self, sketch: Sketch, rows: int, device: torch.device) -> None:
        self._sketch = sketch
        self._raw = [
            torch.zeros(rows, side.width, dtype=torch.float32, device=device)
            for side in sketch.error
        ]
        self._squares = torch.zeros(rows, dtype=torch.float64, device=device)

    def take(self, errors: Float[Tensor, "rows block"], start: int, rows: slice) -> None:
        """Take a block of columns of some rows' errors, the first of them ``start``."""
        for side, raw in zip(self._sketch.error, self._raw, strict=True):
            side.add(errors, start, raw[rows])
        self._squares[rows] += errors.double().square().sum(1)

    def sides(
        self,
        hidden: Float[Tensor, "positions dim"],
        sequence: Int[Tensor, " positions"] | None,
        count: int,
    ) -> tuple[Tensor, Tensor, float]:
        """x and y of every sample, and ``Σ ‖g‖²``, as ``ModuleSums`` says."""
        sketch, made = self._sketch, list[Tensor]()
        for raw, side in zip(self._raw, sketch.activation, strict=True):
            rows = [
                sketch.factor(raw[top : top + SLICE])
                * sketch.factor(mapped(side, hidden[top : top + SLICE].float()))
                for top in range(0, len(hidden), SLICE)
            ]
            made.append(torch.cat(rows))
        x, y = made
        if sequence is None:
            norms = self._squares * hidden.double().square().sum(1)
            return x, y, float(norms.sum())
        sums = [side.new_zeros(count, side.shape[1]) for side in made]
        for number, first, last in runs_of(sequence.cpu().numpy()):
            for into, each in zip(sums, made, strict=True):
                into[number] += each[first:last].sum(0)
        return sums[0], sums[1], trace_of(sketch, sums[0], sums[1])
