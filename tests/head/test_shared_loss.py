from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from made_up.heads import HEAD_OPTIONS, IEEE, trainable_head
from made_up.peers import ThreadPeers, at_peers, shared_head
from reference.gradients import largest_error, leaves
from unembed.head.head import Head
from unembed.head.loss import HeadLoss, head_loss

FIELDS = ("nll", "topk_values", "entropy", "logsumexp", "topk_cosines")


def mixture(found: HeadLoss, only: tuple[str, ...] = FIELDS) -> Tensor:
    """A scalar with another weight for every entry of the statistics."""
    total = torch.zeros((), dtype=torch.float64)
    for i, name in enumerate(only):
        column = getattr(found, name)
        weights = torch.cos(torch.arange(column.numel(), dtype=torch.float64) + i)
        total = total + (weights.view(column.shape) * column.double()).sum()
    return total


def found_of(
    hidden: Tensor, head: Head, targets: Tensor, only: tuple[str, ...], **how: Any
) -> tuple[HeadLoss, list[Tensor]]:
    """The statistics of positions, and what a mixture of them gives hidden states, rows, bias."""
    got = head_loss(hidden, head, targets, 4, cosines=True, precision=IEEE, **how)
    wanted = leaves(hidden, head)
    given = torch.autograd.grad(mixture(got, only), wanted, materialize_grads=True)
    return got, list(given)


def in_float64(hidden: Tensor, head: Head, targets: Tensor) -> list[Tensor]:
    """The gradients of the whole head from the same rounded numbers, in float64."""
    parts = [part.detach().double().requires_grad_() for part in leaves(hidden, head)]
    twin = replace(head, weight=parts[1], bias=parts[2] if len(parts) > 2 else None)
    return found_of(parts[0], twin, targets, FIELDS)[1]


def together(
    hidden: Tensor,
    head: Head,
    targets: Tensor,
    counts: list[int],
    only: tuple[str, ...] = FIELDS,
    **how: Any,
) -> tuple[HeadLoss, list[Tensor]]:
    """``found_of`` by peers; the gradients of their rows one after the other."""

    def work(peers: ThreadPeers) -> tuple[HeadLoss, list[Tensor]]:
        own = hidden.detach().clone().requires_grad_(hidden.requires_grad)
        return found_of(own, shared_head(head, peers, counts), targets, only, **how)

    first, *others = at_peers(len(counts), work)
    for other in others:
        assert torch.equal(first[1][0], other[1][0])
        for name in (*FIELDS, "topk_ids"):
            assert torch.equal(getattr(first[0], name), getattr(other[0], name)), name
    parts = zip(*(given[1:] for _, given in [first, *others]), strict=True)
    return first[0], [first[1][0], *(torch.cat(part) for part in parts)]


@pytest.mark.parametrize("counts", [[1300], [650, 650], [512, 1, 787], [300, 600, 100, 300]])
@pytest.mark.parametrize("how", HEAD_OPTIONS.values(), ids=HEAD_OPTIONS)
@pytest.mark.parametrize(
    ("dtype", "budget"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 1e-6)]
)
def test_shares_have_the_gradients_of_the_whole_head(
    dtype: torch.dtype, budget: float, how: dict[str, Any], counts: list[int]
) -> None:
    hidden, head, targets = trainable_head(1300, 17, 40, dtype=dtype, **how)
    whole, want = found_of(hidden, head, targets, FIELDS, block=512)
    got, grads = together(hidden, head, targets, counts, block=512)
    assert torch.equal(got.topk_ids, whole.topk_ids)
    for name in FIELDS:
        a, b = getattr(got, name), getattr(whole, name)
        assert torch.allclose(a, b, rtol=budget, atol=budget), name
    assert [g.dtype for g in grads] == [dtype] * len(want)
    exact = in_float64(hidden, head, targets)
    assert largest_error(grads, exact) <= largest_error(want, exact) + budget


@pytest.mark.parametrize("only", [(name,) for name in FIELDS])
def test_each_statistic_alone_reaches_the_rows_of_every_process(only: tuple[str, ...]) -> None:
    hidden, head, targets = trainable_head(700, 5, 9, dtype=torch.float64, **HEAD_OPTIONS["all"])
    _, want = found_of(hidden, head, targets, only)
    _, grads = together(hidden, head, targets, [200, 300, 200], only)
    for got, wanted in zip(grads, want, strict=True):
        assert torch.allclose(got, wanted, rtol=1e-11, atol=1e-13)
    assert bool((want[1][:200] != 0).any())
    assert bool((want[1][500:] != 0).any())


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_normaliser_is_counted_once_however_many_hold_it(count: int) -> None:
    """Equal logits: the loss is log(vocab), and not that plus the logarithm of the processes."""
    hidden, head, targets = trainable_head(1024, 5, 8)
    with torch.no_grad():
        head.weight.zero_()
    got, grads = together(hidden, head, targets, [1024 // count] * count)
    assert got.nll.tolist() == pytest.approx([math.log(1024)] * 8, rel=1e-6)
    assert float(grads[0].abs().max()) == 0


def test_frozen_rows_and_frozen_states_get_nothing() -> None:
    hidden, head, targets = trainable_head(700, 5, 9)
    head.weight.requires_grad_(False)

    def work(peers: ThreadPeers) -> Tensor:
        own = hidden.detach().clone().requires_grad_()
        found = head_loss(own, shared_head(head, peers), targets, cosines=True)
        assert found.topk_cosines is not None
        assert not found.topk_cosines.requires_grad
        (given,) = torch.autograd.grad(found.nll.sum(), [own])
        return given

    (want,) = torch.autograd.grad(head_loss(hidden, head, targets).nll.sum(), [hidden])
    for got in at_peers(3, work):
        assert torch.allclose(got, want, rtol=1e-5, atol=1e-6)
