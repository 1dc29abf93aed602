"""What a sketch needs of each position, gathered in the sweep's own pass over the vocabulary."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from unembed.errors import UnembedError
from unembed.head.blocks import ROWS, BlockShape
from unembed.head.head import Head
from unembed.head.precision import Precision
from unembed.head.product import WIDE_ROWS
from unembed.head.sweep import Sweep, sweep
from unembed.signatures.signature import Fisher
from unembed.signatures.sketches.projections import Projections, bucket_tables
from unembed.signatures.sketches.sketch import LinearMap, Sketch
from unembed.signatures.state import Features

SLICE = 64
"""Rows whose factors are taken and multiplied at once, so that they stay in the cache."""


@dataclass(frozen=True)
class FeatureFactors:
    """What some positions' features are products of, by ``Sketch.factor`` (theory §9).

    ``activation`` is the feature of a alone, ``error`` that of e alone. ``sides`` are ``r·g`` and
    ``s·g``, whose product is the joint feature, or None under the true Fisher.
    """

    activation: Shaped[Tensor, "rows features"]
    error: Shaped[Tensor, "rows features"]
    sides: tuple[Shaped[Tensor, "rows features"], Shaped[Tensor, "rows features"]] | None
    squared_norm: Float[Tensor, " rows"]


Sides = tuple[Float[Tensor, "rows sketch"], Float[Tensor, "rows sketch"]]
"""``r·g`` and ``s·g`` of some samples, packed: what their joint features are products of."""

Passes = Iterator[tuple[Sweep, Iterator[tuple[slice, FeatureFactors]]]]
"""Some rows' sweep, then the factors of SLICE of them at a time, with where these are."""


@torch.no_grad()
def features(
    hidden: Float[Tensor, "positions dim"],
    head: Head,
    targets: Int[Tensor, " positions"],
    sketch: Sketch,
    *,
    sequence: Int[Tensor, " positions"] | None = None,
    fisher: Fisher = "empirical",
    precision: Precision | None = None,
    block: int | None = None,
    k: int = 2,
    first: bool = False,
) -> tuple[Sweep, Features]:
    """A sweep, and every sample's sketched features, from one pass over the vocabulary.

    A sample is a position. Equivalent to, with r and s the sketch's two maps and ``f`` its
    ``factor``::

        p = softmax(logits); e = p - onehot(target)
        activation = f(r a) * f(s a)
        error = f(r e) * f(s e)                                     # "empirical"
        error = sum_y p[y] f(r (p - onehot(y))) * f(s (p - onehot(y)))      # "true"
        joint = error * activation; first = f(r e) * f(r a)         # each packed into m numbers
        squared_norm = (a @ a) * (e @ e), or its mean over y

    in float32. Where ``sequence`` numbers the sequence of each position from 0, in any order, a
    sample is a sequence, all of whose positions must be in the call: its gradient is the sum of
    theirs before it is squared. Row i of the features is then sequence i, equivalent to::

        R = sum_t f(r e_t) * f(r a_t); S = sum_t f(s e_t) * f(s a_t)
        joint = R * S; first = R                                    # "empirical"
        joint = sum_t joint_t                                       # "true": labels are independent
        activation = sum_t activation_t; error = sum_t error_t

    and ``squared_norm`` of the empirical Fisher is estimated, by the means of ``R²`` and of ``S²``:
    its standard error is a hundredth or two of it at m = 4096.

    The sweep is bitwise that of ``sweep`` on CPU. Rows of it that are not finite have features of
    NaN. The scratch is at most 512 rows (2,048 on CUDA) of m float32 numbers a map, 16 MiB for the
    empirical Fisher's two maps at m = 4096 and 24 MiB for the true one's three; what comes back is
    three rows of m numbers a sample (four with ``first``), so give a batch at a time. The true
    Fisher of a row that is sure of another token than its target (p within 1e-4 of 1) keeps fewer
    digits. Where several processes hold the head's rows, all of them call this with the same
    positions, and all get the same. Raises UnembedError for a sketch that is not this head's, and
    for ``first`` of the true Fisher, whose mean gradient is 0. Source: theory §7, §9, §15.
    """
    passes = _passes(hidden, head, targets, sketch, fisher, precision, block, k, first)
    if sequence is None:
        kinds = 4 if first else 3
        swept, packed, norm = _of_positions(passes, len(hidden), sketch, hidden.device, kinds)
        joint, activation, error = packed[:3]
        return swept, Features(joint, activation, error, packed[3] if first else None, norm)
    return _of_sequences(passes, sequence, sketch, fisher, first)[:2]


@torch.no_grad()
def features_and_sides(
    hidden: Float[Tensor, "positions dim"],
    head: Head,
    targets: Int[Tensor, " positions"],
    sketch: Sketch,
    *,
    sequence: Int[Tensor, " positions"] | None = None,
    precision: Precision | None = None,
    first: bool = False,
) -> tuple[Sweep, Features, Sides]:
    """``features`` of the empirical Fisher, bitwise, and the two sides that the joint ones are of.

    Both sides take as much memory as two more kinds of features. Raises UnembedError as that does.
    """
    passes = _passes(hidden, head, targets, sketch, "empirical", precision, None, 2, first)
    if sequence is None:
        swept, packed, norm = _of_positions(passes, len(hidden), sketch, hidden.device, 5)
        joint, activation, error, one, other = packed
        found = Features(joint, activation, error, one if first else None, norm)
        return swept, found, (one, other)
    return _of_sequences(passes, sequence, sketch, "empirical", first)


def _of_positions(
    passes: Passes, count: int, sketch: Sketch, device: torch.device, kinds: int
) -> tuple[Sweep, list[Float[Tensor, "rows sketch"]], Float[Tensor, " rows"]]:
    """Each position's features in its row, by kind: joint, activation, error and the two sides."""
    packed = [
        torch.empty(count, sketch.spec.m, dtype=torch.float32, device=device) for _ in range(kinds)
    ]
    norm = torch.empty(count, dtype=torch.float32, device=device)
    swept: list[Sweep] = []
    for found, factors in passes:
        swept.append(found)
        for at, some in factors:
            made = [some.activation * some.error, some.activation, some.error]
            if some.sides is not None:
                made.extend(some.sides)
            for into, each in zip(packed, made, strict=False):
                into[at] = sketch.pack(each)
            norm[at] = some.squared_norm
    return _joined(swept), packed, norm


def _of_sequences(
    passes: Passes, sequence: Int[Tensor, " positions"], sketch: Sketch, fisher: Fisher, first: bool
) -> tuple[Sweep, Features, Sides]:
    """The sums over each sequence's positions, multiplied afterwards; both sides before that."""
    count, device = int(sequence.max()) + 1 if len(sequence) else 0, sequence.device
    kinds = 3 if fisher == "true" else 4
    summed = [
        torch.zeros(count, sketch.spec.m, dtype=torch.float32, device=device) for _ in range(kinds)
    ]
    joint, activation, error = summed[:3]
    norm = torch.zeros(count, dtype=torch.float32, device=device)
    swept: list[Sweep] = []
    for found, factors in passes:
        swept.append(found)
        for at, some in factors:
            made = [some.activation, some.error]
            if some.sides is None:
                made.insert(0, some.activation * some.error)
            else:
                made = [some.sides[0], *made, some.sides[1]]
            for into, each in zip(summed, made, strict=True):
                into.index_add_(0, sequence[at], sketch.pack(each))
            norm.index_add_(0, sequence[at], some.squared_norm)
    if fisher == "true":
        return _joined(swept), Features(joint, activation, error, None, norm), (joint, joint)
    other = summed[3]
    norm = (joint.square().mean(1) + other.square().mean(1)) / 2
    product = sketch.pack(sketch.unpack(joint) * sketch.unpack(other))
    made_of = Features(product, activation, error, joint if first else None, norm)
    return _joined(swept), made_of, (joint, other)


def _passes(
    hidden: Float[Tensor, "positions dim"],
    head: Head,
    targets: Int[Tensor, " positions"],
    sketch: Sketch,
    fisher: Fisher,
    precision: Precision | None,
    block: int | None,
    k: int,
    first: bool,
) -> Passes:
    """Some hundred rows at a time: their sweep, then their factors, SLICE rows at a time.

    A block brings the sums of all its rows into the cache and out again, so it is twice as wide as
    a sweep's own.
    """
    spec = sketch.spec
    if (spec.vocab, spec.dim) != (head.vocab, head.dim):
        raise UnembedError(
            f"the sketch is for a head of {spec.vocab} x {spec.dim}, this one has {head.vocab} x "
            f"{head.dim}: draw a sketch for this head"
        )
    if first and fisher == "true":
        raise UnembedError("the true Fisher's mean gradient is 0: ask for no first moment of it")
    precision = precision or head.precision(hidden.dtype)
    maps = (*sketch.error, sketch.error_squared) if fisher == "true" else sketch.error
    columns = slice(head.first, head.first + head.own.vocab)
    tables = bucket_tables(maps, columns) if precision.epilogue == "compiled" else None
    step = ROWS if hidden.device.type == "cpu" else WIDE_ROWS
    if tables is not None and block is None:
        block = 2 * BlockShape.of(hidden.device, len(hidden)).columns
    for top in range(0, max(len(hidden), 1), step):
        some, own = hidden[top : top + step], targets[top : top + step]
        projections = Projections.of(own, maps, tables, head.share)
        found = sweep(
            some, head, own, k=k, precision=precision, block=block, observe=projections.take
        )
        projections.merge()
        yield found, _factors(projections, some, found, sketch, top)


def _factors(
    projections: Projections,
    hidden: Float[Tensor, "rows dim"],
    found: Sweep,
    sketch: Sketch,
    first_row: int,
) -> Iterator[tuple[slice, FeatureFactors]]:
    """FeatureFactors after the last block, with the rows they are of, counted from ``first_row``.

    Errors are taken about a centre c: ``onehot(y)``, or under the true Fisher 0 where p_y < 1/2. It
    moves no spread, ``Σ_k p_k ((r_k - r·c)(s_k - s·c)) - (r·(p - c))(s·(p - c))``, but decides
    what is rounded.
    """
    total = projections.rest + projections.own
    true = len(projections.maps) > len(sketch.error)
    for top in range(0, len(hidden), SLICE):
        rows = slice(top, min(top + SLICE, len(hidden)))
        whole = slice(top, min(top + SLICE, len(projections.targets)))
        height, own = rows.stop - top, projections.targets[rows]
        z = torch.where(found.finite[rows], total[rows], torch.nan)
        d, q2 = projections.rest[rows] / z, projections.squares[rows] / z**2
        p = projections.own[rows] / z
        centred = (p > 0.5) if true else torch.ones_like(p, dtype=torch.bool)
        scale = z.reciprocal().float()[:, None]
        share = torch.where(centred, -d, p).float()[:, None]
        u, v, *squared = (
            sketch.factor(
                projections.raw(i, whole)[:height].mul_(scale).add_(each.columns(own).mul_(share))
            )
            for i, each in enumerate(projections.maps)
        )
        a = hidden[rows].float()
        alpha, beta = (sketch.factor(_mapped(side, a)) for side in sketch.activation)
        e2 = d * (2 - d) - q2 if true else d * d + q2
        norm = (a.double().square().sum(1) * e2).float()
        at = slice(first_row + rows.start, first_row + rows.stop)
        if not true:
            yield at, FeatureFactors(alpha * beta, u * v, (u * alpha, v * beta), norm)
            continue
        spread = squared[0] - u * v
        some = centred.nonzero()[:, 0]
        if len(some):
            r, s = (sketch.factor(side.columns(own[some])) for side in sketch.error)
            spread[some] -= r * v[some] + s * u[some]
        yield at, FeatureFactors(alpha * beta, spread, None, norm)


def _mapped(side: LinearMap, rows: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows width"]:
    into = torch.zeros(len(rows), side.width, dtype=torch.float32, device=rows.device)
    side.add(rows, 0, into)
    return into


def _joined(swept: list[Sweep]) -> Sweep:
    """One sweep of several, in their order."""
    if len(swept) == 1:
        return swept[0]
    names = [field.name for field in dataclasses.fields(Sweep)]
    return Sweep(*(torch.cat([getattr(s, name) for s in swept]) for name in names))
