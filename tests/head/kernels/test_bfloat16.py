"""The compiled product of two bfloat16 matrices against float64, bit for bit, and without it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import reference.sweep
import unembed.head.sweep as sweep_module
from made_up.heads import random_head
from unembed.head.head import Head
from unembed.head.kernels import compiled
from unembed.head.precision import Precision
from unembed.head.product import candidates, left_operand, multiply
from unembed.head.sweep import sweep

needs_instruction = pytest.mark.skipif(
    not compiled.has_bfloat16(), reason="no AVX512-BF16, or no compiler that knows it"
)
DEPTHS = (1, 2, 31, 64, 127, 128, 130, 511, 512, 514, 1000, 1536)


def random_pair(rows: int, columns: int, depth: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(depth)
    left, right = (torch.randn(n, depth, generator=g) for n in (rows, columns))
    return left.bfloat16(), right.bfloat16()


def product_of(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    out = torch.full((len(left), len(right)), torch.nan)
    compiled.multiply_bfloat16(left, right, out)
    return out


@needs_instruction
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("columns", [16, 32, 48, 160])
def test_small_integers_are_multiplied_without_an_error(depth: int, columns: int) -> None:
    """Sums of products of integers up to 8 are exact in float32, in whatever order."""
    g = torch.Generator().manual_seed(depth)
    left, right = (torch.randint(-8, 9, (n, depth), generator=g) for n in (32, columns))
    out = product_of(left.bfloat16(), right.bfloat16())
    assert torch.equal(out.long(), left @ right.T)


@needs_instruction
@pytest.mark.parametrize("depth", DEPTHS)
def test_sums_are_as_exact_as_float32_ones(depth: int) -> None:
    left, right = random_pair(64, 256, depth)
    exact = left.double() @ right.double().T
    sizes = left.double().norm(dim=1)[:, None] * right.double().norm(dim=1)
    off = ((product_of(left, right).double() - exact).abs() / sizes).max()
    plain = (((left.float() @ right.float().T).double() - exact).abs() / sizes).max()
    assert float(off) <= max(2 * float(plain), 1e-7)


@needs_instruction
@pytest.mark.parametrize("depth", [33, 128, 1000])
def test_a_product_has_the_same_bits_in_any_block(depth: int) -> None:
    left, right = random_pair(96, 336, depth)
    whole, threads = product_of(left, right), torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            for rows, columns in ((16, 112), (32, 48), (96, 80), (48, 16)):
                for top in range(0, 96, rows):
                    for start in range(0, 336, columns):
                        across, down = slice(start, start + columns), slice(top, top + rows)
                        part = product_of(left[down], right[across])
                        assert torch.equal(part, whole[down, across][:, : part.shape[1]])
    finally:
        torch.set_num_threads(threads)


@needs_instruction
def test_operands_and_result_may_be_parts_of_larger_matrices() -> None:
    left, right = random_pair(32, 64, 300)
    want = product_of(left, right)
    wide = torch.randn(32, 400).bfloat16()
    wide[:, 50:350] = left
    buffer = torch.zeros(32, 200)
    compiled.multiply_bfloat16(wide[:, 50:350], right.T.contiguous().T, buffer[:, 32:96])
    assert torch.equal(buffer[:, 32:96], want)
    assert not bool(buffer[:, :32].any() or buffer[:, 96:].any())


@needs_instruction
def test_a_number_that_is_not_finite_stays_in_its_row_and_column() -> None:
    left, right = random_pair(32, 64, 257)
    left[5, 256], right[40, 0], right[41, 100] = torch.nan, torch.inf, -torch.inf
    bad = ~torch.isfinite(product_of(left, right))
    want = torch.zeros(32, 64, dtype=torch.bool)
    want[5] = want[:, 40] = want[:, 41] = True
    assert torch.equal(bad, want)


@needs_instruction
def test_subnormal_numbers_are_zeros() -> None:
    """They cost a logit at most their number times float32's least normal one, 1.2e-38."""
    least = torch.finfo(torch.float32).tiny
    left, right = torch.ones(16, 64).bfloat16(), torch.full((16, 64), least / 4).bfloat16()
    assert float(right[0, 0]) > 0
    assert not bool(product_of(left, right).any())
    right[:, 7] = 3.0
    assert torch.equal(product_of(left, right), torch.full((16, 16), 3.0))


@needs_instruction
@pytest.mark.parametrize(("rows", "columns"), [(15, 16), (16, 24)])
def test_rows_and_columns_that_are_not_padded_are_refused(rows: int, columns: int) -> None:
    left, right = torch.ones(rows, 8).bfloat16(), torch.ones(columns, 8).bfloat16()
    with pytest.raises(ValueError, match="by 16 rows and 16 columns"):
        product_of(left, right)


@needs_instruction
def test_it_is_taken_where_both_operands_are_bfloat16_and_only_there() -> None:
    cpu = torch.device("cpu")
    for hidden in (torch.float32, torch.bfloat16, torch.float16):
        for weight in (torch.float32, torch.bfloat16, torch.float16):
            both = hidden == weight == torch.bfloat16
            assert ("wide" in candidates(cpu, hidden, weight)) == both
            probed = Precision.probe(torch.randn(300, 200).to(weight), hidden)
            assert (probed.route == "wide") == both
            assert probed.invariant
            assert probed.float32_route in ("onednn", "ieee")


@needs_instruction
@pytest.mark.parametrize("dim", [65, 1024])
def test_a_sweep_by_it_agrees_with_float64_and_counts_ranks_once(
    dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, hidden, targets = random_head(
        3001, dim, 130, bias=True, softcap=30.0, padded=3, dtype=torch.bfloat16
    )
    precision = Precision.probe(head.weight)
    assert precision.route == "wide"

    def refuse(*_args: object) -> None:
        raise AssertionError("a target's logit was not bitwise that of its block")

    monkeypatch.setattr(sweep_module, "_recount", refuse)
    got = sweep(hidden, head, targets, k=5, precision=precision)
    every = reference.sweep.logits(hidden, head)
    want = reference.sweep.decisions(every, targets, 5)
    for name in ("topk_values", "logsumexp", "target_logit", "entropy", "sum_p2"):
        off = (getattr(got, name).double() - torch.tensor(want[name]).double()).abs().max()
        assert off <= 5e-5, (name, off)
    clear = ((every - every.gather(1, targets[:, None])).abs() < 1e-4).sum(1) == 1
    assert int(clear.sum()) > 65
    assert got.rank[clear].tolist() == torch.tensor(want["rank"])[clear].tolist()


@needs_instruction
def test_a_head_that_lies_in_columns_is_swept_too() -> None:
    head, hidden, targets = random_head(1000, 64, 20, dtype=torch.bfloat16)
    turned = Head.from_parts(head.weight.T.contiguous().T)
    precision = Precision.probe(head.weight)
    want = sweep(hidden, head, targets, precision=precision)
    got = sweep(hidden, turned, targets, precision=precision)
    assert torch.equal(got.logsumexp, want.logsumexp)


def test_without_it_the_next_route_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "has_bfloat16", lambda: False)
    head, hidden, targets = random_head(1000, 64, 40, dtype=torch.bfloat16)
    precision = Precision.probe(head.weight)
    assert precision.route in ("onednn", "ieee")
    assert precision.route == precision.float32_route
    left = left_operand(hidden[:16], head.weight.dtype, "wide")
    out = torch.empty(16, 16)
    multiply(left, head.weight[:16], "wide", out)
    assert torch.equal(out, hidden[:16].float() @ head.weight[:16].float().T)
    want = reference.sweep.logits(hidden, head).logsumexp(1)
    got = sweep(hidden, head, targets, precision=precision).logsumexp
    assert float((got.double() - want).abs().max()) < 5e-5


@pytest.mark.skipif(not compiled.available(), reason="no C++ compiler here")
def test_a_compiler_without_the_instruction_leaves_the_other_kernels(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiled, "ATTEMPTS", ((),))
    compiled._library.cache_clear()
    try:
        assert compiled.available()
        assert not compiled.has_bfloat16()
        with pytest.raises(RuntimeError, match="ask has_bfloat16"):
            product_of(*random_pair(16, 16, 8))
    finally:
        compiled._library.cache_clear()
