"""Cosines of selected rows, pair by pair."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from unembed.head.cosines import PAIRED, pair_cosines, row_cosines
from unembed.head.head import Head


@pytest.fixture
def threads_restored() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads_restored")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pairs_are_rows_to_the_bit_in_any_call(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(90, 37, generator=generator).to(dtype)
    weight[3] = 0
    ids = torch.randint(0, 90, (2 * PAIRED + 9, 4), generator=generator)
    ids[0] = torch.tensor([3, 3, 5, 5])
    head = Head.from_parts(weight)
    whole = pair_cosines(head, ids)
    want = row_cosines(head, ids, torch.float64)
    assert whole.double().numpy() == pytest.approx(want.numpy(), abs=1e-6)
    assert whole[0].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    for size, threads in ((1, 1), (7, 2), (300, 3)):
        torch.set_num_threads(threads)
        pieces = [pair_cosines(head, some) for some in ids.split(size)]
        assert torch.equal(torch.cat(pieces), whole)
