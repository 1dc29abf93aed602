from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from made_up.corpora import corpus_of_rows
from unembed.errors import UnembedError
from unembed.text.batches import Batch, BatchPlan, batches, parts
from unembed.text.corpus import Corpus
from unembed.text.windows import Windows

BOS = 1
Prediction = tuple[int, int, int, tuple[int, ...]]
"""Document, position, target, and everything that the model has read before it."""


def expected(corpus: Corpus, context: int, overflow: str) -> list[Prediction]:
    """Every prediction, row by row and token by token."""
    found = []
    for r in range(corpus.rows):
        row = corpus.ids[corpus.starts[r] : corpus.starts[r + 1]].tolist()
        if overflow == "truncate":
            row = row[:context]
        read: list[int] = []
        for i, token in enumerate(row[:-1]):
            if len(read) == context:
                read = [] if corpus.bos is None else [corpus.bos]
            read.append(token)
            place = (int(corpus.document[r]), int(corpus.offset[r]) + i)
            found.append((*place, row[i + 1], tuple(read)))
    return found


def rows_of(batch: Batch) -> list[tuple[list[int], list[bool]]]:
    """The padded tokens of every window, and which of its predictions count."""
    return [
        row
        for block in batch.blocks
        for row in zip(block.input_ids.tolist(), block.real.tolist(), strict=True)
    ]


def seen(windows: Windows, plan: BatchPlan) -> list[list[Prediction]]:
    """The predictions of every part, as the batches ask for them."""
    found = []
    for part in parts(windows, plan.part_positions):
        here: list[Prediction] = []
        for batch in batches(windows, part, plan):
            at = 0
            for number, (row, real) in enumerate(rows_of(batch)):
                for column in np.flatnonzero(real):
                    where = (int(batch.doc[at]), int(batch.pos[at]), int(batch.targets[at]))
                    here.append((*where, tuple(row[: column + 1])))
                    assert batch.window[at] == number
                    at += 1
            assert at == len(batch.doc) == len(batch.pos) == len(batch.targets)
        found.append(here)
    return found


@st.composite
def corpora(draw: Any) -> tuple[list[list[int]], list[int], int | None]:
    bos = draw(st.sampled_from([None, BOS]))
    tokens = st.lists(st.integers(2, 50), min_size=2, max_size=24)
    rows = draw(st.lists(tokens, min_size=1, max_size=6))
    rows = [[BOS, *row[1:]] for row in rows] if bos else rows
    document = draw(st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows)))
    first = list(dict.fromkeys(document))
    return rows, [first.index(d) for d in document], bos


@given(
    corpus=corpora(),
    context=st.integers(2, 9),
    overflow=st.sampled_from(["windows", "truncate"]),
    limit=st.none() | st.integers(1, 60),
    part_positions=st.integers(1, 40),
    batch_tokens=st.integers(1, 40),
    block_tokens=st.integers(1, 40),
    shares=st.integers(1, 3),
)
@settings(max_examples=300, deadline=None)
def test_every_token_but_the_first_is_predicted_once_from_the_right_context(
    corpus: Any,
    context: int,
    overflow: Any,
    limit: int | None,
    part_positions: int,
    batch_tokens: int,
    block_tokens: int,
    shares: int,
) -> None:
    corpus = corpus_of_rows(*corpus)
    windows = Windows.of(corpus, context, overflow, limit)
    naive = expected(corpus, context, overflow)[:limit]
    found = seen(windows, BatchPlan(batch_tokens, block_tokens, part_positions, shares))
    assert sorted(chain(*found)) == sorted(naive)
    assert windows.positions == len(naive)
    if overflow == "windows" and limit is None:
        assert windows.positions == corpus.tokens - corpus.rows
    begins = np.cumsum([0, *map(len, found)])
    for start, here in zip(begins, found, strict=False):
        assert sorted(here) == sorted(naive[start : start + len(here)])
        assert here


def test_truncation_keeps_the_first_context_tokens_of_a_row() -> None:
    corpus = corpus_of_rows([[5, 6, 7, 8, 9], [5, 6]], [0, 1], None)
    windows = Windows.of(corpus, 3, "truncate")
    assert [*chain(*seen(windows, BatchPlan()))] == [
        (0, 0, 6, (5,)),
        (0, 1, 7, (5, 6)),
        (1, 0, 6, (5,)),
    ]
    assert windows.facts.overflow == "truncate"


def test_later_windows_begin_with_bos_and_do_not_count_it() -> None:
    corpus = corpus_of_rows([[BOS, 5, 6, 7, 8]], [0], BOS)
    found = [*chain(*seen(Windows.of(corpus, 2), BatchPlan()))]
    assert sorted(found) == [
        (0, 0, 5, (BOS,)),
        (0, 1, 6, (BOS, 5)),
        (0, 2, 7, (BOS, 6)),
        (0, 3, 8, (BOS, 7)),
    ]


@pytest.mark.parametrize(
    ("context", "limit", "said"),
    [
        (1, None, "--context 1 .*at least 2"),
        (0, None, "--context 0"),
        (4, 0, "--max-positions .*got 0"),
    ],
)
def test_what_predicts_nothing(context: int, limit: int | None, said: str) -> None:
    with pytest.raises(UnembedError, match=said):
        Windows.of(corpus_of_rows([[5, 6]], [0], None), context, "windows", limit)


def drawn(sizes: list[int], limit: int, context: int = 64, **how: bool) -> Windows:
    rows = [[*range(5, 6 + size)] for size in sizes]
    corpus = corpus_of_rows(rows, [*range(len(rows))], None)
    return Windows.of(corpus, context, max_positions=limit, spread=True, **how)


def places(windows: Windows) -> set[tuple[int, int]]:
    found = set()
    for batch in batches(windows, range(len(windows.length)), BatchPlan(500)):
        new = set(zip(batch.doc.tolist(), batch.pos.tolist(), strict=True))
        assert not new & found
        found |= new
        assert (batch.targets.numpy() == batch.pos + 6).all()
    assert len(found) == windows.positions
    return found


def test_documents_are_drawn_before_positions() -> None:
    windows = drawn([700] * 40, 500, context=2048)
    assert sorted(np.unique(windows.counts)) == [12, 13]
    assert len(np.unique(windows.doc)) == 40
    where = np.array([pos for _, pos in places(windows)])
    assert where.min() < 100  # from anywhere in a document, not from its beginning alone
    assert where.max() > 600


@given(
    sizes=st.lists(st.integers(1, 150), min_size=1, max_size=90),
    limit=st.integers(1, 2000),
    more=st.integers(0, 300),
)
@settings(max_examples=60, deadline=None)
def test_a_larger_draw_holds_a_smaller_one(sizes: list[int], limit: int, more: int) -> None:
    some, all_of_it = (places(drawn(sizes, n)) for n in (limit, limit + more))
    assert len(some) == min(limit, sum(sizes))
    assert some <= all_of_it
    if len(sizes) <= 64:
        given = np.bincount([doc for doc, _ in some], minlength=len(sizes))
        short = given < np.array(sizes)
        assert given.max() <= given[short].min(initial=10**9) + 1


def test_whole_windows_are_drawn_a_document_at_a_time() -> None:
    windows = drawn([700] * 40, 500, context=20, whole_windows=True)
    assert len(np.unique(windows.doc)) == 25
    assert (windows.counts == 20).all()
    assert len(places(windows)) == 500
    assert len(np.unique(drawn([700] * 40, 1600, context=20, whole_windows=True).doc)) == 40


def test_windows_from_all_over_the_text(tokenizer: Any, topics: list[str]) -> None:
    corpus = Corpus.from_texts(topics, tokenizer)
    whole = Windows.of(corpus, 16)
    spread = Windows.of(corpus, 16, max_positions=200, spread=True)
    first = Windows.of(corpus, 16, max_positions=200)
    assert spread.positions == first.positions == 200
    assert len(np.unique(spread.doc)) > len(np.unique(first.doc))
    places = set(zip(whole.doc.tolist(), whole.pos.tolist(), strict=True))
    assert set(zip(spread.doc.tolist(), spread.pos.tolist(), strict=True)) <= places
    assert list(spread.doc) == sorted(spread.doc)
    every = Windows.of(corpus, 16, max_positions=10**6, spread=True)
    assert np.array_equal(every.start, whole.start)
    assert np.array_equal(every.length, whole.length)
    more = Windows.of(corpus, 16, max_positions=300, spread=True)
    kept = set(zip(more.doc.tolist(), more.pos.tolist(), strict=True))
    assert set(zip(spread.doc.tolist(), spread.pos.tolist(), strict=True)) <= kept
