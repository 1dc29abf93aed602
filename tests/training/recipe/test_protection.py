from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from made_up.heads import IEEE, trainable_head, two_heads
from reference.divergence import full_divergence
from reference.gradients import leaves
from unembed.decisions.tokens import classify
from unembed.errors import UnembedError
from unembed.head.head import Head, final_hidden
from unembed.head.loss import HeadLoss, head_loss
from unembed.head.sweep import sweep
from unembed.text.vocabulary import Vocabulary
from unembed.training.recipe.protection import Ewc, HeadInput, KlAnchor, MarginAnchor, Protection

INPUTS = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def network(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).to(dtype)
    model[2].bias.requires_grad_(False)
    return model


def losses(model: nn.Module) -> Iterator[Tensor]:
    """The NLL of a class for every input, each with its own graph."""
    for i, row in enumerate(INPUTS):
        yield -model(row.to(next(model.parameters()).dtype)).log_softmax(-1)[i % 3]


def test_the_fisher_is_the_mean_squared_gradient_of_the_items() -> None:
    model = network()
    ewc = Ewc.of(model, losses(model))
    assert set(ewc.fisher) == set(ewc.start) == {"0.weight", "0.bias", "2.weight"}
    assert all(p.grad is None for p in model.parameters())
    twin = network()
    total = {name: torch.zeros_like(p) for name, p in twin.named_parameters()}
    for loss in losses(twin):
        twin.zero_grad()
        loss.backward()
        for name, p in twin.named_parameters():
            total[name] += 0 if p.grad is None else p.grad.square()
    for name, fisher in ewc.fisher.items():
        assert fisher.dtype == torch.float32
        assert torch.allclose(fisher.double(), total[name] / 6, rtol=1e-6)
        assert float(fisher.max()) > 0
    assert {n: p.tolist() for n, p in ewc.start.items()} == {
        n: p.float().tolist() for n, p in twin.named_parameters() if n in ewc.start
    }


def test_the_penalty_is_half_the_distance_by_the_fisher() -> None:
    model = network(torch.float32)
    ewc = Ewc.of(model, losses(model))
    begin = {name: p.detach().double().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn_like(p)
    penalty = ewc.penalty(model)
    penalty.backward()
    wanted = 0.0
    for name, fisher in ewc.fisher.items():
        p = model.get_parameter(name)
        moved = p.detach().double() - begin[name]
        wanted += float((fisher.double() * moved.square()).sum()) / 2
        assert p.grad is not None
        assert torch.allclose(p.grad.double(), fisher.double() * moved, rtol=1e-5, atol=1e-9)
    assert model[2].bias.grad is None  # type: ignore[index]
    assert float(penalty.detach()) == pytest.approx(wanted, rel=1e-5)


def test_ewc_passes_gradcheck() -> None:
    model = network()
    ewc = Ewc.of(model, losses(model))
    names = list(ewc.start)

    def run(*parts: Tensor) -> Tensor:
        moved = nn.ParameterDict()
        moved.named_parameters = lambda: zip(names, parts, strict=True)  # type: ignore[method-assign,assignment]
        return ewc.penalty(moved)

    parts = [(start.double() + 0.2).requires_grad_() for start in ewc.start.values()]
    assert torch.autograd.gradcheck(run, parts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_at_the_start_ewc_is_zero_and_later_pulls_back(dtype: torch.dtype) -> None:
    model = network(dtype)
    ewc = Ewc.of(model, losses(model))
    ewc.penalty(model).backward()
    assert float(ewc.penalty(model).detach()) == 0.0
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and not p.grad.any() for p in trained)
    with torch.no_grad():
        for p in trained:
            p += 0.5
    before = ewc.penalty(model)
    gradients = torch.autograd.grad(before, trained)
    with torch.no_grad():
        for p, gradient in zip(trained, gradients, strict=True):
            p -= 0.5 * gradient
    assert bool(ewc.penalty(model) < before)


def test_the_start_is_a_copy_and_its_device_and_dtype_stay() -> None:
    model = network(torch.float32)
    ewc = Ewc.of(model, losses(model))
    with torch.no_grad():
        model[0].weight += 1  # type: ignore[index]
    assert not torch.equal(ewc.start["0.weight"], model[0].weight)  # type: ignore[index]
    assert ewc.start["0.weight"].device == model[0].weight.device  # type: ignore[index]


def test_a_tied_weight_counts_once() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"a": nn.Linear(4, 4, bias=False), "b": nn.Linear(4, 4, bias=False)})
    model["b"].weight = model["a"].weight
    row = torch.ones(4)
    ewc = Ewc.of(model, [model["b"](model["a"](row)).square().sum()])
    assert list(ewc.fisher) == ["a.weight"]


def test_a_parameter_that_no_loss_reads_has_no_fisher() -> None:
    model = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2))
    ewc = Ewc.of(model, [model[0](torch.ones(4)).square().sum()])
    assert bool(ewc.fisher["0.weight"].all())
    assert not ewc.fisher["1.weight"].any()


def test_ewc_without_anything_to_read_is_refused() -> None:
    model, broken = network(), (1.0, torch.nan, 1.0, 1.0, 1.0, 1.0)
    with pytest.raises(UnembedError, match="EWC was given no text to read"):
        Ewc.of(model, [])
    with pytest.raises(UnembedError, match=r"0\.weight .*finite at item 2"):
        Ewc.of(model, (loss * size for loss, size in zip(losses(model), broken, strict=True)))
    ewc = Ewc.of(model, losses(model))
    with pytest.raises(ValueError, match=r"Linear has no parameter 0\.bias"):
        ewc.penalty(nn.Linear(5, 4))
    with pytest.raises(UnembedError, match="Sequential has no trainable parameter"):
        Ewc.of(model.requires_grad_(False), [])


def hears(n: int, dtype: torch.dtype = torch.float64, **how: Any) -> tuple[HeadLoss, list[Tensor]]:
    hidden, head, targets = trainable_head(700, 5, n, dtype=dtype, **how)
    return head_loss(hidden, head, targets, 3, precision=IEEE, block=512), leaves(hidden, head)


def test_the_margin_anchor_is_the_squared_gap_of_the_means() -> None:
    heard, parts = hears(6)
    other, _ = hears(6, bias=True, scale=0.5)
    got = MarginAnchor(0.25).penalty(heard, other)
    means = []
    for one in (heard, other):
        top, z = one.topk_values.tolist(), one.logsumexp.tolist()
        means.append((sum(row[0] - row[1] for row in top) / 6, sum(z) / 6))
    wanted = 0.25 * sum((a - b) ** 2 for a, b in zip(*means, strict=True))
    assert float(got.detach()) == pytest.approx(wanted, rel=1e-9)
    assert wanted > 0.1
    assert all(bool(g.any()) for g in torch.autograd.grad(got, parts))


def test_the_margin_anchor_passes_gradcheck() -> None:
    hidden, head, targets = trainable_head(700, 3, 4, dtype=torch.float64)
    other = sweep(0.5 * hidden.detach().float(), replace(head, weight=head.weight.float()), targets)

    def run(given: Tensor, weight: Tensor) -> Tensor:
        own = replace(head, weight=weight)
        heard = head_loss(given, own, targets, precision=IEEE, block=512)
        return MarginAnchor(2.0).penalty(heard, other)

    torch.manual_seed(0)
    assert torch.autograd.gradcheck(run, [hidden, head.weight], fast_mode=True)


@pytest.mark.parametrize("n", [6, 0])
def test_at_the_start_the_margin_anchor_is_zero(n: int) -> None:
    heard, parts = hears(n, torch.float32)
    got = MarginAnchor(3.0).penalty(heard, heard)
    assert float(got.detach()) == 0.0
    assert all(not g.any() for g in torch.autograd.grad(got, parts))


def test_no_gradient_reaches_the_margin_anchors_reference() -> None:
    heard, _ = hears(6)
    other, parts = hears(6, scale=0.5)
    got = MarginAnchor(1.0).penalty(heard, other)
    assert torch.autograd.grad(got, parts, allow_unused=True) == (None, None)
    with pytest.raises(ValueError, match="6 positions, 4 of the reference"):
        MarginAnchor(1.0).penalty(heard, hears(4)[0])


TEXTS = [" the", " London", " 42", ",", " table"]
WORDS = Vocabulary({token: TEXTS[token % 5] for token in range(700)})


def readings(n: int, dtype: torch.dtype = torch.float64) -> tuple[HeadInput, HeadInput]:
    hidden, head, other_hidden, other = two_heads(700, 5, n, dtype=dtype)
    return HeadInput(hidden, head, IEEE), HeadInput(other_hidden, other, IEEE)


@pytest.mark.parametrize("classes", [("entity-like",), ("numeric", "content"), ()])
def test_the_kl_anchor_is_the_mean_at_protected_targets(classes: tuple[str, ...]) -> None:
    model, other = readings(20)
    targets = torch.arange(20) * 7 % 700
    anchor = KlAnchor.of(0.5, classes, WORDS, 700)
    got = anchor.penalty(model, other, targets)
    kept = [
        i
        for i, target in enumerate(targets.tolist())
        if not classes or classify(WORDS[target]) in classes
    ]
    assert len(kept) in (4, 8, 20)
    wanted = full_divergence(model.hidden, model.head, other.hidden, other.head)[kept].mean() / 2
    assert float(got.detach()) == pytest.approx(float(wanted.detach()), rel=1e-9)
    parts = leaves(model.hidden, model.head)
    for a, b in zip(
        torch.autograd.grad(got, parts), torch.autograd.grad(wanted, parts), strict=True
    ):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


def test_the_kl_anchor_passes_gradcheck() -> None:
    model, other = readings(5)
    anchor = KlAnchor.of(2.0, ("entity-like", "numeric"), WORDS, 700)

    def run(hidden: Tensor, weight: Tensor) -> Tensor:
        own = HeadInput(hidden, replace(model.head, weight=weight), IEEE)
        return anchor.penalty(own, other, torch.arange(5))

    torch.manual_seed(0)
    parts = leaves(model.hidden, model.head)
    assert torch.autograd.gradcheck(run, parts, fast_mode=True)


@pytest.mark.parametrize("where", ["no position is protected", "there is no position", "start"])
def test_a_kl_anchor_with_nothing_to_hold_is_zero_with_a_graph(where: str) -> None:
    model, other = readings(0 if where == "there is no position" else 6, torch.float32)
    if where == "start":
        frozen = replace(model.head, weight=model.head.weight.detach().clone())
        other = HeadInput(model.hidden.detach().clone(), frozen, IEEE)
    anchor = KlAnchor.of(1.0, ("numeric",), WORDS, 700)
    targets = torch.full((len(model.hidden),), 2 if where == "start" else 1)
    got = anchor.penalty(model, other, targets)
    assert float(got.detach()) == 0.0
    for gradient in torch.autograd.grad(got, leaves(model.hidden, model.head)):
        assert not gradient.any()


def test_a_real_model_is_pulled_back_by_every_anchor(llama: Any) -> None:
    """One step down each penalty's gradient, after the parameters were disturbed."""
    start = copy.deepcopy(llama).requires_grad_(False)
    model = copy.deepcopy(llama)
    ids = torch.arange(2 * 12).view(2, 12) * 17 % 477
    targets = ids[:, 1:].flatten()

    def read(of: Any) -> HeadInput:
        head = Head.from_parts(of.get_output_embeddings().weight)
        return HeadInput(final_hidden(of, ids[:, :-1]).flatten(0, 1), head, IEEE)

    def said(reading: HeadInput) -> HeadLoss:
        return head_loss(reading.hidden, reading.head, targets, precision=IEEE)

    def nlls() -> Iterator[Tensor]:
        for row in ids:
            output = model(input_ids=row[None], use_cache=False).logits[0, :-1]
            yield nn.functional.cross_entropy(output, row[1:])

    ewc, frozen = Ewc.of(model, nlls()), read(start)
    heard, kl = said(frozen), KlAnchor(1.0, torch.ones(480, dtype=torch.bool))
    penalties = {
        "ewc": lambda: ewc.penalty(model),
        "margin": lambda: MarginAnchor(1.0).penalty(said(read(model)), heard),
        "kl": lambda: kl.penalty(read(model), frozen, targets),
    }
    trained = list(model.parameters())
    for name, penalty in penalties.items():
        model.load_state_dict(start.state_dict())
        at_start = penalty()
        assert float(at_start.detach()) == 0.0, name
        gradients = torch.autograd.grad(at_start, trained, allow_unused=True)
        assert all(g is None or not g.any() for g in gradients), name
        torch.manual_seed(1)
        with torch.no_grad():
            for p in trained:
                p += 0.02 * torch.randn_like(p)
        before = penalty()
        gradients = torch.autograd.grad(before, trained)
        size = sum(float(g.square().sum()) for g in gradients)
        with torch.no_grad():
            for p, gradient in zip(trained, gradients, strict=True):
                p -= 0.1 * float(before.detach()) / size * gradient
        assert 0 < float(penalty().detach()) < float(before.detach()), name


def test_protection_says_whether_it_needs_the_starting_model() -> None:
    assert not Protection().needs_reference
    assert not Protection(ewc=2.0).needs_reference
    assert Protection(margin=0.5).needs_reference
    assert Protection(kl=0.5, classes=("numeric", "content")).needs_reference


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ewc": -1.0}, "ewc is -1.0"),
        ({"margin": float("nan")}, "margin is nan"),
        ({"kl": float("inf")}, "kl is inf"),
        ({"kl": 1.0, "classes": ("names",)}, "'names' .*structural"),
        ({"classes": ("numeric", "content")}, "numeric, content .*kl 0.0"),
    ],
)
def test_a_protection_that_cannot_be_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UnembedError, match=message):
        Protection(**given)
    if "classes" in given and "kl" in given:
        with pytest.raises(UnembedError, match=message):
            KlAnchor.of(1.0, given["classes"], WORDS, 700)


def test_the_fisher_of_a_model_that_is_already_cut_is_refused() -> None:
    model = network()
    parameter: Any = model[0].weight
    parameter.placements = ("a shard",)
    with pytest.raises(UnembedError, match=r"is sharded.* before the Trainer"):
        Ewc.of(model, losses(model))
