"""The text that the bundled model is trained and evaluated on."""

from __future__ import annotations

import ast
import re

import pytest

from unembed.demo.text import Document, documents, is_heldout, subject


@pytest.fixture(scope="module")
def heldout() -> list[Document]:
    return list(documents("heldout"))


@pytest.fixture(scope="module")
def train() -> list[Document]:
    return list(documents("train"))


def test_the_order_and_the_text_are_fixed(heldout: list[Document]) -> None:
    assert list(documents("heldout")) == heldout


def test_the_splits_are_disjoint(heldout: list[Document], train: list[Document]) -> None:
    assert {d.name for d in heldout}.isdisjoint(d.name for d in train)
    assert {subject(d.name) for d in heldout}.isdisjoint(subject(d.name) for d in train)
    texts = [d.text for d in heldout + train]
    assert len(set(texts)) == len(texts)


def test_no_training_topic_quotes_a_heldout_one(
    heldout: list[Document], train: list[Document]
) -> None:
    hidden = {
        paragraph.strip()
        for d in heldout
        if d.name.startswith("topic:")
        for paragraph in d.text.split("\n\n")
        if len(paragraph.strip()) >= 60
    }
    assert hidden
    shown = {
        paragraph.strip()
        for d in train
        if d.name.startswith("topic:")
        for paragraph in d.text.split("\n\n")
    }
    assert hidden.isdisjoint(shown)


def test_there_is_enough_heldout_text(heldout: list[Document], train: list[Document]) -> None:
    """Also where the installation lacks ``test`` and whatever else may be left out of it."""
    optional = ("test/", "turtledemo/", "idlelib/", "lib2to3/", "distutils/")
    kept = [d for d in heldout if not d.name.startswith(optional)]
    assert len(kept) >= 30
    # About 3.8 characters make a token.
    assert sum(len(d.text) for d in kept) >= 150_000 * 3.5
    share = len(heldout) / (len(heldout) + len(train))
    assert 0.02 < share < 0.15


def test_every_kind_of_document_is_on_both_sides(
    heldout: list[Document], train: list[Document]
) -> None:
    for side in (heldout, train):
        kinds = {re.match(r"topic:|doc:|", d.name).group() for d in side}  # type: ignore[union-attr]
        assert kinds == {"topic:", "doc:", ""}


def test_names_say_where_the_text_is_from(heldout: list[Document], train: list[Document]) -> None:
    texts = {d.name: d.text for d in heldout + train}
    assert len(texts) == len(heldout) + len(train)
    for name, text in texts.items():
        assert re.fullmatch(r"topic:[\w-]+|doc:\w+(\.\w+)?|[^\\:]+\.py", name), name
        assert text.strip()
    assert "class JSONDecoder" in texts["json/decoder.py"]
    assert texts["topic:assert"].startswith("The ")
    assert texts["doc:builtins.str"].startswith("class builtins.str")
    assert "str.casefold(self, /)\n    Return a version" in texts["doc:builtins.str"]
    assert "math.acos(x, /)\n" in texts["doc:math"]


def test_what_is_not_text_is_left_out(heldout: list[Document], train: list[Document]) -> None:
    names = {d.name for d in heldout + train}
    assert "encodings/cp1252.py" not in names
    assert "encodings/utf_8.py" in names
    assert "pydoc_data/topics.py" not in names
    assert not any("-packages" in name or "_sysconfigdata" in name for name in names)
    broken = [d.name for d in heldout if d.name.endswith(".py") and not _parses(d.text)]
    assert not broken


def _parses(text: str) -> bool:
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("json/decoder.py", "json"),
        ("test/test_json/test_decode.py", "json"),
        ("doc:_json", "json"),
        ("http/cookies.py", "http"),
        ("test/test_http_cookies.py", "http"),
        ("_pydatetime.py", "datetime"),
        ("test/datetimetester.py", "datetime"),
        ("doc:_datetime.date", "datetime"),
        ("test/support/threading_helper.py", "threading"),
        ("test/_test_multiprocessing.py", "multiprocessing"),
        ("test/test_zipfile64.py", "zipfile"),
        ("doc:builtins.str", "str"),
        ("test/test_str.py", "str"),
        ("topic:assert", "topic:assert"),
    ],
)
def test_subject(name: str, expected: str) -> None:
    assert subject(name) == expected


def test_the_split_does_not_change() -> None:
    """A model that is already trained must never meet what it was trained on."""
    assert is_heldout("json/decoder.py")
    assert is_heldout("datetime.py")
    assert is_heldout("topic:assert")
    assert not is_heldout("argparse.py")
    assert not is_heldout("collections/__init__.py")
    assert not is_heldout("topic:lambda")
