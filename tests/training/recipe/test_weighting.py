from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from made_up.tokenizers import sentencepiece_bpe
from unembed.decisions.tokens import classify
from unembed.errors import UnembedError
from unembed.head.loss import HeadLoss
from unembed.text.vocabulary import Vocabulary
from unembed.training.recipe.weight_files import read_positions, read_values
from unembed.training.recipe.weighting import Positions, Weighting

TEXTS = [" the", " London", " 42", ",", " table", " of", "a1", " run"]
COUNTS = torch.tensor([100, 3, 5, 40, 7, 50, 0, 2])
WORDS = Vocabulary(dict(enumerate(TEXTS)))


def said(top: list[list[float]], ids: list[list[int]]) -> HeadLoss:
    values = torch.tensor(top, requires_grad=True)
    column = torch.zeros(len(values))
    return HeadLoss(column, values, torch.tensor(ids), column, column)


def one_by_one(weighting: Weighting) -> list[float]:
    """Every token's weight, one after the other in float64, and 1 on average over the targets."""
    weights = []
    for token, text in enumerate(TEXTS):
        count = int(COUNTS[token]) or 2
        weight = count**-weighting.frequency
        if classify(text) in weighting.classes:
            weight *= weighting.classes[classify(text)]
        elif "*" in weighting.classes:
            weight *= weighting.classes["*"]
        weights.append(weight * weighting.values.get(token, 1.0))
    total = sum(w * c for w, c in zip(weights, COUNTS.tolist(), strict=True))
    return [w / total * int(COUNTS.sum()) for w in weights]


@pytest.mark.parametrize(
    "weighting",
    [
        Weighting(),
        Weighting(frequency=0.5),
        Weighting(frequency=2.0),
        Weighting(classes={"function": 0.0, "numeric": 3.0}),
        Weighting(classes={"entity-like": 1.0, "fragment": 5.0, "*": 0.0}),
        Weighting(values={1: 4.0, 3: 0.0}),
        Weighting(frequency=1.0, classes={"*": 0.25, "content": 2.0}, values={7: 3.0, 6: 9.0}),
    ],
)
def test_every_part_is_a_factor_and_the_mean_is_one(weighting: Weighting) -> None:
    table = weighting.table(COUNTS, WORDS)
    assert table.by_token.dtype == torch.float32
    assert table.by_token.tolist() == pytest.approx(one_by_one(weighting), rel=1e-6)
    targets = torch.arange(8).repeat_interleave(COUNTS)
    nothing_said = said([[1.0, 0.0]] * len(targets), [[0, 1]] * len(targets))
    assert float(table.of_positions(targets, nothing_said).mean()) == pytest.approx(1.0, rel=1e-5)


def test_nothing_asked_weighs_every_position_alike() -> None:
    assert torch.equal(Weighting().table(COUNTS, WORDS).by_token, torch.ones(8))


def test_a_steep_power_stays_finite() -> None:
    table = Weighting(frequency=300.0).table(COUNTS * 1000, WORDS)
    assert table.by_token[[6, 7]].tolist() == pytest.approx([207 / 2] * 2)
    assert table.by_token[:6].tolist() == [0.0] * 6


@pytest.mark.parametrize(
    ("gates", "wanted"),
    [
        ({}, [1, 1, 1, 1]),
        ({"below_margin": 1.0}, [0, 0, 1, 1]),
        ({"only_right": True}, [1, 0, 1, 0]),
        ({"below_margin": 1.0, "only_right": True}, [0, 0, 1, 0]),
    ],
)
def test_gates_read_the_margin_and_the_top_token(gates: dict[str, Any], wanted: list[int]) -> None:
    targets = torch.tensor([4, 1, 2, 3])
    heard = said(
        [[5.0, 2.0, 1.0], [3.0, 2.0, 0.0], [3.0, 2.5, 0.0], [1.0, 1.0, 0.0]],
        [[4, 0, 1], [0, 1, 2], [2, 1, 0], [0, 3, 1]],
    )
    table = Weighting(values={2: 3.0}, **gates).table(COUNTS, WORDS)
    got = table.of_positions(targets, heard)
    assert torch.equal(got, table.by_token[targets] * torch.tensor(wanted))
    assert not got.requires_grad


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"classes": {"nouns": 2.0}}, r"'nouns' .*structural, num"),
        ({"classes": {"numeric": -1.0}}, "'numeric' is -1.0"),
        ({"classes": {"*": float("inf")}}, r"'\*' is inf"),
        ({"frequency": -0.5}, "power is -0.5"),
        ({"frequency": float("nan")}, "power is nan"),
        ({"values": {17: -2.0}}, "token 17 is -2.0"),
        ({"below_margin": 0.0}, "below_margin is 0.0"),
        ({"below_margin": float("inf")}, "below_margin is inf"),
    ],
)
def test_what_weighs_nothing_sensible_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UnembedError, match=message):
        Weighting(**given)


def test_a_table_without_weight_is_refused() -> None:
    with pytest.raises(UnembedError, match="leave every training target without weight"):
        Weighting(classes={"fragment": 1.0, "*": 0.0}).table(COUNTS, WORDS)
    with pytest.raises(UnembedError, match=r"token 8 .* 7"):
        Weighting(values={8: 1.0}).table(COUNTS, WORDS)
    with pytest.raises(UnembedError, match="more than float32 holds"):
        Weighting(values={6: 1e300}).table(COUNTS, WORDS)
    with pytest.raises(ValueError, match="no token is a training target"):
        Weighting().table(COUNTS * 0, WORDS)


Write = Callable[[Path, list[tuple[Any, Any]], str], None]


def delimited(delimiter: str) -> Write:
    def write(path: Path, rows: list[tuple[Any, Any]], column: str) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter=delimiter).writerows([(column, "value"), *rows])

    return write


def as_lines(path: Path, rows: list[tuple[Any, Any]], column: str) -> None:
    path.write_text("\n".join(json.dumps({column: key, "value": value}) for key, value in rows))


def as_list(path: Path, rows: list[tuple[Any, Any]], column: str) -> None:
    path.write_text(json.dumps([{"value": value, column: key} for key, value in rows]))


FORMATS: dict[str, Write] = {
    "csv": delimited(","),
    "tsv": delimited("\t"),
    "jsonl": as_lines,
    "json": as_list,
}


@pytest.mark.parametrize("suffix", FORMATS)
def test_values_are_read_by_text_and_by_id(suffix: str, tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / f"values.{suffix}"
    rows: list[tuple[Any, Any]] = [(" the", 2.5), (",", 0), ('"', 1.0), ("\n", 3), ("\r", 4)]
    FORMATS[suffix](path, rows, "token")
    wanted = {tokenizer.encode(text)[0]: float(value) for text, value in rows}
    assert read_values(path, tokenizer) == wanted
    FORMATS[suffix](path, list(wanted.items()), "id")
    assert read_values(path, tokenizer) == wanted


def test_an_id_counts_before_a_text_and_every_token_that_reads_so_is_meant(
    topics: list[str], tokenizer: Any, tmp_path: Path
) -> None:
    path = tmp_path / "values.csv"
    path.write_text("\ufeffid,token,value\n5,whatever,1.5\n,e,2\n", encoding="utf-8")
    assert read_values(path, tokenizer) == {5: 1.5, tokenizer.encode("e")[0]: 2.0}
    bytewise = sentencepiece_bpe(topics)
    path.write_text("token,value\ne,2\n")
    both = bytewise.convert_tokens_to_ids(["e", "<0x65>"])
    assert read_values(path, bytewise) == dict.fromkeys(both, 2.0)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "token,value\n", "a.csv lists no tokens"),
        ("a.jsonl", "\n", "a.jsonl lists no tokens"),
        ("a.csv", "token,value\ne,1\nzebra crossing,2\n", "line 3: .* no token 'zebra crossing'"),
        ("a.tsv", "id\tvalue\n99999\t2\n", "line 2: .* no id '99999'"),
        ("a.json", '[{"id": -1, "value": 2}]', "entry 1: .* no id -1"),
        ("a.json", '[{"id": true, "value": 2}]', "entry 1: .* no id True"),
        ("a.csv", "token,value\ne,-1.5\n", "line 2: the value is '-1.5'"),
        ("a.csv", "token,value\ne,inf\n", "line 2: the value is 'inf'"),
        ("a.csv", "token,value\ne,much\n", "line 2: the value is 'much'"),
        ("a.csv", "token,weight\ne,2\n", "line 2: the value is None"),
        ("a.jsonl", '{"token": "e", "value": NaN}', "line 1: the value is nan"),
        ("a.jsonl", '{"token": "e", "value": true}', "line 1: the value is True"),
        ("a.csv", "token,value\ne,1\nd,1\ne,2\n", "line 4: token 'e' "),
        (
            "a.csv",
            "token,value\n,,2\n",
            "line 2 .*fields .* '2'",
        ),
        ("a.csv", "word,value\ne,2\n", "line 2 names no token; it has word, value"),
        ("a.json", '{"e": 2}', "entry 1 names no token; it has e"),
        ("a.jsonl", '["e", 2]', r"line 1 is \['e', 2\]"),
        ("a.jsonl", "e 2", "a.jsonl is no .jsonl table"),
        ("a.csv", 'token,value\n"e,2\n', "a.csv .*unexpected end of data"),
        ("a.xlsx", "", "cannot read a .xlsx table of values"),
        ("a.csv", b"token,value\n\xff,2\n", "a.csv is not UTF-8 at byte 13"),
        ("a.csv", None, "a.csv cannot be read: No such file"),
    ],
)
def test_a_table_of_values_that_cannot_be_used_is_refused(
    name: str, text: str | bytes | None, message: str, tokenizer: Any, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(UnembedError, match=message):
        read_values(tmp_path / name, tokenizer)


def listed(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 0.0, 1.5]])
def test_listed_positions_are_found_by_document_and_position(
    weights: list[float] | None, tmp_path: Path
) -> None:
    rows = [(3, 7), (0, 1), (2**31 - 1, 2**31 - 1), (3, 0)]
    columns: dict[str, Any] = {"doc": [d for d, _ in rows], "pos": [p for _, p in rows]}
    found = read_positions(
        listed(tmp_path / "p.parquet", **columns, **({"weight": weights} if weights else {}))
    )
    wanted = dict(zip(rows, weights or [1.0] * 4, strict=True))
    asked = [(d, p) for d in (0, 1, 3, 2**31 - 1) for p in (0, 1, 7, 2**31 - 1)]
    doc, pos = (np.array(column, dtype=np.int32) for column in zip(*asked, strict=True))
    got = found.of(doc, pos)
    assert got.dtype == torch.float32
    assert got.tolist() == [wanted.get(place, 0.0) for place in asked]
    assert found.of(doc[:0], pos[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"doc": [], "pos": []}, "lists no positions"),
        ({"doc": [1], "position": [2]}, "has no column 'pos'; it has doc, position"),
        ({"doc": [1.0], "pos": [2]}, "column 'doc' holds double"),
        ({"doc": ["1"], "pos": [2]}, "column 'doc' holds string"),
        ({"doc": [1, None], "pos": [2, 3]}, "row 2: doc is None"),
        ({"doc": [1, 1], "pos": [2, -3]}, "row 2: pos is -3"),
        ({"doc": [1], "pos": [2**31]}, "row 1: pos is 2147483648"),
        ({"doc": [4, 1, 4], "pos": [2, 2, 2]}, "row 3: doc 4, pos 2 "),
        ({"doc": [1], "pos": [2], "weight": [-1.0]}, "row 1: weight is -1.0"),
        ({"doc": [1], "pos": [2], "weight": [float("nan")]}, "row 1: weight is nan"),
        ({"doc": [1], "pos": [2], "weight": [float("inf")]}, "row 1: weight is inf"),
        ({"doc": [1], "pos": [2], "weight": ["x"]}, "column 'weight' holds string"),
    ],
)
def test_a_list_of_positions_that_cannot_be_used_is_refused(
    columns: dict[str, Any], message: str, tmp_path: Path
) -> None:
    if not columns["doc"]:
        columns = {name: pa.array([], pa.int32()) for name in columns}
    with pytest.raises(UnembedError, match=message):
        read_positions(listed(tmp_path / "p.parquet", **columns))


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.parquet").write_text("doc,pos\n1,2\n")
    for path in (tmp_path / "p.parquet", tmp_path / "none.parquet"):
        with pytest.raises(UnembedError, match=f"{path} cannot be read as Parquet"):
            read_positions(path)


def test_many_listed_positions_agree_with_a_set() -> None:
    g = np.random.default_rng(0)
    doc, pos = g.integers(0, 30, (2, 500))
    chosen = {(int(d), int(p)) for d, p in zip(doc[:100], pos[:100], strict=True) if d < 20}
    keys = np.array(sorted((d << 32) | p for d, p in chosen))
    found: Tensor = Positions(keys, np.ones(len(keys), dtype=np.float32)).of(doc, pos)
    places = zip(doc.tolist(), pos.tolist(), strict=True)
    assert found.bool().tolist() == [place in chosen for place in places]
