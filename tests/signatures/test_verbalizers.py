"""Answer words: files of them, what they replace, and the softmax over them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from made_up.corpora import CHAT, pieces, write_records
from made_up.tokenizers import CHAT_TEMPLATE, with_bos
from unembed.errors import UnembedError
from unembed.head.head import Head
from unembed.head.sweep import sweep
from unembed.signatures.verbalizers import Verbalizers
from unembed.text.batches import BatchPlan, batches
from unembed.text.corpus import Corpus
from unembed.text.rows import PromptCompletion, Row
from unembed.text.windows import Windows

LABELS = {"positive": " good", "negative": " bad"}


def rows(*completions: Any) -> list[Row]:
    pairs = [PromptCompletion("It was fine. Verdict:", completion) for completion in completions]
    return [Row(f"f, line {i}", f"f:{i}", pair.text, pair) for i, pair in enumerate(pairs, 1)]


@pytest.fixture
def given(tmp_path: Path) -> Callable[..., Verbalizers]:
    """Read what is given as JSON, or the text of a file."""

    def read(value: Any, restrict: bool = False) -> Verbalizers:
        file = tmp_path / "words.json"
        file.write_text(value if isinstance(value, str) else json.dumps(value))
        return Verbalizers.read(file, restrict)

    return read


def test_an_object_maps_labels_to_words(given: Callable[..., Verbalizers]) -> None:
    found = given({" positive ": " good", "negative": " bad"})
    assert found.labels == ("positive", "negative")
    assert found.words == (" good", " bad")
    assert not found.restrict
    assert given(LABELS, True).restrict


def test_a_list_restricts(given: Callable[..., Verbalizers]) -> None:
    found = given([" yes", " no"])
    assert (found.labels, found.words, found.restrict) == (("yes", "no"), (" yes", " no"), True)


def test_the_digest_sees_labels_words_order_and_restriction(
    given: Callable[..., Verbalizers],
) -> None:
    files = [LABELS, {"positive": " bad", "negative": " good"}, [" good", " bad"]]
    found = [given(file).digest for file in files] + [given(LABELS, True).digest]
    found.append(given({"negative": " bad", "positive": " good"}).digest)
    assert len({*found}) == 5
    assert given(LABELS).digest == found[0]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("[", r"words\.json is not JSON"),
        ("[" * 100_000, r"words\.json is not JSON"),
        ("3", r"holds '3'"),
        ('"yes"', "give a list of answer words"),
        ("null", "give a list of answer words"),
        ([], "holds no answer words"),
        ({}, "holds no answer words"),
        ([" yes"], "holds ' yes' alone"),
        ([" yes", 3], "3 is no answer word"),
        ([" yes", "  "], "'  ' is no answer word"),
        ([" yes", [" no"]], r"\[' no'\] is no answer word"),
        ({"a": {"b": " c"}}, "is no answer word: give text"),
        ({"": " yes"}, "'' is no answer word"),
        ([" yes", " yes"], "has 'yes' twice"),
        ([" yes", "yes"], "has 'yes' twice"),
        ('{"a": " yes", "a": " no"}', "has 'a' twice"),
        ({"a": " yes", "b": " yes"}, "' yes' to both 'a' and 'b'"),
    ],
)
def test_files_that_hold_none(given: Callable[..., Verbalizers], value: Any, said: str) -> None:
    with pytest.raises(UnembedError, match=said) as caught:
        given(value)
    assert "words.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnembedError, match=r"none\.json .*No such file"):
        Verbalizers.read(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes(b'["caf\xe9"]')
    with pytest.raises(UnembedError, match=r"latin\.json is not JSON"):
        Verbalizers.read(tmp_path / "latin.json")


def test_completions_are_replaced_as_written(given: Callable[..., Verbalizers]) -> None:
    words = given(LABELS)
    found = [*words.apply(rows(" positive", "negative\n", ""))]
    assert [row.pair.completion for row in found if row.pair] == [" good", " bad", ""]
    assert found[0].text == "It was fine. Verdict: good"
    assert [row.where for row in found] == ["f, line 1", "f, line 2", "f, line 3"]
    blank = Row("f, line 4", "f:4", "")
    assert [*words.apply([blank])] == [blank]


def test_messages_are_replaced(given: Callable[..., Verbalizers]) -> None:
    chat = [{"role": "assistant", "content": "positive", "name": "me"}]
    (row,) = given(LABELS).apply(rows(chat))
    assert row.pair is not None
    assert row.pair.completion == [{"role": "assistant", "content": " good", "name": "me"}]
    assert chat[0]["content"] == "positive"
    with pytest.raises(UnembedError, match=r"line 1: .*2 messages"):
        [*given({"positivepositive": " good"}).apply(rows(chat * 2))]


def test_a_completion_that_is_no_label(given: Callable[..., Verbalizers]) -> None:
    with pytest.raises(UnembedError, match=r"line 2: .*'mixed' .* 'positive', 'negative'"):
        [*given(LABELS).apply(rows("positive", " mixed"))]
    many = given({f"label {i}": f" {i}" for i in range(30)})
    with pytest.raises(UnembedError, match="'label 7' and 22 more"):
        [*many.apply(rows("mixed"))]


def test_rows_without_completions_are_refused(given: Callable[..., Verbalizers]) -> None:
    with pytest.raises(UnembedError, match=r"t, line 1 has no completion.*--completion-only"):
        [*given(LABELS).apply([Row("t, line 1", "t:1", "text")])]


def test_words_are_one_token_of_gpt2(given: Callable[..., Verbalizers], gpt2: Any) -> None:
    ids = given([" yes", " no", "maybe"]).token_ids(gpt2)
    assert gpt2.convert_ids_to_tokens(ids.tolist()) == ["Ġyes", "Ġno", "maybe"]
    assert ids.dtype == np.int64
    with pytest.raises(
        UnembedError,
        match=r"'unlikely' is 2 tokens .*'un', 'likely': ' unlikely' is one",
    ):
        given([" no", "unlikely"]).token_ids(gpt2)
    with pytest.raises(UnembedError, match=r"' xyzzyx' is \d tokens .*'xyzzyx' is several, too"):
        given([" no", " xyzzyx"]).token_ids(gpt2)


def test_words_of_the_bundled_model(given: Callable[..., Verbalizers], bundled: Any) -> None:
    ids = given([" True", " False"]).token_ids(bundled)
    assert bundled.decode(ids.tolist()) == " True False"
    assert given([" True", " False"]).token_ids(with_bos(bundled)).tolist() == ids.tolist()


def small_vocabulary() -> Any:
    """A tokenizer of four words that knows no others, and puts them in lower case."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "answer", ":", "yes", "no"]
    built = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    built.normalizer, built.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=built, unk_token="<unk>")


def test_words_that_a_tokenizer_does_not_tell_apart(given: Callable[..., Verbalizers]) -> None:
    tokenizer = small_vocabulary()
    assert given(["yes", " no"]).token_ids(tokenizer).tolist() == [3, 4]
    with pytest.raises(UnembedError, match=r"'Yes' and 'YES' .* 3"):
        given(["Yes", "YES"]).token_ids(tokenizer)
    with pytest.raises(UnembedError, match="'maybe' is unknown to"):
        given(["yes", "maybe"]).token_ids(tokenizer)


def test_the_softmax_is_over_the_words(given: Callable[..., Verbalizers], bundled: Any) -> None:
    torch.manual_seed(0)
    whole = Head.from_parts(torch.randn(len(bundled), 12), torch.randn(len(bundled)), 0.5, 30.0)
    words = given([" True", " False", " None"])
    head, ids = words.head(whole, bundled), words.token_ids(bundled)
    assert head.tokens == 3
    assert head.digest != whole.digest
    assert (head.scale, head.softcap, head.recipe) == (0.5, 30.0, whole.recipe)
    hidden, targets = torch.randn(7, 12), torch.tensor(ids[[0, 1, 2, 0, 1, 2, 0]])
    logits = 0.5 * (hidden.double() @ whole.weight.double().T + whole.bias)
    logits = 30 * torch.tanh(logits / 30)
    expected = logits[:, ids].logsumexp(1) - logits.gather(1, targets[:, None])[:, 0]
    found = sweep(hidden, head, targets, k=2)
    torch.testing.assert_close(found.nll.double(), expected, rtol=1e-5, atol=1e-5)
    assert {*found.topk_ids.flatten().tolist()} <= {*ids.tolist()}
    assert given(LABELS).head(whole, bundled) is whole


def test_a_head_that_has_not_the_words(given: Callable[..., Verbalizers], bundled: Any) -> None:
    words = given([" True", " False"])
    ids = words.token_ids(bundled)
    small = Head.from_parts(torch.randn(int(ids.max()), 4))
    with pytest.raises(UnembedError, match=r"head of \d+ rows"):
        words.head(small, bundled)
    valid = torch.ones(len(bundled), dtype=torch.bool)
    valid[ids[1]] = False
    with pytest.raises(UnembedError, match="' False' is a token that"):
        words.head(Head.from_parts(torch.randn(len(bundled), 4), valid=valid), bundled)


def read(path: Path, records: list[dict[str, Any]], tokenizer: Any, words: Verbalizers) -> Corpus:
    file = write_records(path / "r.jsonl", records)
    return Corpus.read(file, tokenizer, completion_only=True, reword=words.apply)


def test_targets_are_the_words(
    tmp_path: Path, given: Callable[..., Verbalizers], bundled: Any
) -> None:
    words = given({"yes": " True", "no": " False"}, True)
    records = [
        {"prompt": f"say True or False: is {i} even?", "completion": ["yes", " no\n"][i % 2]}
        for i in range(6)
    ]
    corpus = words.answers(read(tmp_path, records, bundled, words))
    windows = Windows.of(corpus, 32)
    found = [*batches(windows, range(len(windows.counts)), BatchPlan(64))]
    targets = torch.cat([batch.targets for batch in found])
    assert sorted(targets.tolist()) == sorted(words.token_ids(bundled).tolist() * 3)
    hashes = corpus.document_hashes()
    permuted = given({"yes": " False", "no": " True"}, True)
    assert read(tmp_path, records, bundled, permuted).document_hashes().tolist() == hashes.tolist()


def test_the_end_of_a_turn_is_no_answer(
    tmp_path: Path, given: Callable[..., Verbalizers], bundled: Any
) -> None:
    tokenizer = with_bos(bundled)
    tokenizer.chat_template = CHAT_TEMPLATE
    words = given({"yes": "True", "no": "False"}, True)
    whole = read(tmp_path, [vars(CHAT)], tokenizer, words)
    assert len(pieces(whole)[1]) > 1
    answers = words.answers(whole)
    assert pieces(answers)[1] == ["True"]
    assert answers.digest != whole.digest
    assert given(LABELS).answers(whole) is whole


def test_an_answer_that_is_read_otherwise(
    tmp_path: Path, given: Callable[..., Verbalizers], bundled: Any
) -> None:
    words = given(["True", "False"])
    corpus = read(tmp_path, [{"prompt": "answer: ", "completion": "True"}], bundled, words)
    with pytest.raises(UnembedError, match=r"r\.jsonl:1: .*'ĠTrue'"):
        words.answers(corpus)
    with pytest.raises(UnembedError, match="answer words need completions to stand in"):
        words.answers(Corpus.from_texts(["answer: True"], bundled))
