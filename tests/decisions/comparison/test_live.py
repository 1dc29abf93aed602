"""Two models over one text in one pass, and the comparison that has their divergences."""

from __future__ import annotations

import copy
from collections import namedtuple
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from killing import killed_at
from made_up.corpora import TEXTS
from unembed import Comparison, Corpus, audit, compare
from unembed.decisions import AuditOptions
from unembed.decisions.comparison import live, tokenizers
from unembed.decisions.comparison.live import DIVERGENCES, LiveAudits, audit_both
from unembed.errors import UnembedError
from unembed.head.divergence import SweptModel
from unembed.models.checkpoint import Checkpoint
from unembed.runs import files
from unembed.runs.store import RunFolder
from unembed.text.batches import Batch

OPTIONS = AuditOptions(top_k=3, context=24, batch_tokens=64, part_positions=40)


@pytest.fixture(scope="module")
def corpus(tokenizer: Any) -> Corpus:
    return Corpus.from_texts(TEXTS, tokenizer)


@pytest.fixture(scope="module")
def models(llama: Any, tokenizer: Any) -> tuple[Checkpoint, Checkpoint]:
    other = copy.deepcopy(llama)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return Checkpoint("first", llama, tokenizer), Checkpoint("second", other, tokenizer)


@pytest.fixture(scope="module")
def found(models: tuple[Checkpoint, Checkpoint], corpus: Corpus) -> LiveAudits:
    return audit_both(*models, corpus, OPTIONS)


def test_both_audits_are_those_of_each_model_alone(
    models: tuple[Checkpoint, Checkpoint], corpus: Corpus, found: LiveAudits
) -> None:
    for one, got in zip(models, (found.before, found.after), strict=True):
        alone = audit(one.model, corpus, OPTIONS, name=one.name)
        assert got.table.equals(alone.table)
        assert got.provenance == alone.provenance
        assert got.vocabulary == alone.vocabulary


def test_divergences_are_those_of_full_logits(
    models: tuple[Checkpoint, Checkpoint], corpus: Corpus, found: LiveAudits
) -> None:
    want: dict[str, list[float]] = {name: [] for name in DIVERGENCES[:3]}
    for row in range(corpus.rows):
        ids = torch.tensor(corpus.ids[corpus.starts[row] : corpus.starts[row + 1]]).long()
        for start in range(0, len(ids) - 1, 24):
            window = ids[start : start + 25][None, :-1]
            with torch.no_grad():
                p, q = (
                    one.model(input_ids=window)
                    .logits[0, :, : len(corpus.tokenizer)]
                    .double()
                    .log_softmax(-1)
                    for one in models
                )
            want["kl_forward"] += (p.exp() * (p - q)).sum(-1).tolist()
            want["kl_backward"] += (q.exp() * (q - p)).sum(-1).tolist()
            want["total_variation"] += ((p.exp() - q.exp()).abs().sum(-1) / 2).tolist()
    for name, values in want.items():
        assert min(values) > 1e-4
        assert found.divergence[name].to_pylist() == pytest.approx(values, abs=1e-5), name
    shared = [
        len(set(a) & set(b)) / 3
        for a, b in zip(
            found.before.table["topk_ids"].to_pylist(),
            found.after.table["topk_ids"].to_pylist(),
            strict=True,
        )
    ]
    assert found.divergence["overlap"].to_pylist() == pytest.approx(shared)
    for name in ("doc", "pos"):
        assert found.divergence[name].equals(found.before.table[name])


def test_two_identical_models_are_at_no_distance(
    models: tuple[Checkpoint, Checkpoint], corpus: Corpus
) -> None:
    twice = audit_both(models[0], models[0], corpus, OPTIONS)
    for name in DIVERGENCES[:3]:
        assert set(twice.divergence[name].to_pylist()) == {0.0}
    summary = compare(twice.before, twice.after, divergence=twice.divergence).summary
    assert summary.divergence is not None
    assert summary.divergence.kl_forward.high.value == 0
    assert summary.divergence.acceptance.value == 1
    assert summary.flips.changed == 0


def test_a_comparison_summarises_the_divergences(found: LiveAudits, tmp_path: Path) -> None:
    assert compare(found.before, found.after).summary.divergence is None
    done = compare(found.before, found.after, divergence=found.divergence, out=tmp_path / "run")
    apart = done.summary.divergence
    assert apart is not None
    kl = found.divergence["kl_forward"].to_numpy().astype(np.float64)
    assert apart.kl_forward.mean.value == pytest.approx(kl.mean())
    assert apart.kl_forward.median.value == pytest.approx(np.median(kl))
    assert apart.kl_forward.high.value == pytest.approx(np.quantile(kl, 0.99))
    for estimate in (apart.kl_forward.mean, apart.kl_forward.median, apart.overlap):
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.value is not None
        assert estimate.low <= estimate.value <= estimate.high
    tv = found.divergence["total_variation"].to_numpy()
    assert apart.acceptance.value == pytest.approx(1 - tv.mean())
    assert done.table["kl_forward"].equals(found.divergence["kl_forward"])
    assert Comparison.load(tmp_path / "run").summary == done.summary
    assert "speculative acceptance" in str(done)


def test_a_killed_run_goes_on_to_the_same_bytes(
    models: tuple[Checkpoint, Checkpoint],
    corpus: Corpus,
    found: LiveAudits,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The second part, of the second of three folders.
    with killed_at(monkeypatch, RunFolder, "write_table", 5):
        audit_both(*models, corpus, OPTIONS, out=tmp_path)
    for _ in range(2):
        done = audit_both(*models, corpus, OPTIONS, out=tmp_path)
        assert done.before.table.equals(found.before.table)
        assert done.after.table.equals(found.after.table)
        assert done.divergence.equals(found.divergence)
    compare(done.before, done.after, divergence=done.divergence, out=tmp_path)
    assert Comparison.load(tmp_path).summary.divergence is not None


@dataclass(frozen=True)
class TopLogits:
    """A further reader: the largest logit of both models."""

    more: int = 0
    name: str = "top_logits"
    bytes_a_position: int = 8

    @property
    def key(self) -> dict[str, Any]:
        return {"more": self.more}

    def columns(self, first: SweptModel, second: SweptModel, batch: Batch) -> dict[str, Any]:
        assert len(batch.pos) == len(first.hidden)
        tops = (one.swept.topk_values[:, 0].numpy() for one in (first, second))
        return {f"top_{side}": top + self.more for side, top in enumerate(tops)}

    def table(self, columns: dict[str, Any]) -> pa.Table:
        return pa.table(columns)

    def summary(self, parts: Iterable[pa.Table], *, resamples: int, seed: int) -> Any:
        raise AssertionError


def test_a_further_reader_reads_the_same_pass_part_by_part(
    models: tuple[Checkpoint, Checkpoint], corpus: Corpus, found: LiveAudits, tmp_path: Path
) -> None:
    held = audit_both(*models, corpus, OPTIONS, readers=[TopLogits(), TopLogits(1)])
    assert held.before.table.equals(found.before.table)
    assert held.divergence.equals(found.divergence)
    for reading in held.readings:
        table = pa.concat_tables(reading.parts)
        for side, one in enumerate((found.before, found.after)):
            tops = pc.list_element(one.table["topk_logits"], 0).to_numpy()
            assert np.array_equal(
                table[f"top_{side}"].to_numpy(), tops + reading.reader.key["more"]
            )
        for name in ("doc", "pos"):
            assert table[name].equals(found.before.table[name])
    for _ in range(2):
        kept = audit_both(*models, corpus, OPTIONS, readers=[TopLogits()], out=tmp_path)
        assert pa.concat_tables(kept.readings[0].parts).equals(
            pa.concat_tables(held.readings[0].parts)
        )
    assert len(list((tmp_path / "top_logits/tokens").iterdir())) > 1
    with pytest.raises(UnembedError, match="its more is 0, this one's is 2"):
        audit_both(*models, corpus, OPTIONS, readers=[TopLogits(2)], out=tmp_path)


def test_a_finished_run_is_not_read_again_for_one_reader_more(
    models: tuple[Checkpoint, Checkpoint], corpus: Corpus, tmp_path: Path
) -> None:
    audit_both(*models, corpus, OPTIONS, out=tmp_path)
    with pytest.raises(UnembedError, match="holds a finished run without top_logits: give another"):
        audit_both(*models, corpus, OPTIONS, readers=[TopLogits()], out=tmp_path)
    again = audit_both(*models, corpus, OPTIONS, out=tmp_path)
    assert again.before.verdict is not None


def test_a_run_s_divergences_are_read_in_parts(
    models: tuple[Checkpoint, Checkpoint], corpus: Corpus, found: LiveAudits, tmp_path: Path
) -> None:
    kept = audit_both(*models, corpus, OPTIONS, out=tmp_path / "run")
    parts = list(kept.divergence_parts)
    assert len(parts) > 1
    done = compare(kept.before, kept.after, divergence=kept.divergence_parts, resamples=20)
    assert "divergence" not in vars(kept)
    want = compare(found.before, found.after, divergence=found.divergence, resamples=20)
    assert done.summary == want.summary
    assert done.table.equals(want.table)
    with pytest.raises(UnembedError, match="fewer rows than the audits"):
        compare(found.before, found.after, divergence=parts[:-1])


def test_other_tokenizers_are_refused(
    models: tuple[Checkpoint, Checkpoint], corpus: Corpus, small_tokenizer: Any
) -> None:
    other = Checkpoint("third", models[0].model, small_tokenizer)
    with pytest.raises(UnembedError, match="tokenizers of first and third"):
        audit_both(models[0], other, corpus)


def test_the_context_is_the_shorter_one(
    models: tuple[Checkpoint, Checkpoint], corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = iter([40, 20])
    monkeypatch.setattr(live, "context_of", lambda *_args: next(lengths))
    got = audit_both(*models, corpus)
    assert got.before.provenance.text.context == got.after.provenance.text.context == 20


def changed(tokenizer: Any, **parts: Any) -> Any:
    """A copy of a tokenizer whose backend has other parts."""
    other = copy.deepcopy(tokenizer)
    for name, part in parts.items():
        setattr(other.backend_tokenizer, name, part)
    return other


def begins_rows(tokenizer: Any) -> Any:
    from tokenizers.processors import TemplateProcessing

    token = tokenizer.convert_ids_to_tokens(5)
    return TemplateProcessing(single=f"{token} $A", special_tokens=[(token, 5)])


def test_tokenizers_are_tested_by_what_they_do(
    models: tuple[Checkpoint, Checkpoint], corpus: Corpus
) -> None:
    """One vocabulary, other ids: a BOS on one side alone, a normaliser, in either order."""
    from tokenizers.normalizers import Lowercase

    plain = models[0].tokenizer
    for other in (
        changed(plain, post_processor=begins_rows(plain)),
        changed(plain, normalizer=Lowercase()),
    ):
        assert other.get_vocab() == plain.get_vocab()
        second = Checkpoint("second", models[1].model, other)
        for pair in ((models[0], second), (second, models[0])):
            with pytest.raises(UnembedError, match=r"tokenizers of .* read .* differently") as said:
                audit_both(*pair, corpus, OPTIONS)
            assert "save one tokenizer beside both" in str(said.value)
    same = Checkpoint("second", models[1].model, copy.deepcopy(plain))
    tokenizers.refuse_other_tokenizers(models[0], same, corpus)
    assert tokenizers.surely_alike(models[0], same)


def test_tokens_of_one_id_that_no_text_has_are_the_same_too(
    models: tuple[Checkpoint, Checkpoint], corpus: Corpus
) -> None:
    ours, theirs = (copy.deepcopy(models[0].tokenizer) for _ in range(2))
    at = len(ours)
    ours.add_tokens(["<<ours>>"])
    theirs.add_tokens(["<<theirs>>"])
    pair = [Checkpoint(name, models[0].model, t) for name, t in (("a", ours), ("b", theirs))]
    with pytest.raises(UnembedError, match=f"id {at} is '<<ours>>' and '<<theirs>>'"):
        tokenizers.refuse_other_tokenizers(pair[0], pair[1], corpus)


def test_the_text_itself_is_read_by_both(
    models: tuple[Checkpoint, Checkpoint], corpus: Corpus
) -> None:
    """Where the probes come out alike and one word of the text does not."""
    from tokenizers import Regex
    from tokenizers.normalizers import Replace

    plain = models[0].tokenizer
    word = max((word for text in TEXTS for word in text.split() if word.isalpha()), key=len)
    assert not any(word in probe for probe in tokenizers.PROBES)
    other = changed(plain, normalizer=Replace(Regex(word), "x"))
    second = Checkpoint("second", models[1].model, other)
    for pair in ((models[0], second), (second, models[0])):
        with pytest.raises(UnembedError, match=r"tokenizers of .* read '.*' differently"):
            audit_both(*pair, corpus, OPTIONS)


def test_special_tokens_may_have_other_names(
    models: tuple[Checkpoint, Checkpoint], corpus: Corpus
) -> None:
    ours, theirs = (copy.deepcopy(models[0].tokenizer) for _ in range(2))
    ours.add_special_tokens({"additional_special_tokens": ["<reserved>"]})
    theirs.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    pair = [Checkpoint(name, models[0].model, t) for name, t in (("a", ours), ("b", theirs))]
    tokenizers.refuse_other_tokenizers(pair[0], pair[1], corpus)


def test_heads_of_different_size_are_refused_before_any_work(
    models: tuple[Checkpoint, Checkpoint], corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaForCausalLM

    config = copy.deepcopy(models[0].model.config)
    config.vocab_size = 460
    with torch.random.fork_rng(devices=[]):
        small = Checkpoint("small", LlamaForCausalLM(config).eval(), models[0].tokenizer)
    monkeypatch.setattr(live.AuditRun, "of", lambda *_given: pytest.fail("it was prepared"))
    for pair in ((models[0], small), (small, models[0])):
        with pytest.raises(UnembedError) as said:
            audit_both(*pair, corpus, OPTIONS)
        assert "small has 460 rows in its head and so no logit for 17 tokens" in str(said.value)
        assert "audit each model and compare the run folders" in str(said.value)


def test_a_text_that_two_tokenizers_read_otherwise(
    models: tuple[Checkpoint, Checkpoint], corpus: Corpus
) -> None:
    plain = models[0].tokenizer
    other = Checkpoint("second", models[1].model, changed(plain, post_processor=begins_rows(plain)))
    again = Corpus.from_texts(TEXTS, other.tokenizer)
    with pytest.raises(UnembedError, match="read row 0 of the text differently: token 0 on is"):
        tokenizers.refuse_other_texts(models[0], other, corpus, again)
    tokenizers.refuse_other_texts(models[0], other, corpus, corpus)


def test_two_runs_that_do_not_fit_are_refused_before_the_pass(
    models: tuple[Checkpoint, Checkpoint],
    corpus: Corpus,
    found: LiveAudits,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tables = (found.before.table, found.after.table, found.divergence)
    room = sum(table.nbytes for table in tables) // 3
    usage = namedtuple("usage", ("total", "used", "free"))
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _place: usage(1 << 40, 0, room))
    monkeypatch.setattr(live._Both, "tables", lambda *_given: pytest.fail("the pass was begun"))
    with pytest.raises(
        UnembedError, match=r"the tables of .* positions take at least .* make room"
    ):
        audit_both(*models, corpus, OPTIONS, out=tmp_path / "run")
