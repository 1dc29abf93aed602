from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unembed import Corpus, audit
from unembed.decisions import AuditOptions
from unembed.errors import NonFiniteError, UnembedError
from unembed.head.head import Head
from unembed.models.checkpoint import Checkpoint
from unembed.models.model_pass import ModelPass
from unembed.runs.store import RunFolder
from unembed.signatures.alignment.align import align
from unembed.signatures.alignment.exact import exact_alignments
from unembed.signatures.alignment.texts import align_texts, samples_of
from unembed.signatures.file import as_bytes, load
from unembed.signatures.reading.run import UNFINISHED, sketch
from unembed.signatures.reading.sketcher import FILE, Sketcher, SketchOptions
from unembed.signatures.sketches.constructions import sketch_of
from unembed.signatures.verbalizers import Verbalizers
from unembed.text.rows import PromptCompletion

OPTIONS = SketchOptions(m=256, context=24, batch_tokens=64, part_positions=40)


@pytest.fixture(scope="module")
def checkpoint(llama: Any, tokenizer: Any) -> Checkpoint:
    return Checkpoint("llama", llama, tokenizer)


@pytest.fixture(scope="module")
def text(tokenizer: Any, topics: list[str]) -> Corpus:
    return Corpus.from_texts([topic[:160] for topic in topics[:9]], tokenizer)


def dense_mean(checkpoint: Checkpoint, text: Corpus, options: SketchOptions) -> np.ndarray:
    """The mean joint feature by plain transformers logits and columns of the maps, in float64."""
    reading = ModelPass.of(checkpoint.model, text, options, "llama")
    samples = samples_of(reading, "text")
    head = reading.head
    made = sketch_of(
        Sketcher.of(reading, options, checkpoint, "text").identity.spec, torch.device("cpu")
    )
    logits = samples.hidden.double() @ head.weight.double().T
    if head.valid is not None:
        logits[:, ~head.valid] = -torch.inf
    error = logits.softmax(1)
    error[torch.arange(len(error)), samples.targets] -= 1
    ids = torch.arange(head.vocab)
    activation = samples.hidden.double()
    sides = [
        made.factor(e.T @ m.columns(i).double())
        for e, m, i in (
            (error.T, made.error[0], ids),
            (error.T, made.error[1], ids),
            (activation.T, made.activation[0], torch.arange(head.dim)),
            (activation.T, made.activation[1], torch.arange(head.dim)),
        )
    ]
    psi = sides[0] * sides[1] * sides[2] * sides[3]
    mean: np.ndarray = made.pack(psi).mean(0).numpy()
    return mean


@pytest.mark.parametrize("construction", ["complex_tensorsketch", "srht"])
def test_a_signature_is_the_mean_feature_of_the_text(
    checkpoint: Checkpoint, text: Corpus, construction: Any
) -> None:
    options = replace(OPTIONS, construction=construction)
    got = sketch(checkpoint, text, options)
    want = dense_mean(checkpoint, text, options)
    assert got.state.samples == text.tokens - text.rows
    assert got.state.documents == 9
    assert np.abs(got.state.mean("joint") - want).max() < 2e-5 * np.abs(want).max()


def test_parts_and_batches_change_nothing(checkpoint: Checkpoint, text: Corpus) -> None:
    one = sketch(checkpoint, text, replace(OPTIONS, part_positions=10_000))
    two = sketch(checkpoint, text, OPTIONS)
    off = np.abs(one.state.joint.total - two.state.joint.total)
    assert off.max() < 1e-6 * np.abs(one.state.joint.total).max()
    assert one.state.documents == two.state.documents
    reading = ModelPass.of(checkpoint.model, text, OPTIONS, "llama")
    each = np.bincount(reading.windows.doc, reading.windows.counts).astype(float)
    assert len(reading.windows.doc) > len(each), "documents have several windows"
    assert one.state.document_weight_squared.sum() == np.square(each).sum()
    batches = sketch(checkpoint, text, replace(OPTIONS, part_positions=10_000, batch_tokens=10_000))
    for name in ("joint", "activation", "error"):
        ours, theirs = one.state.sums(name), batches.state.sums(name)
        assert ours is not None
        assert theirs is not None
        np.testing.assert_allclose(ours.own, theirs.own, rtol=1e-5)
    assert (two.state.document_weight_squared <= one.state.document_weight_squared).all()


def test_a_killed_run_goes_on_to_the_same_bytes(
    checkpoint: Checkpoint, text: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sketch(checkpoint, text, OPTIONS, out=tmp_path / "whole.safetensors", task="t")
    out = tmp_path / "killed.safetensors"
    keep, written = Sketcher.keep, []

    def killed(self: Sketcher, folder: RunFolder, part: str, found: list[Any]) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(part)
        keep(self, folder, part, found)

    with monkeypatch.context() as patch:
        patch.setattr(Sketcher, "keep", killed)
        with pytest.raises(KeyboardInterrupt):
            sketch(checkpoint, text, OPTIONS, out=out, task="t")
    assert not out.exists()
    assert len(list((tmp_path / f"killed.safetensors{UNFINISHED}" / "sketch").iterdir())) == 2
    again = sketch(checkpoint, text, OPTIONS, out=out, task="t")
    assert out.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert as_bytes(again) == as_bytes(whole)
    assert not list(tmp_path.glob(f"*{UNFINISHED}"))


def test_a_finished_file_is_read_again_and_another_is_refused(
    checkpoint: Checkpoint, text: Corpus, tmp_path: Path
) -> None:
    out = tmp_path / "task.safetensors"
    sketch(checkpoint, text, OPTIONS, out=out)
    before = out.read_bytes()
    sketch(checkpoint, text, OPTIONS, out=out)
    assert out.read_bytes() == before
    with pytest.raises(UnembedError, match=r"seed 0 .* seed 5"):
        sketch(checkpoint, text, replace(OPTIONS, seed=5), out=out)
    with pytest.raises(UnembedError, match="another text"):
        sketch(checkpoint, text, replace(OPTIONS, max_positions=50), out=out)
    assert out.read_bytes() == before


def test_an_audit_takes_the_sketch_in_its_pass(
    checkpoint: Checkpoint, text: Corpus, tmp_path: Path
) -> None:
    options = AuditOptions(context=24, batch_tokens=64, part_positions=40)
    plain = audit(checkpoint.model, text, options, out=tmp_path / "plain")
    both = audit(
        checkpoint.model,
        text,
        options,
        out=tmp_path / "both",
        second_reader=lambda reading: Sketcher.of(reading, OPTIONS, checkpoint, "text"),
    )
    assert both.table.equals(plain.table)
    beside = load(tmp_path / "both" / FILE)
    alone = sketch(checkpoint, text, OPTIONS)
    assert np.array_equal(beside.state.joint.total, alone.state.joint.total)
    assert beside.identity == alone.identity
    with pytest.raises(UnembedError, match="give out"):
        audit(
            checkpoint.model,
            text,
            options,
            second_reader=lambda reading: Sketcher.of(reading, OPTIONS, checkpoint, "text"),
        )


def test_sequences_are_windows(checkpoint: Checkpoint, text: Corpus) -> None:
    options = replace(OPTIONS, unit="sequence")
    got = sketch(checkpoint, text, options)
    windows = ModelPass.of(checkpoint.model, text, options, "llama").windows
    assert got.state.samples == len(windows.length)


def test_positions_are_drawn_from_all_documents(checkpoint: Checkpoint, text: Corpus) -> None:
    made = sketch(checkpoint, text, replace(OPTIONS, max_positions=27))
    assert (made.state.samples, made.state.documents) == (27, 9)


def test_too_few_positions_and_numbers_that_are_none(
    checkpoint: Checkpoint, text: Corpus, tokenizer: Any
) -> None:
    have = text.tokens - text.rows
    with pytest.raises(UnembedError, match=f"{have:,} positions and 5,000 were asked for"):
        sketch(checkpoint, text, replace(OPTIONS, max_positions=5000))
    broken = copy.deepcopy(checkpoint.model)
    with torch.no_grad():
        broken.lm_head.weight[7] = torch.nan
    with pytest.raises((NonFiniteError, UnembedError)):
        sketch(Checkpoint("broken", broken, tokenizer), text, OPTIONS)


def test_short_texts_are_aligned_exactly_and_sketches_agree(
    checkpoint: Checkpoint, tokenizer: Any, topics: list[str]
) -> None:
    texts = {
        name: Corpus.from_texts([t[:90] for t in some], tokenizer)
        for name, some in (
            ("even", topics[:12:2]),
            ("odd", topics[1:12:2]),
            ("late", topics[12:18]),
        )
    }
    exact = align_texts(checkpoint, texts, OPTIONS, debias=False)
    assert exact.method == "exact"
    sketched = align_texts(checkpoint, texts, replace(OPTIONS, m=4096), exact=False, debias=False)
    assert sketched.method == "complex_tensorsketch"
    for kind in ("joint", "activation", "error"):
        ours, theirs = sketched.pairs(kind), exact.pairs(kind)
        assert ours is not None
        assert theirs is not None
        off = np.abs(ours.value - theirs.value)
        assert (off <= 4 * ours.sketch_se + 1e-9).all(), (kind, off, ours.sketch_se)


def test_answers_are_labels_of_the_same_prompts(checkpoint: Checkpoint, tokenizer: Any) -> None:
    prompts = [f"The {word} statement" for word in ("if", "with", "assert", "lambda", "for", "in")]
    words = [
        tokenizer.decode([i])
        for i in range(300, 460)
        if len(tokenizer("Answer:" + tokenizer.decode([i]))["input_ids"])
        == len(tokenizer("Answer:")["input_ids"]) + 1
        and tokenizer.decode([i]).startswith(" ")
    ][:2]
    assert len(words) == 2
    answers = Verbalizers.of([("a", words[0]), ("b", words[1])], restrict=True)
    swapped = Verbalizers.of([("a", words[1]), ("b", words[0])], restrict=True)
    found = []
    for name, mapping in (("same", answers), ("swapped", swapped)):
        given = dict(zip(mapping.labels, mapping.words, strict=True))
        pairs = [PromptCompletion(p, given["ab"[i % 2]]) for i, p in enumerate(prompts)]
        corpus = Corpus.from_pairs(pairs, tokenizer)
        options = replace(OPTIONS, first_moment=True)
        found.append(sketch(checkpoint, corpus, options, task=name, verbalizers=mapping))
    assert found[0].identity == found[1].identity
    assert found[0].identity.support
    assert all(one.state.samples == 6 for one in found)
    both = align(found, debias=False)
    assert both.activation is not None
    assert both.activation.value[0, 1] == pytest.approx(1, abs=1e-9)
    assert both.joint.value[0, 1] <= 1 + 1e-9


def test_what_is_kept_of_a_pass_is_every_position(checkpoint: Checkpoint, text: Corpus) -> None:
    reading = ModelPass.of(checkpoint.model, text, OPTIONS, "llama")
    samples = samples_of(reading, "text")
    assert len(samples.targets) == text.tokens - text.rows
    assert len(np.unique(samples.sequence)) == len(reading.windows.length)
    assert len(np.unique(samples.document)) == 9
    alone = exact_alignments([samples], Head.of(checkpoint.model))
    assert alone.tasks[0].samples == len(samples.targets)


def test_options_that_make_no_sense() -> None:
    refused: list[tuple[Callable[[], SketchOptions], str]] = [
        (lambda: SketchOptions(m=1000), "power of two"),
        (lambda: SketchOptions(fisher="true", first_moment=True), "mean gradient is 0"),
        (lambda: SketchOptions(blocks=3), "power of two"),
        (lambda: SketchOptions(seed=-1), "seed -1"),
    ]
    for make, message in refused:
        with pytest.raises(UnembedError, match=message):
            make()
