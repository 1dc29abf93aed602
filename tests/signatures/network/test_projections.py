"""Two ways to the features of a module's gradients, and factors of experts apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from reference import network
from unembed.signatures.network.products import EntrySums
from unembed.signatures.network.projections import Rows, factors
from unembed.signatures.sketches.constructions import sketch_of
from unembed.signatures.sketches.sketch import SketchSpec


def drawn(rows: int, outputs: int, inputs: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    return (
        torch.randn(rows, outputs, generator=generator),
        torch.randn(rows, inputs, generator=generator),
    )


@pytest.mark.parametrize("construction", ["complex_tensorsketch", "tensorsketch"])
@pytest.mark.parametrize(("outputs", "inputs"), [(37, 5), (16, 129), (1, 8)])
def test_entry_by_entry_is_position_by_position(
    construction: str, outputs: int, inputs: int
) -> None:
    sketch = sketch_of(SketchSpec(max(outputs, 2), inputs, construction, 64, 3))
    errors, given = drawn(70, outputs, inputs)
    entries = EntrySums.of(sketch)
    assert entries is not None
    found = entries.features(errors, given)
    want: list[Any] = [0.0] * 4
    for _at, some in factors(sketch, Rows(given, errors, np.zeros(70, dtype=np.int64))):
        each = (some.u * some.alpha, some.v * some.beta, some.alpha * some.beta, some.u * some.v)
        want = [total + one.sum(0) for total, one in zip(want, each, strict=True)]
    for ours, theirs in zip(found, want, strict=True):
        assert float((ours - theirs).abs().max()) < 1e-5 * float(theirs.abs().max())


def test_the_way_is_chosen_by_shapes() -> None:
    narrow, wide = (
        EntrySums.of(sketch_of(SketchSpec(width, width, "complex_tensorsketch", 1024, 0)))
        for width in (64, 512)
    )
    assert narrow is not None
    assert wide is not None
    assert narrow.pays(512)
    assert not narrow.pays(1)
    assert not wide.pays(512)
    assert EntrySums.of(sketch_of(SketchSpec(4096, 4096, "complex_tensorsketch", 64, 0))) is None
    assert EntrySums.of(sketch_of(SketchSpec(64, 64, "dense", 64, 0))) is None


@pytest.mark.parametrize(
    "construction", ["complex_tensorsketch", "tensorsketch", "complex_srht", "srht", "dense"]
)
def test_an_experts_errors_stand_where_the_fused_weight_has_them(construction: str) -> None:
    """Of 3 experts of 300 outputs; maps are taken from multiples of 512 alone."""
    sketch = sketch_of(SketchSpec(900, 20, construction, 64, 1))
    errors, given = drawn(5, 300, 20)
    for expert in range(3):
        rows = Rows(given, errors, np.arange(5), expert * 300)
        [(_at, some)] = factors(sketch, rows)
        whole = torch.zeros(5, 900)
        whole[:, expert * 300 : (expert + 1) * 300] = errors
        for i in range(5):
            x, y = network.projections(sketch, whole[i, :, None] * given[i])
            for ours, theirs in ((some.u * some.alpha, x), (some.v * some.beta, y)):
                assert float((ours[i] - theirs).abs().max()) < 1e-5 * float(theirs.abs().max())
