"""The tokens whose probabilities rose and fell between two heads, against plain loops."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import reference.mining
import reference.sweep
from made_up.heads import random_head
from unembed.head.changes import ProbabilityChanges, probability_changes
from unembed.head.divergence import SweptModel, divergence
from unembed.head.head import Head
from unembed.head.precision import Precision
from unembed.head.sweep import sweep

N, K = 37, 3
GROUP = torch.tensor([(7 * i) % 5 for i in range(N)])


def swept(head: Head, hidden: torch.Tensor) -> SweptModel:
    precision = Precision.probe(head.weight)
    targets = torch.zeros(len(hidden), dtype=torch.long)
    return SweptModel(hidden, head, sweep(hidden, head, targets, precision=precision), precision)


def two(vocab: int) -> tuple[SweptModel, SweptModel]:
    """A model, and one of another width whose head has padded rows more."""
    head, hidden, _ = random_head(vocab, 24, N, size=6.0, bias=True)
    small, moved, _ = random_head(vocab, 16, N, size=6.0)
    wide = torch.cat([small.weight, torch.full((5, 16), 9.0)])
    tokens = torch.arange(vocab + 5) < vocab
    return swept(head, hidden), swept(Head.from_parts(wide, None, 1.0, None, tokens), moved)


def changes(
    both: tuple[SweptModel, SweptModel], kept: int, block: int = 4096
) -> ProbabilityChanges:
    return probability_changes(*both, GROUP, 5, k=K, kept=kept, block=block)


@pytest.mark.parametrize("vocab", [2, 3, 129, 1500])
@pytest.mark.parametrize("block", [512, 4096])
def test_changes_are_those_of_all_probabilities(vocab: int, block: int) -> None:
    both = two(vocab)
    got = changes(both, vocab, block)
    p, q = (
        [
            reference.mining.softmax(row[:vocab].tolist())
            for row in reference.sweep.logits(one.hidden, one.head)
        ]
        for one in both
    )
    want = [reference.mining.moved(*rows) for rows in zip(p, q, strict=True)]
    assert got.moved.tolist() == pytest.approx(want, abs=2e-6)
    torch.testing.assert_close(got.moved, divergence(*both).total_variation, atol=2e-6, rtol=0)
    for found, pairs in ((got.risen, (p, q)), (got.fallen, (q, p))):
        sides = (found.before, found.after) if found is got.risen else (found.after, found.before)
        for row, (first, second) in enumerate(zip(*pairs, strict=True)):
            best = reference.mining.movers(first, second, K)
            assert found.ids[row].tolist() == [token for token, *_ in best]
            for side, values in zip(sides, list(zip(*best, strict=True))[1:], strict=True):
                assert side[row].tolist() == pytest.approx(values, abs=2e-6)
    for found, rows in ((got.mass.before, p), (got.mass.after, q)):
        for number, total in reference.mining.sums(rows, GROUP.tolist()).items():
            spread = torch.zeros(vocab).scatter(0, got.mass.ids[number], found[number])
            assert spread.tolist() == pytest.approx(total.tolist(), abs=1e-5)


def test_the_largest_sums_of_a_group_are_kept() -> None:
    both = two(1500)
    whole, some = changes(both, 1500, 512), changes(both, 40, 512)
    assert some.mass.ids.shape == (5, 40)
    assert torch.equal(some.mass.ids, whole.mass.ids[:, :40])
    assert torch.equal(some.mass.before, whole.mass.before[:, :40])
    larger = torch.maximum(whole.mass.before, whole.mass.after)
    assert torch.equal(larger, larger.sort(1, descending=True).values)


def test_nothing_changes_between_a_model_and_itself() -> None:
    first, _ = two(129)
    got = changes((first, first), 129)
    assert got.moved.tolist() == [0.0] * N
    assert torch.equal(got.mass.before, got.mass.after)
    assert torch.equal(got.risen.before, got.risen.after)


def test_a_row_that_is_not_finite_counts_nowhere() -> None:
    first, second = two(129)
    hidden = first.hidden.clone()
    hidden[3] = torch.nan
    bad = swept(first.head, hidden)
    got = changes((bad, second), 129)
    assert got.moved.isnan().nonzero().tolist() == [[3]]
    sizes = [int((g == GROUP).sum()) for g in range(5)]
    sizes[int(GROUP[3])] -= 1
    for side in (got.mass.before, got.mass.after):
        assert side.sum(1).tolist() == pytest.approx(sizes, abs=1e-4)


def test_other_positions_are_refused() -> None:
    first, second = two(129)
    fewer = dataclasses.replace(second, hidden=second.hidden[:-1])
    with pytest.raises(ValueError, match="37 positions of one model, 36 of the other"):
        changes((first, fewer), 129)
