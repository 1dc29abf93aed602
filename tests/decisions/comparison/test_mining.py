"""What a change taught: tokens, neighbours, classes and contexts, against plain loops."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import reference.mining
from unembed import Comparison, Corpus, compare
from unembed.decisions import AuditOptions
from unembed.decisions.comparison import mining
from unembed.decisions.comparison.live import LiveAudits, audit_both
from unembed.decisions.comparison.mined_sums import FOLDS, TokenSums, read_mined
from unembed.decisions.comparison.mining import (
    LEAST_FACTOR,
    LISTED,
    MinedSummary,
    MiningReader,
)
from unembed.decisions.tokens import classify
from unembed.models.checkpoint import Checkpoint

OPTIONS = AuditOptions(top_k=3, context=24, batch_tokens=512, part_positions=800)
HOW = {"resamples": 200, "seed": 0}
WORDS = ("with", "open", "stream", "return", "lambda", "name", "assert", "pass", "read", "key")


def texts(count: int) -> list[str]:
    """Documents of unlike length, of words in random order."""
    rng = np.random.default_rng(5)
    return [" ".join(rng.choice(WORDS, size=rng.integers(8, 26))) for _ in range(count)]


@pytest.fixture(scope="module")
def corpus(tokenizer: Any) -> Corpus:
    return Corpus.from_texts(texts(70), tokenizer)


@pytest.fixture(scope="module")
def before(llama: Any) -> Any:
    """A model that is sure enough to expect some tokens more than others."""
    found = copy.deepcopy(llama)
    with torch.no_grad():
        found.get_output_embeddings().weight *= 4
    return found


@pytest.fixture(scope="module")
def taught(before: Any, corpus: Corpus) -> tuple[int, int]:
    """Two tokens that the model expects often: those that are taught and unlearnt."""
    with torch.no_grad():
        logits = before(input_ids=torch.tensor(corpus.ids[:300].astype(int))[None]).logits[0]
    expected = logits[:, : len(corpus.tokenizer)].softmax(-1).mean(0)
    less, more = expected.topk(2).indices.tolist()
    return more, less


@pytest.fixture(scope="module")
def models(
    before: Any, tokenizer: Any, corpus: Corpus, taught: tuple[int, int]
) -> tuple[Checkpoint, Checkpoint]:
    """The model, and a disturbed copy that expects one token more often and one less."""
    after = copy.deepcopy(before)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in after.parameters():
            parameter += 0.002 * torch.randn(parameter.shape, generator=generator)
        ids = torch.tensor(corpus.ids[:300].astype(int))[None]
        hidden = before.model(input_ids=ids)[0][0].double()
        # The direction whose product with every hidden state is nearest to 1.
        step = torch.linalg.lstsq(hidden, torch.ones(len(hidden), 1, dtype=torch.float64)).solution
        after.get_output_embeddings().weight[taught[0]] += 3 * step[:, 0]
        after.get_output_embeddings().weight[taught[1]] -= 3 * step[:, 0]
    return Checkpoint("first", before, tokenizer), Checkpoint("second", after, tokenizer)


@pytest.fixture(scope="module")
def found(models: tuple[Checkpoint, Checkpoint], corpus: Corpus) -> LiveAudits:
    return audit_both(*models, corpus, OPTIONS, readers=[MiningReader(corpus)])


@pytest.fixture(scope="module")
def mined(found: LiveAudits) -> MinedSummary:
    [reading] = found.readings
    summary: MinedSummary = reading.reader.summary(reading.parts, **HOW)
    return summary


@pytest.fixture(scope="module")
def every(
    models: tuple[Checkpoint, Checkpoint], corpus: Corpus
) -> dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]:
    """Both models' probabilities at each document and position, all of them."""
    rows = {}
    for row in range(corpus.rows):
        ids = torch.tensor(corpus.ids[corpus.starts[row] : corpus.starts[row + 1]]).long()
        for start in range(0, len(ids) - 1, 24):
            window = ids[start : start + 25][None, :-1]
            with torch.no_grad():
                both = [
                    one.model(input_ids=window).logits[0, :, : len(corpus.tokenizer)].tolist()
                    for one in models
                ]
            for at, (p, q) in enumerate(zip(*both, strict=True)):
                found = reference.mining.softmax(p), reference.mining.softmax(q)
                rows[int(corpus.document[row]), start + at] = found
    return rows


Every = dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]


def table_of(found: LiveAudits) -> pa.Table:
    return pa.concat_tables(found.readings[0].parts)


def test_the_table_has_the_movers_of_each_position(found: LiveAudits, every: Every) -> None:
    rows = table_of(found).to_pylist()
    assert len(rows) == len(every)
    for row in rows[::7]:
        p, q = every[row["doc"], row["pos"]]
        assert row["moved"] == pytest.approx(reference.mining.moved(p, q), abs=1e-5)
        for side, pair in (("risen", (p, q)), ("fallen", (q, p))):
            p, q = (np.append(one, [0.0] * 3) for one in (p, q))  # padded rows change by nothing
            best = reference.mining.movers(*pair, mining.MOVERS)
            changes = [abs(q[token] - p[token]) for token in row[f"{side}_ids"]]
            assert changes == pytest.approx([abs(b - a) for _, a, b in best], abs=1e-5)


def test_sums_are_those_of_every_position(found: LiveAudits, every: Every) -> None:
    sums = TokenSums.of(found.readings[0].parts)
    docs = [doc for doc, _pos in every]
    assert len(sums.documents) == len(set(docs)) == 70
    assert len(sums.sizes) == FOLDS
    assert sums.positions == len(every)
    for side, mass in enumerate(sums.mass):
        whole = reference.mining.sums([rows[side] for rows in every.values()], docs)
        for unit in range(FOLDS):
            want = sum(total for doc, total in whole.items() if doc % FOLDS == unit)
            short = want - mass[unit]
            assert short.min() >= -1e-4
            assert short.max() <= 1e-4 + sums.missed
    assert sums.missed < 0.2 < 0.9 < sums.kept <= 1


def test_what_is_not_kept_is_bounded(
    models: tuple[Checkpoint, Checkpoint],
    corpus: Corpus,
    every: Every,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mining, "KEPT_A_POSITION", 1)
    found = audit_both(*models, corpus, OPTIONS, readers=[MiningReader(corpus)])
    sums = TokenSums.of(found.readings[0].parts)
    for side, mass in enumerate(sums.mass):
        want = sum(rows[side] for rows in every.values())
        short = want[: mass.shape[1]] - mass.sum(axis=0)
        assert 0.01 < short.max() <= sums.missed
    assert sums.kept < 0.9
    # What is missing can be no large part of a listed token.
    for one in (reading := found.readings[0]).reader.summary(reading.parts, **HOW).rose:
        assert max(one.before, one.after) * len(every) >= mining.SPARE * sums.missed


def test_what_was_taught_is_listed_with_its_factor(
    mined: MinedSummary, every: Every, corpus: Corpus, taught: tuple[int, int]
) -> None:
    more, less = taught
    assert mined.rose[0].token == more
    assert mined.fell[0].token == less
    assert mined.rose[0].text == corpus.tokenizer.decode([more])
    assert mined.n_by_chance < 1 <= min(mined.n_rose, mined.n_fell)
    totals = [sum(rows[side] for rows in every.values()) for side in (0, 1)]
    for one in (*mined.rose, *mined.fell):
        before, after = (total[one.token] for total in totals)
        assert one.before == pytest.approx(before / len(every), rel=0.02)
        assert one.factor.value == pytest.approx(after / before, rel=0.02)
        low, high = one.factor.low, one.factor.high
        assert low is not None
        assert high is not None
        assert low > LEAST_FACTOR or high < 1 / LEAST_FACTOR
    value = mined.moved.value
    assert value == pytest.approx(
        np.mean([reference.mining.moved(*rows) for rows in every.values()])
    )


def test_contexts_are_those_of_the_largest_changes(
    mined: MinedSummary, every: Every, corpus: Corpus, taught: tuple[int, int]
) -> None:
    assert len(mined.risen) == LISTED
    first = mined.risen[0]
    changes = {place: (q - p).max() for place, (p, q) in every.items()}
    place = max(changes, key=lambda one: changes[one])
    assert (corpus.names.index(first.document), first.position) == place
    assert first.size == pytest.approx(changes[place], abs=1e-5)
    assert len({one.document for one in mined.risen}) == LISTED
    assert [one.size for one in mined.risen] == sorted(
        (one.size for one in mined.risen), reverse=True
    )
    [best, *_] = mined.rose[0].contexts
    held = {place: (q - p)[taught[0]] for place, (p, q) in every.items()}
    assert best.size == pytest.approx(max(held.values()), abs=1e-5)
    doc = corpus.names.index(best.document)
    text = corpus.tokenizer.decode(corpus.ids[corpus.starts[doc] :][: best.position + 1])
    assert text.endswith(best.context.removeprefix("…"))


def test_classes_share_all_probability(mined: MinedSummary, every: Every, corpus: Corpus) -> None:
    vocabulary = MiningReader(corpus)._vocabulary
    totals = [sum(rows[side] for rows in every.values()) / len(every) for side in (0, 1)]
    for one in mined.classes:
        members = [i for i in range(len(totals[0])) if classify(vocabulary[i]) == one.name]
        assert one.before == pytest.approx(totals[0][members].sum(), abs=1.1 - mined.kept)
        assert one.change.value == pytest.approx(one.after - one.before, abs=1e-6)
    assert sum(one.before for one in mined.classes) == pytest.approx(mined.kept, abs=0.02)


def test_neighbours_are_told_from_the_mean(
    mined: MinedSummary, found: LiveAudits, every: Every, corpus: Corpus
) -> None:
    behind: dict[int, list[float]] = {}
    for row in range(corpus.rows):
        ids = corpus.ids[corpus.starts[row] : corpus.starts[row + 1]]
        for pos in range(1, len(ids) - 1):
            rows = every[int(corpus.document[row]), pos]
            behind.setdefault(int(ids[pos]), []).append(reference.mining.moved(*rows))
    for one in mined.neighbours:
        assert one.moved.n == len(behind[one.token])
        assert one.moved.value == pytest.approx(np.mean(behind[one.token]), abs=1e-5)
        assert one.moved.low is not None
        assert mined.moved.value is not None
        assert one.moved.low > mined.moved.value
    previous = np.concatenate([rows.previous for rows in read_mined(found.readings[0].parts)])
    seen = {int(token): int((previous == token).sum()) for token in np.unique(previous)}
    assert seen.pop(-1) == 70  # the first of each document
    assert seen == {token: len(values) for token, values in behind.items()}


def test_a_model_teaches_itself_nothing(
    models: tuple[Checkpoint, Checkpoint], corpus: Corpus
) -> None:
    found = audit_both(models[0], models[0], corpus, OPTIONS, readers=[MiningReader(corpus)])
    [reading] = found.readings
    mined = reading.reader.summary(reading.parts, **HOW)
    assert mined.moved.value == mined.n_rose == mined.n_fell == 0
    assert mined.rose == mined.fell == mined.neighbours == mined.risen == ()
    assert mined.n_determined > 10
    assert {one.change.value for one in mined.classes} == {0.0}


def test_few_documents_tell_nothing(models: tuple[Checkpoint, Checkpoint], tokenizer: Any) -> None:
    few = Corpus.from_texts(texts(5), tokenizer)
    found = audit_both(*models, few, OPTIONS, readers=[MiningReader(few)])
    [reading] = found.readings
    mined = reading.reader.summary(reading.parts, **HOW)
    assert mined.n_determined == mined.n_rose == mined.n_fell == 0
    assert mined.moved.value > 0
    assert len(mined.risen) == 5


def test_it_is_kept_with_the_run_and_goes_on_where_it_stopped(
    models: tuple[Checkpoint, Checkpoint],
    corpus: Corpus,
    mined: MinedSummary,
    tmp_path: Path,
) -> None:
    given = {"readers": [MiningReader(corpus)], "out": tmp_path / "run"}
    live = audit_both(*models, corpus, OPTIONS, **given)
    again = audit_both(*models, corpus, OPTIONS, **given)
    assert pa.concat_tables(again.readings[0].parts).equals(table_of(live))
    done = compare(
        live.before,
        live.after,
        divergence=live.divergence_parts,
        readings=live.readings,
        out=tmp_path / "run",
        **HOW,
    )
    assert done.summary.mined == mined
    assert Comparison.load(tmp_path / "run").summary.mined == mined
    printed = str(done)
    assert f"more often, “{mined.rose[0].text}”" in printed
    assert f"less often, “{mined.fell[0].text}”" in printed
    assert replace(done.summary, mined=None) != done.summary
