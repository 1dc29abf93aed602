"""Prompts and completions: which tokens count, from records to batches."""

from __future__ import annotations

import hashlib
from dataclasses import fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from made_up.corpora import CHAT, corpus_of_rows, pieces, write_records
from made_up.tokenizers import CHAT_TEMPLATE, with_bos
from unembed.decisions.audit.audit import audit
from unembed.decisions.audit.run import AuditOptions
from unembed.errors import UnembedError
from unembed.text import tokenised as module
from unembed.text.batches import BatchPlan, batches, parts
from unembed.text.corpus import Corpus
from unembed.text.rows import PromptCompletion
from unembed.text.windows import Windows

KINDS = ["gpt2", "bundled", "trained", "bos", "slow"]


@pytest.fixture(scope="session", params=KINDS)
def any_tokenizer(request: pytest.FixtureRequest) -> Any:
    if request.param == "slow":
        from transformers import ByT5Tokenizer

        return ByT5Tokenizer()  # puts an end of text behind every text
    if request.param == "bos":
        return with_bos(request.getfixturevalue("tokenizer"))
    names = {"trained": "tokenizer"}
    return request.getfixturevalue(names.get(request.param, request.param))


def counted_targets(corpus: Corpus, context: int, batch_tokens: int) -> list[tuple[int, int, int]]:
    """Document, position and target of every prediction that the batches ask for, sorted."""
    windows = Windows.of(corpus, context)
    found = []
    for part in parts(windows, 50):
        for batch in batches(windows, part, BatchPlan(batch_tokens)):
            assert sum(int(block.real.sum()) for block in batch.blocks) == len(batch.targets)
            found += zip(
                batch.doc.tolist(), batch.pos.tolist(), batch.targets.tolist(), strict=True
            )
    assert len(found) == windows.positions
    return sorted(found)


TEXT = st.text(st.sampled_from("ab \n.é中😀:"), max_size=20)


@given(
    pairs=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=6),
    context=st.integers(2, 40),
    batch_tokens=st.integers(1, 60),
)
@settings(max_examples=30, deadline=None)
def test_what_is_predicted_is_the_completions_whatever_the_context(
    pairs: list[tuple[str, str]], context: int, batch_tokens: int, any_tokenizer: Any
) -> None:
    pairs = [("The question:", " its answer"), *pairs]
    corpus = Corpus.from_pairs([PromptCompletion(*pair) for pair in pairs], any_tokenizer)
    kept = [pair for i, pair in enumerate(pairs) if f"pair {i + 1}" in corpus.names]
    expected = []
    for doc, (prompt, answer) in enumerate(kept):
        ids, first = naive(prompt, answer, any_tokenizer)
        span = slice(corpus.starts[doc], corpus.starts[doc + 1])
        assert corpus.ids[span].tolist() == ids
        expected += [(doc, i - 1, ids[i]) for i in range(max(first, 1), len(ids))]
    assert counted_targets(corpus, context, batch_tokens) == expected
    for pair in pairs:
        if pair not in kept:
            assert not pair[1].strip() or len(naive(*pair, any_tokenizer)[0]) < 2


def naive(prompt: str, answer: str, tokenizer: Any) -> tuple[list[int], int]:
    """The ids of a row, and the first that reaches past the prompt by what the ids before it say.

    A token reaches past it where all tokens up to it, decoded, hold more than the prompt's bytes.
    """
    from transformers import ByT5Tokenizer

    if isinstance(tokenizer, ByT5Tokenizer):
        bare = [[3 + byte for byte in part.encode()] for part in (prompt, answer)]
        return bare[0] + bare[1], len(bare[0])
    ids = tokenizer(prompt + answer, verbose=False)["input_ids"]
    lead = int(tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id])
    size, first = 0, len(ids)
    for i, piece in enumerate(tokenizer.convert_ids_to_tokens(ids[lead:])):
        size += len(piece)  # byte-level: a character of a piece is a byte of the text
        if size > len(prompt.encode()):
            first = lead + i
            break
    return ids, first


def test_a_token_across_the_boundary_belongs_to_the_completion(gpt2: Any) -> None:
    corpus = Corpus.from_pairs(
        [PromptCompletion("Is it? Answer: ", "yes"), PromptCompletion("Is it? Answer:", " no")],
        gpt2,
    )
    assert pieces(corpus, 0) == ("Is it? Answer:", [" yes"])
    assert pieces(corpus, 1) == ("Is it? Answer:", [" no"])
    assert corpus.ids[: corpus.starts[1]].tolist() == gpt2("Is it? Answer: yes")["input_ids"]


def test_a_token_within_the_completion_does_not_leak_before_it(gpt2: Any) -> None:
    text = PromptCompletion("2 + 2 =", " four, I say\n")
    corpus = Corpus.from_pairs([text], gpt2)
    assert pieces(corpus) == ("2 + 2 =", [" four", ",", " I", " say", "\n"])


def test_bos_is_put_once_and_is_no_prediction(tokenizer: Any) -> None:
    prefixed = with_bos(tokenizer)
    corpus = Corpus.from_pairs(
        [PromptCompletion("", "an answer"), PromptCompletion("ask", " me")], prefixed
    )
    assert corpus.bos == prefixed.bos_token_id
    assert (corpus.ids == corpus.bos).sum() == 2
    assert "".join(pieces(corpus, 0)[1]) == "an answer"
    bare = Corpus.from_pairs([PromptCompletion("", "an answer")], tokenizer)
    assert bare.counted is not None
    assert bare.counted.tolist() == [False] + [True] * (bare.tokens - 1)


def test_what_a_tokenizer_puts_behind_a_text_is_left_out(any_tokenizer: Any) -> None:
    corpus = Corpus.from_pairs([PromptCompletion("one", " two")], any_tokenizer)
    assert pieces(corpus)[1][-1].endswith("o")


def chatty(tokenizer: Any, template: str = CHAT_TEMPLATE) -> Any:
    prefixed = with_bos(tokenizer)
    prefixed.chat_template = template
    return prefixed


def test_messages_are_written_by_the_template(tokenizer: Any) -> None:
    corpus = Corpus.from_pairs([CHAT], chatty(tokenizer))
    prompt, answer = pieces(corpus)
    assert prompt == "<s><system>be brief</end>\n<user>is it?</end>\n<assistant>"
    assert "".join(answer) == "yes</end>\n"
    assert corpus.bos == corpus.ids[0]
    assert (corpus.ids == corpus.bos).sum() == 1


def test_a_template_that_opens_an_answer_with_more_than_it_keeps(tokenizer: Any) -> None:
    thinking = CHAT_TEMPLATE.replace("%}<assistant>{%", "%}<assistant><think>{%")
    corpus = Corpus.from_pairs([CHAT], chatty(tokenizer, thinking))
    assert pieces(corpus)[0].endswith("<assistant>")
    assert "".join(pieces(corpus)[1]) == "yes</end>\n"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (None, "pair 1 .*TokenizersBackend has no chat"),
        ("{{ raise_exception('no system') }}", r"pair 1: .* refuses the messages \(no system\)"),
        ("{{ messages | length }}", "pair 1: .* prompt otherwise"),
    ],
)
def test_messages_that_cannot_be_written(template: Any, said: str, tokenizer: Any) -> None:
    with pytest.raises(UnembedError, match=said):
        Corpus.from_pairs([CHAT], chatty(tokenizer, template))


RECORDS = [
    {"prompt": "one:", "completion": " two", "book": "a"},
    {"prompt": "three:", "completion": "", "book": "a"},
    {"prompt": "", "completion": "x", "book": "b"},
    {"prompt": "three:", "completion": " four five", "book": "b"},
]


@pytest.mark.parametrize("name", ["r.jsonl", "r.parquet"])
def test_records_are_read(name: str, tmp_path: Path, tokenizer: Any) -> None:
    path = write_records(tmp_path / name, RECORDS)
    corpus = Corpus.read(path, tokenizer, completion_only=True)
    assert [pieces(corpus, row)[0] for row in range(2)] == ["one:", "three:"]
    assert ["".join(pieces(corpus, row)[1]) for row in range(2)] == [" two", " four five"]
    assert (corpus.rows, corpus.blank_rows, corpus.short_rows) == (2, 1, 1)
    assert "completion" in corpus.rules
    booked = Corpus.read(path, tokenizer, completion_only=True, document="book")
    assert booked.names == ("a", "b")


def test_rows_are_reworded_before_they_are_tokenised(tmp_path: Path, tokenizer: Any) -> None:
    path = write_records(tmp_path / "r.jsonl", [{"prompt": "one:", "completion": " two"}])
    corpus = Corpus.read(
        path,
        tokenizer,
        completion_only=True,
        reword=lambda rows: (replace(row, pair=PromptCompletion("ask:", " me")) for row in rows),
    )
    assert pieces(corpus)[0] == "ask:"


def test_nothing_left_to_predict(tmp_path: Path, tokenizer: Any) -> None:
    path = write_records(tmp_path / "r.jsonl", RECORDS[1:3])
    with pytest.raises(UnembedError, match=r"r\.jsonl: all 2 completions .*\(1"):
        Corpus.read(path, tokenizer, completion_only=True)
    path.write_text("")
    with pytest.raises(UnembedError, match="holds no text"):
        Corpus.read(path, tokenizer, completion_only=True)
    corpus = Corpus.from_pairs([PromptCompletion("a prompt", "and the rest")], tokenizer)
    nothing = corpus.counting(np.zeros(corpus.tokens, dtype=bool), "none")
    with pytest.raises(UnembedError, match="all 1 completions are empty or masked"):
        Windows.of(nothing, 3, "truncate")


def left_cut(
    prompt: list[int], answer: list[int], context: int, overflow: str, bos: int | None
) -> list[tuple[int, tuple[int, ...]]]:
    """Each token of an answer that fits, with what is read before it."""
    room = context - 1 if overflow == "truncate" else context
    inputs = [*prompt, *answer][:-1]
    if len(inputs) > room:
        kept = room - (bos is not None)
        inputs = ([] if bos is None else [bos]) + inputs[-kept:]
    read = [tuple(inputs[: len(inputs) - i]) for i in reversed(range(len(answer)))]
    return list(zip(answer, read, strict=True))


@given(
    prompt=st.integers(1, 30),
    answer=st.integers(1, 5),
    context=st.integers(7, 12),
    overflow=st.sampled_from(["windows", "truncate"]),
    bos=st.sampled_from([None, 1]),
)
@settings(max_examples=200, deadline=None)
def test_a_completion_keeps_what_is_before_it(
    prompt: int, answer: int, context: int, overflow: Any, bos: int | None
) -> None:
    asked = [bos or 2, *range(100, 100 + prompt)]
    said = [*range(500, 500 + answer)]
    plain = corpus_of_rows([[*asked, *said]], [0], bos)
    corpus = plain.counting(np.array([False] * len(asked) + [True] * answer), "the answer")
    windows = Windows.of(corpus, context, overflow)
    (batch,) = batches(windows, range(len(windows.length)), BatchPlan())
    (block,) = batch.blocks
    (row,) = block.input_ids.tolist()
    seen = [tuple(row[: i + 1]) for i in np.flatnonzero(block.real[0])]
    expected = left_cut(asked, said, context, overflow, bos)
    assert list(zip(batch.targets.tolist(), seen, strict=True)) == expected
    assert batch.pos.tolist() == [*range(len(asked) - 1, len(asked) + answer - 1)]
    cut = len(asked) + answer - 1 > (context - 1 if overflow == "truncate" else context)
    assert (windows.cut_prompts, windows.split_completions) == (int(cut), 0)
    assert len(windows.notes) == int(cut)


def test_a_completion_longer_than_the_context_begins_within_a_window() -> None:
    plain = corpus_of_rows([[*range(10, 40)], [*range(50, 60)]], [0, 1], None)
    counted = np.isin(plain.ids, [*range(25, 40), 59])
    windows = Windows.of(plain.counting(counted, "the answers"), 8)
    found = []
    for batch in batches(windows, range(len(windows.length)), BatchPlan(8)):
        found += batch.targets.tolist()
    assert sorted(found) == [*range(25, 40), 59]
    assert windows.start[0] == 11  # four tokens of the prompt, of eight
    assert (windows.cut_prompts, windows.split_completions) == (2, 1)
    assert windows.notes == (
        "2 of 2 prompts were cut on the left: with their completions they are longer than the "
        "context of 8 tokens",
        "1 of 2 completions were split: they are longer than the context of 8 tokens",
    )
    assert "cut off" in Windows.of(plain.counting(counted, "the answers"), 8, "truncate").notes[1]


def test_the_digest_sees_what_counts(tokenizer: Any) -> None:
    whole = Corpus.from_texts(["one two three"], tokenizer)
    parted = Corpus.from_pairs([PromptCompletion("one", " two three")], tokenizer)
    other = Corpus.from_pairs([PromptCompletion("one two", " three")], tokenizer)
    assert parted.ids.tolist() == whole.ids.tolist() == other.ids.tolist()
    assert len({whole.digest, parted.digest, other.digest}) == 3
    assert whole.counted is None
    assert parted.counted is not None
    again = other.counting(parted.counted, "the other's")
    assert again.digest == parted.digest
    assert again.rules.endswith("; the other's")


def test_marks_are_spooled_with_the_tokens(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [PromptCompletion(f"ask {i}:", f" say {i}") for i in range(9)]
    whole = Corpus.from_pairs(pairs, tokenizer)
    monkeypatch.setattr(module, "IN_MEMORY_TOKENS", 1)
    monkeypatch.setattr(module, "TOKENISE_ROWS", 2)
    spooled = Corpus.from_pairs(pairs, tokenizer)
    assert isinstance(spooled.counted, np.memmap)
    assert spooled.counted.tolist() == whole.counted.tolist()
    assert spooled.digest == whole.digest
    assert counted_targets(spooled, 4, 9) == counted_targets(whole, 4, 9)


def test_a_subset_keeps_what_counts(tokenizer: Any) -> None:
    pairs = [
        PromptCompletion("one:", " two"),
        PromptCompletion("three: ", "four"),
        PromptCompletion("five:", " six seven"),
    ]
    whole = Corpus.from_pairs(pairs, tokenizer)
    part = whole.subset(np.array([True, False, True]), "two of them")
    alone = Corpus.from_pairs([pairs[0], pairs[2]], tokenizer)
    assert part.digest == alone.digest
    assert np.array_equal(part.counted, alone.counted)
    nothing = whole.subset(np.zeros(3, dtype=bool), "none")
    assert nothing.counted is not None
    assert len(nothing.counted) == 0


def test_hashes_are_of_the_prompt_where_there_is_one(tokenizer: Any) -> None:
    names = ["a", "b", "c"]
    ours = Corpus.from_pairs(
        [
            PromptCompletion("one:", " two"),
            PromptCompletion("three:", " four"),
            PromptCompletion("one:", " five six"),
        ],
        tokenizer,
        names=names,
    ).document_hashes()
    theirs = Corpus.from_pairs(
        [PromptCompletion("three:", " x y"), PromptCompletion("one:", " z")], tokenizer
    )
    assert ours.dtype == np.int64
    assert (ours >= 0).all()
    assert ours[0] == ours[2] != ours[1]
    prompt = np.array(tokenizer("one:")["input_ids"], dtype=np.int32)
    assert ours[0] == int(hashlib.sha256(prompt.tobytes()).hexdigest()[:16], 16) // 2
    assert theirs.document_hashes().tolist() == [ours[1], ours[0]]


def test_hashes_are_of_the_whole_where_nothing_is_masked(tmp_path: Path, tokenizer: Any) -> None:
    whole = Corpus.from_texts(["one two", "three four", "one two"], tokenizer)
    found = whole.document_hashes()
    assert found[0] == found[2] != found[1]
    (tmp_path / "other.txt").write_text("x y z\nthree four\n")
    assert Corpus.read(tmp_path / "other.txt", tokenizer).document_hashes()[1] == found[1]
    halves = write_records(
        tmp_path / "r.jsonl", [{"text": "one ", "b": 1}, {"text": "two", "b": 1}]
    )
    both = Corpus.read(halves, tokenizer, document="b").document_hashes()
    assert len(both) == 1


def test_completions_without_a_prompt_do_not_all_share_a_hash(tokenizer: Any) -> None:
    pairs = [
        PromptCompletion("", "one two"),
        PromptCompletion("", "three four"),
        PromptCompletion("", "one two"),
    ]
    found = Corpus.from_pairs(pairs, with_bos(tokenizer)).document_hashes()
    assert found[0] == found[2] != found[1]


@given(
    marks=st.lists(st.lists(st.booleans(), min_size=2, max_size=12), min_size=1, max_size=5),
    context=st.integers(2, 6),
    limit=st.integers(1, 30),
)
@settings(max_examples=150, deadline=None)
def test_a_limit_counts_what_counts(
    marks: list[list[bool]], context: int, limit: int, tokenizer: Any
) -> None:
    marks = [[False, True], *marks]
    plain = corpus_of_rows(
        [[*range(10, 10 + len(row))] for row in marks], [*range(len(marks))], None
    )
    counted = np.array([mark and i > 0 for row in marks for i, mark in enumerate(row)])
    corpus = plain.counting(counted, "some")
    naive = [
        (doc, i - 1, 10 + i)
        for doc, row in enumerate(marks)
        for i, mark in enumerate(row)
        if mark and i
    ]
    windows = Windows.of(corpus, context, "windows", limit)
    found = []
    for part in parts(windows, 4):
        assert windows.counts[part.start : part.stop].sum() > 0
        for batch in batches(windows, part, BatchPlan(7)):
            found += zip(
                batch.doc.tolist(), batch.pos.tolist(), batch.targets.tolist(), strict=True
            )
    assert sorted(found) == naive[:limit]
    assert windows.positions == len(naive[:limit]) == windows.facts.positions
    assert (windows.counts > 0).all()


@given(rows=st.lists(st.integers(2, 20), min_size=1, max_size=5), context=st.integers(2, 9))
@settings(max_examples=60, deadline=None)
def test_marking_everything_changes_no_batch(rows: list[int], context: int) -> None:
    plain = corpus_of_rows([[*range(5, 5 + n)] for n in rows], [*range(len(rows))], None)
    marked = plain.counting(np.ones(plain.tokens, dtype=bool), "all")
    for limit in (None, 7):
        both = [Windows.of(corpus, context, "windows", limit) for corpus in (plain, marked)]
        plans = [
            [batch for part in parts(w, 11) for batch in batches(w, part, BatchPlan(13, 9))]
            for w in both
        ]
        pairs = list(zip(*plans, strict=True))
        for ours, theirs in [
            *pairs,
            *(two for a, b in pairs for two in zip(a.blocks, b.blocks, strict=True)),
        ]:
            for name in (field.name for field in fields(ours) if field.name != "blocks"):
                assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name
                assert getattr(ours, name).dtype == getattr(theirs, name).dtype, name


def test_an_audit_of_completions_is_that_part_of_the_whole(llama: Any, tokenizer: Any) -> None:
    pairs = [
        PromptCompletion("If the test of the statement", " is true, the suite runs"),
        PromptCompletion("Lambda", " forms are expressions of one line"),
    ]
    options = AuditOptions(context=64)
    masked = audit(llama, Corpus.from_pairs(pairs, tokenizer), options)
    whole = audit(llama, Corpus.from_texts([pair.text for pair in pairs], tokenizer), options)
    ours, theirs = (found.to_pandas().set_index(["doc", "pos"]) for found in (masked, whole))
    assert 0 < len(ours) < len(theirs)
    assert len(ours) == len(masked)
    assert (ours["target"] == theirs["target"].loc[ours.index]).all()
    np.testing.assert_allclose(ours["nll"], theirs["nll"].loc[ours.index], rtol=1e-5)
    assert len([*chain(*ours.index)]) == 2 * len(ours)
