"""Log-probabilities of other engines beside the exact ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import reference.serving
from made_up.corpora import TEXTS
from made_up.models import small_model
from unembed import Corpus, audit
from unembed.decisions import AuditOptions
from unembed.decisions.audit.engine_logprobs import EngineLogprobs
from unembed.decisions.audit.finite_rows import FiniteRows
from unembed.decisions.audit.logprob_gap import logprob_gap
from unembed.errors import UnembedError
from unembed.text.row_cuts import RowCuts
from unembed.text.windows import Windows


@pytest.fixture(scope="module")
def corpus(small_tokenizer: Any) -> Corpus:
    return Corpus.from_texts(TEXTS, small_tokenizer)


def rows_of(corpus: Corpus) -> list[list[int]]:
    return [
        corpus.ids[a:b].tolist() for a, b in zip(corpus.starts, corpus.starts[1:], strict=False)
    ]


def stored(
    folder: Path, rows: list[list[int]], values: list[list[Any]] | None = None, **more: Any
) -> Path:
    """A file of records, with a record of one token that is no row of the text."""
    values = values or [[None, *[-0.5] * (len(row) - 1)] for row in rows]
    records = [
        {"token_ids": ids, "logprobs": own, **more}
        for ids, own in zip([[3], *rows], [[None], *values], strict=True)
    ]
    file = folder / "server.jsonl"
    file.write_text("\n".join(map(json.dumps, records)) + "\n")
    return file


def test_figures_are_those_of_a_loop() -> None:
    generator = np.random.default_rng(0)
    doc = np.sort(generator.integers(0, 9, 200))
    exact = generator.exponential(2, 200).astype(np.float32)
    other = (exact + generator.normal(0.01, 0.08, 200)).astype(np.float32)
    other[::17] = np.nan
    rows = FiniteRows.held(doc=doc, nll=exact, engine_nll=other)
    gap = logprob_gap(rows, "engine_nll", "server", resamples=50)
    want = reference.serving.logprob_gap(doc.tolist(), exact.tolist(), other.tolist())
    for name in ("mean", "deviation", "mean_size", "outside", "products_outside"):
        assert getattr(gap, name).value == pytest.approx(want[name], rel=1e-5), name
    assert gap.products["50"].value == pytest.approx(want["median_product"], rel=1e-5)
    d = (exact.astype(float) - other)[np.isfinite(other)]
    assert gap.quantiles["99"].value == pytest.approx(np.quantile(d, 0.99))
    assert gap.largest == pytest.approx(d[np.abs(d).argmax()])
    assert (gap.n, gap.left_out) == (len(d), 200 - len(d))


def test_the_native_head_keeps_the_targets_log_probability(corpus: Corpus) -> None:
    model = small_model("gemma2").to(torch.bfloat16)
    found = audit(model, corpus, AuditOptions(native_head=True, context=64))
    row = torch.tensor(corpus.ids[: corpus.starts[1]]).long()[:65]
    with torch.no_grad():
        logits = model(input_ids=row[None, :-1]).logits[0].float()
    logits[:, len(corpus.tokenizer) :] = -torch.inf
    want = -logits.log_softmax(1).gather(1, row[1:, None])[:, 0]
    assert found.column("native_nll")[: len(want)] == pytest.approx(want.numpy(), abs=1e-5)
    native = found.summary.native
    assert native is not None
    assert native.logprobs is not None
    assert native.logprobs.engine == "bfloat16 head"
    assert 0 < native.logprobs.mean_size.value < 0.1


def test_an_engine_that_is_the_model_lies_at_rounding_from_it(
    corpus: Corpus, tmp_path: Path
) -> None:
    model, rows = small_model("llama"), rows_of(corpus)
    values: list[list[Any]] = []
    for row in rows:
        ids = torch.tensor(row)
        with torch.no_grad():
            logits = model(input_ids=ids[None, :64]).logits[0, :, : len(corpus.tokenizer)]
        said = logits.log_softmax(1)
        some = said[: len(row) - 1].gather(1, ids[1 : len(said) + 1, None])[:, 0].tolist()
        values.append([None, *some, *[-9.0] * (len(row) - 1 - len(some))])
    assert max(map(len, rows)) > 65
    engine = EngineLogprobs.read(stored(tmp_path, rows, values), corpus)
    found = audit(model, corpus, AuditOptions(logprobs=engine, context=64))
    gap = found.summary.engine
    assert gap is not None
    assert gap.largest == pytest.approx(0, abs=1e-4)
    assert gap.engine == "server.jsonl"
    late = sum(max(0, len(row) - 65) for row in rows)
    assert late > 0
    assert gap.left_out == late, "positions of later windows see less than the engine did"
    assert found.table["engine_nll"].null_count == late


@pytest.mark.parametrize(("prompt", "completion"), [(20, "five six"), (3, "five six 7 8")])
def test_windows_that_begin_later_are_left_out(
    prompt: int, completion: str, small_tokenizer: Any
) -> None:
    pairs = [{"prompt": "a 9 " * prompt, "completion": completion}] * 2
    corpus = Corpus.from_pairs(pairs, small_tokenizer)
    assert RowCuts.of(corpus, 16, "windows").begin.all(), "prompts are cut on the left"
    windows = Windows.of(corpus, 16)
    engine = EngineLogprobs("f", "d", np.ones(corpus.tokens, np.float32))
    pos = np.concatenate(
        [windows.pos[i] + np.flatnonzero(windows.counted(i)) for i in range(len(windows.pos))]
    )
    doc = np.repeat(windows.doc, windows.counts)
    assert np.isnan(engine.at(windows, doc, pos)).all()
    whole = Windows.of(corpus, 512)
    counted = np.flatnonzero(whole.counted(0))
    assert engine.at(whole, np.zeros(len(counted), int), counted).tolist() == [1.0] * len(counted)


def test_parquet_is_read_as_jsonl_is(corpus: Corpus, tmp_path: Path) -> None:
    rows = rows_of(corpus)
    values = [[None, *np.linspace(-3, 0, len(row) - 1).tolist()] for row in rows]
    lines = EngineLogprobs.read(stored(tmp_path, rows, values, beside="x"), corpus)
    pq.write_table(pa.table({"token_ids": rows, "logprobs": values}), tmp_path / "s.parquet")
    table = EngineLogprobs.read(tmp_path / "s.parquet", corpus)
    assert np.array_equal(table.nll, lines.nll, equal_nan=True)
    assert np.isnan(table.nll[corpus.starts[:-1]]).all()
    assert table.digest != lines.digest


def test_what_cannot_be_used_is_refused_in_a_line(corpus: Corpus, tmp_path: Path) -> None:
    rows = rows_of(corpus)
    token = rows[1][3]

    def refused(match: str, **given: Any) -> None:
        with pytest.raises(UnembedError, match=match):
            EngineLogprobs.read(stored(tmp_path, **{"rows": rows, **given}), corpus)

    other = [rows[0], [*rows[1][:3], token + 1, *rows[1][4:]], *rows[2:]]
    refused(
        rf"line 3: token 3 is token id {token + 1} .* in row 2 of the text token id {token} ",
        rows=other,
    )
    refused("token 0 is .* special tokens included", rows=[row[1:] for row in rows])
    refused("token .* is no token, and in row 1", rows=[rows[0][:-1], *rows[1:]])
    refused(f"holds {len(rows) - 1} records .* has {len(rows)} such rows", rows=rows[:-1])
    refused("one record more", rows=[*rows, rows[0]])
    values = [[None, *[-1.0] * (len(row) - 1)] for row in rows]
    values[2][1] = 0.25
    refused("line 4: log-probability 1 is 0.25", values=values)
    values[2][1] = float("nan")
    refused("log-probability 1 is nan", values=values)
    refused("token ids beside", values=[value[1:] for value in values])
    longer = EngineLogprobs.read(stored(tmp_path, [*rows, rows[0]]), corpus, whole=False)
    assert len(longer.nll) == corpus.tokens
    file = tmp_path / "server.jsonl"
    file.write_text(json.dumps({"tokens": [1], "logprobs": [None]}))
    with pytest.raises(UnembedError, match="holds 'tokens', 'logprobs' and no 'token_ids'"):
        EngineLogprobs.read(file, corpus)
    with pytest.raises(UnembedError, match="no such file"):
        EngineLogprobs.read(tmp_path / "nothing.jsonl", corpus)
    with pytest.raises(UnembedError, match=r"give one of \.jsonl, \.json, \.parquet"):
        EngineLogprobs.read(__file__, corpus)
