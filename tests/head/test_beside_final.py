"""Depths beside the final one: against float64, and bitwise the same however they are cut."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

import reference.beside_final
import reference.sweep
from made_up.heads import random_head
from unembed.head import beside_final, blocks
from unembed.head.beside_final import BESIDE, BesideFinal, sweep_beside_final
from unembed.head.blocks import NEVER, logit_blocks
from unembed.head.head import Head
from unembed.head.kernels import compiled
from unembed.head.precision import Precision
from unembed.head.product import pad_rows
from unembed.head.sweep import Sweep, sweep

HEADS = {
    "plain": {},
    "bias-scale": {"bias": True, "scale": 0.0625},
    "softcap-padded": {"softcap": 15.0, "padded": 1},
    "bfloat16": {"dtype": torch.bfloat16},
    "saturated": {"size": 60.0},
}
SWEPT = [field.name for field in dataclasses.fields(Sweep)]


@pytest.fixture(params=["compiled", "eager"], autouse=True)
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "eager":
        monkeypatch.setattr("unembed.head.kernels.compiled.available", lambda: False)
    elif not compiled.available():
        pytest.skip("no C++ compiler here")
    return str(request.param)


def depths(final: torch.Tensor, count: int = 2, far: float = 0.5) -> list[torch.Tensor]:
    """States that come nearer to the final ones, and those themselves."""
    g = torch.Generator().manual_seed(1)
    noise = torch.randn(count, *final.shape, generator=g).to(final.dtype)
    return [*(final + far ** (i + 1) * one for i, one in enumerate(noise)), final]


def given(states: list[torch.Tensor]) -> list[Callable[[slice], torch.Tensor]]:
    return [lambda rows, some=some: some[rows] for some in states]  # type: ignore[misc]


def equal(a: Sweep, b: Sweep) -> None:
    for name in SWEPT:
        assert torch.equal(getattr(a, name), getattr(b, name)), name


def same(found: tuple[Sweep, list[BesideFinal]], want: tuple[Sweep, list[BesideFinal]]) -> None:
    equal(found[0], want[0])
    for a, b in zip(found[1], want[1], strict=True):
        equal(a.swept, b.swept)
        for name in BESIDE:
            assert torch.equal(getattr(a, name), getattr(b, name)), name


def float32_logits(states: torch.Tensor, head: Head) -> torch.Tensor:
    """All logits as a sweep makes them, in float64; minus infinity where a row is no token."""
    inputs = pad_rows(states, dtype=states.dtype)
    precision = Precision.probe(head.weight)
    tiles = [logits.clone() for _, logits, _ in logit_blocks(inputs, head, precision)]
    found = torch.cat(tiles, 1)[: len(states), : head.vocab].double()
    return found.masked_fill(found <= NEVER, -torch.inf)


@pytest.mark.parametrize("vocab", [2, 3, 127, 129, 513, 5000])
@pytest.mark.parametrize("how", HEADS)
def test_agrees_with_float64(vocab: int, how: str) -> None:
    """To 1e-5 with float64 sums of the same float32 logits, whose own rounding comes to that."""
    options = {k: v for k, v in HEADS[how].items() if vocab > 3 or k != "padded"}
    head, final, targets = random_head(vocab, 24, 9, **options)  # type: ignore[arg-type]
    states = depths(final)
    last, found = sweep_beside_final(final, given(states), head, targets, k=3)
    for said, some in zip((last, *(one.swept for one in found)), (final, *states), strict=True):
        equal(said, sweep(some, head, targets, k=3))
    for logits, budget in ((float32_logits, 1e-5), (reference.sweep.logits, 1e-4)):
        for one, some in zip(found, states, strict=True):
            want = reference.beside_final.beside_final(logits(final, head), logits(some, head))
            assert one.final_rank.tolist() == want["final_rank"]
            for name in ("kl_final", "acceptance"):
                values = getattr(one, name).tolist()
                assert values == pytest.approx(want[name], rel=budget, abs=1e-10), name


def test_equal_states_are_at_no_distance() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        head, final, targets = random_head(3000, 24, 9, dtype=dtype)
        last, [one] = sweep_beside_final(final, given([final]), head, targets)
        assert torch.equal(one.kl_final, torch.zeros(9))
        assert torch.equal(one.acceptance, torch.ones(9))
        assert torch.equal(one.final_rank, torch.ones(9, dtype=torch.long))
        equal(one.swept, last)


@pytest.mark.parametrize("far", [1e-1, 1e-2, 1e-3, 1e-4, 1e-5])
def test_a_small_divergence_is_no_difference_of_large_ones(far: float) -> None:
    """States next to each other: KL goes with the square of their distance, to 1e-10."""
    head, final, targets = random_head(5000, 24, 9, size=20.0, bias=True)
    states = depths(final, 1, far)[0]
    _, [one] = sweep_beside_final(final, given([states]), head, targets)
    logits = [float32_logits(some, head) for some in (final, states)]
    want = torch.tensor(reference.beside_final.beside_final(*logits)["kl_final"])
    assert float(want.median()) == pytest.approx(12 * far**2, rel=0.5)
    off = (one.kl_final.double() - want).abs()
    assert bool((off <= 1e-5 * want + 2e-7 * want.sqrt()).all())


@pytest.mark.parametrize("factor", [1e3, 1e6, 1e9])
def test_no_probability_has_a_floor(factor: float) -> None:
    """Logits of a few times ``factor``, thousands of nats apart and more."""
    head, final, _ = random_head(700, 24, 9, bias=True)
    assert head.bias is not None
    head = Head.from_parts(factor * head.weight, factor * head.bias)
    targets, states = torch.zeros(9, dtype=torch.long), [-final, final + 1e-3, final]
    _, found = sweep_beside_final(final, given(states), head, targets)
    for one, some in zip(found, states, strict=True):
        logits = [float32_logits(rows, head) for rows in (final, some)]
        want = reference.beside_final.beside_final(*logits)
        assert one.final_rank.tolist() == want["final_rank"]
        assert one.kl_final.tolist() == pytest.approx(want["kl_final"], rel=1e-5, abs=1e-12)
        assert one.acceptance.tolist() == pytest.approx(want["acceptance"], rel=1e-5, abs=1e-30)
    assert float(found[0].kl_final.max()) > 10 * factor


def test_a_rare_agreement_has_its_own_size() -> None:
    """Two sure distributions share 1e-20: a difference from 1 would be 0 or 1e-7."""
    head, final, targets = random_head(300, 24, 9, size=60.0)
    _, [one] = sweep_beside_final(final, given([-final]), head, targets)
    want = reference.beside_final.beside_final(
        *(reference.sweep.logits(h, head) for h in (final, -final))
    )
    assert min(want["acceptance"]) < 1e-15
    assert one.acceptance.tolist() == pytest.approx(want["acceptance"], rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuts_neighbours_and_threads_change_no_bit(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, final, targets = random_head(1100, 33, 40, bias=True, softcap=20.0, dtype=dtype)
    states, precision = depths(final), Precision.probe(head.weight)

    def read(rows: slice) -> tuple[Sweep, list[BesideFinal]]:
        own = given([some[rows] for some in states])
        return sweep_beside_final(final[rows], own, head, targets[rows], k=3, precision=precision)

    whole = read(slice(None))
    alone = read(slice(7, 8))
    equal(alone[0], Sweep(*(getattr(whole[0], name)[7:8] for name in SWEPT)))
    for a, b in zip(alone[1], whole[1], strict=True):
        assert all(torch.equal(getattr(a, name), getattr(b, name)[7:8]) for name in BESIDE)
    threads = torch.get_num_threads()
    try:
        for held, count in ((1, 1), (1, 2), (2 * 16 * 8 * 1536, 1)):
            torch.set_num_threads(count)
            monkeypatch.setattr(beside_final, "HELD", held)
            same(read(slice(None)), whole)
        monkeypatch.setitem(blocks.SLICE, "cpu", 23)
        same(read(slice(None)), whole)
    finally:
        torch.set_num_threads(threads)


def test_states_of_another_dtype_take_the_route_that_their_own_sweep_takes() -> None:
    """A fitted lens makes float32 states, which a route for 16-bit ones may not be made for."""
    head, final, targets = random_head(5000, 32, 9, dtype=torch.bfloat16)
    states = [some.float() for some in depths(final)]
    last, found = sweep_beside_final(final, given(states), head, targets, k=3)
    equal(last, sweep(final, head, targets, k=3))
    for one, some in zip(found, states, strict=True):
        equal(one.swept, sweep(some, head, targets, k=3))
        want = reference.beside_final.beside_final(
            *(reference.sweep.logits(rows, head) for rows in (final, some))
        )
        assert one.kl_final.tolist() == pytest.approx(want["kl_final"], rel=1e-4, abs=1e-8)


def test_states_are_made_once_and_of_as_many_rows_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    head, final, targets = random_head(600, 8, 70)
    monkeypatch.setattr(beside_final, "HELD", 2 * 4 * 1024 * 32)
    asked = []

    def make(rows: slice) -> torch.Tensor:
        asked.append((rows.start, rows.stop))
        return final[rows]

    sweep_beside_final(final, [make], head, targets)
    assert asked == [(0, 32), (32, 64), (64, 70)]
    last, [one] = sweep_beside_final(final[:0], [make], head, targets[:0])
    assert one.swept.topk_ids.shape == last.topk_ids.shape == (0, 2)
    assert sweep_beside_final(final, [], head, targets)[1] == []


def test_rows_that_are_no_tokens_weigh_nothing() -> None:
    head, final, targets = random_head(600, 16, 9, size=10.0)
    loud = head.weight.clone()
    loud[550:] = 100 * final.mean(0)
    barred = Head.from_parts(loud, valid=torch.arange(600) < 550)
    states = given(depths(final))
    same(
        sweep_beside_final(final, states, barred, targets % 550, k=5),
        sweep_beside_final(final, states, Head.from_parts(loud[:550].clone()), targets % 550, k=5),
    )


def test_a_tie_in_the_final_top_goes_to_the_lowest_id() -> None:
    weight = torch.zeros(3000, 2)
    weight[[7, 1500], 0] = 1.0
    weight[2999, 1] = 1.0
    head = Head.from_parts(weight)
    final, states = torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 3.0]])
    _, [one] = sweep_beside_final(final, given([states]), head, torch.tensor([0]))
    assert one.final_rank.tolist() == [2]


def test_rows_that_are_not_finite_leave_the_others_alone() -> None:
    head, final, targets = random_head(900, 16, 6)
    states = depths(final, 1)[0]
    want = sweep_beside_final(final, given([states]), head, targets)
    broken, moved = final.clone(), states.clone()
    broken[2, 3], moved[4, 0] = torch.nan, torch.inf
    last, [one] = sweep_beside_final(broken, given([moved]), head, targets)
    assert last.finite.tolist() == [True, True, False, True, True, True]
    assert one.swept.finite.tolist() == [True, True, True, True, False, True]
    keep = last.finite & one.swept.finite
    for name in BESIDE:
        assert torch.equal(getattr(one, name)[keep], getattr(want[1][0], name)[keep]), name
    assert torch.isnan(one.kl_final[~keep]).all()
    assert torch.isnan(one.acceptance[~keep]).all()
