from __future__ import annotations

import dataclasses
from typing import Any

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import reference.sweep
from made_up.heads import random_head
from unembed.head import blocks
from unembed.head.head import Head
from unembed.head.kernels.running import SEGMENT, Running
from unembed.head.precision import Precision
from unembed.head.product import TILE, float32_products, pad_rows
from unembed.head.sweep import Sweep, sweep

VOCABS = (2, 3, 127, 129, 513, 50257, 129920, 151665)
FIELDS = [field.name for field in dataclasses.fields(Sweep)]


def same(a: Sweep, b: Sweep) -> None:
    for name in FIELDS:
        assert torch.equal(getattr(a, name), getattr(b, name)), name


@pytest.mark.parametrize("vocab", VOCABS)
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"bias": True, "scale": 0.0625},
        {"softcap": 30.0, "bias": True, "padded": 1},
        {"dtype": torch.bfloat16},
    ],
    ids=["plain", "bias-scale", "softcap-padded", "bfloat16"],
)
def test_agrees_with_float64(vocab: int, how: dict[str, object]) -> None:
    if vocab < 4:
        how = {k: v for k, v in how.items() if k != "padded"}
    dim = 65 if vocab > 1000 else 33
    head, hidden, targets = random_head(vocab, dim, 3 if vocab > 1000 else 9, **how)  # type: ignore[arg-type]
    got = sweep(hidden, head, targets, k=5)
    all_logits = reference.sweep.logits(hidden, head)
    want = reference.sweep.decisions(all_logits, targets, 5)
    size = all_logits[torch.isfinite(all_logits)].abs().max()
    assert size <= 51
    for name in ("topk_values", "logsumexp", "target_logit", "margin", "entropy", "sum_p2", "nll"):
        off = (getattr(got, name).double() - torch.tensor(want[name]).double()).abs().max()
        assert off <= (1e-4 if name == "margin" else 5e-5), (name, off)
    assert torch.allclose(
        got.confidence.double(), torch.tensor(want["confidence"]).double(), atol=1e-5
    )
    gaps = (all_logits - all_logits.gather(1, targets[:, None])).abs()
    clear = (gaps < 1e-4).sum(1) == 1
    assert got.rank[clear].tolist() == torch.tensor(want["rank"])[clear].tolist()
    ordered = torch.tensor(want["topk_values"])
    distinct = (ordered.diff(dim=1).abs() > 1e-4).all(1)
    assert distinct.any()
    assert got.topk_ids[distinct].tolist() == torch.tensor(want["topk_ids"])[distinct].tolist()
    assert bool(got.finite.all())


@pytest.mark.parametrize(("vocab", "dim"), [(3, 1), (513, 3), (4097, 257), (50257, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_do_not_depend_on_blocks_neighbours_or_threads(
    vocab: int, dim: int, dtype: torch.dtype
) -> None:
    head, hidden, targets = random_head(vocab, dim, 70, bias=True, softcap=20.0, dtype=dtype)
    precision = Precision.probe(head.weight)
    whole = sweep(hidden, head, targets, k=3, precision=precision)
    threads = torch.get_num_threads()
    try:
        for block, count in ((SEGMENT, 1), (SEGMENT * 3, 2), (SEGMENT * 32, 2)):
            torch.set_num_threads(count)
            same(whole, sweep(hidden, head, targets, k=3, precision=precision, block=block))
    finally:
        torch.set_num_threads(threads)
    for size in (1, 7, 64):
        pieces = [
            sweep(h, head, t, k=3, precision=precision)
            for h, t in zip(hidden.split(size), targets.split(size), strict=True)
        ]
        joined = [torch.cat([getattr(p, name) for p in pieces]) for name in FIELDS]
        same(whole, Sweep(*joined))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_held_does_not_grow_with_the_rows_and_changes_nothing(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, hidden, targets = random_head(4097, 65, 70, bias=True, dtype=dtype)
    precision = Precision.probe(head.weight)
    whole = sweep(hidden, head, targets, k=3, precision=precision)
    held: list[int] = []
    prepare = Running.of

    def counted(index: torch.Tensor, *given: Any) -> Running:
        held.append(len(index))
        return prepare(index, *given)

    monkeypatch.setattr(Running, "of", counted)
    for most in (1, 16, 48):
        monkeypatch.setitem(blocks.SLICE, "cpu", most)
        held.clear()
        same(whole, sweep(hidden, head, targets, k=3, precision=precision))
        assert max(held) == max(most, TILE)
        assert len(held) == -(-70 // most)
    nothing = sweep(hidden[:0], head, targets[:0], k=3, precision=precision)
    assert nothing.topk_ids.shape == (0, 3)


def test_ties_go_to_the_lowest_id() -> None:
    weight = torch.zeros(3000, 4)
    weight[[7, 1500, 2999], 0] = 1.0
    weight[[40, 41], 1] = 1.0
    hidden = torch.tensor([[2.0, 1.0, 0, 0], [0.0, 1.0, 0, 0], [0.0, 0, 0, 0]])
    got = sweep(hidden, Head.from_parts(weight), torch.tensor([1500, 2, 2999]), k=4)
    assert got.topk_ids.tolist() == [[7, 1500, 2999, 40], [40, 41, 0, 1], [0, 1, 2, 3]]
    assert got.rank.tolist() == [1, 3, 1]
    assert got.margin.tolist() == [0.0, 0.0, 0.0]


def test_a_tie_between_groups_goes_to_the_lowest_id() -> None:
    """One clear winner, and many columns far apart that tie for second."""
    weight = torch.zeros(4000, 2)
    weight[2000, 0] = 2.0
    tied = torch.arange(3, 4000, 130)
    weight[tied, 0] = 1.0
    hidden = torch.tensor([[1.0, 0.0]])
    got = sweep(hidden, Head.from_parts(weight), torch.tensor([0]), k=2)
    assert got.topk_ids.tolist() == [[2000, 3]]


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 1200), st.integers(1, 8), st.integers(2, 6), st.integers(0, 10**6))
def test_small_integer_logits_match_a_plain_sort(vocab: int, n: int, k: int, seed: int) -> None:
    """Logits of a few integer values, so that almost everything ties."""
    g = torch.Generator().manual_seed(seed)
    weight = torch.randint(-2, 3, (vocab, 3), generator=g).float()
    hidden = torch.randint(-2, 3, (n, 3), generator=g).float()
    targets = torch.randint(0, vocab, (n,), generator=g)
    head = Head.from_parts(weight)
    got = sweep(hidden, head, targets, k=k)
    want = reference.sweep.decisions(reference.sweep.logits(hidden, head), targets, k)
    for name in ("topk_ids", "rank", "topk_values", "target_logit"):
        assert getattr(got, name).tolist() == want[name], name
    assert bool((got.margin >= 0).all())
    assert bool((got.nll >= 0).all())
    assert bool((got.entropy >= 0).all())
    assert bool((got.entropy <= torch.log(torch.tensor(float(vocab))) + 1e-5).all())


def test_shifting_every_logit_changes_only_the_normaliser() -> None:
    head, hidden, targets = random_head(700, 16, 9, size=8.0)
    shifted = Head.from_parts(head.weight, torch.full((700,), 4.0))
    a, b = sweep(hidden, head, targets), sweep(hidden, shifted, targets)
    assert torch.equal(a.topk_ids, b.topk_ids)
    assert torch.equal(a.rank, b.rank)
    assert torch.allclose(a.logsumexp + 4.0, b.logsumexp, atol=1e-5)
    assert torch.allclose(a.entropy, b.entropy, atol=1e-5)


def test_rows_that_are_no_tokens_never_win_and_weigh_nothing() -> None:
    head, hidden, targets = random_head(600, 16, 9, size=10.0)
    loud = head.weight.clone()
    loud[550:] = 100 * hidden.mean(0)
    valid = torch.arange(600) < 550
    got = sweep(hidden, Head.from_parts(loud, valid=valid), targets % 550, k=5)
    small = sweep(hidden, Head.from_parts(loud[:550].clone()), targets % 550, k=5)
    same(got, small)


def test_k_is_cut_to_the_number_of_tokens() -> None:
    head, hidden, targets = random_head(3, 4, 2)
    assert sweep(hidden, head, targets, k=5).topk_ids.shape == (2, 3)


def test_rows_that_are_not_finite_are_flagged_and_leave_the_others_alone() -> None:
    head, hidden, targets = random_head(900, 16, 6)
    clean = sweep(hidden, head, targets)
    hidden[2, 3] = torch.nan
    hidden[4, 0] = torch.inf
    got = sweep(hidden, head, targets)
    assert got.finite.tolist() == [True, True, False, True, False, True]
    assert int(got.topk_ids.max()) < head.vocab
    keep = got.finite
    for name in FIELDS:
        assert torch.equal(getattr(got, name)[keep], getattr(clean, name)[keep]), name


def test_a_recount_covers_for_a_product_that_is_not_invariant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the target's logit differs in its block, its rank is counted again."""
    import unembed.head.sweep as module

    head, hidden, targets = random_head(5000, 32, 40)
    want = sweep(hidden, head, targets)
    exact = module.target_logits
    monkeypatch.setattr(module, "target_logits", lambda *a: exact(*a) + 1.0)
    assert torch.equal(sweep(hidden, head, targets).rank, want.rank)


def test_wrong_shapes_are_refused() -> None:
    head, hidden, targets = random_head(300, 16, 6)
    with pytest.raises(ValueError, match="head of width 16"):
        sweep(hidden[:, :8], head, targets)
    with pytest.raises(ValueError, match="below 300"):
        sweep(hidden, head, targets + 300)
    with pytest.raises(ValueError, match="multiple of 512"):
        sweep(hidden, head, targets, block=100)


def test_probe_leaves_no_setting_behind_and_rejects_rounding_routes() -> None:
    before = torch.backends.mkldnn.matmul.fp32_precision
    precision = Precision.probe(torch.randn(600, 200))
    assert torch.backends.mkldnn.matmul.fp32_precision == before
    assert precision.error < 1e-6
    with float32_products("onednn"):
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
        with float32_products("ieee"):
            assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_padding_adds_zero_rows() -> None:
    padded = pad_rows(torch.ones(17, 3, dtype=torch.bfloat16))
    assert padded.shape == (32, 3)
    assert padded.dtype == torch.float32
    assert float(padded.sum()) == 51


def test_the_default_dtype_plays_no_part() -> None:
    head, hidden, targets = random_head(1300, 16, 40, padded=3)
    want = sweep(hidden, head, targets)
    torch.set_default_dtype(torch.float64)
    try:
        same(sweep(hidden, head, targets), want)
        loose = dataclasses.replace(Precision.probe(head.weight), invariant=False, error=1.0)
        recounted = sweep(hidden, head, targets, precision=loose)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(recounted.rank, want.rank)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.tensor([0.0, 1.0]), "targets are float32, not token ids"),
        (torch.tensor([True, False]), "targets are bool, not token ids"),
        (torch.tensor([-100, 1]), r"targets hold -100, .* select the other positions first"),
        (torch.tensor([0, 5]), "target 5 is no id"),
    ],
)
def test_targets_that_are_no_ids_are_refused(
    targets: torch.Tensor, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        sweep(torch.zeros(2, 3), Head.from_parts(torch.ones(5, 3)), targets)
