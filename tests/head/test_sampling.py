from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers.generation.logits_process import (
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

import reference.drafting
import reference.sweep
from made_up.heads import random_head
from unembed.errors import UnembedError
from unembed.head.divergence import SweptModel, divergence
from unembed.head.head import Head
from unembed.head.precision import Precision
from unembed.head.sampling import CANDIDATES, Sampling, acceptances, nucleus, processed
from unembed.head.sweep import sweep

SAMPLINGS = (
    Sampling(),
    Sampling(0.3),
    Sampling(1.7, top_p=0.9),
    Sampling(top_k=5),
    Sampling(0.8, 20, 0.95),
    Sampling(0.7, top_p=0.01),
    Sampling(top_k=1),
)


def plainly(logits: torch.Tensor, sampling: Sampling) -> list[list[float]]:
    sampler = (sampling.temperature, sampling.top_k, sampling.top_p)
    return [reference.drafting.processed(row, sampler) for row in logits.tolist()]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("vocab", [2, 3, 129, 2000])
@pytest.mark.parametrize("spread", [0.1, 4.0])
def test_processed_is_each_filter_after_the_other(
    sampling: Sampling, vocab: int, spread: float
) -> None:
    g = torch.Generator().manual_seed(vocab)
    logits = spread * torch.randn(5, vocab, generator=g)
    logits[1] = (2 * logits[1]).round()  # ties
    logits[2] = 0.0
    got, want = processed(logits, sampling), plainly(logits, sampling)
    assert got.tolist() == [pytest.approx(row, abs=1e-6) for row in want]
    exact = torch.tensor(want, dtype=torch.float64)
    assert not got[exact == 0].any()
    assert got[exact > 1e-30].all()


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_processed_is_what_transformers_draws_from(sampling: Sampling) -> None:
    logits = 3 * torch.randn(6, 700, generator=torch.Generator().manual_seed(3))
    logits[0, 40:50] = logits[0].max()  # a top-k holds all that tie with its last
    scores = TemperatureLogitsWarper(sampling.temperature)(None, logits)
    if sampling.top_k is not None:
        scores = TopKLogitsWarper(sampling.top_k)(None, scores)
    if sampling.top_p < 1:
        scores = TopPLogitsWarper(sampling.top_p)(None, scores)
    rows = slice(1, None) if sampling.top_p < 0.1 else slice(None)  # ties at a nucleus's end
    torch.testing.assert_close(processed(logits, sampling)[rows], scores.softmax(-1)[rows])


def test_a_nucleus_takes_equal_scores_from_the_lowest_id() -> None:
    scores = torch.tensor([[0.0, 2.0, 0.0, 0.0, 2.0, 0.0]])
    kept = [nucleus(scores, p)[0].nonzero()[:, 0].tolist() for p in (0.3, 0.7, 0.83, 0.88)]
    assert kept == [[1], [1, 4], [0, 1, 4], [0, 1, 2, 4]]


def test_a_nucleus_may_be_wider_than_what_is_looked_at_first() -> None:
    scores = 0.5 * torch.randn(3, 20 * CANDIDATES, generator=torch.Generator().manual_seed(0))
    scores[1] *= 20
    kept = nucleus(scores, 0.9)
    assert kept.sum(1)[0] > CANDIDATES > kept.sum(1)[1]
    p = scores.double().softmax(-1)
    for row, chosen in zip(p, kept, strict=True):
        assert row[chosen].sum() >= 0.9 > row[chosen].sum() - row[chosen].min()
        assert row[chosen].min() >= row[~chosen].max()


@pytest.mark.parametrize("top_p", [0.5, 0.9, 1 - 1e-12])
def test_a_wide_nucleus_is_that_of_a_whole_sort(top_p: float) -> None:
    scores = 3 * torch.randn(4, 30_000, generator=torch.Generator().manual_seed(0))
    scores[1] = (4 * scores[1]).round() / 4  # ties at its end
    scores[2, 5:] -= 400.0  # beyond the last step
    scores[3, ::2] = -torch.inf
    ordered = torch.sort(scores, dim=1, descending=True, stable=True)
    mass = (ordered.values - scores.amax(1, keepdim=True)).double().exp()
    wanted = top_p * mass.sum(1, keepdim=True)
    want = torch.zeros_like(scores, dtype=torch.bool)
    want.scatter_(1, ordered.indices, mass.cumsum(1) - mass < wanted)
    got = nucleus(scores, top_p)
    if top_p < 0.99:
        assert torch.equal(got, want)
    # Sums in another order may move the end where next to nothing is left out.
    assert processed(scores, Sampling(top_p=top_p)).sum(1).tolist() == pytest.approx([1] * 4)
    mass = (scores - scores.amax(1, keepdim=True)).double().exp()
    assert ((mass * got).sum(1) >= (top_p - 1e-6) * mass.sum(1)).all()


def swept(head: Head, hidden: torch.Tensor) -> SweptModel:
    precision = Precision.probe(head.weight)
    targets = torch.zeros(len(hidden), dtype=torch.long)
    return SweptModel(hidden, head, sweep(hidden, head, targets, precision=precision), precision)


def two(vocab: int, n: int = 21) -> tuple[SweptModel, SweptModel]:
    """A model, and one of another width whose head has padded rows more."""
    head, hidden, _ = random_head(vocab, 24, n, size=6.0, bias=True)
    small, moved, _ = random_head(vocab, 16, n, size=6.0)
    wide = torch.cat([small.weight, torch.full((5, 16), 9.0)])
    tokens = torch.arange(vocab + 5) < vocab
    return swept(head, hidden), swept(Head.from_parts(wide, None, 1.0, None, tokens), moved)


@pytest.mark.parametrize("vocab", [3, 129, 1500])
def test_acceptance_is_the_shared_mass_of_what_both_draw_from(vocab: int) -> None:
    both = two(vocab, n=5 if vocab > 1000 else 21)
    got = acceptances(*both, SAMPLINGS)
    logits = [reference.sweep.logits(one.hidden, one.head)[:, :vocab] for one in both]
    for sampling, chances in zip(SAMPLINGS, got, strict=True):
        p, q = (plainly(one, sampling) for one in logits)
        want = [reference.drafting.acceptance(*rows) for rows in zip(p, q, strict=True)]
        assert chances.tolist() == pytest.approx(want, abs=2e-6)
    assert 0.01 < got[0].mean() < 0.99
    torch.testing.assert_close(got[0], divergence(*both).acceptance, atol=2e-6, rtol=0)


def test_memory_is_bounded_and_never_changes_a_chance() -> None:
    both = two(129)
    whole = torch.stack(acceptances(*both, SAMPLINGS))
    for held in (1, 129 * 16, 129 * 40):
        assert torch.equal(torch.stack(acceptances(*both, SAMPLINGS, held=held)), whole)


def test_a_model_always_accepts_itself() -> None:
    first, _ = two(129)
    for chances in acceptances(first, first, SAMPLINGS):
        assert chances.tolist() == [1.0] * 21


def test_a_row_that_is_not_finite_has_no_chance() -> None:
    first, second = two(129)
    hidden = first.hidden.clone()
    hidden[3] = torch.nan
    first = dataclasses.replace(first, hidden=hidden)
    for chances in acceptances(first, second, SAMPLINGS):
        assert chances.isnan().nonzero().tolist() == [[3]]


def test_samplings_are_read_from_words() -> None:
    assert Sampling.read("T=0.8,top-k=50,top-p=0.95") == Sampling(0.8, 50, 0.95)
    assert Sampling.read("top-p = 0.5 , T = 2") == Sampling(2.0, None, 0.5)
    assert str(Sampling(0.8, 50, 0.95)) == "T = 0.8, top-k 50, top-p 0.95"
    assert str(Sampling()) == "T = 1"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("T=0", "temperature 0 is no number above 0"),
        ("T=-1", "temperature -1"),
        ("T=inf", "temperature inf"),
        ("T=nan", "temperature nan"),
        ("top-k=0", "top-k 0 keeps no token"),
        ("top-p=0", r"top-p 0 is outside \(0, 1\]"),
        ("top-p=1.5", "top-p 1.5 is outside"),
        ("T=warm", "'T=warm' in 'T=warm' is no number"),
        ("top-k=1.5", "'top-k=1.5'"),
        ("min-p=0.1", "'min-p=0.1' is no sampling"),
        ("T=1,T=2", "'T=1,T=2' is no sampling"),
        ("", "'' is no sampling"),
    ],
)
def test_what_is_no_sampling_is_refused_in_one_line(words: str, message: str) -> None:
    with pytest.raises(UnembedError, match=message) as said:
        Sampling.read(words)
    assert "\n" not in str(said.value)
