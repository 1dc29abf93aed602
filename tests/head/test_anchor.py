from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import reference.sweep
from made_up.heads import HEAD_OPTIONS, IEEE, TwoHeads, two_heads
from operations import RecordOperations
from reference.divergence import full_divergence
from reference.gradients import largest_error, leaves
from unembed.head.anchor import kl_to_reference
from unembed.head.head import Head
from unembed.head.precision import Precision


def kl(parts: TwoHeads, **how: Any) -> Tensor:
    options = {"precision": IEEE, "reference_precision": IEEE, "block": 512} | how
    return kl_to_reference(*parts, **options)


def weighted(found: Tensor) -> Tensor:
    """A scalar with another weight for every position."""
    return (torch.cos(torch.arange(len(found), dtype=torch.float64)) * found.double()).sum()


def exact(parts: TwoHeads) -> tuple[Tensor, list[Tensor]]:
    """The divergences and their weighted sum's gradients in float64, from the same inputs."""
    hidden, head, other_hidden, other = parts
    double = [t.detach().double().requires_grad_() for t in leaves(hidden, head)]
    twin = replace(head, weight=double[1], bias=double[2] if len(double) > 2 else None)
    found = full_divergence(double[0], twin, other_hidden, other)
    return found.detach(), list(torch.autograd.grad(weighted(found), double))


@pytest.mark.parametrize("how", HEAD_OPTIONS.values(), ids=HEAD_OPTIONS)
def test_gradcheck_in_float64(how: dict[str, Any]) -> None:
    hidden, head, *frozen = two_heads(700, 3, 4, dtype=torch.float64, **how)

    def run(*parts: Tensor) -> Tensor:
        own = replace(head, weight=parts[1], bias=parts[2] if len(parts) > 2 else None)
        return kl((parts[0], own, *frozen))

    torch.manual_seed(0)
    assert torch.autograd.gradcheck(run, leaves(hidden, head), fast_mode=True)


@pytest.mark.parametrize("how", HEAD_OPTIONS.values(), ids=HEAD_OPTIONS)
def test_float64_is_the_oracle(how: dict[str, Any]) -> None:
    parts = two_heads(1300, 5, 7, dtype=torch.float64, **how)
    got = kl(parts)
    want, gradients = exact(parts)
    assert got.dtype == torch.float64
    assert float(want.min()) > 0.01
    assert torch.allclose(got, want, rtol=1e-11, atol=1e-12)
    found = torch.autograd.grad(weighted(got), leaves(*parts[:2]))
    assert largest_error(list(found), gradients) < 1e-11


def test_one_position_and_one_token_after_the_other() -> None:
    parts = two_heads(520, 4, 3, padded=7)
    rows = [reference.sweep.logits(h, own).tolist() for h, own in (parts[2:], parts[:2])]
    for got, others, own in zip(kl(parts).tolist(), *rows, strict=True):
        sums = [math.fsum(math.exp(x) for x in row) for row in (others, own)]
        tokens = [v for v in range(520) if own[v] > -math.inf]
        terms = []
        for v in tokens:
            p, q = math.exp(others[v]) / sums[0], math.exp(own[v]) / sums[1]
            terms.append(p * math.log(p / q))
        assert got == pytest.approx(math.fsum(terms), abs=3e-6)


@pytest.mark.parametrize("how", HEAD_OPTIONS.values(), ids=HEAD_OPTIONS)
@pytest.mark.parametrize("apart", [0.001, 1.0])
@pytest.mark.parametrize(
    ("vocab", "dim", "n"), [(127, 33, 9), (129, 8, 17), (700, 65, 530), (5003, 17, 40)]
)
def test_float32_errs_as_a_naive_float32_divergence_does(
    vocab: int, dim: int, n: int, apart: float, how: dict[str, Any]
) -> None:
    """By at most what the naive one errs and 2e-6 more, of one nat and of the divergence; twice
    what it errs and 2e-6 in the gradients, whose own size is 1e-3 where the models are close."""
    parts = two_heads(vocab, dim, n, apart=apart, **how)
    got = kl_to_reference(*parts, block=1024)
    want, gradients = exact(parts)
    found = list(torch.autograd.grad(weighted(got), leaves(*parts[:2])))

    rows = []
    for hidden, head in (parts[2:], parts[:2]):
        products = hidden @ head.weight.T
        products = (products if head.bias is None else products + head.bias) * head.scale
        if head.softcap is not None:
            products = head.softcap * torch.tanh(products / head.softcap)
        rows.append((products if head.valid is None else products[:, head.valid]).log_softmax(-1))
    naive = (rows[0].exp() * (rows[0] - rows[1])).sum(-1)
    plain = list(torch.autograd.grad(weighted(naive), leaves(*parts[:2])))
    off, usual = (float(((x.detach() - want).abs() / (1 + want)).max()) for x in (got, naive))
    assert off <= usual + 2e-6
    assert largest_error(found, gradients) <= 2 * largest_error(plain, gradients) + 2e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("how", HEAD_OPTIONS.values(), ids=HEAD_OPTIONS)
def test_the_same_model_is_exactly_zero_away(how: dict[str, Any], dtype: torch.dtype) -> None:
    hidden, head, *_ = two_heads(1300, 33, 530, dtype=dtype, **how)
    copy = replace(
        head,
        weight=head.weight.detach().clone(),
        bias=None if head.bias is None else head.bias.detach().clone(),
    )
    found = kl_to_reference(hidden, head, hidden.detach().clone(), copy)
    assert float(found.detach().abs().max()) == 0.0
    for gradient in torch.autograd.grad(weighted(found), leaves(hidden, head)):
        assert float(gradient.abs().max()) == 0.0


def test_a_step_down_the_gradient_brings_the_model_closer() -> None:
    parts = two_heads(1300, 16, 40)
    before = kl(parts).mean()
    gradients = torch.autograd.grad(before, leaves(*parts[:2]))
    with torch.no_grad():
        for part, gradient in zip(leaves(*parts[:2]), gradients, strict=True):
            part -= 0.1 * gradient
    assert bool(kl(parts).mean() < before)


def test_distributions_far_apart_have_finite_gradients() -> None:
    weight = torch.full((900, 2), -1.0)
    weight[3], weight[4], weight[:, 1] = 1.0, 0.9, 0.0
    hidden = torch.tensor([[200.0, 0.0], [-200.0, 0.0], [0.0, 1.0]], requires_grad=True)
    head = Head.from_parts(weight.clone().requires_grad_())
    parts = (hidden, head, -hidden.detach(), Head.from_parts(weight))
    want, gradients = exact(parts)
    got = kl(parts)
    assert float(want.max()) > 300
    assert torch.allclose(got.double(), want, rtol=1e-6, atol=1e-6)
    assert (
        largest_error(list(torch.autograd.grad(weighted(got), leaves(hidden, head))), gradients)
        < 5e-5
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_inputs_get_gradients_in_their_dtype(dtype: torch.dtype) -> None:
    """The float64 gradient rounded once: half an ulp, and 1e-5 of the largest entry."""
    parts = two_heads(1300, 33, 530, dtype=dtype, **HEAD_OPTIONS["all"])
    got = kl_to_reference(*parts)
    assert got.dtype == torch.float32
    _, gradients = exact(parts)
    found = torch.autograd.grad(weighted(got), leaves(*parts[:2]))
    for g, w in zip(found, gradients, strict=True):
        assert g.dtype == dtype
        budget = torch.finfo(dtype).eps / 2 * w.abs() + 1e-5 * w.abs().max()
        assert bool(((g.double() - w).abs() <= budget).all())


def test_the_reference_may_have_another_width_and_dtype() -> None:
    hidden, head, _, _ = two_heads(700, 33, 9)
    g = torch.Generator().manual_seed(2)
    other = Head.from_parts(torch.randn(700, 8, generator=g).bfloat16(), scale=0.5)
    parts = (hidden, head, torch.randn(9, 8, generator=g).bfloat16(), other)
    want, gradients = exact(parts)
    got = kl_to_reference(*parts)
    assert torch.allclose(got.double(), want, rtol=1e-5, atol=1e-6)
    assert (
        largest_error(list(torch.autograd.grad(weighted(got), leaves(hidden, head))), gradients)
        < 5e-6
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_blocks_change_nothing(dtype: torch.dtype) -> None:
    parts = two_heads(5003, 17, 40, dtype=dtype, **HEAD_OPTIONS["all"])
    whole = kl(parts, block=512 * 10)
    before = torch.autograd.grad(weighted(whole), leaves(*parts[:2]))
    for block in (512, 1536):
        pieces = kl(parts, block=block)
        assert torch.equal(pieces, whole) or dtype == torch.float64
        assert torch.allclose(pieces, whole, rtol=1e-6, atol=1e-12)
        after = torch.autograd.grad(weighted(pieces), leaves(*parts[:2]))
        eps = 10 * torch.finfo(dtype).eps
        assert largest_error(list(after), [g.double() for g in before]) < eps


def test_rows_that_are_no_tokens_count_for_nothing() -> None:
    parts = two_heads(1300, 5, 7, **HEAD_OPTIONS["all"])
    hidden, head, _, frozen = parts
    assert head.valid is not None
    before = kl(parts)
    with torch.no_grad():
        head.weight[1270:] = 1e4 * hidden[:1]
        frozen.weight[1270:] = -1e4
    assert torch.equal(kl(parts), before)
    _, at_weight, at_bias = torch.autograd.grad(weighted(kl(parts)), leaves(hidden, head))
    assert float(at_weight[~head.valid].abs().max()) == 0.0
    assert float(at_bias[~head.valid].abs().max()) == 0.0
    assert bool((at_weight[head.valid].abs().sum(1) > 0).all())


@pytest.mark.parametrize("n", [600, 16])
def test_no_tensor_holds_every_logit(n: int) -> None:
    parts = two_heads(8000, 8, n)
    with RecordOperations() as record:
        kl(parts).sum().backward()
    assert max(record.sizes) <= max(600 * 512, 8000 * 8)
    assert all(part.grad is not None for part in leaves(*parts[:2]))
    assert parts[3].weight.grad is None


@pytest.mark.parametrize(
    ("frozen", "products", "sums"), [(0, 9, 3), (1, 9, 3), (2, 12, 0)], ids=["h", "W", "b"]
)
def test_what_is_frozen_costs_nothing(frozen: int, products: int, sums: int) -> None:
    parts = two_heads(1300, 5, 7, bias=True)
    own = leaves(*parts[:2])
    before = torch.autograd.grad(weighted(kl(parts)), own)
    own[frozen].requires_grad_(False)
    found = kl(parts)
    with RecordOperations() as record:
        found.backward(torch.cos(torch.arange(7.0)))
    assert sum(name in ("mm", "addmm", "addmm_") for name in record.names) == products
    assert record.names.count("sum") == sums
    for i, part in enumerate(own):
        assert (part.grad is None) == (i == frozen)
        assert part.grad is None or torch.allclose(part.grad, before[i], rtol=1e-4, atol=1e-6)


def test_autocast_changes_nothing() -> None:
    parts = two_heads(700, 33, 40, bias=True)
    want = torch.autograd.grad(weighted(kl_to_reference(*parts)), leaves(*parts[:2]))
    with torch.autocast("cpu", dtype=torch.bfloat16), RecordOperations() as record:
        got = torch.autograd.grad(weighted(kl_to_reference(*parts)), leaves(*parts[:2]))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert torch.bfloat16 not in record.dtypes


@pytest.mark.parametrize("where", [0, 2], ids=["model", "reference"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_position_that_is_not_finite_says_so(where: int, value: float) -> None:
    parts = two_heads(700, 5, 4)
    clean = kl(parts)
    with torch.no_grad():
        parts[where][2, 0] = value
    got = kl(parts)
    assert torch.isnan(got).tolist() == [False, False, True, False]
    assert torch.equal(got[[0, 1, 3]], clean[[0, 1, 3]])


def test_a_token_ruled_out_by_its_bias_leaves_no_divergence() -> None:
    parts = two_heads(700, 5, 4, bias=True)
    assert parts[1].bias is not None
    with torch.no_grad():
        parts[1].bias[3] = -math.inf
    assert bool(torch.isnan(kl(parts)).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_no_positions_give_zero_gradients(dtype: torch.dtype) -> None:
    parts = two_heads(700, 5, 0, dtype=dtype, bias=True)
    found = kl_to_reference(*parts)
    assert found.shape == (0,)
    for gradient in torch.autograd.grad(found.sum(), leaves(*parts[:2])):
        assert float(gradient.abs().sum()) == 0.0


def test_what_does_not_fit_is_refused() -> None:
    hidden, head, other_hidden, other = two_heads(700, 5, 4, padded=40)
    with pytest.raises(ValueError, match=r"hidden \(4, 3\) .*width 5"):
        kl((hidden[:, :3], head, other_hidden, other))
    with pytest.raises(ValueError, match=r"hidden \(4, 3\) .*width 5"):
        kl((hidden, head, other_hidden[:, :3], other))
    with pytest.raises(ValueError, match=r"4 positions .*3 of"):
        kl((hidden, head, other_hidden[:3], other))
    with pytest.raises(ValueError, match=r"700 rows .*701"):
        kl((hidden, head, other_hidden, Head.from_parts(torch.zeros(701, 5))))
    with pytest.raises(ValueError, match="other tokens: 659 and 700 of 700 rows"):
        kl((hidden, head, other_hidden, replace(other, valid=None)))
    with pytest.raises(ValueError, match="multiple of 512, got 600"):
        kl((hidden, head, other_hidden, other), block=600)
    found = kl((hidden, head, other_hidden, other))
    for loss in (found.square().sum(), found.mean()):
        (once,) = torch.autograd.grad(loss, [hidden], create_graph=True)
        with pytest.raises(RuntimeError, match="kl_to_reference is differentiable once"):
            once.sum().backward()


def test_every_row_marked_as_a_token_is_no_mask_at_all() -> None:
    hidden, head, other_hidden, other = two_heads(700, 5, 4)
    every = replace(other, valid=torch.ones(700, dtype=torch.bool))
    want = kl((hidden, head, other_hidden, other))
    assert torch.equal(kl((hidden, head, other_hidden, every)), want)


def test_precisions_are_probed_where_none_is_given() -> None:
    parts = two_heads(700, 33, 9)
    probed = [Precision.probe(own.weight, h.dtype) for h, own in (parts[:2], parts[2:])]
    given = kl_to_reference(*parts, precision=probed[0], reference_precision=probed[1])
    assert torch.equal(kl_to_reference(*parts), given)
