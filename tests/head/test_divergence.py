from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

import reference.sweep
from made_up.heads import random_head
from unembed.head import blocks
from unembed.head.divergence import Divergence, SweptModel, divergence
from unembed.head.head import Head
from unembed.head.kernels import compiled
from unembed.head.kernels.running import SEGMENT
from unembed.head.precision import Precision
from unembed.head.product import multiply
from unembed.head.sweep import sweep


@pytest.fixture(params=["compiled", "eager"], autouse=True)
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "eager":
        monkeypatch.setattr("unembed.head.kernels.compiled.available", lambda: False)
    elif not compiled.available():
        pytest.skip("no C++ compiler here")
    return str(request.param)


def voice(head: Head, hidden: torch.Tensor, targets: torch.Tensor, k: int = 3) -> SweptModel:
    precision = Precision.probe(head.weight)
    return SweptModel(
        hidden, head, sweep(hidden, head, targets, k=k, precision=precision), precision
    )


def pair(
    vocab: int, n: int = 9, size: float = 20.0, **how: object
) -> tuple[SweptModel, SweptModel]:
    """A head and hidden states, and a disturbed copy of both."""
    head, hidden, targets = random_head(vocab, 24, n, size=size, **how)  # type: ignore[arg-type]
    g = torch.Generator().manual_seed(1)
    weight = head.weight.float() + 0.02 * torch.randn(head.weight.shape, generator=g)
    other = Head.from_parts(
        weight.to(head.weight.dtype), head.bias, head.scale, head.softcap, head.valid
    )
    moved = hidden.float() + 0.1 * torch.randn(hidden.shape, generator=g)
    return voice(head, hidden, targets), voice(other, moved.to(hidden.dtype), targets)


def naively(first: SweptModel, second: SweptModel) -> dict[str, list[float]]:
    """One position and one token after the other, in float64."""
    found: dict[str, list[float]] = {"kl_forward": [], "kl_backward": [], "total_variation": []}
    rows = [
        torch.log_softmax(reference.sweep.logits(v.hidden, v.head), -1).tolist()
        for v in (first, second)
    ]
    for p, q in zip(*rows, strict=True):
        both = [(a, b) for a, b in zip(p, q, strict=False) if a > -math.inf]
        found["kl_forward"].append(math.fsum(math.exp(a) * (a - b) for a, b in both))
        found["kl_backward"].append(math.fsum(math.exp(b) * (b - a) for a, b in both))
        found["total_variation"].append(
            math.fsum(abs(math.exp(a) - math.exp(b)) for a, b in both) / 2
        )
    return found


@pytest.mark.parametrize("vocab", [2, 3, 127, 129, 513, 5000])
@pytest.mark.parametrize(
    "how",
    [{}, {"bias": True, "scale": 0.0625}, {"softcap": 15.0, "padded": 1}, {"size": 60.0}],
    ids=["plain", "bias-scale", "softcap-padded", "saturated"],
)
def test_agrees_with_float64(vocab: int, how: dict[str, object]) -> None:
    if vocab < 4:
        how = {k: v for k, v in how.items() if k != "padded"}
    first, second = pair(vocab, **how)  # type: ignore[arg-type]
    got, want = divergence(first, second), naively(first, second)
    for name, values in want.items():
        off = (getattr(got, name).double() - torch.tensor(values, dtype=torch.double)).abs().max()
        assert off <= 1e-5, (name, off)
    assert torch.equal(got.acceptance, 1 - got.total_variation)


def test_two_models_that_are_sure_of_different_tokens() -> None:
    """Divergences of a hundred nats, where q is far below the smallest float32."""
    head, hidden, targets = random_head(300, 24, 9, size=60.0)
    first, second = voice(head, hidden, targets), voice(head, -hidden, targets)
    got, want = divergence(first, second), naively(first, second)
    assert max(want["kl_forward"]) > 90
    for name, values in want.items():
        assert getattr(got, name).tolist() == pytest.approx(values, rel=1e-6, abs=1e-5), name


@pytest.mark.parametrize("factor", [1e3, 1e4, 1e6, 1e9])
def test_no_probability_has_a_floor(factor: float) -> None:
    """Logits of a few times ``factor``: thousands of nats apart and more, and still exact."""
    head, hidden, targets = random_head(700, 24, 9, size=20.0, bias=True)
    generator = torch.Generator().manual_seed(1)
    other = Head.from_parts(
        factor * (head.weight + 0.02 * torch.randn(head.weight.shape, generator=generator)),
        None if head.bias is None else factor * head.bias,
    )
    sharp = Head.from_parts(factor * head.weight, None if head.bias is None else factor * head.bias)
    targets = torch.zeros(9, dtype=torch.long)
    for q in (voice(other, hidden, targets), voice(other, -hidden, targets)):
        p = voice(sharp, hidden, targets)
        got, want = divergence(p, q), naively(p, q)
        for name, values in want.items():
            assert getattr(got, name).tolist() == pytest.approx(
                values, rel=1e-5, abs=1e-5 + 1e-6 * factor
            ), name
    assert max(want["kl_forward"]) > 10 * factor
    for name in ("kl_forward", "kl_backward", "total_variation"):
        assert torch.equal(getattr(divergence(p, p), name), torch.zeros(9)), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_that_are_held_at_once_change_nothing(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pair(3000, n=40, dtype=dtype)
    whole = divergence(first, second)
    for most in (1, 16, 33):
        monkeypatch.setitem(blocks.SLICE, "cpu", most)
        pieces = divergence(first, second)
        for name in ("kl_forward", "kl_backward", "total_variation", "overlap"):
            assert torch.equal(getattr(pieces, name), getattr(whole, name)), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_is_at_no_distance_from_itself(dtype: torch.dtype, kernel: str) -> None:
    first, _ = pair(3000, dtype=dtype)
    assert first.precision.epilogue == kernel
    got = divergence(first, first)
    for name in ("kl_forward", "kl_backward", "total_variation"):
        assert torch.equal(getattr(got, name), torch.zeros(9)), name
    assert torch.equal(got.acceptance, torch.ones(9))
    assert torch.equal(got.overlap, torch.ones(9))


def test_blocks_and_neighbours_change_no_bit() -> None:
    first, second = pair(4000, n=40)
    whole = divergence(first, second)
    targets = torch.zeros(40, dtype=torch.long)
    for block in (SEGMENT, 3 * SEGMENT):
        again = divergence(first, second, block=block)
        assert all(torch.equal(a, b) for a, b in zip(fields(whole), fields(again), strict=True))
    alone = divergence(
        voice(first.head, first.hidden[7:8], targets[:1]),
        voice(second.head, second.hidden[7:8], targets[:1]),
    )
    assert all(torch.equal(a[7:8], b) for a, b in zip(fields(whole), fields(alone), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_heads_multiply_what_they_multiplied_in_their_sweeps(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bfloat16 head that is given float32 rows multiplies three parts of each."""
    seen: set[tuple[torch.dtype, int]] = set()

    def multiplied(left: torch.Tensor, *others: Any) -> None:
        seen.add((left.dtype, left.shape[1]))
        multiply(left, *others)

    monkeypatch.setattr("unembed.head.blocks.multiply", multiplied)
    first, second = pair(300, dtype=dtype)
    swept = seen.copy()
    seen.clear()
    divergence(first, second)
    assert len(swept) == 1
    assert seen == swept


def fields(found: Divergence) -> list[torch.Tensor]:
    return [found.kl_forward, found.kl_backward, found.total_variation, found.overlap]


def test_padded_rows_of_one_head_change_nothing() -> None:
    first, second = pair(1000)
    padded = torch.cat([second.head.weight, 100 * torch.ones(700, 24)])
    head = Head.from_parts(padded, valid=torch.arange(1700) < 1000)
    targets = torch.zeros(9, dtype=torch.long)
    for a, b in ((first, voice(head, second.hidden, targets)), (first, second)):
        got = divergence(a, b)
        assert torch.allclose(got.kl_forward, divergence(first, second).kl_forward, atol=1e-6)


def test_the_rounding_of_a_normaliser_does_not_reach_the_divergences() -> None:
    """A logsumexp of hundreds is known to a few 1e-5 alone."""
    first, second = pair(700)
    rounded = dataclasses.replace(second.swept, logsumexp=second.swept.logsumexp + 3e-5)
    got = divergence(first, dataclasses.replace(second, swept=rounded))
    want = divergence(first, second)
    for name in ("kl_forward", "kl_backward"):
        assert torch.allclose(getattr(got, name), getattr(want, name), rtol=0, atol=3e-6), name


def test_overlap_counts_shared_candidates() -> None:
    head, hidden, targets = random_head(50, 8, 6, size=5.0)
    other = Head.from_parts(-head.weight)
    got = divergence(voice(head, hidden, targets), voice(other, hidden, targets)).overlap
    assert torch.equal(got, torch.zeros(6))


def test_other_tokens_are_refused() -> None:
    first, _ = pair(100)
    _, second = pair(101)
    with pytest.raises(ValueError, match="100 of 100 rows and 101 of 101"):
        divergence(first, second)
    shorter = SweptModel(first.hidden[:3], first.head, first.swept, first.precision)
    with pytest.raises(ValueError, match=r"9 positions .*3 of"):
        divergence(first, shorter)


def test_a_logit_that_is_not_finite_shows() -> None:
    first, second = pair(600)
    hidden = first.hidden.clone()
    hidden[4, 0] = torch.nan
    broken = voice(first.head, hidden, torch.zeros(9, dtype=torch.long))
    for got in (divergence(broken, second), divergence(second, broken)):
        for column in fields(got)[:3]:
            assert torch.isnan(column).tolist() == [row == 4 for row in range(9)]
