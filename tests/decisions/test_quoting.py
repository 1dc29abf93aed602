"""Positions quoted from the text: closest calls, flips, and tables with text."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

import unembed
from made_up.doses import Grid
from unembed.decisions import AuditOptions, ClosestCall, Flip
from unembed.decisions.comparison.flip_list import FlipPair, commonest_flips
from unembed.decisions.quoting import Quoting
from unembed.demo import bundled_model, documents
from unembed.runs.listing import Listing
from unembed.text.vocabulary import Vocabulary

OPTIONS = AuditOptions(batch_tokens=256, part_positions=200, context=32, top_k=3)
"""Parts shorter than a document, and windows shorter than a row."""


@pytest.fixture(scope="module")
def corpus(topics: list[str], tokenizer: Any) -> unembed.Corpus:
    return unembed.Corpus.from_texts(topics[:16], tokenizer, names=[f"no. {i}" for i in range(16)])


@pytest.fixture(scope="module")
def audit(llama: Any, corpus: unembed.Corpus, tmp_path_factory: Any) -> unembed.Audit:
    folder = tmp_path_factory.mktemp("audit")
    return unembed.audit(llama, corpus, OPTIONS, out=folder / "run")


@pytest.fixture(scope="module")
def comparison(
    llama: Any, corpus: unembed.Corpus, audit: unembed.Audit, tmp_path_factory: Any
) -> unembed.Comparison:
    """With a model whose head is a little other, kept in two parts."""
    other = copy.deepcopy(llama)
    with torch.no_grad():
        noise = torch.randn(other.lm_head.weight.shape, generator=torch.Generator().manual_seed(1))
        other.lm_head.weight += 0.05 * noise
    after = unembed.audit(other, corpus, OPTIONS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unembed.decisions.comparison.compare.PART_ROWS", 150)
        folder = tmp_path_factory.mktemp("comparison") / "run"
        return unembed.compare(audit, after, resamples=20, out=folder)


def before(corpus: unembed.Corpus, doc: int, pos: int, tokens: int) -> str:
    """The text before a predicted token, from the corpus itself; one row a document."""
    ids = corpus.ids[corpus.starts[doc] : corpus.starts[doc] + pos + 1].tolist()
    words = [corpus.tokenizer.decode([token]) for token in ids]
    whole = len(words) <= tokens
    kept = words if whole else words[len(words) - tokens :]
    return ("" if whole else "…") + "".join(kept)


@pytest.mark.parametrize("tokens", [0, 3, 12, 10_000])
def test_contexts_are_those_of_the_text(
    audit: unembed.Audit, corpus: unembed.Corpus, tokens: int
) -> None:
    frame = audit.to_pandas(text=True, context=tokens)
    expected = [
        before(corpus, doc, pos, tokens)
        for doc, pos in zip(frame["doc"], frame["pos"], strict=True)
    ]
    assert frame["context"].tolist() == expected


def test_a_table_with_text_spells_every_id(audit: unembed.Audit, tokenizer: Any) -> None:
    plain, frame = audit.to_pandas(), audit.to_pandas(text=True)
    pd.testing.assert_frame_equal(frame[plain.columns.tolist()], plain)
    assert frame["document"].tolist() == [f"no. {doc}" for doc in frame["doc"]]
    for name in ("target", "top1", "top2"):
        assert frame[f"{name}_text"].tolist() == [tokenizer.decode([i]) for i in frame[name]]
    spelled = [[tokenizer.decode([i]) for i in row] for row in frame["topk_ids"]]
    assert [list(row) for row in frame["topk_text"]] == spelled
    assert frame.columns.tolist()[:4] == ["doc", "document", "pos", "context"]


def test_closest_calls_are_the_smallest_margins(audit: unembed.Audit) -> None:
    found = audit.closest(7)
    assert isinstance(found, Listing)
    frame = audit.to_pandas(text=True).nsmallest(7, "margin", keep="first")
    assert len(found) == 7
    for call, (_, row) in zip(found, frame.iterrows(), strict=True):
        assert call == ClosestCall(
            row["document"],
            row["pos"],
            row["context"],
            row["top1_text"],
            row["top2_text"],
            row["margin"],
            row["target_text"],
            row["top1"] == row["target"],
        )
    assert len(audit.closest(10_000)) == len(audit)


def test_positions_that_are_not_finite_are_no_closest_calls(audit: unembed.Audit) -> None:
    table = audit.table
    hole = np.arange(len(audit)) == int(np.argmin(table["margin"].to_numpy()))
    columns = {
        name: pa.array(table[name].to_numpy(), mask=hole) for name in ("top1", "top2", "margin")
    }
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), name, column)
    holed = replace(audit, folder=None, files=(), in_memory=table)
    assert holed.closest(3).records == audit.closest(4).records[1:]
    assert holed.to_pandas(text=True)["top1_text"].isna().sum() == 1


def test_surest_flips_are_those_with_the_largest_margin_before(
    comparison: unembed.Comparison,
) -> None:
    frame = comparison.to_pandas(text=True)
    changed = frame[frame["before_top1"] != frame["after_top1"]]
    assert len(changed) == comparison.summary.flips.changed > 20
    assert len(comparison.files) > 2
    expected = changed.nlargest(9, "before_margin", keep="first")
    found = comparison.flips(9)
    assert [flip.margin_before for flip in found] == expected["before_margin"].tolist()
    for flip, (_, row) in zip(found, expected.iterrows(), strict=True):
        assert flip == Flip(
            row["document"],
            row["pos"],
            row["context"],
            row["before_top1_text"],
            row["after_top1_text"],
            row["target_text"],
            row["before_margin"],
            row["after_margin"],
            row["before_top1"] == row["target"],
            row["after_top1"] == row["target"],
        )
    kinds = Counter(flip.kind for flip in comparison.flips(10_000))
    flips = comparison.summary.flips
    assert kinds["wrong to right"] == flips.wrong_to_right
    assert kinds["right to wrong"] == flips.right_to_wrong
    assert kinds["wrong to wrong"] == flips.wrong_to_wrong


def test_commonest_flips_count_pairs_of_tokens(comparison: unembed.Comparison) -> None:
    rows = comparison.table.to_pylist()
    pairs = Counter(
        (row["before_top1"], row["after_top1"])
        for row in rows
        if row["before_top1"] != row["after_top1"]
    )
    words = comparison.vocabulary
    expected = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))
    found = comparison.flips(5, "commonest")
    assert [(one.before, one.after, one.count) for one in found] == [
        (words[b], words[a], count) for (b, a), count in expected[:5]
    ]
    every = comparison.flips(10_000, "commonest")
    flips = comparison.summary.flips
    assert sum(one.count for one in every) == flips.changed
    assert sum(one.wrong_to_right for one in every) == flips.wrong_to_right
    assert sum(one.right_to_wrong for one in every) == flips.right_to_wrong
    assert sum(one.wrong_to_wrong for one in every) == flips.wrong_to_wrong


def test_the_largest_ids_are_counted_too() -> None:
    most = 2**31 - 1
    rows = [(most, 0, 0), (most, 0, most), (most, 0, 3), (0, most, 1), (0, 1, 1), (most, 0, 0)]
    columns = [np.array(one, np.int32) for one in zip(*rows, strict=True)]
    table = pa.table(dict(zip(("before_top1", "after_top1", "target"), columns, strict=True)))
    words = Vocabulary({0: "low", 1: "one", most: "high"})
    quoting = Quoting(words, pa.table({"name": ["a"], "first_token": [0]}))
    parts = [table.slice(start, 2) for start in (0, 2, 4)]
    assert commonest_flips(parts, quoting, 3).records == (
        FlipPair("high", "low", 4, 2, 1, 1),
        FlipPair("low", "one", 1, 1, 0, 0),
        FlipPair("low", "high", 1, 0, 0, 1),
    )


def test_equal_models_have_no_flips(audit: unembed.Audit) -> None:
    same = unembed.compare(audit, audit, resamples=20)
    assert len(same.flips()) == len(same.flips(3, "commonest")) == 0
    assert repr(same.flips()) == "Listing(0 × Flip)"
    assert "margin_before" in same.flips()._repr_html_()


def test_of_several_seeds_the_first_pair_is_quoted() -> None:
    grid = Grid()
    others = [grid.point("margin", 0.6, seed).audit for seed in (0, 1)]
    both = unembed.compare(grid.start, others, resamples=20)
    alone = unembed.compare(grid.start, others[0], resamples=20)
    assert both.flips(50) == alone.flips(50)
    assert both.flips(5, "commonest") == alone.flips(5, "commonest")


def test_what_was_left_out_is_no_context(comparison: unembed.Comparison) -> None:
    kept = comparison.table.filter(pa.array(np.arange(len(comparison)) % 3 == 0))
    quoting = Quoting(comparison.vocabulary, comparison.documents)
    first = kept["pos"].to_numpy() == 0
    found = quoting.contexts(kept, np.arange(kept.num_rows))
    assert {text for text, at in zip(found, first, strict=True) if not at} == {"…"}
    assert "…" not in {text for text, at in zip(found, first, strict=True) if at}


def test_a_listing_is_a_table(comparison: unembed.Comparison) -> None:
    found = comparison.flips(4)
    assert found[0] is found.records[0]
    assert pa.table(found).column_names[:3] == ["document", "position", "context"]
    assert found.to_pandas()["before"].tolist() == [flip.before for flip in found]
    assert str(found).count("\n") == 4
    assert found._repr_html_().count("<tr>") == 5
    assert len(repr(found)) < 400


def test_odd_text_can_be_written() -> None:
    words = Vocabulary({0: "\ud800", 1: "\n", 2: "<b>"})
    quoting = Quoting(words, pa.table({"name": ["a"], "first_token": [1]}))
    rows = pa.table({"doc": [0, 0], "pos": [0, 1], "target": [0, 2], "top1": [2, None]})
    spelled = quoting.spelled(rows).to_pydict()
    assert spelled["context"] == ["\n", "\n?"]
    assert spelled["target_text"] == ["?", "<b>"]
    assert spelled["top1_text"] == ["<b>", None]


def test_what_cannot_be_asked_is_refused_in_a_line(
    audit: unembed.Audit, comparison: unembed.Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(unembed.UnembedError, match=r"'best' is no kind of flips.*commonest"):
        comparison.flips(3, "best")  # type: ignore[call-overload]
    for ask in (audit.closest, comparison.flips, lambda n: comparison.flips(n, "commonest")):
        with pytest.raises(unembed.UnembedError, match=r"^0 p"):
            ask(0)
    with pytest.raises(unembed.UnembedError, match="context of -1 tokens"):
        audit.closest(1, context=-1)
    monkeypatch.setattr("unembed.runs.frames.find_spec", lambda _name: None)
    for make in (audit.to_pandas, comparison.to_pandas, audit.closest(1).to_pandas):
        with pytest.raises(unembed.UnembedError, match="pip install pandas"):
            make()


def test_the_bundled_model_is_quoted(bundled: Any) -> None:
    checkpoint = unembed.load(bundled_model())
    texts = [text.text[:400] for text, _ in zip(documents("heldout"), range(4), strict=False)]
    corpus = unembed.Corpus.from_texts(texts, checkpoint.tokenizer)
    found = unembed.audit(checkpoint.model, corpus)
    [call] = found.closest(1, context=10_000)
    doc = next(i for i, name in enumerate(corpus.names) if name == call.document)
    text = texts[doc].encode("ascii", "replace").decode()
    assert call.context.replace("\ufffd", "?") in text or call.context.startswith("<")
    assert call.margin == found.column("margin").min()
