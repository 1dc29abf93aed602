"""What a program holds as a corpus: what is plainly meant, and what is refused in a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from unembed.errors import UnembedError
from unembed.text.corpus import Corpus
from unembed.text.rows import PromptCompletion

TEXTS = ["one two", "three four"]
TABLE = {"n": [1, 2], "text": TEXTS}


@pytest.mark.parametrize("kind", ["list", "iterator", "Series", "DataFrame", "Table", "Dataset"])
def test_texts_of_every_kind(kind: str, tokenizer: Any) -> None:
    import datasets

    given = {
        "list": TEXTS,
        "iterator": iter(TEXTS),
        "Series": pd.Series(TEXTS, index=[7, 9]),
        "DataFrame": pd.DataFrame(TABLE),
        "Table": pa.table(TABLE),
        "Dataset": datasets.Dataset.from_dict(TABLE),
    }[kind]
    whole = Corpus.from_texts(TEXTS, tokenizer)
    assert Corpus.from_texts(given, tokenizer).digest == whole.digest


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("one two", r"'one two' \(str\) is no list of texts: .*\[text\]"),
        (Path("a.txt"), r"is no list of texts: read a file with Corpus.read"),
        ({"text": TEXTS}, r"\(dict\) is no list of texts"),
        (3, r"3 \(int\) is no list of texts"),
        (None, r"None .* is no list"),
        (["one two", float("nan")], r"text 2 is nan \(float\), not a string"),
        ([{"text": "one"}], r"text 1 is \{'text': 'one'\} \(dict\), not a string"),
        ([None], "text 1 is None"),
        (pd.DataFrame({"body": TEXTS}), "a DataFrame of body has no column 'text': .*text_column"),
    ],
)
def test_what_is_no_list_of_texts(given: Any, said: str, tokenizer: Any) -> None:
    with pytest.raises(UnembedError, match=said) as caught:
        Corpus.from_texts(given, tokenizer)
    assert "\n" not in str(caught.value)


def test_a_column_by_name_and_too_few_names(tokenizer: Any) -> None:
    frame = pd.DataFrame({"body": TEXTS})
    whole = Corpus.from_texts(TEXTS, tokenizer)
    assert Corpus.from_texts(frame, tokenizer, text_column="body").digest == whole.digest
    with pytest.raises(UnembedError, match="1 names are too few"):
        Corpus.from_texts(TEXTS, tokenizer, names=["a"])


def test_a_missing_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("one two")
    for tokenizer in (None, "gpt2"):
        with pytest.raises(UnembedError, match="is no tokenizer: give the model's own"):
            Corpus.from_texts(TEXTS, tokenizer)
        with pytest.raises(UnembedError, match="is no tokenizer"):
            Corpus.read(tmp_path / "t.txt", tokenizer)


def test_pairs_of_every_kind(tokenizer: Any) -> None:
    records = [{"prompt": "one:", "completion": " two"}]
    whole = Corpus.from_pairs([PromptCompletion("one:", " two")], tokenizer)
    for given in (records, pd.DataFrame(records)):
        assert Corpus.from_pairs(given, tokenizer).digest == whole.digest
    refused: list[tuple[Any, str]] = [
        ([("one:", " two")], r"pair 1 is \('one:', ' two'\) \(tuple\): give"),
        ([{"prompt": "one:"}], "pair 1 has no 'completion'; it has prompt"),
        ("one: two", "no list of pairs"),
    ]
    for given, said in refused:
        with pytest.raises(UnembedError, match=said):
            Corpus.from_pairs(given, tokenizer)
