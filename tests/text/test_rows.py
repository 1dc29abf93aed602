from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unembed.errors import UnembedError
from unembed.text.rows import PromptCompletion, Row, RowRules, read_rows


def rows(path: str | Path, **rules: Any) -> list[Row]:
    return list(read_rows(path, RowRules(**rules)))


def texts(path: str | Path, **rules: Any) -> list[str]:
    return [row.text for row in rows(path, **rules)]


def write(path: Path, data: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


RECORDS = [
    {"text": "one fish", "body": "red", "book": "a"},
    {"text": "", "body": "blue", "book": "a"},
    {"text": None, "body": "", "book": 7},
    {"text": "two fish", "body": "old", "book": 7},
]
TEXTS = ["one fish", "", "", "two fish"]


def jsonl(path: Path, records: list[dict[str, Any]]) -> Path:
    return write(path, "".join(json.dumps(record) + "\n" for record in records))


def parquet(path: Path, records: list[dict[str, Any]]) -> Path:
    readable = [{**r, "book": str(r["book"])} if "book" in r else r for r in records]
    pq.write_table(pa.Table.from_pylist(readable), path)
    return path


def saved(path: Path, records: list[dict[str, Any]]) -> Path:
    import datasets

    readable = [{**r, "book": str(r["book"])} if "book" in r else r for r in records]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", path.parent / "cache")
        bars = datasets.are_progress_bars_disabled()
        datasets.disable_progress_bars()
        datasets.Dataset.from_list(readable).save_to_disk(path)
        if not bars:
            datasets.enable_progress_bars()
    return path


WRITERS = [
    pytest.param(jsonl, "r.jsonl", id="jsonl"),
    pytest.param(parquet, "r.parquet", id="parquet"),
    pytest.param(saved, "saved", id="saved"),
]


def test_a_row_of_a_text_file_is_a_line(tmp_path: Path) -> None:
    file = write(tmp_path / "t.txt", "one\r\n\n  three \nfour\u2028still four")
    assert texts(file) == ["one", "", "  three ", "four\u2028still four"]
    assert [row.document for row in rows(file)] == [f"t.txt:{i}" for i in range(1, 5)]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    assert texts(write(tmp_path / "t.txt", "\ufeffone\n\ufefftwo")) == ["one", "\ufefftwo"]
    record = write(tmp_path / "t.jsonl", '\ufeff{"text": "one"}\n')
    assert texts(record) == ["one"]


def test_a_document_of_text_begins_where_the_expression_matches(tmp_path: Path) -> None:
    file = write(tmp_path / "t.txt", "preface\n= A =\na\n\n= B =\nb\n")
    names = [row.document for row in rows(file, document="^= ")]
    assert names == ["t.txt:1", "t.txt:2", "t.txt:2", "t.txt:2", "t.txt:5", "t.txt:5"]


@pytest.mark.parametrize(("writer", "name"), WRITERS)
def test_records(writer: Any, name: str, tmp_path: Path) -> None:
    path = writer(tmp_path / name, RECORDS)
    assert texts(path) == TEXTS
    assert texts(path, text_column="body") == ["red", "blue", "", "old"]
    assert [row.document for row in rows(path, document="book")] == ["a", "a", "7", "7"]
    assert len({row.document for row in rows(path)}) == 4


@pytest.mark.parametrize(("writer", "name"), WRITERS)
def test_a_column_that_is_not_there(writer: Any, name: str, tmp_path: Path) -> None:
    path = writer(tmp_path / name, RECORDS)
    with pytest.raises(UnembedError, match=r"no column 'txt'; it has .*text.*--text-column"):
        rows(path, text_column="txt")
    with pytest.raises(UnembedError, match=r"no column 'tome'; it has .*with --document"):
        rows(path, document="tome")


@pytest.mark.parametrize(("writer", "name"), WRITERS)
def test_a_column_that_is_not_text(writer: Any, name: str, tmp_path: Path) -> None:
    path = writer(tmp_path / name, [{"text": "a", "n": 1}, {"text": "b", "n": 23}])
    with pytest.raises(UnembedError, match=r"(line|row) 1: column 'n' holds 1,"):
        rows(path, text_column="n")


def test_a_document_without_a_name(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "r.jsonl", [{"text": "a", "book": None}])
    with pytest.raises(UnembedError, match="line 1: column 'book'"):
        rows(path, document="book")


def test_a_blank_line_of_jsonl_is_a_blank_row(tmp_path: Path) -> None:
    assert texts(write(tmp_path / "r.jsonl", '{"text": "a"}\n\n{"text": "b"}\n')) == ["a", "", "b"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": "a"', r"line 2 .*JSON .*: '\{\"text\": \"a\"'"),
        ("[1]", r"line 2 .*JSON object: '\[1\]'"),
        ('"a"', "line 2 is not a JSON object"),
        ("[" * 100_000, "line 2 is not JSON"),
    ],
)
def test_a_malformed_line_is_named(line: str, said: str, tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", '{"text": "fine"}\n' + line + "\n")
    with pytest.raises(UnembedError, match=said):
        rows(path)


@pytest.mark.parametrize("name", ["t.txt", "t.jsonl"])
def test_bytes_that_are_not_utf8_are_named(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, b'{"text": "a"}\n{"text": "caf\xe9"}\n')
    with pytest.raises(
        UnembedError, match=rf"{name}, line 2: byte 14 is not UTF-8 \(0xe9\).*iconv"
    ):
        rows(path)


def test_a_parquet_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UnembedError, match=r"r\.parquet cannot be read as Parquet"):
        rows(write(tmp_path / "r.parquet", b"PAR1 this is none PAR1"))


def test_a_parquet_file_with_a_damaged_page(tmp_path: Path) -> None:
    many = [{"text": f"row {i} {i * i}"} for i in range(4000)]
    path = parquet(tmp_path / "r.parquet", many)
    data = bytearray(path.read_bytes())
    data[len(data) // 4 : len(data) // 4 + 200] = b"\xff" * 200
    path.write_bytes(data)
    with pytest.raises(UnembedError, match="cannot be read as Parquet"):
        rows(path)


def test_a_folder_is_read_in_order_and_names_files_apart(tmp_path: Path) -> None:
    write(tmp_path / "b/t.txt", "second")
    write(tmp_path / "a/t.txt", "first")
    write(tmp_path / "c.TXT", "third")
    write(tmp_path / "notes.md", "not read")
    jsonl(tmp_path / "d.jsonl", [{"text": "fourth"}])
    got = rows(tmp_path)
    assert [row.text for row in got] == ["first", "second", "third", "fourth"]
    assert [row.document for row in got] == ["a/t.txt:1", "b/t.txt:1", "c.TXT:1", "d.jsonl:1"]


def test_a_folder_without_text(tmp_path: Path) -> None:
    write(tmp_path / "notes.md", "not read")
    with pytest.raises(UnembedError, match=r"holds no \.txt, \.jsonl, .*\.parquet file"):
        rows(tmp_path)


@pytest.mark.parametrize("name", ["missing.txt", "./missing", "/missing/folder", "a/b/c", "x.csv"])
def test_a_corpus_that_is_not_there(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnembedError, match=f"^{name}: no such file or folder$"):
        rows(name)


def test_what_is_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(UnembedError, match=r"t\.html: .*\.html.*\.txt"):
        rows(write(tmp_path / "t.html", "a,b"))
    with pytest.raises(UnembedError, match=r"t\.parquet\.gz: cannot read a \.gz"):
        rows(write(tmp_path / "t.parquet.gz", "a,b"))
    with pytest.raises(UnembedError, match="cannot read a suffixless file"):
        rows(write(tmp_path / "README", "a"))
    with pytest.raises(UnembedError, match="empty name"):
        rows("")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnembedError, match="neither a file nor a folder"):
        rows(tmp_path / "pipe")


def test_an_expression_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UnembedError, match=r"--document '\(' "):
        rows(write(tmp_path / "t.txt", "a"), document="(")


def test_a_saved_data_set_of_several_splits_asks_which(tmp_path: Path) -> None:
    path = tmp_path / "both"
    for split in ("test", "train"):
        saved(path / split, [{"text": f"the {split} split"}])
    write(path / "dataset_dict.json", '{"splits": ["test", "train"]}')
    with pytest.raises(UnembedError, match="splits test, train"):
        rows(path)
    assert texts(path / "train") == ["the train split"]
    write(path / "dataset_dict.json", '{"splits": ["test"]}')
    assert texts(path) == ["the test split"]


def test_a_damaged_saved_data_set(tmp_path: Path) -> None:
    path = saved(tmp_path / "saved", [{"text": "a"}])
    next(path.glob("*.arrow")).write_bytes(b"no arrow")
    with pytest.raises(UnembedError, match=r"saved is neither .* that could be loaded: "):
        rows(path)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set with configurations and splits in the folder ``books``, laid out as on the hub."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    for config in ("en", "fr"):
        for split in ("train", "test"):
            folder = tmp_path / "books" / config
            folder.mkdir(parents=True, exist_ok=True)
            jsonl(folder / f"{split}.jsonl", [{"text": f"{config} {split}", "n": 1}])
    listed = "".join(
        f"- config_name: {config}\n  data_files:\n"
        + "".join(
            f"  - split: {split}\n    path: {config}/{split}.jsonl\n" for split in ("train", "test")
        )
        for config in ("en", "fr")
    )
    write(tmp_path / "books/README.md", f"---\nconfigs:\n{listed}---\n")
    return tmp_path


def test_a_data_set_by_name_configuration_and_split(
    hub: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert texts("books:en:test") == ["en test"]
    assert texts(f"{hub}/books:fr:train") == ["fr train"]
    with pytest.raises(UnembedError, match=r"splits train, test: .*books:en:"):
        rows("books:en")
    with pytest.raises(UnembedError, match=r"books:de.*could be loaded"):
        rows("books:de:train")
    with pytest.raises(UnembedError, match="no column 'txt'"):
        rows("books:en:test", text_column="txt")
    assert capfd.readouterr().err == ""


def test_a_data_set_that_the_hub_does_not_give(hub: Path) -> None:
    with pytest.raises(UnembedError, match=r"some-one/no\.such-set is neither"):
        rows("some-one/no.such-set")


CHAT = {
    "prompt": [{"role": "user", "content": "is it?"}],
    "completion": [{"role": "assistant", "content": "yes"}],
}
PAIRS = [
    {"prompt": "one:", "completion": " two", "book": "a"},
    {"prompt": "three:", "completion": None, "book": "b"},
    {"prompt": None, "completion": "four", "book": "b"},
]


@pytest.mark.parametrize(("writer", "name"), WRITERS)
def test_prompts_and_completions(writer: Any, name: str, tmp_path: Path) -> None:
    path = writer(tmp_path / name, PAIRS)
    found = rows(path, completion_only=True)
    assert [row.pair for row in found] == [
        PromptCompletion("one:", " two"),
        PromptCompletion("three:", ""),
        PromptCompletion("", "four"),
    ]
    assert [row.text for row in found] == ["one: two", "three:", "four"]
    assert len({row.document for row in found}) == 3
    booked = rows(path, completion_only=True, document="book")
    assert [row.document for row in booked] == ["a", "b", "b"]
    assert all(row.pair is None for row in rows(path, text_column="completion"))


@pytest.mark.parametrize(("writer", "name"), WRITERS)
def test_prompts_and_completions_of_messages(writer: Any, name: str, tmp_path: Path) -> None:
    (row,) = rows(writer(tmp_path / name, [CHAT]), completion_only=True)
    assert row.pair == PromptCompletion(CHAT["prompt"], CHAT["completion"])
    assert (row.text, row.pair.answer) == ("is it?yes", "yes")


@pytest.mark.parametrize(("writer", "name"), WRITERS)
def test_a_document_may_be_a_prompt(writer: Any, name: str, tmp_path: Path) -> None:
    path = writer(tmp_path / name, PAIRS[:1] * 2)
    found = rows(path, completion_only=True, document="prompt")
    assert [row.document for row in found] == ["one:"] * 2


@pytest.mark.parametrize(("writer", "name"), WRITERS)
def test_a_missing_prompt_or_completion(writer: Any, name: str, tmp_path: Path) -> None:
    for column in ("prompt", "completion"):
        (tmp_path / column).mkdir()
        kept = {name: value for name, value in PAIRS[0].items() if name != column}
        path = writer(tmp_path / column / name, [kept])
        with pytest.raises(
            UnembedError,
            match=f"{path.name}.* has no column '{column}'; it has .*--completion-only reads the",
        ):
            rows(path, completion_only=True)


def test_a_later_row_without_its_completion_is_named(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "r.jsonl", [PAIRS[0], {"prompt": "alone"}])
    with pytest.raises(UnembedError, match=r"r\.jsonl, line 2 has no column 'completion'"):
        rows(path, completion_only=True)
    blank = rows(write(tmp_path / "b.jsonl", json.dumps(PAIRS[0]) + "\n\n"), completion_only=True)
    assert blank[1].pair is None


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"prompt": "a", "completion": 3}, "column 'completion' holds 3,"),
        ({"prompt": {"a": 1}, "completion": "b"}, "column 'prompt' holds {'a': 1},"),
        ({**CHAT, "prompt": "a"}, "one of 'prompt' and 'completion' is text"),
        ({**CHAT, "completion": "a"}, "one of 'prompt' and 'completion' is text"),
        ({**CHAT, "prompt": []}, "column 'prompt' holds no messages"),
        ({**CHAT, "prompt": ["a"]}, "column 'prompt' lists 'a', which is no message"),
        ({**CHAT, "completion": [{"role": "user"}]}, "column 'completion' lists .* no message"),
        ({**CHAT, "prompt": [{"role": "user", "content": [1]}]}, "'prompt' lists .* no message"),
    ],
)
def test_what_is_no_prompt_and_completion(
    record: dict[str, Any], said: str, tmp_path: Path
) -> None:
    path = jsonl(tmp_path / "r.jsonl", [PAIRS[0], record])
    with pytest.raises(UnembedError, match=rf"r\.jsonl, line 2: .*{said}"):
        rows(path, completion_only=True)


def test_text_has_no_completions(tmp_path: Path) -> None:
    with pytest.raises(UnembedError, match=r"t\.txt: .*prompts .*JSONL or Parquet"):
        rows(write(tmp_path / "t.txt", "a"), completion_only=True)
    with pytest.raises(UnembedError, match="--text-column 'body' and --completion-only"):
        RowRules("body", completion_only=True)


def test_an_expression_that_begins_no_document_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "t.txt", "one\n\ntwo\n")
    with pytest.raises(UnembedError, match=r"t\.txt: --document 'banana' matches no line"):
        rows(file, document="banana")
    write(tmp_path / "u.txt", "== three\nfour\n")
    assert [row.document for row in rows(tmp_path, document="^==")] == [
        *("t.txt:1", "t.txt:1", "t.txt:1", "u.txt:1", "u.txt:1")
    ]
    with pytest.raises(UnembedError, match="matches no line, so that all of each text"):
        rows(tmp_path, document="^!!")
