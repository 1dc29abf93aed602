"""Files of every kind that holds text: what is read of each, and what is refused."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from made_up.tokenizers import CHAT_TEMPLATE, with_bos
from unembed.decisions.audit.audit import audit
from unembed.errors import UnembedError
from unembed.report.parts.facts import facts_of
from unembed.runs.provenance import Provenance
from unembed.text.corpus import Corpus
from unembed.text.rows import RowRules, read_rows
from unembed.text.tokenised import ReadingLimit

RECORDS = [
    {"text": 'one, "fish"', "book": "a"},
    {"text": "", "book": "a"},
    {"text": "two\nfish\t", "book": "7"},
]


def cells(delimiter: str) -> str:
    quoted = [[value.replace('"', '""') for value in record.values()] for record in RECORDS]
    body = "".join(delimiter.join(f'"{cell}"' for cell in row) + "\n" for row in quoted)
    return f"text{delimiter}book\n{body}"


LINES = "".join(json.dumps(record) + "\n" for record in RECORDS)
CONTENTS = {
    ".csv": cells(","),
    ".tsv": cells("\t"),
    ".json": json.dumps(RECORDS, indent=1),
    ".jsonl": LINES,
}


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".zst": zstd,
}


def texts(path: Path, **rules: Any) -> list[str]:
    return [row.text for row in read_rows(path, RowRules(**rules))]


def jsonl(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize("packed", PACKERS)
@pytest.mark.parametrize("kind", CONTENTS)
def test_records_of_every_kind(kind: str, packed: str, tmp_path: Path) -> None:
    path = tmp_path / f"r{kind}{packed}"
    path.write_bytes(PACKERS[packed](CONTENTS[kind].encode()))
    assert texts(path) == [record["text"] for record in RECORDS]
    named = [row.document for row in read_rows(path, RowRules(document="book"))]
    assert named == ["a", "a", "7"]
    with pytest.raises(UnembedError, match=r"no column 'txt'; it has text, book: .*--text-column"):
        texts(path, text_column="txt")


@pytest.mark.parametrize("packed", PACKERS)
def test_lines_of_text(packed: str, tmp_path: Path) -> None:
    path = tmp_path / f"t.txt{packed}"
    path.write_bytes(PACKERS[packed]("\ufeffone\n\ntwo".encode()))
    assert texts(path) == ["one", "", "two"]
    path.write_bytes(PACKERS[packed](b""))
    assert texts(path) == []


def test_packed_in_several_members(tmp_path: Path) -> None:
    for packed, pack in list(PACKERS.items())[1:]:
        path = tmp_path / f"t.txt{packed}"
        path.write_bytes(pack(b"one\ntw") + pack(b"o\nthree\n"))
        assert texts(path) == ["one", "two", "three"]


@pytest.mark.parametrize("packed", [".gz", ".zst"])
@pytest.mark.parametrize("kind", [".txt", ".jsonl", ".csv"])
def test_a_damaged_packed_file(kind: str, packed: str, tmp_path: Path) -> None:
    path = tmp_path / f"t{kind}{packed}"
    path.write_bytes(b"no such thing")
    with pytest.raises(UnembedError, match=r"t\..* cannot be (decompressed|read)[^\n]*$"):
        texts(path)
    whole = PACKERS[packed](b'{"text": "one"}\n' * 5000)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnembedError, match=r"t\..* cannot be (decompressed|read)[^\n]*$"):
        texts(path, **({"text_column": '{"text": "one"}'} if kind == ".csv" else {}))


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ('{"data": [{"text": "one"}, {"text": "two"}]}', ["one", "two"]),
        ('{"text": "one"}', ["one"]),
        ('{"text": "one"}\n\n{"text": "two"}', ["one", "", "two"]),
        ("[]", []),
    ],
)
def test_json_as_people_write_it(data: str, found: list[str], tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(data)
    assert texts(path) == found


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("r.json", b"[1, 2]", r"r\.json, record 1 is 1, not an object"),
        ("r.json", b"3", r"r\.json holds '3'"),
        ("r.json", b'[{"text": ', r"r\.json is not JSON"),
        ("r.json", b"[" * 100_000, r"r\.json is not JSON"),
        (
            "r.json",
            b'{"text": {"0": "a"}}',
            r"'text' holds .*: .*--text-column, as text\.0",
        ),
        ("r.csv", b"text,n\none,1\ntwo\n", r"r\.csv cannot be read as a table.*Expected 2"),
        ("r.csv", b"text\ncaf\xe9\n", r"r\.csv cannot be read as a table.*UTF-?8"),
        ("r.tsv", b"a\tb\nc\td\n", r"r\.tsv has no column 'text'; it has a, b"),
    ],
)
def test_what_is_no_table(name: str, data: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UnembedError, match=said) as caught:
        texts(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_an_empty_table_and_a_long_cell(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("")
    assert texts(path) == []
    path.write_text("text\n" + "long " * 200_000 + "\n")
    assert [len(text) for text in texts(path)] == [1_000_000]


def test_hidden_files_are_no_text(tmp_path: Path, tokenizer: Any) -> None:
    for name in ("a.txt", "._a.txt", ".ipynb_checkpoints/a-checkpoint.txt", ".cache/x/b.jsonl"):
        (tmp_path / "t" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "t" / name).write_text(f"the text of {name}")
    assert texts(tmp_path / "t") == ["the text of a.txt"]
    assert Corpus.read(tmp_path / "t", tokenizer).notes == ("3 hidden files are not read",)
    (tmp_path / "t/a.txt").unlink()
    with pytest.raises(UnembedError, match="file but 3 hidden ones: give a folder"):
        texts(tmp_path / "t")
    inside = tmp_path / ".hidden"
    inside.mkdir()
    (inside / "a.txt").write_text("asked for by name")
    assert texts(inside) == ["asked for by name"]


def test_a_field_within_others(tmp_path: Path) -> None:
    records = [
        {"text": {"en": "one", "fr": "un"}, "id": {"book": "a"}},
        {"text": {"en": None, "fr": "deux"}, "id": {"book": "b"}},
        {"text": None, "id": {"book": "b"}},
    ]
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "r.parquet")
    for path in (jsonl(tmp_path / "r.jsonl", records), tmp_path / "r.parquet"):
        assert texts(path, text_column="text.en") == ["one", "", ""]
        named = read_rows(path, RowRules(text_column="text.fr", document="id.book"))
        assert [row.document for row in named] == ["a", "b", "b"]
        with pytest.raises(UnembedError, match=r"no field 'text\.de': before 'de' it has en, fr"):
            texts(path, text_column="text.de")
        with pytest.raises(UnembedError, match=r"not text: .* as text\.en"):
            texts(path)
    dotted = jsonl(tmp_path / "d.jsonl", [{"text.en": "a name with a dot"}])
    assert texts(dotted, text_column="text.en") == ["a name with a dot"]


TALKS = [
    [{"role": "user", "content": "is it?"}, {"role": "assistant", "content": "yes"}],
    [{"role": "user", "content": "why?"}],
]


@pytest.mark.parametrize("column", ["messages", "talk"])
def test_conversations_are_written_by_the_template(
    column: str, tmp_path: Path, tokenizer: Any
) -> None:
    chatty = with_bos(tokenizer)
    chatty.chat_template = CHAT_TEMPLATE
    records = [{column: talk} for talk in TALKS]
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "r.parquet")
    given = {} if column == "messages" else {"text_column": column}
    for path in (jsonl(tmp_path / "r.jsonl", records), tmp_path / "r.parquet"):
        corpus = Corpus.read(path, chatty, **given)
        found = [
            chatty.decode(corpus.ids[a:b])
            for a, b in zip(corpus.starts, corpus.starts[1:], strict=False)
        ]
        assert found == [chatty.apply_chat_template(talk, tokenize=False) for talk in TALKS]
        assert corpus.bos == chatty.bos_token_id
        assert corpus.double_bos_rows == 0
    with pytest.raises(UnembedError, match=r"line 1 holds messages, .* has no chat template"):
        Corpus.read(tmp_path / "r.jsonl", tokenizer, **given)
    broken = jsonl(tmp_path / "b.jsonl", [{column: [{"role": "user"}]}])
    with pytest.raises(UnembedError, match="which is no message"):
        Corpus.read(broken, chatty, **given)


def test_exact_copies_are_counted(tmp_path: Path, tokenizer: Any) -> None:
    path = jsonl(
        tmp_path / "r.jsonl",
        [
            {"text": text, "book": b}
            for text, b in zip(("aa bb", "cc", "cc", "aa bb"), "xyzw", strict=True)
        ],
    )
    copies = Corpus.read(path, tokenizer)
    assert copies.duplicate_documents == 2
    assert copies.notes[0].startswith("2 of 4 documents are exact copies of others")
    assert Corpus.from_texts(["aa bb", "bb aa"], tokenizer).notes == ()


def test_an_audit_tells_what_is_to_mind(llama: Any, tokenizer: Any) -> None:
    done = audit(llama, Corpus.from_texts(["aa bb cc", "aa bb cc"], tokenizer))
    text = done.provenance.text
    assert text.duplicate_documents == 1
    assert text.notes[0] in str(done)
    read = Provenance.from_json(json.loads(json.dumps(done.provenance.to_json())))
    assert read.text == text
    assert ("To mind", text.notes[0]) in facts_of(read, "")
    older = done.provenance.to_json()
    older["text"] = {k: v for k, v in older["text"].items() if k != "notes"}
    assert Provenance.from_json(older).text.notes == ()


def test_a_bos_token_twice_is_told(tokenizer: Any) -> None:
    prefixed = with_bos(tokenizer)
    bos = prefixed.bos_token
    twice = Corpus.from_texts([f"{bos}one two", "three four", f"{bos} five"], prefixed)
    assert twice.double_bos_rows == 2
    assert twice.notes == (
        f"2 of 3 rows begin with {bos!r}, which the tokenizer puts there as well: take it out of "
        "the text",
    )
    assert Corpus.from_texts(["one two"], prefixed).double_bos_rows == 0


def test_a_limit_ends_the_reading(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table({"text": ["one two three"] * 200_000}), tmp_path / "r.parquet")
    whole = len(tokenizer("one two three")["input_ids"]) - 1
    read = Corpus.read(
        tmp_path / "r.parquet", tokenizer, limit=ReadingLimit.of(10, context=8, truncate=False)
    )
    assert read.rows == -(-10 // whole)
    assert read.rules.endswith(f", read up to position {whole * read.rows:,}")
    assert not any("--max-positions" in note for note in read.notes)
    cut = ReadingLimit.of(10, context=2, truncate=True)
    assert Corpus.read(tmp_path / "r.parquet", tokenizer, limit=cut).rows == 10
    monkeypatch.setattr("unembed.text.tokenised.LEAST_DRAWN_FROM", 100)
    drawn = ReadingLimit.of(10, context=8, spread=True)
    spread = Corpus.read(tmp_path / "r.parquet", tokenizer, limit=drawn)
    assert spread.rows == -(-640 // whole)
    assert "--max-positions are drawn from the text's first 6" in spread.notes[0]
    short = jsonl(tmp_path / "r.jsonl", [{"text": "one two three"}])
    assert Corpus.read(short, tokenizer, limit=drawn).notes == ()
