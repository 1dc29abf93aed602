"""What each penalty is, that its gradients are right and finite, and which way it moves margins."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import reference.objectives
import reference.sweep
from unembed.errors import UnembedError
from unembed.head.head import Head
from unembed.head.loss import HeadLoss, head_loss
from unembed.head.precision import Precision
from unembed.training.recipe.objectives import (
    Objective,
    Penalties,
    mean_loss,
    penalties,
    weighted_mean,
)

IEEE = Precision("ieee", 0.0, True)
OBJECTIVES = {
    "none": Objective("none"),
    "margin": Objective("margin"),
    "fisher": Objective("fisher"),
    "expand": Objective("fisher", direction="expand"),
    "entropy": Objective("entropy"),
    "cosine": Objective("cosine"),
}
PULLING = [name for name in OBJECTIVES if name != "none"]


def make(
    vocab: int = 60, dim: int = 6, n: int = 8, dtype: torch.dtype = torch.float32, **how: Any
) -> tuple[Tensor, Head, Tensor]:
    g = torch.Generator().manual_seed(how.pop("seed", 0))
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)  # noqa: E731
    hidden, weight = draw(n, dim), draw(vocab, dim)
    bias = draw(vocab).requires_grad_() if how.pop("bias", False) else None
    head = Head.from_parts(weight, bias, **how)
    weight.requires_grad_()
    return hidden.requires_grad_(), head, torch.randint(vocab, (n,), generator=g)


def hear(objective: Objective, hidden: Tensor, head: Head, targets: Tensor) -> HeadLoss:
    return head_loss(
        hidden,
        head,
        targets,
        objective.k_needed,
        cosines=objective.cosines_needed,
        precision=IEEE,
    )


def median_margin(hidden: Tensor, head: Head) -> float:
    top = (hidden @ head.weight.T).topk(2).values
    return float((top[:, 0] - top[:, 1]).median().detach())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_values_are_the_definitions(name: str) -> None:
    objective, (hidden, head, targets) = OBJECTIVES[name], make(dtype=torch.float64, bias=True)
    said = hear(objective, hidden, head, targets)
    found = penalties(objective, said)
    logits = reference.sweep.logits(hidden, head).detach()
    top = logits.topk(5)
    margin = top.values[:, 0] - top.values[:, 1]
    spreads = {
        kind: torch.tensor(
            [
                reference.objectives.penalty(kind, values, head.weight.detach()[ids])
                for values, ids in zip(top.values, top.indices, strict=True)
            ],
            dtype=torch.float64,
        )
        for kind in ("fisher", "cosine")
    }
    p = logits.softmax(1)
    want = {
        "none": torch.zeros(8, dtype=torch.float64),
        "margin": -margin,
        "fisher": spreads["fisher"],
        "expand": -spreads["fisher"],
        "entropy": -(p * p.log()).sum(1),
        "cosine": spreads["cosine"],
    }[name]
    assert torch.allclose(found.values, want, rtol=1e-9, atol=1e-12)
    assert found.counted.tolist() == ((margin < 1.0) | (name != "margin")).tolist()
    if name == "margin":
        assert 0 < int(found.counted.sum()) < 8


@pytest.mark.parametrize("how", [{}, {"bias": True, "scale": 0.5, "softcap": 6.0}])
@pytest.mark.parametrize("name", PULLING)
def test_gradcheck_through_the_head(name: str, how: dict[str, Any]) -> None:
    objective = OBJECTIVES[name]
    hidden, head, targets = make(vocab=20, dim=3, n=4, dtype=torch.float64, **how)
    parts = [part for part in (hidden, head.weight, head.bias) if part is not None]

    def run(*some: Tensor) -> Tensor:
        own = replace(head, weight=some[1], bias=some[2] if len(some) > 2 else None)
        weights = torch.tensor([1.0, 0.5, 0.0, 2.0], dtype=torch.float64)
        said = hear(objective, some[0], own, targets)
        return mean_loss(said, objective, 3.0, weights=weights).total

    assert torch.autograd.gradcheck(run, parts)


@pytest.mark.parametrize("name", PULLING)
def test_awkward_positions_are_finite_and_so_are_their_gradients(name: str) -> None:
    """Ties, a one-hot softmax, equal rows, a zero row, and k above the number of tokens."""
    objective = replace(OBJECTIVES[name], k=9)
    weight = torch.tensor([[1.0, 0], [1, 0], [-1, 0], [0, 0], [0, 1], [-1, 1e-4]])
    hidden = torch.tensor([[0.0, 0], [400, 0], [-400, 1], [0, 300], [1, 1], [-3, 0]])
    head = Head.from_parts(weight.requires_grad_(), None, valid=torch.arange(6) != 4)
    targets = torch.tensor([0, 1, 2, 3, 5, 0])
    said = hear(objective, hidden.requires_grad_(), head, targets)
    found = penalties(objective, said)
    assert found.values.shape == (6,)
    assert bool(torch.isfinite(found.values).all())
    loss = weighted_mean(found)
    for gradient in torch.autograd.grad(loss, [hidden, head.weight]):
        assert bool(torch.isfinite(gradient).all())
        assert float(gradient.abs().max()) > 0
    (at_weight,) = torch.autograd.grad(
        mean_loss(hear(objective, hidden, head, targets), objective, 1.0).total, [head.weight]
    )
    assert float(at_weight[4].abs().max()) == 0.0


@pytest.mark.parametrize("name", PULLING)
def test_minimising_widens_margins_and_expanding_narrows_them(name: str) -> None:
    objective, (hidden, head, targets) = OBJECTIVES[name], make(n=64, seed=1)
    before = median_margin(hidden, head)
    optimiser = torch.optim.SGD([hidden], lr=20.0)
    for _ in range(8):
        optimiser.zero_grad()
        said = hear(objective, hidden, head, targets)
        mean_loss(said, objective, 1.0, ce_weight=0.0).total.backward()
        optimiser.step()
    after = median_margin(hidden, head)
    assert after < 0.9 * before if name == "expand" else after > 1.1 * before


def test_no_margin_below_the_threshold_is_zero_with_a_zero_gradient() -> None:
    hidden, head, targets = make()
    objective = Objective("margin", threshold=1e-9)
    loss = mean_loss(hear(objective, hidden, head, targets), objective, 1.0, ce_weight=0.0)
    assert float(loss.penalty) == 0.0
    for gradient in torch.autograd.grad(loss.total, [hidden, head.weight]):
        assert float(gradient.abs().max()) == 0.0


def test_weights_and_what_counts_share_one_mean() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, torch.nan, 8.0], requires_grad=True)
    found = Penalties(values, torch.tensor([True, True, True, False, True]))
    weights = torch.tensor([1.0, 0.5, 0.0, 1.0, 2.0])
    mean = weighted_mean(found, weights)
    assert float(mean.detach()) == pytest.approx((1 + 1 + 16) / 3.5)
    (gradient,) = torch.autograd.grad(mean, [values])
    assert gradient.tolist() == pytest.approx([1 / 3.5, 0.5 / 3.5, 0.0, 0.0, 2 / 3.5])
    assert float(weighted_mean(found).detach()) == pytest.approx(15 / 4)
    nothing = weighted_mean(found, torch.zeros(5))
    (gradient,) = torch.autograd.grad(nothing, [values])
    assert (float(nothing.detach()), float(gradient.abs().max())) == (0.0, 0.0)


def test_the_total_is_its_two_parts() -> None:
    hidden, head, targets = make()
    objective, weights = Objective("fisher"), torch.arange(8.0)
    said = hear(objective, hidden, head, targets)
    loss = mean_loss(said, objective, 0.6, ce_weight=0.25, weights=weights)
    assert float(loss.cross_entropy) == pytest.approx(float(said.nll.mean().detach()))
    spread = weighted_mean(penalties(objective, said), weights)
    assert float(loss.penalty) == pytest.approx(float(spread.detach()))
    whole = 0.25 * float(loss.cross_entropy) + 0.6 * float(loss.penalty)
    assert float(loss.total.detach()) == pytest.approx(whole)
    assert not loss.cross_entropy.requires_grad
    assert not loss.penalty.requires_grad


@pytest.mark.parametrize("name", OBJECTIVES)
def test_weight_zero_is_cross_entropy_bit_for_bit(name: str) -> None:
    objective, (hidden, head, targets) = OBJECTIVES[name], make()
    totals, gradients = [], []
    for kind, weight in ((objective, 0.0), (Objective("none"), 0.7)):
        total = mean_loss(hear(kind, hidden, head, targets), kind, weight).total
        totals.append(total.detach())
        gradients.append(torch.autograd.grad(total, [hidden, head.weight]))
    assert torch.equal(*totals)
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("name", PULLING)
def test_a_frozen_weight_gets_no_gradient_and_hidden_the_same(name: str) -> None:
    objective, (hidden, head, targets) = OBJECTIVES[name], make()
    loss = mean_loss(hear(objective, hidden, head, targets), objective, 1.0).total
    (want,) = torch.autograd.grad(loss, [hidden])
    head.weight.requires_grad_(False)
    mean_loss(hear(objective, hidden, head, targets), objective, 1.0).total.backward()
    assert head.weight.grad is None
    assert hidden.grad is not None
    assert torch.equal(hidden.grad, want)


@pytest.mark.parametrize("name", PULLING)
def test_bfloat16_weights_get_the_float64_gradient_rounded_once(name: str) -> None:
    objective = OBJECTIVES[name]
    hidden, head, targets = make(vocab=90, n=300, dtype=torch.bfloat16)
    loss = mean_loss(hear(objective, hidden, head, targets), objective, 5.0)
    assert loss.total.dtype == torch.float32
    grads = torch.autograd.grad(loss.total, [hidden, head.weight])
    double = [part.detach().double().requires_grad_() for part in (hidden, head.weight)]
    twin = replace(head, weight=double[1])
    exact = mean_loss(hear(objective, double[0], twin, targets), objective, 5.0).total
    for got, want in zip(grads, torch.autograd.grad(exact, double), strict=True):
        assert got.dtype == torch.bfloat16
        budget = 2.0**-8 * want.abs() + 1e-5 * want.abs().max()
        assert bool(((got.double() - want).abs() <= budget).all())


def test_without_positions_the_loss_is_zero() -> None:
    hidden, head, targets = make(n=0)
    for objective in OBJECTIVES.values():
        loss = mean_loss(hear(objective, hidden, head, targets), objective, 1.0).total
        assert float(loss.detach()) == 0.0
        for gradient in torch.autograd.grad(loss, [hidden, head.weight]):
            assert bool(torch.isfinite(gradient).all())


def test_what_is_asked_of_the_head() -> None:
    asked = {name: (o.k_needed, o.cosines_needed) for name, o in OBJECTIVES.items()}
    assert asked["margin"] == asked["none"] == asked["entropy"] == (2, False)
    assert asked["fisher"] == asked["cosine"] == (5, True)
    hidden, head, targets = make()
    wide = head_loss(hidden, head, targets, 9, cosines=True, precision=IEEE)
    for name in ("fisher", "cosine"):
        narrow = hear(OBJECTIVES[name], hidden, head, targets)
        pair = [penalties(OBJECTIVES[name], said).values for said in (wide, narrow)]
        assert torch.allclose(*pair, rtol=1e-6)
    with pytest.raises(ValueError, match="fisher needs cosines: head_loss"):
        penalties(Objective("fisher"), head_loss(hidden, head, targets, 5, precision=IEEE))


def test_what_no_objective_can_have_is_refused() -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"name": "voronoi"}, "objective 'voronoi' is unknown: give one of none, margin, fisher"),
        ({"name": "fisher", "k": 1}, "k 1 is less than"),
        ({"name": "margin", "threshold": 0.0}, "threshold 0.0 is no margin"),
        ({"name": "margin", "threshold": math.nan}, "threshold nan is no margin"),
        ({"name": "fisher", "direction": "up"}, "direction 'up' is neither"),
        ({"name": "margin", "direction": "expand"}, "'expand' is for fisher, not for margin"),
    ]
    for how, message in wrong:
        with pytest.raises(UnembedError, match=message):
            Objective(**how)
    hidden, head, targets = make()
    said = hear(Objective("none"), hidden, head, targets)
    for weight in (-0.1, math.inf, math.nan):
        with pytest.raises(UnembedError, match=f"weight {weight} is no weight of a loss"):
            mean_loss(said, Objective("none"), weight)


@pytest.mark.parametrize("name", ["margin", "fisher", "entropy", "cosine"])
def test_a_gradient_share_is_that_of_two_gradients_taken_apart(name: str) -> None:
    objective, (hidden, head, targets) = OBJECTIVES[name], make(dtype=torch.float64)
    want, by_entropy, by_penalty = reference.objectives.share_weight(
        0.1, hidden, head.weight, targets, name
    )
    assert want > 0
    said = hear(objective, hidden, head, targets)
    loss = mean_loss(said, objective, gradient_share=0.1, at=hidden)
    assert loss.weight == pytest.approx(want, rel=1e-9)
    assert loss.sizes is not None
    assert math.sqrt(loss.sizes.cross_entropy) == pytest.approx(by_entropy, rel=1e-9)
    assert math.sqrt(loss.sizes.penalty) == pytest.approx(by_penalty, rel=1e-9)
    # What is minimised has the gradient of a plain weight, in the rows too: none is lambda's own.
    parts = [hidden, head.weight]
    found = torch.autograd.grad(loss.total, parts)
    again = mean_loss(hear(objective, hidden, head, targets), objective, loss.weight)
    for one, other in zip(found, torch.autograd.grad(again.total, parts), strict=True):
        assert torch.equal(one, other)
    assert again.weight == loss.weight
    # The ratio reached, from the total alone.
    bare = mean_loss(hear(objective, hidden, head, targets), objective).total
    [plain] = torch.autograd.grad(bare, [hidden])
    assert float((found[0] - plain).norm() / plain.norm()) == pytest.approx(0.1, rel=1e-9)


def test_a_share_is_of_the_cross_entropy_as_it_counts_and_of_what_is_weighed() -> None:
    objective, (hidden, head, targets) = OBJECTIVES["fisher"], make()
    weights = torch.arange(8.0)
    said = hear(objective, hidden, head, targets)
    loss = mean_loss(
        said, objective, gradient_share=0.3, at=hidden, ce_weight=0.25, weights=weights
    )
    spread = weighted_mean(penalties(objective, said), weights)
    [by_penalty] = torch.autograd.grad(loss.weight * spread, hidden, retain_graph=True)
    [by_entropy] = torch.autograd.grad(0.25 * said.nll.mean(), hidden)
    assert float(by_penalty.norm() / by_entropy.norm()) == pytest.approx(0.3, rel=1e-5)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_share_of_nothing_is_cross_entropy_bit_for_bit(name: str) -> None:
    objective, (hidden, head, targets) = OBJECTIVES[name], make()
    totals, gradients = [], []
    for kind, how in ((objective, {"gradient_share": 0.0}), (Objective("none"), {})):
        loss = mean_loss(hear(kind, hidden, head, targets), kind, at=hidden, **how)
        assert loss.weight == 0.0
        totals.append(loss.total.detach())
        gradients.append(torch.autograd.grad(loss.total, [hidden, head.weight]))
    assert torch.equal(*totals)
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_where_the_penalty_has_no_gradient_its_weight_is_zero() -> None:
    hidden, head, targets = make()
    for objective in (Objective("margin", threshold=1e-9), Objective("none")):
        said = hear(objective, hidden, head, targets)
        loss = mean_loss(said, objective, gradient_share=0.1, at=hidden)
        assert loss.weight == 0.0
        assert torch.equal(loss.total, said.nll.mean())
    nobody, head, targets = make(n=0)
    for objective in OBJECTIVES.values():
        said = hear(objective, nobody, head, targets)
        assert mean_loss(said, objective, gradient_share=0.1, at=nobody).weight == 0.0


def test_shares_that_cannot_be_are_refused() -> None:
    hidden, head, targets = make()
    objective = OBJECTIVES["margin"]
    said = hear(objective, hidden, head, targets)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"gradient_share": -0.1}, "gradient_share -0.1 is no share"),
        ({"gradient_share": math.nan}, "gradient_share nan is no share"),
        ({"gradient_share": 0.1, "weight": 0.6}, "weight 0.6 and gradient_share 0.1 both say"),
        ({"gradient_share": 0.1, "ce_weight": 0.0}, "with ce_weight 0 is nothing"),
    ]
    for how, message in wrong:
        with pytest.raises(UnembedError, match=message):
            mean_loss(said, objective, at=hidden, **how)
    for at in (None, hidden.detach()):
        with pytest.raises(ValueError, match="needs at="):
            mean_loss(said, objective, gradient_share=0.1, at=at)
    with pytest.raises(ValueError, match="of a whole step"):
        mean_loss(said, objective, gradient_share=0.1, at=hidden, positions=16.0)
