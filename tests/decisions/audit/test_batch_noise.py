"""What other batches change, against loops over positions, plans and documents."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import reference.serving
from made_up.models import small_model
from unembed import Corpus, audit
from unembed.decisions import AuditOptions
from unembed.decisions.audit.batch_noise import _Reading, batch_noise, tallied
from unembed.decisions.audit.finite_rows import FiniteRows
from unembed.decisions.audit.rebatching import Rebatching
from unembed.decisions.names import MARGIN_BANDS
from unembed.errors import UnembedError
from unembed.models.model_pass import ModelPass, ReadingOptions
from unembed.text.batches import batches

PLANS = 2
ROWS = [" ".join(["one", "two", "three", "four", "five"][i % 5] for i in range(n)) for n in (40, 9)]


def made_up(
    n: int = 40, documents: int = 6, k: int = 3, spread: float = 0.08, seed: int = 0
) -> dict[str, np.ndarray]:
    """Positions of a bfloat16 model whose logits move, at every other decision, by noise."""
    generator = np.random.default_rng(seed)
    logits = 12 + np.sort(generator.exponential(0.3, (n, k)), axis=1)[:, ::-1].astype(np.float32)
    ids = np.stack([generator.permutation(9)[:k] for _ in range(n)]).astype(np.int32)
    moved = generator.random((n, PLANS, 1)) < 0.5
    changes = (generator.normal(0, spread, (n, PLANS, k)) * moved).astype(np.float32)

    def winners(values: np.ndarray) -> np.ndarray:
        rounded = torch.from_numpy(values).bfloat16().float().numpy()
        best = rounded == rounded.max(axis=-1, keepdims=True)
        spelt = np.broadcast_to(ids.reshape(n, *[1] * (values.ndim - 2), k), values.shape)
        return np.where(best, spelt, 99).min(axis=-1)

    return {
        "doc": np.sort(generator.integers(0, documents, n)).astype(np.int32),
        "margin": logits[:, 0] - logits[:, 1],
        "native_top1": winners(logits),
        "native_margin": (logits[:, 0] - logits[:, 1]).round(2),
        "native_step": np.full(n, 1 / 16, np.float32),
        "topk_ids": ids,
        "topk_logits": logits,
        "batch_top1": winners(logits[:, None] + changes),
        "batch_change": changes.reshape(n, -1),
    }


def rows_of(columns: dict[str, np.ndarray]) -> FiniteRows:
    return FiniteRows.held(**columns)


def test_flips_and_what_foretells_them_are_those_of_loops() -> None:
    columns = made_up()
    noise = batch_noise(rows_of(columns), "bfloat16", PLANS, resamples=50)
    flipped = columns["batch_top1"] != columns["native_top1"][:, None]
    assert flipped.any()
    assert noise.flips.value == pytest.approx(flipped.mean())
    assert noise.ever.value == pytest.approx(flipped.any(axis=1).mean())
    moved = (columns["batch_change"].reshape(-1, PLANS, 3) != 0).any(axis=2)
    assert noise.moved.value == pytest.approx(moved.mean())
    want = foretold(columns, np.ones(6))
    assert want > 0
    assert noise.predicted.value == pytest.approx(want / len(moved))
    assert noise.difference.value == pytest.approx(flipped.mean() - want / len(moved))
    in_bins = sum(one.predicted.value * one.n for one in noise.bins if one.n)
    assert in_bins == pytest.approx(PLANS * want)
    steps = columns["margin"] * 16
    assert [one.n for one in noise.bins] == [
        PLANS * int(((steps >= one.low) & (steps < (one.high or np.inf))).sum())
        for one in noise.bins
    ]


def foretold(columns: dict[str, np.ndarray], weights: np.ndarray) -> float:
    return reference.serving.foretold(
        columns["doc"].tolist(),
        columns["margin"].tolist(),
        columns["topk_logits"].tolist(),
        columns["topk_ids"].tolist(),
        columns["batch_change"].reshape(-1, PLANS, 3).tolist(),
        MARGIN_BANDS[1:-1],
        weights.tolist(),
        torch.bfloat16,
    )


def test_the_interval_holds_what_a_document_moves_in_the_others_predictions() -> None:
    columns = made_up(n=24, documents=4)
    told = tallied(_Reading(rows_of(columns), "bfloat16", PLANS)).told.sum(axis=0)
    for one in range(4):
        more, less = np.ones(4), np.ones(4)
        more[one], less[one] = 1.001, 0.999
        slope = (foretold(columns, more) - foretold(columns, less)) / 0.002
        assert told[one] == pytest.approx(PLANS * slope, rel=1e-3)


def test_the_margins_to_recompute_are_the_least_that_catch_the_flips() -> None:
    columns = made_up(n=300, documents=12)
    noise = batch_noise(rows_of(columns), "bfloat16", PLANS, resamples=100)
    times = (columns["batch_top1"] != columns["native_top1"][:, None]).sum(axis=1)
    assert {(one.gate, one.caught) for one in noise.recompute} == {
        (gate, caught) for gate in ("float32", "bfloat16") for caught in (0.95, 0.99, 1.0)
    }
    for one in noise.recompute:
        margin = columns["margin" if one.gate == "float32" else "native_margin"]
        some = times > 0
        want = reference.serving.least_margin(
            margin[some].tolist(), times[some].tolist(), one.caught
        )
        assert one.margin.value == pytest.approx(want)
        assert one.positions.value == pytest.approx((margin <= np.float32(want)).mean())
        assert (one.margin.low is None) == (one.caught == 1.0)
        caught = [0, 0]
        for fold in (0, 1):
            own, other = some & (columns["doc"] % 2 == fold), some & (columns["doc"] % 2 != fold)
            limit = reference.serving.least_margin(
                margin[other].tolist(), times[other].tolist(), one.caught
            )
            caught[0] += int(times[own & (margin <= np.float32(limit))].sum())
            caught[1] += int(times[own].sum())
        assert one.elsewhere.value == pytest.approx(caught[0] / caught[1])


def test_parts_change_no_figure() -> None:
    columns = made_up(n=60)
    whole = rows_of(columns)
    cuts = ((0, 7), (7, 7), (7, 60))

    def read(names: Any) -> Any:
        return ({name: columns[name][slice(*cut)] for name in names} for cut in cuts)

    parts = FiniteRows.of(read, ())
    want = batch_noise(whole, "bfloat16", PLANS, resamples=20)
    assert batch_noise(parts, "bfloat16", PLANS, resamples=20) == want


def test_a_text_without_flips_or_of_one_document_says_so() -> None:
    columns = made_up(spread=0.0)
    noise = batch_noise(rows_of(columns), "bfloat16", PLANS, resamples=20)
    assert noise.flips.value == 0
    assert noise.predicted.value == 0
    assert noise.recompute == ()
    alone = made_up() | {"doc": np.zeros(40, np.int32)}
    noise = batch_noise(rows_of(alone), "bfloat16", PLANS, resamples=20)
    assert noise.predicted.value is None
    assert "one document" in str(noise.predicted.reason)
    assert noise.judged == "unknown"


def test_a_rule_that_does_not_fit_is_told_apart() -> None:
    columns = made_up(n=4000, documents=40)
    fits = batch_noise(rows_of(columns), "bfloat16", PLANS, resamples=200)
    assert fits.judged == "as foretold"
    still = columns | {"batch_top1": np.repeat(columns["native_top1"][:, None], PLANS, axis=1)}
    assert batch_noise(rows_of(still), "bfloat16", PLANS, resamples=200).judged == "fewer"


@pytest.mark.slow
def test_the_difference_covers_nothing_in_19_of_20_texts() -> None:
    covered = 0
    for seed in range(200):
        columns = made_up(n=600, documents=30, seed=seed)
        noise = batch_noise(rows_of(columns), "bfloat16", PLANS, resamples=200)
        covered += noise.judged == "as foretold"
    assert 0.91 <= covered / 200 <= 0.99


def reading_of(model: Any, tokenizer: Any, texts: list[str], **options: Any) -> ModelPass:
    corpus = Corpus.from_texts(texts, tokenizer)
    return ModelPass.of(model, corpus, ReadingOptions(**options), "small")


@pytest.mark.parametrize("mixed", [True, False])
def test_every_plan_reads_each_window_once_in_other_blocks(
    mixed: bool, small_tokenizer: Any
) -> None:
    texts = [f"{row} {i}" for i in range(7) for row in ROWS]
    reading = reading_of(small_model("llama"), small_tokenizer, texts, context=24)
    whole = range(len(reading.windows.length))
    [batch] = batches(reading.windows, whole, replace(reading.plan, batch_tokens=4096, shares=1))
    plans = replace(Rebatching.of(reading, 3), mixed=mixed)
    own = torch.cat([block.input_ids[block.real] for block in batch.blocks])
    shapes = []
    for plan in range(3):
        seen = []
        for block, at in plans.blocks(batch, np.random.default_rng(plan)):
            assert block.real.sum() == len(at)
            assert block.input_ids.shape[1] <= 24
            assert block.input_ids[block.real].tolist() == own[at].tolist()
            seen.append(at)
            shapes.append((plan, *block.input_ids.shape))
        assert np.sort(np.concatenate(seen)).tolist() == list(range(len(batch.doc)))
    assert len({shape[1:] for shape in shapes}) > 3


@pytest.mark.parametrize("name", ["llama", "gemma2", "mamba"])
def test_another_batch_moves_float32_logits_by_rounding_alone(
    name: str, small_tokenizer: Any
) -> None:
    texts = [f"{row} {i}" for i in range(5) for row in ROWS]
    corpus = Corpus.from_texts(texts, small_tokenizer)
    found = audit(small_model(name), corpus, AuditOptions(repeat_batching=3, context=24))
    changes = found.column("batch_change")
    assert changes.shape[1] == 3 * 5
    assert np.abs(changes).max() < 1e-4
    assert (found.column("batch_top1") == found.column("top1")[:, None]).mean() > 0.99
    noise = found.summary.batching
    assert noise is not None
    assert noise.dtype == "float32"
    assert noise.plans == 3


def test_a_bfloat16_model_is_read_in_its_own_precision(small_tokenizer: Any) -> None:
    model = small_model("llama").to(torch.bfloat16)
    corpus = Corpus.from_texts([f"{row} {i}" for i in range(5) for row in ROWS], small_tokenizer)
    found = audit(model, corpus, AuditOptions(repeat_batching=2, context=24))
    tops, native = found.column("batch_top1"), found.column("native_top1")
    assert (tops == native[:, None]).mean() > 0.9
    assert np.abs(found.column("batch_change")).max() < 0.5
    again = audit(model, corpus, AuditOptions(repeat_batching=2, context=24))
    assert again.column("batch_change").tolist() == found.column("batch_change").tolist()


def test_what_cannot_be_followed_is_refused() -> None:
    with pytest.raises(UnembedError, match="--top-k 1 keeps too few"):
        AuditOptions(repeat_batching=2, top_k=1)
    with pytest.raises(UnembedError, match="repeat_batching must not be negative, got -1"):
        AuditOptions(repeat_batching=-1)
    with pytest.raises(UnembedError, match="logit_scale 2 makes others"):
        AuditOptions(repeat_batching=2, logit_scale=2.0)
