"""Two runs of layers over one text: what is paired, what is refused, what the audits say too."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unembed.decisions.layers.layers as module
from made_up.corpora import TEXTS
from made_up.layers import made_stack, make_layers_comparison
from unembed import Corpus, audit, compare, layers
from unembed.decisions import (
    AuditOptions,
    Layers,
    LayersComparison,
    LayersOptions,
    PositionFilter,
    compare_layers,
)
from unembed.decisions.layers.compare import paired
from unembed.decisions.layers.depth_changes import MEASURES
from unembed.errors import UnembedError

READING = {"context": 24, "batch_tokens": 256, "part_positions": 300}
OPTIONS = LayersOptions(lenses=("normed", "raw"), top_k=3, cloud_points=0, **READING)
SOME = [f"{text} {word}." for text in TEXTS for word in ("again", "and more of it", "no")]
HOW = {"resamples": 40}


@pytest.fixture(scope="module", autouse=True)
def few_resamples() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LAYERS_RESAMPLES", 40)
        yield


@pytest.fixture(scope="module")
def corpus(tokenizer: Any) -> Corpus:
    return Corpus.from_texts(SOME, tokenizer)


@pytest.fixture(scope="module")
def changed(llama: Any) -> Any:
    """The model with noise in the weights of its last block alone."""
    other = copy.deepcopy(llama)
    with torch.no_grad():
        for weight in other.model.layers[-1].parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.manual_seed(0)))
    return other


@pytest.fixture(scope="module")
def before(llama: Any, corpus: Corpus) -> Layers:
    return layers(llama, corpus, OPTIONS)


@pytest.fixture(scope="module")
def after(changed: Any, corpus: Corpus) -> Layers:
    return layers(changed, corpus, OPTIONS)


@pytest.fixture(scope="module")
def found(before: Layers, after: Layers) -> LayersComparison:
    return compare_layers(before, after, **HOW)


def refused(before: Layers, after: Layers) -> str:
    with pytest.raises(UnembedError) as error:
        compare_layers(before, after, **HOW)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_change_of_the_last_block_shows_at_the_last_depth_alone(found: LayersComparison) -> None:
    assert [one.lens for one in found.lenses] == ["normed", "raw"]
    for lens in found.lenses:
        *early, last = lens.by_depth
        for row in early:
            assert (row.changed.value, row.changed.high) == (0.0, 0.0)
            for name in ("accuracy", "nll_nats", "margin", "relative_distance"):
                assert getattr(row, name).difference.value == 0.0
            assert row.kl_nats.difference.value != 0.0
        assert last.changed.value > 0
        assert lens.most == (found.blocks,)
    own = found.own.by_depth[-1]
    assert own.agreement.before.value == own.agreement.after.value == 1
    assert own.parted.value == 1


def test_the_last_depth_is_what_two_audits_say(
    llama: Any, changed: Any, corpus: Corpus, found: LayersComparison
) -> None:
    options = AuditOptions(top_k=3, **READING)
    audits = compare(audit(llama, corpus, options), audit(changed, corpus, options), **HOW)
    last, flips = found.own.by_depth[-1], audits.summary.flips
    assert last.changed.value == pytest.approx(flips.churn.value)
    assert last.accuracy.difference.value == pytest.approx(flips.accuracy_difference.value)
    assert last.nll_nats.difference.value == pytest.approx(
        audits.summary.calibration.nll_difference_nats.value, abs=1e-6
    )
    assert found.n_positions == audits.summary.n_positions


def test_a_run_and_itself_differ_by_nothing_anywhere(before: Layers) -> None:
    same = compare(before, before, **HOW)
    assert isinstance(same, LayersComparison)
    assert same.notes == ()
    for lens in same.lenses:
        for row in lens.by_depth:
            for one in (row.changed, *(getattr(row, name).difference for name in MEASURES)):
                assert (one.value, one.low, one.high) == (0.0, 0.0, 0.0)
    settled = same.settling.everywhere
    for one in (settled.mean.difference, settled.earlier, settled.later):
        assert (one.value, one.low, one.high) == (0.0, 0.0, 0.0)


def test_a_comparison_is_kept_and_opened_again(
    before: Layers, after: Layers, found: LayersComparison, tmp_path: Path
) -> None:
    kept = compare(before, after, out=tmp_path / "run", command="unembed compare a b", **HOW)
    assert kept == found
    assert LayersComparison.load(tmp_path / "run") == found
    names = kept.to_arrow()["name"].to_pylist()
    assert "settling.everywhere.mean.difference" in names
    assert any(name.endswith("changed") for name in names)


def test_an_audit_and_a_run_of_layers_are_refused(
    llama: Any, corpus: Corpus, before: Layers
) -> None:
    one = audit(llama, corpus, AuditOptions(**READING))
    for pair in ((before, one), (one, before)):
        with pytest.raises(UnembedError, match="one side is a run of layers and the other none"):
            compare(*pair)
    with pytest.raises(UnembedError, match="divergence, readings and only are of audits"):
        compare(before, before, only=PositionFilter(bands=("0-1",)))  # type: ignore[call-overload]


def test_other_texts_windows_and_depths_are_refused(
    llama: Any, tokenizer: Any, corpus: Corpus, before: Layers
) -> None:
    text = Corpus.from_texts([*SOME[:-1], SOME[-1] + " else"], tokenizer)
    assert "the texts differ" in refused(before, layers(llama, text, OPTIONS))
    shorter = layers(llama, corpus, replace(OPTIONS, context=16))
    assert "the runs cut one text differently: context 24" in refused(before, shorter)
    fewer = layers(llama, corpus, replace(OPTIONS, depths=(0,)))
    assert "the runs are of other depths, 0,1,2 before and 0,2 after" in refused(before, fewer)


def test_other_models_are_refused_by_blocks_and_tokenizer(before: Layers) -> None:
    made = before.provenance
    deeper = replace(before, provenance=replace(made, options=made.options | {"blocks": 9}))
    assert "2 blocks before and 9 after" in refused(before, deeper)
    text = replace(made.text, tokenizer="Other(7)")
    assert "the tokenizers differ" in refused(
        before, replace(before, provenance=replace(made, text=text))
    )


def test_a_lens_that_one_run_lacks_is_named(before: Layers, llama: Any, corpus: Corpus) -> None:
    alone = layers(llama, corpus, replace(OPTIONS, lenses=("normed",)))
    found = compare_layers(before, alone, **HOW)
    assert [one.lens for one in found.lenses] == ["normed"]
    reasons = {one.lens: one.reason for one in found.not_compared}
    assert reasons["raw"] == "not measured after: it was not asked for"
    with pytest.raises(UnembedError, match="the raw lens was not compared"):
        found.lens("raw")
    assert "raw lens" in str(found)


def test_stacks_are_paired_on_what_both_hold() -> None:
    stack = made_stack(6)
    keep = np.arange(stack.n)
    one, two = paired(stack.rows(keep % 5 != 0), stack.rows(keep % 3 != 0))
    both = stack.rows((keep % 5 != 0) & (keep % 3 != 0))
    for name, column in both.columns().items():
        assert np.array_equal(getattr(one, name), column)
        assert np.array_equal(getattr(two, name), column)
    with pytest.raises(UnembedError, match="one text but other tokens: position"):
        paired(stack, replace(stack, target=stack.target + 1))


def test_the_terminal_says_what_was_left_out_and_not_compared() -> None:
    words = str(make_layers_comparison())
    assert "2 positions, not finite at some depth" in words
    assert "not compared: not measured after" in words
    assert "the model's dtype differs" in words
