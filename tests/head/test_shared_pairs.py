"""Two models, and two depths of one, over heads whose rows several processes hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from made_up.heads import random_head
from made_up.peers import ThreadPeers, at_peers, shared_head
from unembed.errors import HeadError
from unembed.head import beside_final
from unembed.head.anchor import kl_to_reference
from unembed.head.beside_final import BESIDE, sweep_beside_final
from unembed.head.changes import probability_changes
from unembed.head.divergence import WIDE, SweptModel, divergence
from unembed.head.head import Head
from unembed.head.paired_rows import paired_rows
from unembed.head.precision import Precision
from unembed.head.sampling import Sampling, acceptances
from unembed.head.sweep import sweep

N, TOKENS = 40, 1700
Model = tuple[Head, Tensor]
COUNTS = [
    pytest.param([1700], [1750], id="one process"),
    pytest.param([850, 850], [875, 875], id="two, a few rows apart"),
    pytest.param([512, 1188], [512, 1238], id="two, alike"),
    pytest.param([600, 500, 599, 1], [100, 900, 700, 50], id="four, many rows apart"),
    pytest.param([425] * 4, [600, 600, 500, 50], id="four, the last of padding alone"),
]


def models(**how: Any) -> tuple[Model, Model]:
    """A model, and one whose head has other states, another width and 50 padded rows more."""
    head, hidden, _ = random_head(TOKENS, 24, N, size=8.0, bias=True, **how)
    small, moved, _ = random_head(TOKENS, 16, N, size=8.0, **how)
    wide = torch.cat([small.weight, torch.full((50, 16), 9.0, dtype=small.weight.dtype)])
    tokens = torch.arange(TOKENS + 50) < TOKENS
    return (head, hidden), (Head.from_parts(wide, valid=tokens), moved)


def swept(head: Head, hidden: Tensor) -> SweptModel:
    targets = torch.zeros(len(hidden), dtype=torch.long)
    precision = head.precision(hidden.dtype)
    return SweptModel(hidden, head, sweep(hidden, head, targets, precision=precision), precision)


def together(
    both: tuple[Model, Model], counts: tuple[list[int], ...], work: Callable[..., Any]
) -> list[Any]:
    """What ``work`` makes of the two swept models on each peer."""

    def at(peers: ThreadPeers) -> Any:
        heads = [
            shared_head(head, peers, count) for (head, _), count in zip(both, counts, strict=True)
        ]
        return work(*(swept(head, hidden) for head, (_, hidden) in zip(heads, both, strict=True)))

    return at_peers(len(counts[0]), at)


def columns(record: Any) -> dict[str, Tensor]:
    """The tensors of a record and of the records in it."""
    found = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        inner = {"": value} if isinstance(value, Tensor) else columns(value)
        found |= {f"{field.name} {name}": column for name, column in inner.items()}
    return found


def check(found: list[Any], want: Any, within: float) -> None:
    """All peers end with the same bits, whole numbers as wanted and others within so much."""
    for name, column in columns(want).items():
        got = columns(found[0])[name]
        for other in found[1:]:
            assert torch.equal(columns(other)[name], got), name
        if got.is_floating_point():
            torch.testing.assert_close(got, column, rtol=within, atol=within, msg=name)
        else:
            assert torch.equal(got, column), name


@pytest.mark.parametrize(("first", "second"), COUNTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_divergences_are_those_of_whole_heads(
    dtype: torch.dtype, first: list[int], second: list[int]
) -> None:
    both = models(dtype=dtype)
    whole = [swept(*model) for model in both]
    check(together(both, (first, second), divergence), divergence(*whole), 1e-6)
    back = (both[1], both[0])
    check(together(back, (second, first), divergence), divergence(whole[1], whole[0]), 1e-6)


def test_shares_that_begin_segments_give_the_same_bits_and_equal_models_nothing() -> None:
    both = models()
    found = together(both, ([512, 1024, 164], [512, 1024, 214]), divergence)
    check(found, divergence(*(swept(*model) for model in both)), 0.0)
    for nothing in together((both[0], both[0]), ([700, 1000], [700, 1000]), divergence):
        for name, column in columns(nothing).items():
            assert set(column.tolist()) == ({1.0} if name.startswith("overlap") else {0.0}), name


def test_logits_of_thousands_have_a_normaliser_of_their_own() -> None:
    (head, hidden), other = models()
    both = ((dataclasses.replace(head, scale=40_000.0), hidden), other)
    whole = [swept(*model) for model in both]
    assert float(whole[0].swept.logsumexp.abs().max()) > WIDE
    check(together(both, ([850, 850], [875, 875]), divergence), divergence(*whole), 1e-6)


@pytest.mark.parametrize(("first", "second"), COUNTS)
def test_risen_and_fallen_tokens_are_those_of_whole_heads(
    first: list[int], second: list[int]
) -> None:
    group = torch.arange(N) % 5

    def work(a: SweptModel, b: SweptModel) -> Any:
        return probability_changes(a, b, group, 5, k=3, kept=40, block=512)

    both = models()
    check(together(both, (first, second), work), work(*(swept(*m) for m in both)), 2e-6)


@pytest.mark.parametrize(("first", "second"), COUNTS)
def test_a_draft_is_accepted_as_often(first: list[int], second: list[int]) -> None:
    samplings = [Sampling(), Sampling(0.8, top_k=50, top_p=0.95)]

    def work(a: SweptModel, b: SweptModel) -> list[Tensor]:
        return acceptances(a, b, samplings, held=16 * TOKENS)

    both = models()
    want = work(*(swept(*model) for model in both))
    for found in together(both, (first, second), work):
        for got, chance in zip(found, want, strict=True):
            assert torch.equal(got, chance)


def test_heads_that_are_held_alike_are_compared_where_they_lie() -> None:
    """No row is copied; and where one head is whole, it is cut as the other is shared."""
    head, _, _ = random_head(1000, 5, 2)

    def work(peers: ThreadPeers) -> None:
        held = shared_head(head, peers, [300, 700])
        for pair in paired_rows(held, held), paired_rows(held, head), paired_rows(head, held):
            (one,) = pair
            assert (one.start, one.first.vocab) == (held.first, held.own.vocab)
            assert torch.equal(one.first.weight, one.second.weight)
        (alike,) = paired_rows(held, held)
        assert alike.second.weight.data_ptr() == held.weight.data_ptr()

    at_peers(2, work)


@pytest.mark.parametrize("kernel", ["compiled", "eager"])
@pytest.mark.parametrize("counts", [[1300], [512, 788], [433, 433, 434], [1, 600, 650, 49]])
def test_depths_beside_the_last_are_those_of_the_whole_head(
    counts: list[int], kernel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, hidden, targets = random_head(1300, 24, 70, bias=True, softcap=20.0, padded=60)
    probed = Precision.probe(head.weight)
    precision = dataclasses.replace(probed, epilogue=min(kernel, probed.epilogue, key=len))
    g = torch.Generator().manual_seed(2)
    depths = [hidden + 0.3 * torch.randn(hidden.shape, generator=g), hidden]
    monkeypatch.setattr(beside_final, "HELD", 8 * 1536 * 32)  # 32 positions at a time

    def work(held: Head) -> Any:
        given = [lambda rows, some=some: some[rows] for some in depths]
        return sweep_beside_final(hidden, given, held, targets, k=4, precision=precision)

    final, others = work(head)
    found = at_peers(len(counts), lambda peers: work(shared_head(head, peers, counts)))
    check([one for one, _ in found], final, 1e-6)
    for depth, want in enumerate(others):
        check([beside[depth] for _, beside in found], want, 1e-6)
    equal = found[0][1][1]
    assert [set(getattr(equal, name).tolist()) for name in BESIDE] == [{1}, {0.0}, {1.0}]


def test_what_has_no_merge_is_refused_in_a_line() -> None:
    head, hidden, _ = random_head(700, 5, 6)

    def work(peers: ThreadPeers) -> None:
        held = shared_head(head, peers)
        with pytest.raises(HeadError, match=r"^the divergence from a reference needs every row"):
            kl_to_reference(hidden, held, hidden, held)

    at_peers(2, work)
