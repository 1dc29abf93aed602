"""A decision before and after a change and over the depths: drawn from runs, checked, refused."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch

import unembed.decisions.layers.layers as module
from made_up.corpora import TEXTS
from unembed import Comparison, Corpus, audit, compare, layers
from unembed.decisions import AuditOptions, Layers, LayersOptions
from unembed.decisions.slices.cells import depth_in
from unembed.decisions.slices.moves import move_at, path_at
from unembed.decisions.slices.slice import Cell, Mark
from unembed.errors import UnembedError
from unembed.models.checkpoint import Checkpoint

READ = {"context": 24, "batch_tokens": 64, "part_positions": 120}


@pytest.fixture(scope="module", autouse=True)
def few_resamples() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LAYERS_RESAMPLES", 40)
        yield


@pytest.fixture(scope="module")
def corpus(tokenizer: Any) -> Corpus:
    return Corpus.from_texts(TEXTS, tokenizer)


@pytest.fixture(scope="module")
def before(llama: Any, tokenizer: Any) -> Checkpoint:
    return Checkpoint("before", llama, tokenizer, None)


@pytest.fixture(scope="module")
def after(llama: Any, tokenizer: Any) -> Checkpoint:
    """Another body and another head."""
    other, generator = deepcopy(llama), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return Checkpoint("after", other, tokenizer, None)


@pytest.fixture(scope="module")
def changed(before: Checkpoint, after: Checkpoint, corpus: Corpus) -> Comparison:
    sides = (audit(one.model, corpus, AuditOptions(**READ)) for one in (before, after))
    return compare(*sides, resamples=40)


@pytest.fixture(scope="module")
def formed(llama: Any, corpus: Corpus) -> Layers:
    return layers(llama, corpus, LayersOptions(**READ, cloud_points=0, lenses=("normed",)))


def owner_at(cells: tuple[Cell, ...], mark: Mark) -> int:
    """Whose cell holds a state's point."""
    return max(cells, key=lambda one: depth_in(np.array(one.corners), mark.x, mark.y)).token


def test_each_state_lies_in_the_cell_of_its_own_decision(
    changed: Comparison, before: Checkpoint, after: Checkpoint, corpus: Corpus
) -> None:
    rows = changed.table.to_pylist()
    flipped = [row for row in rows if row["before_top1"] != row["after_top1"]]
    kept = [row for row in rows if row["before_top1"] == row["after_top1"]]
    assert flipped
    assert kept
    for row in (flipped[0], flipped[-1], kept[0]):
        found = move_at(changed, (row["doc"], row["pos"]), before, after, corpus)
        one = found.slice
        assert one.remarks == ()
        assert one.certificate.holds
        assert one.later_certificate is not None
        assert one.later_certificate.holds
        assert owner_at(one.cells, one.marks[0]) == one.marks[0].token == row["before_top1"]
        assert owner_at(one.later_cells, one.marks[1]) == one.marks[1].token == row["after_top1"]
        assert (found.margin, found.target) == (row["before_margin"], row["target"])
        assert one.margin == pytest.approx(row["before_margin"], abs=1e-4)


def test_a_flip_is_drawn_by_its_number_or_itself(
    changed: Comparison, before: Checkpoint, after: Checkpoint, corpus: Corpus
) -> None:
    flip = changed.flips(3)[2]
    given = before, after, corpus
    found = move_at(changed, 2, *given)
    assert (found.document, found.position, found.context) == (
        *(flip.document, flip.position),
        flip.context,
    )
    assert move_at(changed, flip, *given) == found
    assert [mark.text for mark in found.slice.marks] == [flip.before, flip.after]
    title = repr(changed.plot.slice(2, *given).to_dict()["title"])
    assert f"“{flip.before}” → “{flip.after}”".replace(" ", "·") in title.replace(" ", "·")


def test_the_last_state_of_the_path_lies_in_the_cell_of_the_decision(
    formed: Layers, before: Checkpoint, corpus: Corpus
) -> None:
    last = formed.table("normed", formed.blocks).to_pylist()
    by_depth = [formed.table("normed", depth)["top1"].to_pylist() for depth in formed.depths]
    for at in (0, 17, len(last) - 1):
        found = path_at(formed, (last[at]["doc"], last[at]["pos"]), before, corpus)
        one = found.slice
        assert one.remarks == ()
        assert one.certificate.holds
        assert (one.marks[0].label, one.marks[0].beside) == (f"h{formed.blocks}", 0)
        assert owner_at(one.cells, one.marks[0]) == one.marks[0].token == last[at]["top1"]
        assert one.margin == pytest.approx(last[at]["margin"], abs=1e-4)
        decided = {mark.label: mark.token for mark in one.marks}
        assert decided == {
            f"h{depth}": tops[at] for depth, tops in zip(formed.depths, by_depth, strict=True)
        }
        assert (found.target, found.margin) == (last[at]["target"], last[at]["margin"])


def test_what_is_not_there_is_refused_in_one_line(
    changed: Comparison,
    formed: Layers,
    before: Checkpoint,
    after: Checkpoint,
    corpus: Corpus,
    tokenizer: Any,
) -> None:
    less = Corpus.from_texts(TEXTS[:2], tokenizer)
    given = before, after, corpus
    refused = {
        "position -1 is none of this comparison's flips": (changed, -1, *given),
        "position 99999 is none of this comparison's flips": (changed, 99999, *given),
        "document 'no' is none of this comparison's": (changed, ("no", 0), *given),
        r"this comparison has no position 9999 in document 0 .*: it has 0 to": (
            *(changed, (0, 9999)),
            *given,
        ),
        "after is not the audited model .* the audit before has": (
            changed,
            0,
            after,
            after,
            corpus,
        ),
        "before is not the audited model .* the audit after has": (
            *(changed, 0),
            *(before, before, corpus),
        ),
        "the text is not the audited one .* the audit before has": (
            changed,
            0,
            before,
            after,
            less,
        ),
        "document 99 is none of this run's": (formed, (99, 0), before, corpus),
        r"this run has no position 9999 in document 0": (formed, (0, 9999), before, corpus),
        "after is not the measured model": (formed, (0, 0), after, corpus),
        "the text is not the measured one": (formed, (0, 0), before, less),
    }
    for words, (record, *asked) in refused.items():
        with pytest.raises(UnembedError, match=words) as told:
            record.plot.slice(*asked)
        assert "\n" not in str(told.value)
