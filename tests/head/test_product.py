from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import reference.sweep
from made_up.heads import random_head
from unembed.head.blocks import BlockShape, target_logits, target_tolerance
from unembed.head.kernels import fastest
from unembed.head.precision import Precision
from unembed.head.product import (
    PRODUCTS_KEPT,
    TILE,
    WIDE_BLOCK,
    WIDE_ROWS,
    Route,
    bfloat16_parts,
    candidates,
    float32_products,
    left_operand,
    multiply,
    narrow_route,
    right_operand,
)
from unembed.head.sweep import sweep

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
OPERANDS = [
    ("wide", torch.bfloat16, torch.bfloat16),
    ("wide", torch.float16, torch.float16),
    ("split", torch.float32, torch.bfloat16),
    ("ieee", torch.float32, torch.float32),
]


def agrees(
    route: Route, hidden: torch.dtype, weight: torch.dtype, device: str = "cpu", n: int = 70
) -> None:
    """Every statistic of a sweep by this route is that of the float64 oracle; so are the ranks."""
    head, rows, targets = random_head(5003, 65, n, bias=True, softcap=30.0, padded=3, dtype=weight)
    rows = torch.randn(rows.shape, generator=torch.Generator().manual_seed(1)).to(hidden)
    moved = type(head)(
        *(
            part.to(device) if isinstance(part, torch.Tensor) else part
            for part in vars(head).values()
        )
    )
    precision = Precision(route, 2e-7, False, fastest(torch.device(device)))
    got = sweep(rows.to(device), moved, targets.to(device), k=5, precision=precision)
    every = reference.sweep.logits(rows, head)
    want = reference.sweep.decisions(every, targets, 5)
    for name in ("topk_values", "logsumexp", "target_logit", "entropy", "sum_p2"):
        off = (getattr(got, name).cpu().double() - torch.tensor(want[name]).double()).abs().max()
        assert off <= 5e-5, (name, off)
    clear = ((every - every.gather(1, targets[:, None])).abs() < 1e-4).sum(1) == 1
    assert clear.sum() > n / 2
    assert got.rank.cpu()[clear].tolist() == torch.tensor(want["rank"])[clear].tolist()
    ordered = torch.tensor(want["topk_values"])
    distinct = (ordered.diff(dim=1).abs() > 1e-4).all(1)
    assert (
        got.topk_ids.cpu()[distinct].tolist() == torch.tensor(want["topk_ids"])[distinct].tolist()
    )
    assert bool(got.finite.all())


@given(st.lists(st.floats(width=32, min_value=-(2.0**127), max_value=2.0**127)))
def test_three_bfloat16_parts_sum_to_a_float32_number(numbers: list[float]) -> None:
    hidden = torch.tensor(numbers, dtype=torch.float32)[:, None]
    parts = bfloat16_parts(hidden)
    assert parts.shape == (len(numbers), 3)
    off = (parts.double().sum(1, keepdim=True) - hidden.double()).abs()
    assert bool((off <= torch.where(hidden.abs() >= 2.0**-110, 0.0, 2.0**-134)).all())
    if len(numbers):
        rising = parts.double().abs()
        assert bool((rising[:, :2] <= rising[:, 1:] * 2.0**-7 + 2.0**-126).all())


def test_the_awkward_float32_numbers_split_exactly() -> None:
    """Numbers whose roundings go up, down and to even, with every low bit set."""
    low = torch.arange(1 << 16, dtype=torch.int32)
    for exponent in (1, 90, 127, 254):
        for sign in (0, -(1 << 31)):
            for high in (0x01, 0x7E):
                hidden = (low + (exponent << 23) + (high << 16) + sign).view(torch.float32)[:, None]
                exact = exponent > 17
                off = (bfloat16_parts(hidden).double().sum(1) - hidden[:, 0].double()).abs().max()
                assert float(off) <= (0.0 if exact else 2.0**-134)


def test_numbers_that_are_not_finite_have_parts_that_are_not() -> None:
    sums = bfloat16_parts(torch.tensor([[torch.inf], [-torch.inf], [torch.nan], [3.4e38]])).sum(1)
    assert not bool(torch.isfinite(sums).any())


@pytest.mark.parametrize(("route", "hidden", "weight"), OPERANDS)
@pytest.mark.parametrize("dim", [1, 33, 768])
def test_every_route_multiplies_like_float32(
    route: Route, hidden: torch.dtype, weight: torch.dtype, dim: int
) -> None:
    g = torch.Generator().manual_seed(dim)
    h = torch.randn(21, dim, generator=g).to(hidden)
    w = torch.randn(50, dim, generator=g).to(weight)
    left = left_operand(h, weight, route)
    right = right_operand(w, left)
    assert left.dtype == (torch.float32 if route == "ieee" else weight)
    assert left.shape == (32, dim * (3 if route == "split" else 1))
    assert right.shape == (64, left.shape[1])
    out = torch.empty(32, 64)
    multiply(left, right, route, out)
    exact = h.double() @ w.double().T
    plain = (h.float() @ w.float().T - exact).abs().max()
    assert float((out[:21, :50] - exact).abs().max()) <= 2 * float(plain) + 1e-6
    assert not bool(out[21:].any() or out[:, 50:].any())


def test_operands_a_route_was_not_made_for_lose_nothing() -> None:
    """Float32 hidden states are not rounded to a narrow weight's dtype, whatever the route."""
    kinds = (torch.float32, torch.bfloat16, torch.float16)
    for route in ("wide", "split", "ieee", "onednn"):
        for hidden in kinds:
            for weight in kinds:
                h = torch.randn(TILE, 8).to(hidden)
                w = torch.randn(TILE, 8).to(weight)
                left = left_operand(h, weight, route)  # type: ignore[arg-type]
                out = torch.empty(TILE, TILE)
                multiply(left, right_operand(w, left), "ieee", out)
                exact = h.double() @ w.double().T
                assert float((out - exact).abs().max()) < 1e-5, (route, hidden, weight)


def test_candidates_go_by_device_and_operand_types() -> None:
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    for route, hidden, weight in OPERANDS:
        assert narrow_route(hidden, weight) == route
        assert candidates(cuda, hidden, weight) == (() if route == "ieee" else (route,))
    assert narrow_route(torch.bfloat16, torch.float16) == "ieee"
    assert set(candidates(cpu, torch.bfloat16, torch.bfloat16)) <= {"onednn", "wide"}
    assert set(candidates(cpu, torch.float16, torch.float16)) <= {"onednn"}
    assert candidates(torch.device("meta"), torch.bfloat16, torch.bfloat16) == ()


@pytest.mark.parametrize(("route", "hidden", "weight"), OPERANDS)
def test_sweeps_by_every_route_agree_with_float64(
    route: Route, hidden: torch.dtype, weight: torch.dtype
) -> None:
    agrees(route, hidden, weight)


def test_ranks_are_counted_once_where_no_other_logit_is_near(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Thresholds off by up to the tolerance, above and below, cost a recount of few rows."""
    import unembed.head.sweep as module

    head, hidden, targets = random_head(5000, 64, 300)
    want = sweep(hidden, head, targets)
    counted: list[int] = []
    recount = module._recount
    shifts = 1e-5 * torch.where(torch.arange(304) % 2 == 0, 1.0, -1.0)
    monkeypatch.setattr(module, "target_logits", lambda *a: target_logits(*a) + shifts)
    monkeypatch.setattr(module, "target_tolerance", lambda *a: torch.full((304,), 2e-5))
    monkeypatch.setattr(module, "_recount", lambda *a: (counted.append(len(a[0])), recount(*a))[1])
    for precision in (Precision("ieee", 1e-7, False), Precision("ieee", 1e-7, False, "compiled")):
        if precision.epilogue == "compiled" and fastest(torch.device("cpu")) != "compiled":
            continue
        got = sweep(hidden, head, targets, precision=precision)
        assert torch.equal(got.rank, want.rank)
    assert counted[0] < 30
    assert counted[1:] in ([], [304])  # the compiled kernel does not count near ones


def test_the_tolerance_covers_the_target_and_not_much_more() -> None:
    head, hidden, targets = random_head(3000, 128, 96, bias=True, scale=0.25, softcap=40.0)
    precision = Precision("ieee", Precision.probe(head.weight).error, False)
    threshold = target_logits(hidden, head, targets, precision)
    tolerance = target_tolerance(hidden, head, targets, threshold, precision)
    assert tolerance is not None
    exact = reference.sweep.logits(hidden, head).gather(1, targets[:, None])[:, 0]
    assert bool(((threshold - exact).abs() <= tolerance).all())
    assert float(tolerance.max()) < 1e-4
    assert target_tolerance(hidden, head, targets, threshold, Precision("ieee", 0.0, True)) is None


def test_duplicated_rows_tie_with_the_target_under_a_recount() -> None:
    """Targets whose logit comes many times: none of them counts, nor does the target itself."""
    weight = torch.randn(1200, 16, generator=torch.Generator().manual_seed(3)).repeat(2, 1)
    head = type(random_head(4, 2, 1)[0]).from_parts(weight)
    hidden, targets = torch.randn(40, 16), torch.arange(40) * 37
    want = sweep(hidden, head, targets, precision=Precision("ieee", 1e-7, True))
    got = sweep(hidden, head, targets, precision=Precision("ieee", 1e-7, False))
    assert torch.equal(got.rank, want.rank)
    assert bool((got.rank % 2 == 1).all())


def test_a_target_never_counts_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the second pass gives every logit a little more, the target included."""
    import unembed.head.sweep as module

    head, hidden, targets = random_head(600, 32, 32)
    want = sweep(hidden, head, targets, precision=Precision("ieee", 1e-7, True))
    exact, passes = module.logit_blocks, []

    def rising(*args: Any) -> Iterator[tuple[int, torch.Tensor, slice]]:
        passes.append(args)
        for start, logits, rows in exact(*args):
            yield start, logits + 1e-5 * (len(passes) - 1), rows

    monkeypatch.setattr(module, "logit_blocks", rising)
    monkeypatch.setattr(module, "target_logits", lambda *a: target_logits(*a) + 1.0)
    got = sweep(hidden, head, targets, precision=Precision("ieee", 1e-7, False))
    assert len(passes) == 2
    every = reference.sweep.logits(hidden, head)
    clear = ((every - every.gather(1, targets[:, None])).abs() < 1e-4).sum(1) == 1
    assert clear.sum() > 20
    assert torch.equal(got.rank[clear], want.rank[clear])


def test_blocks_on_cuda_are_equally_high_and_stay_so() -> None:
    cuda = torch.device("cuda")
    for rows in (1, 16, 17, 2048, 2049, 5000, 16384, 16385, 100_001):
        shape = BlockShape.of(cuda, rows)
        blocks = -(-rows // shape.padding)
        assert shape.rows == shape.padding <= WIDE_ROWS
        assert shape.columns == WIDE_BLOCK
        assert shape.rows * blocks < rows + TILE * blocks
        for fewer in range(1, blocks + 1):
            assert BlockShape.of(cuda, fewer * shape.rows) == shape
    assert BlockShape.of(cuda, 100, 512).columns == 512


def test_a_route_that_fails_or_rounds_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU without a product, and one that adds in 16 bits, would make of the probe."""
    import unembed.head.precision as module

    weight = torch.randn(300, 256).bfloat16()

    def rounded(left: torch.Tensor, right: torch.Tensor, route: Route, out: torch.Tensor) -> None:
        multiply(left, right, route, out)
        if route == "wide":
            out.copy_(out.bfloat16())

    def missing(left: torch.Tensor, right: torch.Tensor, route: Route, out: torch.Tensor) -> None:
        if route == "wide":
            raise NotImplementedError("no such product")
        multiply(left, right, route, out)

    monkeypatch.setattr(module, "candidates", lambda *_: ("wide",))
    assert Precision.probe(weight).route == "wide"
    for broken in (rounded, missing):
        monkeypatch.setattr(module, "multiply", broken)
        assert Precision.probe(weight).route == "ieee"


@NO_GPU
@pytest.mark.parametrize(("route", "hidden", "weight"), OPERANDS)
def test_on_a_gpu_every_route_is_taken_and_agrees_with_float64(
    route: Route, hidden: torch.dtype, weight: torch.dtype
) -> None:
    sample = torch.randn(4000, 1024, device="cuda").to(weight)
    assert Precision.probe(sample, hidden).route == route
    agrees(route, hidden, weight, "cuda", n=2100)


@NO_GPU
def test_on_a_gpu_few_rows_are_counted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    import unembed.head.sweep as module

    g = torch.Generator().manual_seed(0)
    weight = (torch.randn(50257, 1024, generator=g) / 8).bfloat16().cuda()
    hidden = torch.randn(4096, 1024, generator=g).bfloat16().cuda()
    head = type(random_head(4, 2, 1)[0]).from_parts(weight)
    exact = (hidden[:64].double() @ weight.double().T).topk(40).indices
    targets = exact[torch.arange(4096) % 64, torch.arange(4096) % 40]
    counted: list[int] = []
    recount = module._recount
    monkeypatch.setattr(module, "_recount", lambda *a: (counted.append(len(a[0])), recount(*a))[1])
    got = sweep(hidden, head, targets)
    assert sum(counted) < 2048
    first = got.topk_ids[:, 0] == targets
    assert torch.equal(got.rank == 1, first)
    monkeypatch.setattr(module, "target_logits", lambda *a: target_logits(*a) + 1.0)
    assert torch.equal(sweep(hidden, head, targets).rank, got.rank)


def test_a_weight_in_training_can_be_probed() -> None:
    weight = torch.randn(600, 48, requires_grad=True)
    assert Precision.probe(weight) == Precision.probe(weight.detach())


BOUNDS = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")


@pytest.mark.parametrize("own", [None, "7"])
def test_few_products_are_kept_unless_the_environment_says_how_many(
    monkeypatch: pytest.MonkeyPatch, own: str | None
) -> None:
    for name in BOUNDS:
        monkeypatch.delenv(name, raising=False)
        if own is not None:
            monkeypatch.setenv(name, own)
    with float32_products("ieee"):
        pass
    assert [os.environ[name] for name in BOUNDS] == [own or str(PRODUCTS_KEPT)] * 2


MANY_SHAPES = """
import resource, threading, torch
from unembed.head.product import PRODUCTS_KEPT, float32_products

weight = torch.ones(256, 128)

def multiply(shapes):
    with float32_products("onednn"):
        for rows in shapes:
            torch.nn.functional.linear(torch.ones(rows, 128), weight)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

def grow():
    multiply(range(1, 2 * PRODUCTS_KEPT))
    before = peak()
    multiply(range(2 * PRODUCTS_KEPT, 6 * PRODUCTS_KEPT))
    print(peak() - before)

multiply([1])  # torch reads its bound in each thread, and a pass runs in threads of its own
thread = threading.Thread(target=grow)
thread.start()
thread.join()
"""


@pytest.mark.slow
def test_products_of_more_shapes_take_no_more_memory() -> None:
    unbounded = {name: value for name, value in os.environ.items() if name not in BOUNDS}
    done = subprocess.run(
        [sys.executable, "-c", MANY_SHAPES],
        check=True,
        capture_output=True,
        text=True,
        env=unbounded,
    )
    assert float(done.stdout) < 40  # MiB; 110 to 180 where one of both bounds is not set
