from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from made_up.corpora import corpus_of_rows
from places import SHARED
from unembed.errors import UnembedError
from unembed.text.batches import BatchPlan, batches, parts
from unembed.text.windows import Windows

WIKITEXT = SHARED / "corpora" / "wikitext2-valid.txt"


def of_lengths(lengths: list[int], context: int = 4096) -> Windows:
    rows = [[*range(5, 6 + length)] for length in lengths]
    return Windows.of(corpus_of_rows(rows, [*range(len(rows))], None), context)


def padding(windows: Windows, plan: BatchPlan) -> float:
    """Padded tokens over real ones, after every batch was checked against the plan."""
    padded = real = 0
    for part in parts(windows, plan.part_positions):
        for batch in batches(windows, part, plan):
            own = [int(block.real.sum()) for block in batch.blocks]
            count = sum(len(block.real) for block in batch.blocks)
            assert count == 1 or sum(own) <= plan.batch_tokens
            for block, tokens in zip(batch.blocks, own, strict=True):
                rows, size = len(block.real), block.real.numel()
                assert rows == 1 or size <= min(plan.block_tokens, plan.batch_tokens)
                assert rows == 1 or size <= 1.05 * tokens
                padded, real = padded + size, real + tokens
    assert real == windows.positions
    return padded / real


@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=60),
    batch_tokens=st.integers(1, 300),
    block_tokens=st.integers(1, 300),
    shares=st.integers(1, 8),
    part_positions=st.integers(1, 900),
)
@settings(max_examples=200, deadline=None)
def test_batches_and_blocks_keep_to_their_sizes(
    lengths: list[int], batch_tokens: int, block_tokens: int, shares: int, part_positions: int
) -> None:
    plan = BatchPlan(batch_tokens, block_tokens, part_positions, shares)
    assert padding(of_lengths(lengths, 80), plan) <= 1.05


@given(lengths=st.lists(st.integers(1, 90), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_a_block_ends_where_one_more_window_would_not_fit(lengths: list[int]) -> None:
    windows, plan = of_lengths(lengths), BatchPlan(100_000, 200, shares=1)
    (batch,) = batches(windows, range(len(lengths)), plan)
    shapes = [(block.real.sum(1).tolist(), block.real.shape[1]) for block in batch.blocks]
    assert [one for own, _ in shapes for one in own] == sorted(lengths, reverse=True)
    for (own, width), (following, _) in pairwise(shapes):
        more = [*own, following[0]]
        assert width * len(more) > min(200, 1.05 * sum(more))


@pytest.mark.parametrize("plan", [BatchPlan(), BatchPlan(16384, 16384, shares=1)])
@pytest.mark.parametrize("rows", [40, 4000, None])
def test_little_of_real_text_is_padding(plan: BatchPlan, rows: int | None) -> None:
    """Lengths are those in words, of which there are nearly as many as tokens."""
    if not WIKITEXT.exists():
        pytest.skip("needs the shared corpora")
    lines = WIKITEXT.read_text().splitlines()[:rows]
    windows = of_lengths([n for line in lines if (n := len(line.split()))], 1024)
    assert padding(windows, plan) <= 1.05


@pytest.mark.parametrize(("tokens", "count"), [(3000, 8), (12000, 8), (20000, 16), (700, 2)])
def test_a_part_is_shared_out_evenly(tokens: int, count: int) -> None:
    generator = np.random.default_rng(tokens)
    lengths = generator.integers(3, 60, tokens // 40).tolist()
    left = tokens - sum(lengths)
    windows = of_lengths([*lengths, *[10] * (left // 10), *[1] * (left % 10)])
    sizes = [len(b.doc) for b in batches(windows, range(len(windows.length)), BatchPlan())]
    assert len(sizes) == count
    assert max(sizes) - min(sizes) <= 60


def test_a_plan_suits_its_device() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert BatchPlan.of(cpu, None, 99) == BatchPlan(2048, 512, 99, shares=8)
    assert BatchPlan.of(gpu, None, 99) == BatchPlan(16384, 16384, 99, shares=1)
    assert BatchPlan.of(gpu, 64, 99) == BatchPlan(64, 64, 99, shares=1)


@pytest.mark.parametrize("name", ["batch_tokens", "block_tokens", "part_positions", "shares"])
def test_a_plan_of_nothing(name: str) -> None:
    wrong: dict[str, Any] = {name: 0}
    with pytest.raises(UnembedError, match=f"{name} must be at least 1, got 0"):
        BatchPlan(**wrong)
