from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from made_up.heads import random_head
from made_up.peers import ThreadPeers, at_peers, shared_head
from unembed.head.head import Head
from unembed.head.kernels.running import SEGMENT
from unembed.head.precision import Precision
from unembed.head.sweep import Sweep, sweep

EXACT = ("topk_values", "topk_ids", "target_logit", "rank", "finite")
SUMS = ("logsumexp", "entropy", "sum_p2")
HEADS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bias-scale": {"bias": True, "scale": 0.0625},
    "softcap-padded": {"softcap": 30.0, "bias": True, "padded": 700},
    "bfloat16": {"dtype": torch.bfloat16},
}


def together(
    hidden: torch.Tensor,
    head: Head,
    targets: torch.Tensor,
    counts: Sequence[int],
    *,
    precision: Precision | None = None,
    k: int = 5,
) -> Sweep:
    """The sweep of peers that hold so many rows each, asserted to be the same bits on all."""

    def work(peers: ThreadPeers) -> Sweep:
        held = shared_head(head, peers, counts)
        return sweep(hidden, held, targets, k=k, precision=precision)

    found, *others = at_peers(len(counts), work)
    for other in others:
        same(found, other, [field.name for field in dataclasses.fields(Sweep)])
    return found


def same(one: Sweep, other: Sweep, names: Sequence[str]) -> None:
    for name in names:
        a, b = (getattr(each, name) for each in (one, other))
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True, msg=name)


@pytest.mark.parametrize("kernel", ["compiled", "eager"])
@pytest.mark.parametrize("how", HEADS.values(), ids=HEADS)
def test_shares_say_what_the_whole_head_says(how: dict[str, Any], kernel: Any) -> None:
    head, hidden, targets = random_head(2900, 33, 70, **how)
    probed = Precision.probe(head.weight, hidden.dtype)
    precision = dataclasses.replace(
        probed, epilogue=kernel if probed.epilogue != "eager" else "eager"
    )
    whole = sweep(hidden, head, targets, k=5, precision=precision)
    for count in (1, 2, 3, 4):
        counts = [len(some) for some in torch.arange(2900).tensor_split(count)]
        found = together(hidden, head, targets, counts, precision=precision)
        same(whole, found, EXACT)
        for name in SUMS:
            a, b = getattr(whole, name), getattr(found, name)
            assert torch.allclose(a, b, rtol=1e-6, atol=1e-6), name
    for counts in ([SEGMENT, 2900 - SEGMENT], [3 * SEGMENT, SEGMENT, SEGMENT, 2900 - 5 * SEGMENT]):
        same(whole, together(hidden, head, targets, counts, precision=precision), [*EXACT, *SUMS])


def test_a_probe_of_their_own_gives_all_peers_one_route() -> None:
    head, hidden, targets = random_head(2900, 33, 70)
    whole = sweep(hidden, head, targets, k=5)
    same(whole, together(hidden, head, targets, [1000, 1900]), EXACT)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(4, 1300),
    st.integers(1, 4),
    st.integers(1, 8),
    st.integers(2, 6),
    st.integers(0, 10**6),
)
def test_ties_across_shares_go_to_the_lowest_id(
    vocab: int, count: int, n: int, k: int, seed: int
) -> None:
    """Logits of a few integer values, so that almost everything ties; shares may be one row."""
    g = torch.Generator().manual_seed(seed)
    weight = torch.randint(-2, 3, (vocab, 3), generator=g).float()
    hidden = torch.randint(-2, 3, (n, 3), generator=g).float()
    targets = torch.randint(0, vocab, (n,), generator=g)
    valid = torch.rand(vocab, generator=g) < 0.8
    valid[:2] = True
    targets[~valid[targets]] = 0
    cuts = torch.randperm(vocab - 1, generator=g)[: count - 1].sort().values + 1
    counts = torch.diff(cuts, prepend=torch.tensor([0]), append=torch.tensor([vocab])).tolist()
    head = Head.from_parts(weight, valid=valid)
    precision = Precision("ieee", 0.0, True)
    whole = sweep(hidden, head, targets, k=k, precision=precision)
    same(whole, together(hidden, head, targets, counts, precision=precision, k=k), EXACT)


@pytest.mark.parametrize("kernel", ["compiled", "eager"])
@pytest.mark.parametrize("invariant", [True, False])
def test_ranks_are_recounted_by_all_where_a_target_came_out_differently(
    invariant: bool, kernel: Any
) -> None:
    """A route that is not invariant takes thresholds in float64, which near ties then need.

    The plain kernel counts those that are near, and recounts where the target is not alone.
    """
    head, hidden, targets = random_head(1700, 33, 64, bias=True)
    head.weight[900:] = head.weight[:800]  # every logit has a near twin in another share
    head.weight[900:] *= 1 + 1e-7
    probed = Precision.probe(head.weight)
    kernel = min(kernel, probed.epilogue, key=len)
    precision = dataclasses.replace(probed, invariant=invariant, epilogue=kernel)
    whole = sweep(hidden, head, targets, k=4, precision=precision)
    same(whole, together(hidden, head, targets, [850, 850], precision=precision, k=4), EXACT)


def test_a_share_without_a_token_and_one_with_fewer_than_k() -> None:
    head, hidden, targets = random_head(1100, 17, 20)
    valid = torch.ones(1100, dtype=torch.bool)
    valid[3:600] = False
    valid[602:] = False
    head = Head.from_parts(head.weight, valid=valid)
    targets = torch.tensor([0, 1, 2, 600, 601] * 4)
    for counts in ([300, 300, 500], [600, 500], [1, 2, 597, 500]):
        found = together(hidden, head, targets, counts, k=5)
        same(sweep(hidden, head, targets, k=5), found, EXACT)
        assert set(found.topk_ids.flatten().tolist()) == {0, 1, 2, 600, 601}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_row_that_is_not_finite_in_one_share_is_not_for_any(value: float) -> None:
    head, hidden, targets = random_head(1700, 9, 20)
    head.weight[1500, 0] = value
    hidden[::2, 0] = 0.0  # infinity times zero is no number either
    whole = sweep(hidden, head, targets, k=3)
    found = together(hidden, head, targets, [700, 1000], k=3)
    assert not bool(whole.finite.any())
    assert not bool(found.finite.any())


def test_more_rows_than_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from unembed.head import blocks

    head, hidden, targets = random_head(1300, 9, 70)
    whole = sweep(hidden, head, targets, k=3)
    monkeypatch.setitem(blocks.SLICE, "cpu", 16)
    same(whole, together(hidden, head, targets, [512, 788], k=3), [*EXACT, *SUMS])


def test_readers_see_the_columns_of_their_own_process() -> None:
    head, hidden, targets = random_head(1300, 9, 20, bias=True)
    hidden = hidden[:16]
    seen = torch.zeros(16, 1300)
    everything = hidden @ head.weight.T + head.bias

    def work(peers: ThreadPeers) -> None:
        held = shared_head(head, peers, [700, 600])

        def observe(logits: torch.Tensor, start: int, rows: slice) -> None:
            stop = min(start + logits.shape[1], held.first + held.own.vocab)
            seen[rows, start:stop] = logits[:, : stop - start]

        sweep(hidden, held, targets[:16], observe=observe)

    at_peers(2, work)
    assert torch.allclose(seen, everything, rtol=0, atol=1e-4)
