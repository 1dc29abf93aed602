"""Texts, token rows and records of prompts and completions."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unembed.text.corpus import Corpus
from unembed.text.rows import PromptCompletion

TEXTS = [
    "The lambda keyword creates an anonymous function.",
    "with open(name) as stream: return stream.read()",
    "Assert statements are a convenient way to insert debugging assertions into a program. " * 6,
    "if x < y: pass",
]


def corpus_of_rows(rows: list[list[int]], document: list[int], bos: int | None) -> Corpus:
    offset, reached = [], dict.fromkeys(document, 0)
    for number, row in zip(document, rows, strict=True):
        offset.append(reached[number])
        reached[number] += len(row)
    return Corpus(
        ids=np.array([*chain(*rows)], dtype=np.int32),
        starts=np.cumsum([0, *map(len, rows)]).astype(np.int64),
        document=np.array(document, dtype=np.int32),
        offset=np.array(offset, dtype=np.int32),
        names=tuple(f"d{i}" for i in range(max(document) + 1)),
        tokenizer=(),
        bos=bos,
        blank_rows=0,
        short_rows=0,
        rules="",
        digest="",
    )


def pieces(corpus: Corpus, row: int = 0) -> tuple[str, list[str]]:
    """What a row's tokens that do not count decode to, and each that does."""
    span = slice(corpus.starts[row], corpus.starts[row + 1])
    assert corpus.counted is not None
    ids, counted = corpus.ids[span], corpus.counted[span]
    decode = corpus.tokenizer.decode
    return decode(ids[~counted].tolist()), [decode([i]) for i in ids[counted].tolist()]


CHAT = PromptCompletion(
    [{"role": "system", "content": "be brief"}, {"role": "user", "content": "is it?"}],
    [{"role": "assistant", "content": "yes"}],
)


def write_records(path: Path, records: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path
