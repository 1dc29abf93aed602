"""The two penalties of leading rows against their definitions, pair by pair."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import reference.objectives
from unembed.head.penalties import cosine_penalty, fisher_penalty


@settings(max_examples=40, deadline=None)
@given(k=st.integers(2, 7), size=st.sampled_from([0.0, 0.1, 1.0, 8.0]), seed=st.integers(0, 99))
def test_the_gram_form_is_the_quadratic_form(k: int, size: float, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    logits = size * torch.randn(3, k, generator=g, dtype=torch.float64)
    rows = torch.randn(3, k, 5, generator=g, dtype=torch.float64)
    rows[0, 1] = rows[0, 0] * (1 + 1e-3)
    unit = torch.nn.functional.normalize(rows, dim=2)
    for name, penalty in (("fisher", fisher_penalty), ("cosine", cosine_penalty)):
        got = penalty(logits, unit @ unit.mT).tolist()
        want = [
            reference.objectives.penalty(name, *some) for some in zip(logits, rows, strict=True)
        ]
        assert got == pytest.approx(want, rel=1e-9, abs=1e-12), name


def test_two_tokens_have_a_closed_form() -> None:
    logits = torch.linspace(-3, 3, 13, dtype=torch.float64)[:, None] * torch.tensor([0.5, -0.5])
    p = logits.softmax(1)
    for cosine in (-0.8, 0.0, 0.6, 0.95):
        gram = torch.tensor([[1.0, cosine], [cosine, 1.0]], dtype=torch.float64).expand(13, 2, 2)
        want = 4 * (1 - cosine) * p.prod(1) ** 1.5
        assert torch.allclose(fisher_penalty(logits, gram), want, rtol=1e-12, atol=0)
        assert torch.allclose(cosine_penalty(logits, gram), 2 * p.prod(1) * (1 - cosine))


def test_float32_loses_nothing_between_nearly_equal_rows() -> None:
    """Within what float32 cosines can say: a few of their roundings on each distance."""
    g = torch.Generator().manual_seed(0)
    rows = torch.randn(50, 5, 40, generator=g)
    rows[:, 1] = rows[:, 0] + 1e-3 * rows[:, 1]
    logits = torch.randn(50, 5, generator=g)
    unit = torch.nn.functional.normalize(rows, dim=2)
    got = fisher_penalty(logits, unit @ unit.mT)
    want = [
        reference.objectives.penalty("fisher", *some) for some in zip(logits, rows, strict=True)
    ]
    assert got.dtype == torch.float32
    assert got.tolist() == pytest.approx(want, abs=8 * torch.finfo(torch.float32).eps)
