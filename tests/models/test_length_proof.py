"""Bodies whose answers depend on more than the tokens before: padding, luck, or later tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as tf

from made_up.corpora import TEXTS
from made_up.models import longrope_model
from made_up.shrunken import shrunken
from unembed import Corpus, audit
from unembed.decisions import AuditOptions
from unembed.decisions.comparison.live import audit_both
from unembed.errors import HeadError
from unembed.models import length_proof, model_pass
from unembed.models.checkpoint import Checkpoint
from unembed.models.length_proof import LengthProof, prove_lengths
from unembed.text.batches import BatchPlan, batches, shortest_mixed
from unembed.text.windows import Windows

OPTIONS = AuditOptions(top_k=2, batch_tokens=256)


@pytest.fixture(scope="module")
def corpus(tokenizer: Any) -> Corpus:
    """Rows of 16 and 17 predictions, which a block mixes, beside short rows and long ones."""
    words = " ".join(TEXTS).split()
    ids = tokenizer(" ".join(words))["input_ids"]
    close = [tokenizer.decode(ids[a : a + n]) for a, n in ((0, 18), (30, 18), (60, 17), (90, 17))]
    long = [" ".join(words[:40]), " ".join(words[20:60])]
    return Corpus.from_texts([*TEXTS[:6], *close, *long], tokenizer)


@pytest.fixture(scope="module")
def longrope() -> Any:
    return longrope_model()


def margins(model: Any, corpus: Corpus, context: int = 64) -> list[float]:
    """Of each window alone, by the model's own logits."""
    windows = Windows.of(corpus, context)
    found: list[float] = []
    for i in range(len(windows.length)):
        with torch.no_grad():
            logits = model(input_ids=windows.inputs(i)[None]).logits[0, :, : len(corpus.tokenizer)]
        top = logits.double().topk(2).values
        found += (top[:, 0] - top[:, 1]).tolist()
    return found


def test_rows_of_two_rotary_regimes_share_no_batch(longrope: Any, corpus: Corpus) -> None:
    lengths = Windows.of(corpus, 64).length
    assert {16, 17} <= {*lengths.tolist()}
    found = audit(longrope, corpus, OPTIONS)
    want = margins(longrope, corpus)
    assert found.column("margin").tolist() == pytest.approx(want, abs=1e-4)
    assert found.provenance.options["mixed_lengths"] is False


def test_a_sound_body_keeps_its_plan(llama: Any, corpus: Corpus) -> None:
    assert shortest_mixed(Windows.of(corpus, 64), BatchPlan(256)) == 16
    assert "mixed_lengths" not in audit(llama, corpus, OPTIONS).provenance.options


def test_a_sound_body_is_read_one_and_a_half_times(
    llama: Any, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    real = length_proof.final_hidden

    def watched(model: Any, ids: torch.Tensor) -> torch.Tensor:
        read.append(ids.shape[1])
        return real(model, ids)

    monkeypatch.setattr(length_proof, "final_hidden", watched)
    prove_lengths([llama], Windows.of(corpus, 64), BatchPlan(256), "ieee")
    assert read == [64, 32, 16]


def test_a_pass_does_not_read_again_what_was_read_to_prove_it(
    llama: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The longest window lies alone in a block, as its neighbours are shorter."""
    ids = tokenizer(" ".join(TEXTS))["input_ids"]
    texts = [tokenizer.decode(ids[at : at + n]) for at, n in ((0, 60), (80, 40), (150, 20))]
    corpus = Corpus.from_texts(texts, tokenizer)
    lengths = Windows.of(corpus, 64).length
    longest = max(lengths)
    assert 1.1 * sorted(lengths)[-2] < longest < 64
    read: list[int] = []
    real = model_pass.final_hidden

    def watched(model: Any, ids: torch.Tensor) -> torch.Tensor:
        read.append(ids.shape[1])
        return real(model, ids)

    monkeypatch.setattr(model_pass, "final_hidden", watched)
    kept = audit(llama, corpus, OPTIONS)
    assert longest not in read
    monkeypatch.setattr(LengthProof, "answer_to", lambda *_given: None)
    again = audit(llama, corpus, OPTIONS)
    assert longest in read
    assert kept.table.equals(again.table)
    assert kept.provenance == again.provenance


def test_attention_that_chooses_positions_shares_no_batch(small_tokenizer: Any) -> None:
    """Scores are rectified, and which of several zeros is taken depends on the row's length."""
    model, small = shrunken("axk2"), Corpus.from_texts(TEXTS, small_tokenizer)
    found = audit(model, small, AuditOptions(top_k=2, context=24, batch_tokens=64))
    want = margins(model, small, 24)
    assert found.column("margin").tolist() == pytest.approx(want, abs=1e-4)
    assert found.provenance.options["mixed_lengths"] is False


def test_two_models_share_the_safer_plan(longrope: Any, llama: Any, corpus: Corpus) -> None:
    pair = (
        Checkpoint(name, one, corpus.tokenizer)
        for name, one in (("plain", llama), ("switching", longrope))
    )
    found = audit_both(*pair, corpus, OPTIONS)
    for one in (found.before, found.after):
        assert one.provenance.options["mixed_lengths"] is False
    assert found.after.column("margin").tolist() == pytest.approx(
        margins(longrope, corpus), abs=1e-4
    )


def test_batches_of_one_length_hold_the_same_windows(corpus: Corpus) -> None:
    windows = Windows.of(corpus, 24)
    whole = range(len(windows.length))
    plan = BatchPlan(256)
    mixed, apart = (list(batches(windows, whole, plan, mix=mix)) for mix in (True, False))
    ours, theirs = ([block for one in some for block in one.blocks] for some in (apart, mixed))
    assert len(ours) > len(theirs)
    for block in ours:
        assert block.real.all()

    def keys(some: Any) -> list[tuple[int, int]]:
        return sorted(
            key for one in some for key in zip(one.doc.tolist(), one.pos.tolist(), strict=True)
        )

    assert keys(apart) == keys(mixed)


def test_a_body_that_answers_differently_when_asked_twice(corpus: Corpus) -> None:
    """LSH attention draws its hashes anew; at the 8 tokens of the head's probe it is plain."""
    model = tf.ReformerModelWithLMHead(
        tf.ReformerConfig(
            vocab_size=480,
            hidden_size=32,
            num_attention_heads=2,
            attention_head_size=16,
            feed_forward_size=32,
            attn_layers=["lsh"],
            is_decoder=True,
            axial_pos_embds=False,
            lsh_attn_chunk_length=8,
            num_hashes=1,
            num_buckets=4,
            max_position_embeddings=64,
            tie_word_embeddings=False,
        )
    ).eval()
    with pytest.raises(HeadError, match="ReformerModelWithLMHead answers differently when asked"):
        audit(model, corpus, OPTIONS)


def test_a_body_that_looks_ahead_in_long_rows_alone(
    llama: Any, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = length_proof.final_hidden

    def ahead(model: Any, ids: torch.Tensor) -> torch.Tensor:
        hidden = real(model, ids)
        return hidden + hidden.mean(1, keepdim=True) if ids.shape[1] > 16 else hidden

    monkeypatch.setattr(length_proof, "final_hidden", ahead)
    with pytest.raises(HeadError, match="LlamaForCausalLM is not causal at"):
        audit(llama, corpus, OPTIONS)
