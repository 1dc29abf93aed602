from __future__ import annotations

import pytest
import torch

import reference.facets
import reference.sweep
from unembed.decisions.facets import facet_distance, relative_distance
from unembed.head.head import Head
from unembed.head.precision import Precision
from unembed.head.sweep import sweep


def make(vocab: int, dim: int, n: int, bias: bool, padded: bool) -> tuple[Head, torch.Tensor]:
    g = torch.Generator().manual_seed(vocab)
    weight = torch.randn(vocab, dim, generator=g)
    valid = None
    if padded:
        valid = torch.ones(vocab, dtype=torch.bool)
        valid[::5] = False
    offsets = torch.randn(vocab, generator=g) if bias else None
    return Head.from_parts(weight, offsets, 0.5, 30.0, valid), torch.randn(n, dim, generator=g)


@pytest.mark.parametrize(
    ("vocab", "bias", "padded"),
    [(2, False, False), (3, True, False), (129, True, True), (4100, False, True)],
)
def test_facets_agree_with_every_difference(vocab: int, bias: bool, padded: bool) -> None:
    head, hidden = make(vocab, 17, 6, bias, padded)
    swept = sweep(hidden, head, torch.full((6,), 1))
    precision = Precision.probe(head.weight)
    token, distance = facet_distance(hidden, head, swept.topk_ids[:, 0], precision)
    want_tokens, want = reference.facets.facet_distance(hidden, head)
    assert token.tolist() == want_tokens
    assert torch.allclose(distance.double(), torch.tensor(want).double(), rtol=1e-5)
    relative = relative_distance(hidden, head, swept.topk_ids[:, 0], swept.topk_ids[:, 1])
    naive = reference.facets.relative_distance(
        hidden, head, swept.topk_ids[:, 0], swept.topk_ids[:, 1]
    )
    assert torch.allclose(relative.double(), torch.tensor(naive).double(), rtol=1e-5)


def test_a_step_just_past_the_facet_changes_the_decision() -> None:
    head, hidden = make(300, 12, 20, True, False)
    top = sweep(hidden, head, torch.zeros(20, dtype=torch.long)).topk_ids[:, 0]
    token, distance = facet_distance(hidden, head, top, Precision.probe(head.weight))
    wall = head.weight[token] - head.weight[top]
    direction = wall / wall.norm(dim=1, keepdim=True)
    for factor, moved in ((0.999, False), (1.001, True)):
        there = hidden + factor * distance[:, None] * direction
        after = reference.sweep.logits(there, head).argmax(1)
        assert bool((after == torch.where(torch.tensor(moved), token, top)).all())


def test_relative_distance_ignores_the_scale_of_weights_and_hidden_states() -> None:
    head, hidden = make(100, 12, 9, False, False)
    plain = Head.from_parts(head.weight)
    ids = sweep(hidden, plain, torch.zeros(9, dtype=torch.long)).topk_ids
    base = relative_distance(hidden, plain, ids[:, 0], ids[:, 1])
    scaled = Head.from_parts(head.weight * 1.3)
    assert torch.allclose(
        relative_distance(hidden * 7, scaled, ids[:, 0], ids[:, 1]), base, rtol=1e-6
    )


def test_twin_rows_bound_no_facet() -> None:
    weight = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    hidden = weight[[3, 9]] * 2
    weight[30] = weight[3]
    weight[31] = weight[9] * (1 - 1e-6)
    head = Head.from_parts(weight)
    top = sweep(hidden, head, torch.tensor([0, 0])).topk_ids[:, 0]
    token, distance = facet_distance(hidden, head, top, Precision.probe(weight))
    want_tokens, want = reference.facets.facet_distance(hidden, head)
    assert token.tolist() == want_tokens
    assert distance.tolist() == pytest.approx(want, rel=1e-5)


def test_a_near_twin_that_bounds_the_cell_is_found() -> None:
    """Its squared distance to w_t drowns in float32 rounding, so it may come out negative."""
    g = torch.Generator().manual_seed(0)
    for seed in range(20):
        weight = torch.randn(600, 64, generator=g)
        hidden = weight[[7]] * 2
        aside = torch.randn(64, generator=g)
        aside -= (aside @ hidden[0] / hidden[0].square().sum() + 0.002) * hidden[0]
        weight[400] = weight[7] + 1e-4 * aside
        head = Head.from_parts(weight)
        token, distance = facet_distance(hidden, head, torch.tensor([7]), Precision.probe(weight))
        want_tokens, want = reference.facets.facet_distance(hidden, head)
        assert token.tolist() == want_tokens == [400], seed
        assert distance.tolist() == pytest.approx(want, rel=1e-4)
