"""Features of a head whose rows several processes hold, beside those of the whole head."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from made_up.peers import ThreadPeers, at_peers, shared_head
from unembed.head.head import Head
from unembed.head.kernels import compiled
from unembed.head.precision import Precision
from unembed.head.sweep import Sweep
from unembed.signatures.reading.features import features
from unembed.signatures.signature import Fisher
from unembed.signatures.sketches.constructions import sketch_of
from unembed.signatures.sketches.names import CONSTRUCTIONS
from unembed.signatures.sketches.sketch import Sketch, SketchSpec
from unembed.signatures.state import Features

KERNELS = ["compiled", "eager"] if compiled.available() else ["eager"]
FISHERS: tuple[Fisher, ...] = ("empirical", "true")
COUNTS = ([1700], [850, 850], [512, 1, 1187], [30, 600, 700, 370])


def awkward(size: float = 12.0) -> tuple[Head, Tensor, Tensor]:
    """Bias, scale, soft-cap, padded rows that fill a share, and logits that rise with the id."""
    g = torch.Generator().manual_seed(5)
    weight, hidden = torch.randn(1700, 24, generator=g), torch.randn(37, 24, generator=g)
    weight *= size / (hidden @ weight.T).abs().max()
    bias = torch.linspace(-size, size, 1700)
    valid = torch.ones(1700, dtype=torch.bool)
    valid[:30] = valid[-300:] = False
    targets = torch.randint(30, 1400, (37,), generator=g)
    return Head.from_parts(weight, bias, 0.5, 40.0, valid), hidden, targets


def off(got: Features, want: Features) -> float:
    """The largest error of a row relative to its norm."""
    worst = 0.0
    for field in dataclasses.fields(Features):
        a, b = (getattr(each, field.name) for each in (got, want))
        assert (a is None) == (b is None)
        if b is not None:
            a, b = (each.double().view(len(each), -1) for each in (a, b))
            worst = max(worst, float(((a - b).norm(dim=1) / b.norm(dim=1)).max()))
    return worst


def together(
    head: Head, hidden: Tensor, targets: Tensor, sketch: Sketch, counts: list[int], **how: Any
) -> tuple[Sweep, Features]:
    """The features by peers, asserted to be the same bits on all."""

    def work(peers: ThreadPeers) -> tuple[Sweep, Features]:
        return features(hidden, shared_head(head, peers, counts), targets, sketch, **how)

    first, *others = at_peers(len(counts), work)
    for other in others:
        for a, b in zip(first, other, strict=True):
            for field in dataclasses.fields(a):
                one, two = getattr(a, field.name), getattr(b, field.name)
                assert one is two is None or torch.equal(one, two), field.name
    return first


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("fisher", FISHERS)
@pytest.mark.parametrize("construction", CONSTRUCTIONS)
def test_features_are_those_of_the_whole_head(
    construction: str, fisher: Fisher, kernel: Any
) -> None:
    head, hidden, targets = awkward()
    sketch = sketch_of(SketchSpec(head.vocab, head.dim, construction, 64, seed=3))
    precision = dataclasses.replace(Precision.probe(head.weight), epilogue=kernel)
    how: dict[str, Any] = {"fisher": fisher, "precision": precision, "first": fisher != "true"}
    swept, whole = features(hidden, head, targets, sketch, **how)
    for counts in COUNTS:
        found, got = together(head, hidden, targets, sketch, counts, **how)
        assert torch.equal(found.rank, swept.rank)
        assert off(got, whole) < 2e-6


@pytest.mark.parametrize("kernel", KERNELS)
def test_shares_whose_logits_lie_far_apart_are_rescaled(kernel: Any) -> None:
    """References 300 nats apart: what one process summed is nothing beside the other's."""
    head, hidden, targets = awkward(size=600.0)
    head = dataclasses.replace(head, softcap=None)
    sketch = sketch_of(SketchSpec(head.vocab, head.dim, "complex_tensorsketch", 64, seed=3))
    precision = dataclasses.replace(Precision.probe(head.weight), epilogue=kernel)
    _, whole = features(hidden, head, targets, sketch, precision=precision)
    _, got = together(head, hidden, targets, sketch, [850, 850], precision=precision)
    assert off(got, whole) < 2e-5


@pytest.mark.parametrize("fisher", FISHERS)
def test_sequences_are_samples_too(fisher: Fisher) -> None:
    head, hidden, targets = awkward()
    sketch = sketch_of(SketchSpec(head.vocab, head.dim, "complex_tensorsketch", 64, seed=3))
    how: dict[str, Any] = {"fisher": fisher, "sequence": torch.arange(37) % 5}
    _, whole = features(hidden, head, targets, sketch, **how)
    _, got = together(head, hidden, targets, sketch, [850, 850], **how)
    assert off(got, whole) < 2e-6


def test_a_row_that_is_not_finite_has_no_features() -> None:
    head, hidden, targets = awkward()
    head.weight[1200, 0] = torch.nan
    sketch = sketch_of(SketchSpec(head.vocab, head.dim, "complex_tensorsketch", 64, seed=3))

    def work(peers: ThreadPeers) -> None:
        swept, found = features(hidden, shared_head(head, peers, [850, 850]), targets, sketch)
        assert not bool(swept.finite.any())
        assert bool(torch.isnan(found.error).all())

    at_peers(2, work)
