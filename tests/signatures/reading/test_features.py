"""Features against float64 softmaxes and the maps as plain matrices."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import reference.sweep
from unembed.errors import UnembedError
from unembed.head.head import Head
from unembed.head.kernels import compiled
from unembed.head.precision import Precision
from unembed.head.sweep import Sweep, sweep
from unembed.signatures.reading.features import features
from unembed.signatures.signature import Fisher
from unembed.signatures.sketches.constructions import sketch_of
from unembed.signatures.sketches.names import CONSTRUCTIONS
from unembed.signatures.sketches.projections import bucket_tables
from unembed.signatures.sketches.sketch import Sketch, SketchSpec
from unembed.signatures.state import Features

KERNELS = [
    pytest.param(
        "compiled",
        marks=pytest.mark.skipif(not compiled.available(), reason="no C++ compiler here"),
    ),
    "eager",
]
FISHERS: tuple[Fisher, ...] = ("empirical", "true")
NAMES = ("joint", "activation", "error", "first", "squared_norm")
DIM, M = 24, 64


def make(vocab: int, n: int = 21, *, size: float = 12.0, **how: Any) -> tuple[Head, Tensor, Tensor]:
    """A head whose logits reach ``size``, hidden states and targets."""
    g = torch.Generator().manual_seed(vocab)
    weight, hidden = torch.randn(vocab, DIM, generator=g), torch.randn(n, DIM, generator=g)
    weight *= size / (how.get("scale", 1.0) * (hidden @ weight.T).abs().max())
    targets = torch.randint(0, vocab, (n,), generator=g)
    return Head.from_parts(weight, **how), hidden, targets


def awkward() -> tuple[Head, Tensor, Tensor]:
    """Bias, scale, soft-cap, a padded vocabulary, and a target that is no token."""
    g = torch.Generator().manual_seed(5)
    valid = torch.ones(1000, dtype=torch.bool)
    valid[-70:] = valid[1] = False
    bias = torch.randn(1000, generator=g) * 3
    head, hidden, targets = make(1000, bias=bias, scale=0.5, softcap=9.0, valid=valid)
    targets[0], targets[1] = 1, 999
    return head, hidden, targets


def sketched(head: Head, construction: str = "complex_tensorsketch", m: int = M) -> Sketch:
    return sketch_of(SketchSpec(head.vocab, head.dim, construction, m, seed=3))


def by(kernel: str, head: Head) -> Precision:
    return replace(Precision.probe(head.weight), epilogue=kernel)  # type: ignore[arg-type]


def direct(
    logits: Tensor, hidden: Tensor, targets: Tensor, sketch: Sketch, fisher: Fisher
) -> Features:
    """From the definition, a sum over all labels, in float64.

    Every class is taken less the target, which changes no error's projection, since an error sums
    to 0, and keeps the digits of one that is small.
    """
    every, dims = torch.arange(logits.shape[1]), torch.arange(hidden.shape[1])
    maps = [sketch.factor(each.columns(every).double()) for each in sketch.error]
    a = hidden.double()
    f, g = (sketch.factor(a @ each.columns(dims).double()) for each in sketch.activation)
    errors, firsts, norms = [], [], []
    for own, target in zip(logits.double(), targets, strict=True):
        p = own.softmax(0)
        beside = torch.where(every == target, 0, p)
        rest, squares = beside.sum(), beside.square().sum()
        r, s = (each - each[target] for each in maps)
        u, v = ((p[:, None] * each).sum(0) for each in (r, s))
        norms.append(rest.square() + squares)
        errors.append(u * v)
        firsts.append(u)
        if fisher == "true":
            errors[-1] = (p[:, None] * (u - r) * (v - s)).sum(0)
            norms[-1] = rest * (2 - rest) - squares
    error, pack = torch.stack(errors), sketch.pack
    first = pack(torch.stack(firsts) * f) if fisher == "empirical" else None
    norm = torch.stack(norms) * a.square().sum(1)
    return Features(pack(error * f * g), pack(f * g), pack(error), first, norm)


def off(got: Features, want: Features) -> float:
    """The largest error of a row relative to its norm."""
    worst = 0.0
    for name in NAMES:
        a, b = getattr(got, name), getattr(want, name)
        if b is None:
            assert a is None
            continue
        assert a.shape == b.shape
        assert a.dtype == torch.float32
        a, b = (x.double().view(len(x), -1) for x in (a, b))
        worst = max(worst, float(((a - b).norm(dim=1) / b.norm(dim=1)).max()))
    return worst


def equal(a: Any, b: Any) -> bool:
    pairs = [[getattr(x, field.name) for x in (a, b)] for field in dataclasses.fields(a)]
    return all(x is y is None or torch.equal(x, y) for x, y in pairs)


def seen_by_a_reader(
    head: Head, hidden: Tensor, targets: Tensor, precision: Precision
) -> tuple[Sweep, Tensor]:
    """A sweep, and the logits of its blocks side by side."""
    blocks: list[Tensor] = []

    def beside(logits: Tensor, start: int, rows: slice) -> None:
        assert (rows.start, start) == (0, sum(block.shape[1] for block in blocks))
        assert len(logits) == rows.stop
        blocks.append(logits.clone())

    found = sweep(hidden, head, targets, precision=precision, block=512, observe=beside)
    return found, torch.cat(blocks, 1)[: len(hidden), : head.vocab]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("fisher", FISHERS)
@pytest.mark.parametrize("construction", CONSTRUCTIONS)
def test_features_are_those_of_the_whole_softmax(
    construction: str, fisher: Fisher, kernel: str
) -> None:
    head, hidden, targets = awkward()
    sketch = sketched(head, construction)
    precision, first = by(kernel, head), fisher == "empirical"
    found, got = features(
        hidden, head, targets, sketch, fisher=fisher, precision=precision, k=5, first=first
    )
    want = direct(reference.sweep.logits(hidden, head), hidden, targets, sketch, fisher)
    assert off(got, want) < 1e-5
    assert equal(found, sweep(hidden, head, targets, k=5, precision=precision))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("vocab", [3, 127, 513, 50257])
def test_any_vocabulary(vocab: int, kernel: str) -> None:
    head, hidden, targets = make(vocab, 7, size=4.0)
    sketch, precision = sketched(head), by(kernel, head)
    logits = reference.sweep.logits(hidden, head)
    for fisher in FISHERS:
        _, got = features(hidden, head, targets, sketch, fisher=fisher, precision=precision)
        want = direct(logits, hidden, targets, sketch, fisher)
        assert off(got, replace(want, first=None)) < 1e-5


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("order", ["as they come", "ascending", "late tokens"])
def test_extreme_logits(order: str, kernel: str) -> None:
    """±50, which rise block by block, or behind two blocks without a token."""
    head, hidden, targets = make(2100, size=50.0)
    if order == "ascending":
        hidden[20], targets[20] = hidden[0], 511  # the largest so far when its block comes
        head = Head.from_parts(head.weight[(head.weight @ hidden[0]).argsort()])
    if order == "late tokens":
        head = Head.from_parts(head.weight, valid=torch.arange(2100) >= 1030)
    sketch, precision = sketched(head, m=1024), by(kernel, head)
    targets[:7] = (hidden[:7] @ head.weight.T).argmax(1)
    _, logits = seen_by_a_reader(head, hidden, targets, precision)
    assert logits.max() > 40
    for fisher in FISHERS:
        _, got = features(
            hidden, head, targets, sketch, fisher=fisher, precision=precision, block=512
        )
        want = direct(logits, hidden, targets, sketch, fisher)
        if fisher == "empirical":
            assert off(got, replace(want, first=None)) < 1e-5
        assert (got.error - want.error).norm(dim=1).max() < 1e-6 * 1024**0.5  # that of a unit e


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("fisher", FISHERS)
def test_a_sure_prediction_keeps_its_digits(fisher: Fisher, kernel: str) -> None:
    """Where 1 - p is 1e-9 the error is as small, and no difference of float32 numbers near 1."""
    head, hidden, targets = make(900, 5, size=8.0)
    targets[:2] = torch.tensor([511, 512])
    for i, target in enumerate(targets):
        some = slice(i, i + 1)
        sure = Head.from_parts(head.weight, (torch.arange(900) == target).float() * 30)
        sketch, precision = sketched(sure), by(kernel, sure)
        given = hidden[some], sure, targets[some], sketch
        _, got = features(*given, fisher=fisher, precision=precision)
        logits = reference.sweep.logits(hidden[some], sure)
        assert float(logits.softmax(1)[0, target]) > 1 - 1e-6
        want = direct(logits, hidden[some], targets[some], sketch, fisher)
        assert off(got, replace(want, first=None)) < 1e-5


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("fisher", FISHERS)
def test_blocks_neighbours_and_threads_change_nothing(fisher: Fisher, kernel: str) -> None:
    """The compiled kernel to the bit; the eager one adds in the order of the blocks."""
    head, hidden, targets = make(1100, 530)
    sketch, precision = sketched(head), by(kernel, head)

    def run(rows: slice, block: int | None) -> Features:
        some = hidden[rows], head, targets[rows], sketch
        return features(*some, fisher=fisher, precision=precision, block=block)[1]

    whole = run(slice(None), 512)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        others = [run(slice(None), block) for block in (1024, None)]
    finally:
        torch.set_num_threads(threads)
    for other in others:
        assert equal(other, whole) if kernel == "compiled" else off(other, whole) < 1e-5
    for rows in (slice(0, 1), slice(3, 40), slice(500, 530)):
        alone = run(rows, 512)
        joint = Features(
            *(None if x is None else x[rows] for x in (getattr(whole, n) for n in NAMES))
        )
        assert off(alone, joint) < 1e-6
        assert torch.equal(alone.squared_norm, joint.squared_norm)  # type: ignore[arg-type]


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_reader_sees_every_logit_and_changes_nothing(kernel: str) -> None:
    head, hidden, targets = make(1700)
    precision = by(kernel, head)
    found, logits = seen_by_a_reader(head, hidden, targets, precision)
    assert equal(found, sweep(hidden, head, targets, precision=precision, block=512))
    want = reference.sweep.logits(hidden, head)
    assert (logits - want).abs().max() < 1e-5
    assert torch.equal(logits[torch.arange(len(targets)), targets], found.target_logit)


def of_gradient(gradient: Tensor, sketch: Sketch, which: int) -> Tensor:
    """``r·g`` of a whole gradient (vocab x dim), entry by entry of g."""
    vocab, dim = gradient.shape
    error = sketch.factor(sketch.error[which].columns(torch.arange(vocab)).double())
    activation = sketch.factor(sketch.activation[which].columns(torch.arange(dim)).double())
    return torch.einsum("vd,vf,df->f", gradient.to(error.dtype), error, activation)


@pytest.mark.parametrize("fisher", FISHERS)
@pytest.mark.parametrize("construction", ["complex_tensorsketch", "srht"])
def test_sequences(construction: str, fisher: Fisher) -> None:
    """Of three sequences, whose positions come mixed, over several batches of rows."""
    head, hidden, targets = make(1000, 530, size=5.0)
    sketch, first = sketched(head, construction), fisher == "empirical"
    sequence = torch.arange(530) * 7 % 3
    found, got = features(
        hidden, head, targets, sketch, sequence=sequence, fisher=fisher, first=first
    )
    assert equal(found, sweep(hidden, head, targets))
    each = direct(reference.sweep.logits(hidden, head), hidden, targets, sketch, fisher)
    for i in range(3):
        own = sequence == i
        joint = each.joint[own].sum(0)
        assert got.squared_norm is not None
        if fisher == "empirical":
            p = reference.sweep.logits(hidden[own], head).softmax(1)
            p[torch.arange(int(own.sum())), targets[own]] -= 1
            gradient = p.T @ hidden[own].double()
            r, s = (of_gradient(gradient, sketch, which) for which in (0, 1))
            joint = sketch.pack((r * s)[None])[0]
            assert got.first is not None
            want = sketch.pack(r[None])[0]
            assert (got.first[i] - want).norm() < 1e-5 * want.norm()
            assert abs(float(got.squared_norm[i] / gradient.square().sum()) - 1) < 0.6
        else:
            assert each.squared_norm is not None
            assert torch.isclose(got.squared_norm[i].double(), each.squared_norm[own].sum())
        assert (got.joint[i] - joint).norm() < 1e-5 * joint.norm()
        for name in ("activation", "error"):
            want = getattr(each, name)[own].sum(0)
            assert (getattr(got, name)[i] - want).norm() < 1e-5 * want.norm()


def test_the_squared_norm_of_a_sequence_is_estimated_closely() -> None:
    head, hidden, targets = make(300, 40, size=5.0)
    sketch = sketched(head, m=4096)
    one = torch.zeros(40, dtype=torch.long)
    _, got = features(hidden, head, targets, sketch, sequence=one)
    p = reference.sweep.logits(hidden, head).softmax(1)
    p[torch.arange(40), targets] -= 1
    want = (p.T @ hidden.double()).square().sum()
    assert got.squared_norm is not None
    assert abs(float(got.squared_norm[0] / want) - 1) < 0.06


@pytest.mark.parametrize("fisher", FISHERS)
def test_sequences_of_one_position_are_positions(fisher: Fisher) -> None:
    head, hidden, targets = make(600)
    sketch, order = sketched(head), torch.arange(len(targets)).flip(0)
    _, tokens = features(hidden, head, targets, sketch, fisher=fisher)
    _, got = features(hidden, head, targets, sketch, sequence=order, fisher=fisher)
    for name in ("joint", "activation", "error"):
        a, b = getattr(got, name).flip(0), getattr(tokens, name)
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-5 * float(b.abs().max()))


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_row_that_is_not_finite_has_no_features(kernel: str) -> None:
    head, hidden, targets = make(700)
    sketch, precision = sketched(head), by(kernel, head)
    _, before = features(hidden, head, targets, sketch, precision=precision)
    hidden[4, 0], hidden[9, 1] = torch.nan, torch.inf
    found, got = features(hidden, head, targets, sketch, precision=precision)
    bad = ~found.finite
    assert bad.nonzero()[:, 0].tolist() == [4, 9]
    assert bool(got.joint[bad].isnan().all())
    assert torch.equal(got.joint[~bad], before.joint[~bad])
    assert torch.equal(got.squared_norm[~bad], before.squared_norm[~bad])  # type: ignore[index]
    head.weight[3, 0] = -torch.inf
    found, got = features(hidden[:4].abs(), head, targets[:4], sketch, precision=precision)
    assert not bool(found.finite.any())
    assert bool(got.error.isnan().all())


def test_no_positions() -> None:
    head, hidden, targets = make(700)
    found, got = features(hidden[:0], head, targets[:0], sketched(head))
    assert len(found.rank) == len(got.joint) == 0
    none = torch.zeros(0, dtype=torch.long)
    _, got = features(hidden[:0], head, targets[:0], sketched(head), sequence=none)
    assert got.joint.shape == (0, M)


def test_what_does_not_fit_is_refused() -> None:
    head, hidden, targets = make(700)
    other, *_ = make(701)
    with pytest.raises(UnembedError, match=r"700 x 24, .*701 x 24"):
        features(hidden, other, targets, sketched(head))
    with pytest.raises(UnembedError, match="mean gradient is 0"):
        features(hidden, head, targets, sketched(head), fisher="true", first=True)


def test_count_sketches_are_compiled_where_they_can_be() -> None:
    head, *_ = make(700)
    for construction in CONSTRUCTIONS:
        tables = bucket_tables(sketched(head, construction).error)
        assert (tables is not None) == construction.endswith("tensorsketch")


@pytest.mark.parametrize("fisher", FISHERS)
@pytest.mark.parametrize("construction", CONSTRUCTIONS)
def test_the_default_dtype_plays_no_part(construction: str, fisher: Fisher) -> None:
    head, hidden, targets = awkward()
    sequence = torch.arange(len(hidden)) // 3
    found = []
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            sketch = sketched(head, construction)
            for groups in (None, sequence):
                found.append(
                    features(hidden, head, targets, sketch, fisher=fisher, sequence=groups)[1]
                )
        finally:
            torch.set_default_dtype(torch.float32)
    for one, other in zip(found[:2], found[2:], strict=True):
        for name in NAMES:
            a, b = getattr(one, name), getattr(other, name)
            assert a is b is None or (a.dtype == b.dtype and torch.equal(a, b)), name
