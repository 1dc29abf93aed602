from __future__ import annotations

import cmath
import dataclasses
import hashlib
import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from unembed.signatures.sketches.constructions import sketch_of
from unembed.signatures.sketches.names import CONSTRUCTIONS
from unembed.signatures.sketches.sketch import (
    LinearMap,
    Sketch,
    SketchSpec,
)
from unembed.signatures.sketches.srht import SRHT, HadamardMap
from unembed.signatures.sketches.tensorsketch import ComplexTensorSketch, CountSketch, TensorSketch

SIZES = [(2, 1, 16), (3, 5, 256), (127, 64, 64), (600, 5, 4096), (5000, 64, 512)]
"""Vocabulary, dim and m: m larger than the vocabulary, larger than dim, and smaller."""


def sketch(construction: str, sizes: tuple[int, int, int], seed: int = 0) -> Sketch:
    vocab, dim, m = sizes
    return sketch_of(SketchSpec(vocab, dim, construction, m, seed))


def maps(of: Sketch) -> list[tuple[LinearMap, int]]:
    """Every map of a sketch and how many columns it has."""
    vocab, dim = of.spec.vocab, of.spec.dim
    return [(m, vocab) for m in (*of.error, of.error_squared)] + [(m, dim) for m in of.activation]


def applied(linear: LinearMap, x: Tensor, block: int = 1 << 20, backwards: bool = False) -> Tensor:
    out = torch.zeros(len(x), linear.width)
    starts = range(0, x.shape[1], block)
    for start in reversed(starts) if backwards else starts:
        linear.add(x[:, start : start + block], start, out)
    return out


def features(of: Sketch, error: Tensor, activation: Tensor) -> tuple[Tensor, Tensor]:
    """The two factors of ψ, from errors and from activations."""
    r, s = (of.factor(applied(linear, error)) for linear in of.error)
    a, b = (of.factor(applied(linear, activation)) for linear in of.activation)
    return r * s, a * b


def estimate(of: Sketch, first: Tensor, second: Tensor) -> Tensor:
    """Row by row."""
    return (of.pack(first).double() * of.pack(second).double()).sum(1) / of.spec.m


@pytest.mark.parametrize("construction", CONSTRUCTIONS)
@pytest.mark.parametrize("sizes", [*SIZES, (50_257, 5, 64)])
def test_blocks_in_any_order_are_the_product_with_the_columns(
    construction: str, sizes: tuple[int, int, int]
) -> None:
    """A relative 1e-5 of the size of what came out."""
    generator = torch.Generator().manual_seed(1)
    for linear, size in maps(sketch(construction, sizes)):
        x = torch.randn(3, size, generator=generator)
        columns = linear.columns(torch.arange(size))
        assert columns.shape == (size, linear.width)
        want = x.double() @ columns.double()
        tolerance = 1e-5 * float(want.norm(dim=1).max()) / linear.width**0.5 + 1e-12
        for block, backwards in ((1 << 20, False), (512, False), (512, True), (1536, True)):
            assert (applied(linear, x, block, backwards) - want).abs().max() <= 10 * tolerance
        padded = torch.cat([x, torch.full((3, 700), 9.0)], 1)
        assert (applied(linear, padded, 1024) - want).abs().max() <= 10 * tolerance
        short = x[:, : size // 2 + 1]
        want = short.double() @ columns[: short.shape[1]].double()
        assert (applied(linear, short) - want).abs().max() <= 10 * tolerance
        assert linear.columns(torch.arange(0)).shape == (0, linear.width)


@pytest.mark.parametrize("construction", CONSTRUCTIONS)
@pytest.mark.parametrize("sizes", [*SIZES, (50_257, 5, 64)])
def test_squared_columns_are_the_products_of_columns(
    construction: str, sizes: tuple[int, int, int]
) -> None:
    drawn = sketch(construction, sizes)
    ids = torch.arange(0, sizes[0], max(1, sizes[0] // 200))
    r, s, both = (drawn.factor(m.columns(ids)) for m in (*drawn.error, drawn.error_squared))
    assert (both - r * s).abs().max() < 1e-5


@pytest.mark.parametrize("construction", CONSTRUCTIONS)
@pytest.mark.parametrize("sizes", SIZES)
def test_pack_and_unpack_are_inverses(construction: str, sizes: tuple[int, int, int]) -> None:
    drawn = sketch(construction, sizes)
    error = torch.randn(4, sizes[0], generator=torch.Generator().manual_seed(2))
    activation = torch.randn(4, sizes[1], generator=torch.Generator().manual_seed(3))
    for psi in features(drawn, error, activation):
        packed = drawn.pack(psi)
        assert packed.shape == (4, sizes[2])
        assert packed.dtype == torch.float32
        assert torch.allclose(drawn.unpack(packed), psi, rtol=1e-6, atol=1e-6)
        assert torch.allclose(drawn.pack(drawn.unpack(packed)), packed, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("construction", CONSTRUCTIONS)
def test_estimates_are_unbiased(construction: str) -> None:
    """Means over 200 seeds lie within 3 standard errors, which are below a fifth of the kernels.

    Of two samples that are alike, with peaked errors (of a language model's kind) and random ones.
    """
    vocab, dim = 127, 24
    generator = torch.Generator().manual_seed(11)
    logits = 3 * torch.randn(vocab, generator=generator)
    p = (logits + torch.randn(2, vocab, generator=generator)).softmax(-1)
    peaked = p - torch.eye(vocab)[logits.topk(3).indices[2]]
    flat, activation = (torch.randn(2, size, generator=generator) for size in (vocab, dim))
    flat[1] += flat[0]
    activation[1] += activation[0]
    error = torch.cat([peaked, flat, p])
    e, f, a = (float(x[0].double() @ x[1].double()) ** 2 for x in (peaked, flat, activation))
    first, second = p.double()
    crossed = first @ second
    true = crossed - first.square() @ second - first @ second.square() + crossed.square()
    want = [e * a, f * a, e, f, a, float(true)]
    found = []
    for seed in range(200):
        drawn = sketch(construction, (vocab, dim, 64), seed)
        of_error, of_activation = features(drawn, error, activation)
        labels = drawn.factor(applied(drawn.error_squared, p)) - of_error[4:]
        marginals = torch.cat([of_error[:4], of_activation, labels])
        joint = of_error[:4] * of_activation.repeat(2, 1)
        psi = torch.cat([joint, marginals])
        found.append(estimate(drawn, psi[::2], psi[1::2]).numpy())
    spread = np.std(found, axis=0) / len(found) ** 0.5
    assert (np.abs(np.mean(found, axis=0) - want) < 3 * spread).all()
    assert (spread < np.array(want) / 5).all()


@pytest.mark.parametrize("construction", CONSTRUCTIONS)
def test_a_sketch_is_a_function_of_its_spec(construction: str) -> None:
    """Of construction, sizes and seed; the four maps are drawn apart."""
    spec = SketchSpec(600, 600, construction, 64, 5)
    ids = torch.arange(600)
    drawn = [m.columns(ids) for m, _ in maps(sketch_of(spec))]
    for again, first in zip(maps(sketch_of(spec)), drawn, strict=True):
        assert torch.equal(again[0].columns(ids), first)
    other = sketch_of(dataclasses.replace(spec, seed=6))
    for first, second in itertools.combinations([*drawn, other.error[0].columns(ids)], 2):
        shared = float((first * second).sum() / (first.norm() * second.norm()))
        assert abs(shared) < 0.25


def test_sketches_never_change() -> None:
    """Signatures that were stored are compared with sketches that are drawn today."""
    found = {}
    for construction in CONSTRUCTIONS:
        digest = hashlib.sha256()
        for linear, size in maps(sketch(construction, (600, 5, 64), seed=3)):
            digest.update(linear.columns(torch.arange(size)).to(torch.int8).numpy().tobytes())
        found[construction] = digest.hexdigest()[:16]
    assert found == {
        "complex_tensorsketch": "3ace382274f4dc7d",
        "tensorsketch": "963e23aacca7af42",
        "complex_srht": "94901310919b015c",
        "srht": "c124d12e69a3359d",
        "dense": "8f90e79d0d0eaa68",
    }


def test_complex_tensorsketch_is_a_convolution() -> None:
    """Every pair of coordinates thrown into the bucket of the sum of hashes, one by one."""
    drawn = sketch("complex_tensorsketch", (7, 3, 16))
    assert isinstance(drawn, ComplexTensorSketch)
    x = torch.randn(7, generator=torch.Generator().manual_seed(4))
    buckets = [0j] * 8
    for i, j in itertools.product(range(7), repeat=2):
        at, phase = 0, 1 + 0j
        for linear, k in zip(drawn.error, (i, j), strict=True):
            index = int(linear.index[k])
            at += index % 8
            phase *= float(linear.sign[k]) * (1j if index >= 8 else 1)
        buckets[at % 8] += phase * float(x[i]) * float(x[j])
    r, s = (drawn.factor(applied(linear, x[None])) for linear in drawn.error)
    for frequency, got in enumerate((r * s)[0].tolist()):
        turns = [cmath.exp(-2j * math.pi * frequency * b / 8) for b in range(8)]
        assert abs(got - sum(map(complex.__mul__, turns, buckets))) < 1e-4
    norm = sum(abs(bucket) ** 2 for bucket in buckets)
    assert float(estimate(drawn, r * s, r * s)[0]) == pytest.approx(norm, rel=1e-5)


def test_tensorsketch_is_a_convolution() -> None:
    drawn = sketch("tensorsketch", (7, 3, 16))
    assert isinstance(drawn, TensorSketch)
    x = torch.randn(2, 7, generator=torch.Generator().manual_seed(4))
    buckets = torch.zeros(2, 16)
    (h, g), (s, t) = (
        [getattr(m, name).tolist() for m in drawn.error] for name in ("index", "sign")
    )
    for i, j in itertools.product(range(7), repeat=2):
        buckets[:, (h[i] + g[j]) % 16] += s[i] * t[j] * x[:, i] * x[:, j]
    psi, _ = features(drawn, x, torch.zeros(2, 3))
    got = float(estimate(drawn, psi[:1], psi[1:])[0])
    assert got == pytest.approx(float(buckets[0] @ buckets[1]), rel=1e-4)


def test_a_count_sketch_is_one_signed_addition_a_coordinate() -> None:
    for construction in ("complex_tensorsketch", "tensorsketch"):
        drawn = sketch(construction, (3000, 5, 1024))
        buckets = 512 if construction == "complex_tensorsketch" else 1024
        for linear, size in maps(drawn):
            assert isinstance(linear, CountSketch)
            assert linear.index.dtype == torch.int32
            assert linear.sign.dtype == torch.float32
            assert linear.width == 1024
            x = torch.randn(size, generator=torch.Generator().manual_seed(5)).tolist()
            out = [0.0] * 1024
            for value, index, sign in zip(
                x, linear.index.tolist(), linear.sign.tolist(), strict=True
            ):
                out[index] += sign * value
            got = applied(linear, torch.tensor([x]))[0]
            assert (got - torch.tensor(out)).abs().max() < 1e-5
        balanced = (drawn.error[0], drawn.error_squared, *drawn.activation)
        for linear, size in zip(balanced, (3000, 3000, 5, 5), strict=True):
            assert isinstance(linear, CountSketch)
            held = np.bincount(linear.index.numpy() % buckets, minlength=buckets)
            assert held.max() <= -(-size // buckets)


@pytest.mark.parametrize("construction", ["srht", "complex_srht"])
@pytest.mark.parametrize("sizes", [(5, 1, 16), (20, 9, 64)])
def test_hadamard_maps_entry_by_entry(construction: str, sizes: tuple[int, int, int]) -> None:
    for linear, size in maps(sketch(construction, sizes)):
        assert isinstance(linear, HadamardMap)
        phases = linear.planes.abs().sum(0)
        assert torch.equal(phases, torch.ones_like(phases))
        columns = linear.columns(torch.arange(size)).view(size, *linear.planes.shape[:2], -1)
        for plane, copy in itertools.product(*map(range, linear.planes.shape[:2])):
            for place, row in enumerate(linear.rows[copy].tolist()):
                for k in range(size):
                    entry = (-1) ** (row & k).bit_count() * float(linear.planes[plane, copy, k])
                    assert float(columns[k, plane, copy, place]) == entry


@pytest.mark.parametrize(("m", "size"), [(64, 5000), (4096, 600), (16, 1)])
def test_row_lists_are_without_replacement(m: int, size: int) -> None:
    drawn = sketch("srht", (max(size, 2), size, m))
    for linear in (*drawn.error, *drawn.activation):
        assert isinstance(linear, HadamardMap)
        for rows in linear.rows.tolist():
            assert len(set(rows)) == len(rows)
    r, s = drawn.error
    assert not torch.equal(r.rows, s.rows)


def test_one_row_list_for_both_would_leave_a_floor() -> None:
    """RMSE of the kernel of peaked errors at 64 and 1,024 features, of r and s with one list.

    Independent lists lower it by more than half, for sixteen times the features make a quarter.
    """
    vocab, pairs = 1024, 8
    generator = torch.Generator().manual_seed(6)
    logits = 3 * torch.randn(2 * pairs, vocab, generator=generator)
    logits = logits + 4 * torch.randn(vocab, generator=generator)
    error = logits.softmax(-1) - torch.eye(vocab)[logits.argsort(1)[:, -3]]
    sizes = error.norm(dim=1).square()
    want = (error @ error.T).square() / sizes.outer(sizes)

    def rmse(m: int, shared: bool) -> float:
        off = []
        for seed in range(12):
            drawn = sketch("srht", (vocab, 1, m), seed)
            assert isinstance(drawn, SRHT)
            r, s = drawn.error
            if shared:
                s = dataclasses.replace(s, rows=r.rows)
            psi = (applied(r, error) * applied(s, error)) / sizes[:, None]
            off.append((psi @ psi.T / m - want).square().mean())
        return float(torch.stack(off).mean().sqrt())

    apart = [rmse(m, shared=False) for m in (64, 1024)]
    shared = [rmse(m, shared=True) for m in (64, 1024)]
    assert apart[1] < 0.4 * apart[0]
    assert shared[1] > 0.6 * shared[0]
    assert shared[1] > 2.5 * apart[1]
