from __future__ import annotations

from dataclasses import replace
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor

import reference.loss
import reference.sweep
from made_up.heads import HEAD_OPTIONS, IEEE, trainable_head
from operations import RecordOperations
from reference.gradients import largest_error, leaves
from unembed.head import cosines as rowcosines
from unembed.head.head import Head
from unembed.head.loss import HeadLoss, head_loss

FIELDS = ("nll", "topk_values", "entropy", "logsumexp")
ALL = (*FIELDS, "topk_cosines")


def mixture(found: HeadLoss | dict[str, Tensor], only: tuple[str, ...] = FIELDS) -> Tensor:
    """A scalar with another weight for every entry of the statistics."""
    total = torch.zeros((), dtype=torch.float64)
    for i, name in enumerate(only):
        column = found[name] if isinstance(found, dict) else getattr(found, name)
        weights = torch.cos(torch.arange(column.numel(), dtype=torch.float64) + i)
        total = total + (weights.view(column.shape) * column.double()).sum()
    return total


def exact(hidden: Tensor, head: Head, targets: Tensor, ids: Tensor, **how: Any) -> list[Tensor]:
    """The mixture's gradients in float64 by plain autograd, from the same rounded inputs."""
    double = [t.detach().double().requires_grad_() for t in leaves(hidden, head)]
    twin = replace(head, weight=double[1], bias=double[2] if len(double) > 2 else None)
    loss = mixture(reference.loss.head_loss(double[0], twin, targets, ids), **how)
    return list(torch.autograd.grad(loss, double, materialize_grads=True))


@pytest.mark.parametrize("how", HEAD_OPTIONS.values(), ids=HEAD_OPTIONS)
@pytest.mark.parametrize("field", ALL)
def test_gradcheck_in_float64(field: str, how: dict[str, Any]) -> None:
    hidden, head, targets = trainable_head(700, 3, 4, dtype=torch.float64, **how)

    def run(*parts: Tensor) -> Tensor:
        own = replace(head, weight=parts[1], bias=parts[2] if len(parts) > 2 else None)
        found = head_loss(parts[0], own, targets, 3, cosines=True, precision=IEEE, block=512)
        return getattr(found, field)

    torch.manual_seed(0)
    assert torch.autograd.gradcheck(run, leaves(hidden, head), fast_mode=True)


@pytest.mark.parametrize("how", HEAD_OPTIONS.values(), ids=HEAD_OPTIONS)
@pytest.mark.parametrize("only", [*((name,) for name in ALL), ALL])
def test_float64_is_the_oracle(only: tuple[str, ...], how: dict[str, Any]) -> None:
    hidden, head, targets = trainable_head(1300, 5, 7, dtype=torch.float64, **how)
    got = head_loss(hidden, head, targets, 3, cosines=True, precision=IEEE, block=512)
    want = reference.loss.head_loss(hidden, head, targets, got.topk_ids)
    listed = reference.sweep.decisions(reference.sweep.logits(hidden, head), targets, 3)
    assert got.topk_ids.tolist() == listed["topk_ids"]
    for name in ALL:
        assert torch.allclose(getattr(got, name), want[name], rtol=1e-12, atol=1e-12), name
    wanted = leaves(hidden, head) if only != ("topk_cosines",) else [head.weight]
    grads = torch.autograd.grad(mixture(got, only), wanted)
    full = exact(hidden, head, targets, got.topk_ids, only=only)
    assert largest_error(list(grads), full if len(wanted) > 1 else full[1:2]) < 1e-12


@pytest.mark.parametrize("how", HEAD_OPTIONS.values(), ids=HEAD_OPTIONS)
@pytest.mark.parametrize(("vocab", "dim", "n"), [(127, 33, 9), (700, 65, 530), (5003, 17, 40)])
def test_float32_errs_as_a_naive_float32_loss_does(
    vocab: int, dim: int, n: int, how: dict[str, Any]
) -> None:
    """By at most what the naive one errs and 2e-6 of the largest gradient more."""
    hidden, head, targets = trainable_head(vocab, dim, n, **how)
    got = head_loss(hidden, head, targets, 3, cosines=True, block=1024)
    want = exact(hidden, head, targets, got.topk_ids, only=ALL)
    grads = torch.autograd.grad(mixture(got, ALL), leaves(hidden, head))
    assert all(g.dtype == torch.float32 for g in grads)

    products = hidden @ head.weight.T
    products = (products if head.bias is None else products + head.bias) * head.scale
    if head.softcap is not None:
        products = head.softcap * torch.tanh(products / head.softcap)
    tokens = products if head.valid is None else products[:, head.valid]
    logsumexp, log_p = tokens.logsumexp(-1), tokens.log_softmax(-1)
    unit = torch.nn.functional.normalize(head.weight[got.topk_ids], dim=-1)
    naive = {
        "nll": logsumexp - products.gather(1, targets[:, None])[:, 0],
        "topk_values": products.gather(1, got.topk_ids),
        "entropy": -(log_p.exp() * log_p).sum(-1),
        "logsumexp": logsumexp,
        "topk_cosines": unit @ unit.mT,
    }
    plain = torch.autograd.grad(mixture(naive, ALL), leaves(hidden, head))
    assert largest_error(list(grads), want) <= largest_error(list(plain), want) + 2e-6


def test_a_tie_gives_its_gradient_to_the_lowest_id() -> None:
    hidden, head, targets = trainable_head(1300, 5, 6)
    with torch.no_grad():
        head.weight[[9, 600, 1200]] = 4 * hidden[0]
    got = head_loss(hidden, head, targets, block=512)
    assert got.topk_ids[0].tolist() == [9, 600]
    want = exact(hidden, head, targets, got.topk_ids)
    grads = torch.autograd.grad(mixture(got), leaves(hidden, head))
    assert largest_error(list(grads), want) < 2e-6
    top = head_loss(hidden, head, targets, block=512).topk_values[0, 0]
    (at_weight,) = torch.autograd.grad(top, [head.weight])
    assert at_weight.abs().sum(1).nonzero()[:, 0].tolist() == [9]


def test_a_saturated_softmax_has_finite_gradients() -> None:
    """Their relative error is a few ulps of the logsumexp, 1.5e-5 each where that is 207."""
    weight = torch.full((900, 2), -1.0)
    weight[3], weight[:, 1] = 1.0, 0.0
    hidden = torch.tensor([[200.0, 0.0], [-200.0, 0.0], [0.0, 1.0]], requires_grad=True)
    head = Head.from_parts(weight.requires_grad_())
    got = head_loss(hidden, head, torch.tensor([3, 3, 5]), block=512)
    assert float(got.entropy[0].detach()) == pytest.approx(0.0, abs=1e-6)
    assert float(got.nll[1].detach()) == pytest.approx(400.0 + torch.log(torch.tensor(899.0)))
    want = exact(hidden, head, torch.tensor([3, 3, 5]), got.topk_ids)
    assert largest_error(list(torch.autograd.grad(mixture(got), [hidden, weight])), want) < 5e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_inputs_get_gradients_in_their_dtype(dtype: torch.dtype) -> None:
    """The float64 gradient rounded once: half an ulp, and 1e-5 of the largest entry."""
    hidden, head, targets = trainable_head(1300, 33, 530, dtype=dtype, **HEAD_OPTIONS["all"])
    got = head_loss(hidden, head, targets, 3, cosines=True)
    assert got.topk_cosines is not None
    assert {got.nll.dtype, got.topk_cosines.dtype} == {torch.float32}
    loss = mixture(got, ALL) / 100
    want = [g / 100 for g in exact(hidden, head, targets, got.topk_ids, only=ALL)]
    for g, w in zip(torch.autograd.grad(loss, leaves(hidden, head)), want, strict=True):
        assert g.dtype == dtype
        budget = torch.finfo(dtype).eps / 2 * w.abs() + 1e-5 * w.abs().max()
        assert bool(((g.double() - w).abs() <= budget).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_blocks_change_nothing(dtype: torch.dtype) -> None:
    hidden, head, targets = trainable_head(5003, 17, 40, dtype=dtype, **HEAD_OPTIONS["all"])
    whole = head_loss(hidden, head, targets, 3, cosines=True, block=512 * 10)
    before = torch.autograd.grad(mixture(whole, ALL), leaves(hidden, head))
    for block in (512, 1536):
        pieces = head_loss(hidden, head, targets, 3, cosines=True, block=block)
        for name in ALL:
            a, b = getattr(pieces, name), getattr(whole, name)
            assert torch.equal(a, b) if dtype == torch.float32 else torch.allclose(a, b, atol=1e-12)
        after = torch.autograd.grad(mixture(pieces, ALL), leaves(hidden, head))
        eps = 10 * torch.finfo(dtype).eps
        assert largest_error(list(after), [g.double() for g in before]) < eps


def test_rows_that_are_no_tokens_get_no_gradient() -> None:
    hidden, head, targets = trainable_head(1300, 5, 7, **HEAD_OPTIONS["all"])
    with torch.no_grad():
        head.weight[1270:] = 1e4 * hidden[:1]
    loss = mixture(head_loss(hidden, head, targets, 3, cosines=True, block=512), ALL)
    _, at_weight, at_bias = torch.autograd.grad(loss, leaves(hidden, head))
    assert head.valid is not None
    assert float(at_weight[~head.valid].abs().max()) == 0.0
    assert float(at_bias[~head.valid].abs().max()) == 0.0
    assert bool((at_weight[head.valid].abs().sum(1) > 0).all())


def test_no_tensor_holds_every_logit() -> None:
    hidden, head, targets = trainable_head(8000, 8, 600)
    with RecordOperations() as record:
        mixture(head_loss(hidden, head, targets, precision=IEEE, block=512)).backward()
    assert max(record.sizes) <= 600 * 512
    assert hidden.grad is not None
    assert head.weight.grad is not None


def test_no_tensor_holds_every_selected_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the cosines cost no second tensor of the weight's size."""
    n, k, dim = 600, 5, 64
    hidden, head, targets = trainable_head(2900, dim, n)
    monkeypatch.setattr(rowcosines, "GATHERED", 256)
    whole = {}
    for cosines, only in ((False, FIELDS), (True, ALL)):
        with RecordOperations() as record:
            found = head_loss(hidden, head, targets, k, cosines=cosines, precision=IEEE, block=512)
            mixture(found, only).backward()
        whole[cosines] = record.sizes.count(head.weight.numel())
        assert n * k * dim not in record.sizes
        assert 255 // k * k * dim in record.sizes or not cosines
    assert whole[True] == whole[False]


def test_a_zero_row_has_cosine_zero_and_equal_rows_stay_finite() -> None:
    hidden, head, targets = trainable_head(40, 6, 3)
    with torch.no_grad():
        head.weight[7] = 0.0
        head.weight[8] = head.weight[9]
        head.weight[10] = 1e-30 * head.weight[11]
    found = head_loss(hidden, head, targets, 40, cosines=True)
    assert found.topk_cosines is not None
    cosines = torch.empty(3, 40, 40)
    for position, ids in enumerate(found.topk_ids.tolist()):
        cosines[position, torch.tensor(ids)[:, None], ids] = found.topk_cosines[position].detach()
    assert bool((cosines[:, 7] == 0).all())
    others = torch.arange(40) != 7
    assert bool((cosines.diagonal(dim1=1, dim2=2)[:, others] == 1).all())
    assert cosines[:, 8, 9].tolist() == pytest.approx([1.0] * 3)
    assert cosines[:, 10, 11].tolist() == pytest.approx([1.0] * 3)
    assert float(cosines.abs().max()) <= 1.0
    (gradient,) = torch.autograd.grad(mixture(found, ("topk_cosines",)), [head.weight])
    assert bool(torch.isfinite(gradient).all())
    assert float(gradient[7].abs().max()) == 0.0
    keep = (others & (torch.arange(40) != 10)).nonzero()[:, 0]
    want = exact(hidden, head, targets, found.topk_ids, only=("topk_cosines",))[1]
    assert largest_error([gradient[keep]], [want[keep]]) < 1e-5


def test_a_frozen_weight_leaves_the_cosines_constant() -> None:
    hidden, head, targets = trainable_head(700, 5, 7)
    head.weight.requires_grad_(False)
    found = head_loss(hidden, head, targets, 3, cosines=True)
    assert found.topk_cosines is not None
    assert not found.topk_cosines.requires_grad
    mixture(found, ALL).backward()
    assert head.weight.grad is None
    assert head_loss(hidden, head, targets).topk_cosines is None


@pytest.mark.parametrize(
    ("frozen", "products", "sums"), [(0, 6, 3), (1, 6, 3), (2, 9, 0)], ids=["h", "W", "b"]
)
def test_what_is_frozen_costs_nothing(frozen: int, products: int, sums: int) -> None:
    hidden, head, targets = trainable_head(1300, 5, 7, bias=True)
    parts = leaves(hidden, head)
    before = torch.autograd.grad(mixture(head_loss(hidden, head, targets)), parts)
    parts[frozen].requires_grad_(False)
    nll = head_loss(hidden, head, targets, precision=IEEE, block=512).nll
    with RecordOperations() as record:
        nll.backward(torch.ones(7))
    assert sum(name in ("mm", "addmm", "addmm_") for name in record.names) == products
    assert record.names.count("sum") == sums
    for part in parts:
        part.grad = None
    mixture(head_loss(hidden, head, targets)).backward()
    for i, part in enumerate(parts):
        assert (part.grad is None) == (i == frozen)
        assert part.grad is None or torch.equal(part.grad, before[i])


def test_nothing_is_kept_where_no_gradient_is_asked() -> None:
    hidden, head, targets = trainable_head(700, 5, 7)
    with torch.no_grad():
        assert not head_loss(hidden, head, targets).nll.requires_grad
    assert not head_loss(hidden, head, targets).topk_ids.requires_grad


def test_a_tied_embedding_gathers_both_gradients() -> None:
    _, head, targets = trainable_head(1300, 16, 7)
    inputs = torch.arange(7) * 3
    embedding = torch.nn.Parameter(head.weight.detach().clone())
    tied = replace(head, weight=embedding, tied=True)
    got = head_loss(torch.tanh(embedding[inputs]), tied, targets)
    mixture(got).backward()
    double = embedding.detach().double().requires_grad_()
    twin = replace(head, weight=double)
    ids = got.topk_ids
    mixture(reference.loss.head_loss(torch.tanh(double[inputs]), twin, targets, ids)).backward()
    assert embedding.grad is not None
    assert double.grad is not None
    assert largest_error([embedding.grad], [double.grad]) < 2e-6


def test_autocast_changes_nothing() -> None:
    hidden, head, targets = trainable_head(700, 33, 40, bias=True)
    plain = head_loss(hidden, head, targets, cosines=True)
    want = torch.autograd.grad(mixture(plain, ALL), leaves(hidden, head))
    with torch.autocast("cpu", dtype=torch.bfloat16), RecordOperations() as record:
        loss = mixture(head_loss(hidden, head, targets, cosines=True), ALL)
        got = torch.autograd.grad(loss, leaves(hidden, head))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert torch.bfloat16 not in record.dtypes


def test_a_position_that_is_not_finite_says_so() -> None:
    hidden, head, targets = trainable_head(700, 5, 4)
    clean = head_loss(hidden, head, targets)
    with torch.no_grad():
        hidden[2, 0] = torch.nan
    got = head_loss(hidden, head, targets)
    for name in ("nll", "entropy", "logsumexp"):
        assert torch.isnan(getattr(got, name)).tolist() == [False, False, True, False]
        assert torch.equal(getattr(got, name)[[0, 1, 3]], getattr(clean, name)[[0, 1, 3]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_no_positions_give_zero_gradients(dtype: torch.dtype) -> None:
    hidden, head, targets = trainable_head(700, 5, 0, dtype=dtype, bias=True)
    got = head_loss(hidden, head, targets, cosines=True)
    assert got.topk_values.shape == (0, 2)
    for gradient in torch.autograd.grad(mixture(got, ALL), leaves(hidden, head)):
        assert float(gradient.abs().sum()) == 0.0


def test_what_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, head, targets = trainable_head(700, 5, 4, padded=40)
    with pytest.raises(ValueError, match="head of width 5"):
        head_loss(hidden[:, :3], head, targets)
    with pytest.raises(ValueError, match="below 700"):
        head_loss(hidden, head, targets + 700)
    with pytest.raises(ValueError, match="target 699 is not a token"):
        head_loss(hidden, head, torch.full_like(targets, 699))
    with pytest.raises(ValueError, match="target -1 is no id"):
        head_loss(hidden, head, torch.tensor([1, -1, 2, 3]))
    with pytest.raises(ValueError, match=r"targets hold -100, .* select the other positions first"):
        head_loss(hidden, head, torch.tensor([1, -100, 2, 3]))
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for dtype, name in ((torch.float32, "float32"), (torch.bool, "bool")):
        with pytest.raises(ValueError, match=f"targets are {name}, not token ids"):
            head_loss(hidden, head, targets.to(dtype))


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("total", [Tensor.mean, Tensor.sum, lambda x: x.square().sum()])
def test_a_second_derivative_is_an_error_and_never_zero(field: str, total: Any) -> None:
    """Whether or not the loss's own gradient has a graph, and by whichever tensor it is taken."""
    hidden, head, targets = trainable_head(700, 5, 4)
    before = torch.randn(4, 5, requires_grad=True)
    for inputs, at in ((hidden, hidden), (hidden, head.weight), (torch.tanh(before), before)):
        loss = total(getattr(head_loss(inputs, head, targets), field))
        (once,) = torch.autograd.grad(loss, [at], create_graph=True)
        with pytest.raises(RuntimeError, match="head_loss is differentiable once"):
            torch.autograd.grad(once.square().sum(), [at], retain_graph=True)
    with pytest.raises(RuntimeError, match="head_loss is differentiable once"):
        torch.autograd.functional.hessian(
            lambda inputs: total(getattr(head_loss(inputs, head, targets), field)), hidden
        )


def test_a_graph_of_the_gradient_changes_no_number() -> None:
    hidden, head, targets = trainable_head(700, 5, 4, bias=True)
    plain = torch.autograd.grad(mixture(head_loss(hidden, head, targets)), leaves(hidden, head))
    loss = mixture(head_loss(hidden, head, targets))
    graphed = torch.autograd.grad(loss, leaves(hidden, head), create_graph=True)
    for one, other in zip(plain, graphed, strict=True):
        assert torch.equal(one, other.detach())
        assert other.requires_grad
        assert not one.requires_grad


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32]
)
@pytest.mark.parametrize("hidden_dtype", [torch.float32, torch.float64])
def test_small_integer_types_are_ids_too(dtype: torch.dtype, hidden_dtype: torch.dtype) -> None:
    hidden, head, targets = trainable_head(100, 5, 4, padded=8, dtype=hidden_dtype)
    want = head_loss(hidden, head, targets)
    got = head_loss(hidden, head, targets.to(dtype))
    assert torch.equal(got.nll, want.nll)
    assert torch.equal(got.topk_ids, want.topk_ids)


def test_the_default_dtype_plays_no_part() -> None:
    hidden, head, targets = trainable_head(700, 33, 40, **HEAD_OPTIONS["all"])
    plain = head_loss(hidden, head, targets, 3, cosines=True)
    want = torch.autograd.grad(mixture(plain, ALL), leaves(hidden, head))
    torch.set_default_dtype(torch.float64)
    try:
        found = head_loss(hidden, head, targets, 3, cosines=True)
        got = torch.autograd.grad(mixture(found, ALL), leaves(hidden, head))
    finally:
        torch.set_default_dtype(torch.float32)
    for name in ALL:
        assert torch.equal(getattr(found, name), getattr(plain, name))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
