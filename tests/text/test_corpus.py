from __future__ import annotations

import itertools
import json
import os
import tracemalloc
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from made_up.tokenizers import with_bos
from places import SHARED
from unembed.errors import UnembedError
from unembed.text import tokenised as module
from unembed.text.corpus import Corpus


def decoded(corpus: Corpus) -> list[str]:
    spans = zip(corpus.starts[:-1], corpus.starts[1:], strict=True)
    return [corpus.tokenizer.decode(corpus.ids[a:b]) for a, b in spans]


def test_rows_are_kept_in_order_and_the_rest_is_counted(tmp_path: Path, tokenizer: Any) -> None:
    file = tmp_path / "t.txt"
    file.write_text("the first line\n\n \t \na\nthe second line\n")
    corpus = Corpus.read(file, tokenizer)
    assert decoded(corpus) == ["the first line", "the second line"]
    assert (corpus.blank_rows, corpus.short_rows, corpus.rows) == (2, 1, 2)
    assert corpus.names == ("t.txt:1", "t.txt:5")
    assert corpus.tokens == len(corpus.ids) == corpus.starts[-1]
    assert str(file) in corpus.rules


def test_a_document_of_several_rows_goes_on_counting(tmp_path: Path, tokenizer: Any) -> None:
    file = tmp_path / "t.txt"
    file.write_text("= one =\nof the first\n= two =\nof the second\n")
    corpus = Corpus.read(file, tokenizer, document="^= ")
    sizes = np.diff(corpus.starts)
    assert corpus.document.tolist() == [0, 0, 1, 1]
    assert corpus.offset.tolist() == [0, sizes[0], 0, sizes[2]]


def test_rows_of_a_document_may_lie_apart(tmp_path: Path, tokenizer: Any) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text(
        '{"text": "one of a", "book": "a"}\n{"text": "one of b", "book": "b"}\n'
        '{"text": "two of a", "book": "a"}\n'
    )
    corpus = Corpus.read(file, tokenizer, document="book")
    assert corpus.names == ("a", "b")
    assert corpus.document.tolist() == [0, 1, 0]
    assert corpus.offset.tolist() == [0, 0, np.diff(corpus.starts)[0]]


def test_bos_is_known_where_the_tokenizer_puts_it(tokenizer: Any) -> None:
    assert Corpus.from_texts(["some text"], tokenizer).bos is None
    prefixed = Corpus.from_texts(["some text", "more of it"], with_bos(tokenizer))
    assert prefixed.bos == prefixed.ids[0] == prefixed.ids[prefixed.starts[1]]


def test_a_bos_token_that_is_not_put_is_none(tokenizer: Any) -> None:
    from transformers import PreTrainedTokenizerFast

    named = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, bos_token="!")
    assert Corpus.from_texts(["some text", "!starts with it"], named).bos is None


def test_texts_in_memory_are_documents(tokenizer: Any) -> None:
    corpus = Corpus.from_texts(["one two", " ", "three four"], tokenizer)
    assert corpus.names == ("text 1", "text 3")
    named = Corpus.from_texts(["one two", "three four"], tokenizer, names=["a", "b"])
    assert named.names == ("a", "b")
    assert named.digest == corpus.digest


@given(
    texts=st.lists(st.text(st.sampled_from("ab \n.é中😀"), max_size=30), min_size=1, max_size=8),
    cut=st.integers(1, 5),
)
@settings(max_examples=40, deadline=None)
def test_nothing_depends_on_how_rows_are_batched(
    texts: list[str], cut: int, tokenizer: Any
) -> None:
    texts = ["always some text", *texts]
    whole = Corpus.from_texts(texts, tokenizer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TOKENISE_ROWS", cut)
        patch.setattr(module, "TOKENISE_CHARACTERS", 7)
        patch.setattr(module, "IN_MEMORY_TOKENS", 1)
        parted = Corpus.from_texts(texts, tokenizer)
    assert isinstance(parted.ids, np.memmap)
    assert parted.digest == whole.digest
    for name in ("ids", "starts", "document", "offset"):
        np.testing.assert_array_equal(getattr(parted, name), getattr(whole, name))
    alone = [tokenizer(text)["input_ids"] for text in texts]
    kept = [ids for text, ids in zip(texts, alone, strict=True) if text.strip() and len(ids) > 1]
    assert whole.ids.tolist() == [*chain(*kept)]
    assert whole.rows + whole.blank_rows + whole.short_rows == len(texts)


@pytest.mark.parametrize(
    "change", [["one two", "three for"], ["one two three four"], ["three four", "one two"]]
)
def test_the_digest_sees_tokens_rows_and_order(change: list[str], tokenizer: Any) -> None:
    assert (
        Corpus.from_texts(["one two", "three four"], tokenizer).digest
        != Corpus.from_texts(change, tokenizer).digest
    )


def test_texts_are_not_held(tokenizer: Any) -> None:
    class Counts:
        bos_token_id = None

        def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
            return {"input_ids": [[len(text), 1] for text in texts]}

    def books() -> Iterator[str]:
        for i in range(100):
            yield "x" * (1 << 20) + str(i)

    tracemalloc.start()
    corpus = Corpus.from_texts(books(), Counts())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert corpus.rows == 100
    assert peak < 16 << 20


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("", "(0 blank rows)"),
        ("\n \n\t\n", "(3 blank rows)"),
        ("a\n\nb\n", "all 2 rows"),
    ],
)
def test_a_corpus_of_nothing(data: str, said: str, tmp_path: Path, tokenizer: Any) -> None:
    file = tmp_path / "t.txt"
    file.write_text(data)
    with pytest.raises(UnembedError) as caught:
        Corpus.read(file, tokenizer)
    assert said in str(caught.value)
    assert str(file) in str(caught.value)


def test_half_a_surrogate_pair_is_named(tmp_path: Path, tokenizer: Any) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text('{"text": "fine"}\n{"text": "half \\ud83d of it"}\n')
    with pytest.raises(UnembedError, match=r"line 2 .*surrogate"):
        Corpus.read(file, tokenizer)


def test_a_long_row_makes_no_noise(
    tmp_path: Path, tokenizer: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "t.txt"
    file.write_text("word " * 5000)
    Corpus.read(file, tokenizer)
    assert capfd.readouterr() == ("", "")


def test_wikitext_keeps_the_rows_it_should(tokenizer: Any) -> None:
    beside = SHARED / "corpora"
    file = Path(os.environ.get("UNEMBED_CORPORA", beside)) / "wikitext2-valid.txt"
    if not file.exists():
        pytest.skip(f"{file} is not here; UNEMBED_CORPORA names its folder")
    corpus = Corpus.read(file, tokenizer)
    assert corpus.rows == 2461
    assert corpus.rows + corpus.blank_rows + corpus.short_rows == file.read_bytes().count(b"\n")


def test_a_subset_is_what_its_rows_alone_would_be(tmp_path: Path, tokenizer: Any) -> None:
    rows = [("a", "one of a"), ("b", "one of b"), ("a", "two of a, longer"), ("c", "one of c"),
            ("b", "two of b"), ("d", "x"), ("c", "two of c")]  # fmt: skip

    def read(chosen: list[tuple[str, str]]) -> Corpus:
        file = tmp_path / "t.jsonl"
        file.write_text("".join(json.dumps({"text": t, "book": b}) + "\n" for b, t in chosen))
        return Corpus.read(file, tokenizer, document="book")

    whole = read(rows)
    assert whole.names == ("a", "b", "c")  # of d nothing was kept
    assert whole.short_rows == 1
    for kept in itertools.product([False, True], repeat=3):
        if not any(kept):
            continue
        chosen = {name for name, keep in zip(whole.names, kept, strict=True) if keep}
        part = whole.subset(np.array(kept), "some of them")
        alone = read([row for row in rows if row[0] in chosen])
        assert decoded(part) == decoded(alone)
        for name in ("ids", "starts", "document", "offset"):
            ours, theirs = getattr(part, name), getattr(alone, name)
            assert ours.dtype == theirs.dtype, name
            assert np.array_equal(ours, theirs), name
        assert part.names == alone.names
        assert part.digest == alone.digest
        assert part.rules == f"{whole.rules}; some of them"
        assert (part.blank_rows, part.short_rows) == (0, 1)
        assert (part.bos, part.tokenizer) == (whole.bos, tokenizer)


def test_a_subset_of_a_spooled_corpus_is_in_memory(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IN_MEMORY_TOKENS", 0)
    whole = Corpus.from_texts(["the first", "the second one", "the third"], tokenizer)
    assert isinstance(whole.ids, np.memmap)
    part = whole.subset(np.array([True, False, True]), "two")
    assert not isinstance(part.ids, np.memmap)
    assert decoded(part) == ["the first", "the third"]
    assert part.subset(np.array([True, True]), "both").digest == part.digest
