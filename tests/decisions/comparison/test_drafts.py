"""A model as the draft of another: acceptance, the rounds along a text, and what is said of it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import reference.drafting
from made_up.corpora import TEXTS
from unembed import Comparison, Corpus, compare
from unembed.decisions import AuditOptions
from unembed.decisions.comparison import draft_rounds
from unembed.decisions.comparison.draft_rounds import runs_of, walked_rounds
from unembed.decisions.comparison.drafts import (
    GREEDY,
    TOO_SHORT,
    DraftOptions,
    DraftReader,
    DraftSummary,
)
from unembed.decisions.comparison.live import LiveAudits, audit_both
from unembed.demo import bundled_model, documents
from unembed.errors import UnembedError
from unembed.head.sampling import Sampling, processed
from unembed.models.checkpoint import Checkpoint, load
from unembed.models.quantization import quantized
from unembed.stats.bootstrap import ratio_estimates

OPTIONS = AuditOptions(top_k=3, context=24, batch_tokens=64, part_positions=40)
DRAFT = DraftOptions((Sampling(0.7, top_p=0.9), Sampling()), drafted=5)
HOW = {"resamples": 200, "seed": 0}


@pytest.fixture(scope="module")
def corpus(tokenizer: Any) -> Corpus:
    return Corpus.from_texts(TEXTS, tokenizer)


@pytest.fixture(scope="module")
def models(llama: Any, tokenizer: Any) -> tuple[Checkpoint, Checkpoint]:
    """A model, and a disturbed copy with a layer less whose head has padded rows more."""
    target, draft = copy.deepcopy(llama), copy.deepcopy(llama)
    generator = torch.Generator().manual_seed(1)
    draft.resize_token_embeddings(llama.config.vocab_size + 9)
    draft.model.layers = draft.model.layers[:-1]
    with torch.no_grad():
        for parameter in draft.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
        for model in (target, draft):
            model.get_output_embeddings().weight *= 4
    return Checkpoint("large", target, tokenizer), Checkpoint("small", draft, tokenizer)


@pytest.fixture(scope="module")
def found(models: tuple[Checkpoint, Checkpoint], corpus: Corpus) -> LiveAudits:
    return audit_both(*models, corpus, OPTIONS, readers=[DraftReader.of(*models, DRAFT)])


@pytest.fixture(scope="module")
def summary(found: LiveAudits) -> DraftSummary:
    [reading] = found.readings
    drafts = reading.reader.summary(reading.parts, **HOW)
    assert isinstance(drafts, DraftSummary)
    return drafts


def walked(chances: list[list[float]], most: int) -> tuple[np.ndarray, np.ndarray]:
    begins = np.cumsum([0, *map(len, chances)])[:-1]
    return walked_rounds(np.concatenate(chances)[None], begins, most)


@pytest.mark.parametrize("held", [1, 30, 1 << 14])
def test_rounds_are_those_of_every_outcome(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draft_rounds, "HELD_POSITIONS", held)
    g = np.random.default_rng(0)
    runs = [g.random(n).tolist() for n in (40, 1, 2, 7, 25, 3)]
    tokens, rounds = walked(runs, 6)
    for drafted in range(1, 7):
        want = [reference.drafting.rounds(run, drafted) for run in runs]
        assert tokens[0, drafted - 1].tolist() == pytest.approx([t for t, _ in want])
        assert rounds[0, drafted - 1].tolist() == pytest.approx([n for _, n in want])


def test_rounds_of_certain_acceptance_can_be_counted() -> None:
    tokens, rounds = walked([[1.0] * 12, [0.0] * 12], 3)
    assert rounds[0].tolist() == [[6, 11], [4, 10], [3, 9]]
    assert tokens[0].tolist() == [[12, 11], [12, 10], [12, 9]]


def test_a_run_ends_with_its_window_its_document_and_at_a_gap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    doc = np.array([0, 0, 0, 0, 0, 1, 1, 1])
    pos = np.array([0, 1, 2, 4, 5, 6, 7, 8])
    first = np.array([1, 0, 1, 0, 0, 0, 0, 0], dtype=bool)
    assert runs_of(doc, pos, first).tolist() == [0, 2, 3, 5]
    monkeypatch.setattr(draft_rounds, "MOST_RUN", 2)
    assert runs_of(doc, pos, first).tolist() == [0, 2, 3, 5, 7]
    assert runs_of(doc[:0], pos[:0], first[:0]).tolist() == []


def test_the_table_holds_exact_chances_of_full_logits(
    models: tuple[Checkpoint, Checkpoint], corpus: Corpus, found: LiveAudits
) -> None:
    table = pa.concat_tables(found.readings[0].parts)
    samplers = {"T = 1": (1.0, None, 1.0), "T = 0.7, top-p 0.9": (0.7, None, 0.9)}
    want: dict[str, list[float]] = {name: [] for name in (*samplers, GREEDY)}
    starts = []
    for row in range(corpus.rows):
        ids = torch.tensor(corpus.ids[corpus.starts[row] : corpus.starts[row + 1]]).long()
        for start in range(0, len(ids) - 1, 24):
            window = ids[start : start + 25][None, :-1]
            with torch.no_grad():
                logits = [
                    one.model(input_ids=window).logits[0, :, : len(corpus.tokenizer)].tolist()
                    for one in models
                ]
            starts += [True, *[False] * (window.shape[1] - 1)]
            for p, q in zip(*logits, strict=True):
                for name, sampler in samplers.items():
                    both = (reference.drafting.processed(one, sampler) for one in (p, q))
                    want[name].append(reference.drafting.acceptance(*both))
                want[GREEDY].append(float(np.argmax(p) == np.argmax(q)))
    for name, values in want.items():
        assert 0.01 < np.mean(values) < 0.99
        assert table[name].to_numpy().astype(float).tolist() == pytest.approx(values, abs=1e-5)
    assert table["window_start"].to_pylist() == starts
    assert table["T = 1"].to_numpy() == pytest.approx(
        1 - found.divergence["total_variation"].to_numpy(), abs=2e-6
    )


def test_the_summary_recounts_the_table(found: LiveAudits, summary: DraftSummary) -> None:
    table = pa.concat_tables(found.readings[0].parts)
    starts = np.flatnonzero(table["window_start"].to_numpy())
    assert [one.name for one in summary.samplings] == ["T = 1", "T = 0.7, top-p 0.9", GREEDY]
    for one in summary.samplings:
        chances = table[one.name].to_numpy().astype(np.float64)
        mean = chances.mean()
        assert one.acceptance.value == pytest.approx(mean)
        speeds = []
        for length in one.lengths:
            runs = [run.tolist() for run in np.split(chances, starts[1:])]
            whole = [reference.drafting.rounds(run, length.drafted) for run in runs]
            tokens = sum(t for t, _ in whole) / sum(n for _, n in whole)
            assert length.tokens.value == pytest.approx(tokens)
            alike = sum(mean**j for j in range(length.drafted + 1))
            assert length.tokens_independent.value == pytest.approx(alike)
            speeds.append(tokens / (1 + length.drafted * summary.cost))
            assert length.speedup.value == pytest.approx(speeds[-1])
            assert length.tokens.low < length.tokens.value < length.tokens.high  # type: ignore[operator]
        assert one.best.value == np.argmax(speeds) + 1
        assert one.at_best is not None
        assert one.at_best.speedup.value == pytest.approx(max(speeds))


def test_parts_change_nothing(
    models: tuple[Checkpoint, Checkpoint],
    corpus: Corpus,
    found: LiveAudits,
    summary: DraftSummary,
) -> None:
    [reading] = found.readings
    assert len(list(reading.parts)) == 1
    whole = pa.concat_tables(reading.parts)
    cuts = np.flatnonzero(whole["window_start"].to_numpy())
    pieces = [whole.slice(a, b - a) for a, b in zip(cuts, [*cuts[1:], len(whole)], strict=True)]
    again = reading.reader.summary(pieces, **HOW)
    assert isinstance(again, DraftSummary)
    for one, other in zip(again.samplings, summary.samplings, strict=True):
        assert one.lengths[2].tokens.value == pytest.approx(other.lengths[2].tokens.value)
        assert one.lengths[2].tokens.low == pytest.approx(other.lengths[2].tokens.low)


def test_the_cost_is_the_ratio_of_parameters_unless_given(
    models: tuple[Checkpoint, Checkpoint],
) -> None:
    sizes = [sum(p.numel() for p in one.model.parameters()) for one in models]
    assert DraftReader.of(*models).cost == sizes[1] / sizes[0]
    assert DraftReader.of(*models, DraftOptions(cost=0.3)).cost == 0.3


def test_a_model_that_drafts_for_itself_is_always_accepted(
    models: tuple[Checkpoint, Checkpoint], corpus: Corpus
) -> None:
    twice = (models[0], models[0])
    options = DraftOptions(cost=0.1, drafted=4)
    both = audit_both(*twice, corpus, OPTIONS, readers=[DraftReader.of(*twice, options)])
    drafts = compare(both.before, both.after, readings=both.readings, **HOW).summary.drafts
    assert drafts is not None
    for one in drafts.samplings:
        assert one.acceptance.value == 1
        assert [length.tokens.value for length in one.lengths] == pytest.approx([2, 3, 4, 5])
        assert one.best.value == 4


def test_windows_that_are_too_short_leave_no_round(
    models: tuple[Checkpoint, Checkpoint], corpus: Corpus
) -> None:
    options = AuditOptions(top_k=3, context=3, batch_tokens=64)
    reader = DraftReader.of(*models, DraftOptions(drafted=3))
    both = audit_both(*models, corpus, options, readers=[reader])
    drafts = compare(both.before, both.after, readings=both.readings, **HOW).summary.drafts
    assert drafts is not None
    for one in drafts.samplings:
        assert one.lengths[1].tokens.value is not None
        assert (one.lengths[2].tokens.value, one.lengths[2].tokens.reason) == (None, TOO_SHORT)
        assert one.lengths[2].tokens_independent.value is not None


def test_a_comparison_keeps_and_prints_the_draft(
    found: LiveAudits, summary: DraftSummary, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"divergence": found.divergence, "readings": found.readings, **HOW}
    done = compare(found.before, found.after, out=tmp_path / "run", **given)
    assert done.summary.drafts == summary
    assert Comparison.load(tmp_path / "run").summary.drafts == summary
    printed = str(done)
    for one in summary.samplings:
        assert f"accepted, {one.name}" in printed
        assert f"speed-up, {one.name}" in printed
    assert f"{summary.parameters[1]:,} parameters of {summary.parameters[0]:,}" in printed
    with pytest.raises(UnembedError, match="take one model on each side"):
        compare([found.before, found.after], found.after, readings=found.readings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cost": 0.0}, "--draft-cost 0 is no cost above 0"),
        ({"cost": -1.0}, "--draft-cost -1"),
        ({"cost": float("nan")}, "--draft-cost nan"),
        ({"drafted": 0}, "--draft-tokens 0 drafts nothing"),
    ],
)
def test_what_cannot_be_a_draft_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnembedError, match=message):
        DraftOptions(**options)


@pytest.mark.slow
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.8, top_p=0.9)], ids=str)
def test_a_walk_yields_what_simulated_decoding_does(sampling: Sampling) -> None:
    """The bundled model and its int4 copy, on texts that the model then sampled itself."""
    pytest.importorskip("torchao", reason="the extra quant is not installed")
    target = load(str(bundled_model()))
    pair = (target.model.eval(), quantized(target, "int4").model.eval())
    prompt, new, drafted, texts = 8, 48, 4, 40
    long = [one.text for one in documents("heldout") if len(one.text) > 400][:texts]
    prompts = torch.tensor([target.tokenizer(one[:400])["input_ids"][:prompt] for one in long])

    def law(model: Any) -> Any:
        @torch.no_grad()
        def after(ids: torch.Tensor) -> torch.Tensor:
            logits = model(input_ids=ids).logits[..., : len(target.tokenizer)].float()
            rows = processed(logits.reshape(-1, logits.shape[-1]), sampling)
            return rows.view(logits.shape)

        return after

    laws = [law(model) for model in pair]
    decoded, yields = reference.drafting.speculative(*laws, prompts, new, drafted, seed=0)
    simulated = ratio_estimates(
        np.array([[sum(one) for one in yields]], float),
        np.array([[len(one) for one in yields]], float),
    )[0]
    p, q = (after(decoded)[:, prompt - 1 : -1] for after in laws)
    own = decoded[:, prompt:, None]
    begins = np.arange(len(decoded)) * new
    for chances in (torch.minimum(p, q).sum(-1), (q / p).gather(-1, own)[..., 0].clamp(max=1)):
        tokens, rounds = walked_rounds(chances.double().numpy().reshape(1, -1), begins, drafted)
        walked = tokens[0, drafted - 1].sum() / rounds[0, drafted - 1].sum()
        assert simulated.low is not None
        assert simulated.high is not None
        assert simulated.low < walked < simulated.high < simulated.low + 0.4


def test_a_table_without_a_finite_position_has_reasons():
    [sampled, greedy] = (
        DraftReader(DraftOptions(), (2, 1)).summary([], resamples=9, seed=0).samplings
    )
    assert sampled.acceptance.value is None
    assert greedy.best.reason == "no window of the text is that long"
