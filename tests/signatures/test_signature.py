"""Signatures: sums that merge, subtract and re-weight, and who may be compared with whom."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from made_up.tasks import Task, chosen, features, hashes, language_like, signed, spec_of
from unembed.errors import UnembedError
from unembed.signatures.batch_sums import accumulate, batch_sums, whole_state
from unembed.signatures.signature import Identity, Signature, merge, mismatch, scaled, subtract
from unembed.signatures.sketches.constructions import sketch_of
from unembed.signatures.sketches.names import CONSTRUCTIONS
from unembed.signatures.sketches.sketch import SketchSpec
from unembed.signatures.state import SUMMED, Features, State, empty
from unembed.signatures.sums import HASHES, kept

M = 512
TASK = language_like(90, 3, per_document=3)
SKETCH = sketch_of(spec_of(TASK, m=M))
IDENTITY = Identity(SKETCH.spec, "token", "empirical", "head", "body", "tokenizer")


def part(task: Task, rows: slice) -> Task:
    return Task(task.error[rows], task.activation[rows], task.document[rows])


def close(a: State, b: State, tolerance: float = 1e-12) -> None:
    """Every number of two states, as shares of the largest of its array."""
    for name in SUMMED:
        x, y = a.sums(name), b.sums(name)
        assert (x is None) == (y is None)
        if x is not None and y is not None:
            for field in ("total", "own", "blocks"):
                p, q = getattr(x, field), getattr(y, field)
                assert np.abs(p - q).max(initial=0) <= tolerance * np.abs(q).max(initial=1e-300)
    for field in ("weight", "weight_squared", "document_weight_squared", "block_weight"):
        np.testing.assert_allclose(getattr(a, field), getattr(b, field), rtol=tolerance)
    assert a.trace == pytest.approx(b.trace, rel=1e-7)  # a sum of float32
    assert a.documents == b.documents


def test_sums_are_those_of_loops() -> None:
    given = features(SKETCH, TASK)
    state = accumulate(empty(M, first=True), given, TASK.document)
    for name in SUMMED:
        rows = getattr(given, name).double().numpy()
        total, own, blocks = np.zeros((2, M)), np.zeros(2), np.zeros((32, 256))
        whole: dict[int, np.ndarray] = {}
        for row, document in zip(rows, TASK.document.tolist(), strict=True):
            total[document % 2] += row
            whole[document] = whole.get(document, 0) + row
            blocks[document // 2 % 32] += np.concatenate([row[:128], row[M // 2 : M // 2 + 128]])
        for document, psi in whole.items():
            own[document % 2] += (psi @ psi) / M
        sums = state.sums(name)
        assert sums is not None
        for got, want in ((sums.total, total), (sums.own, own), (sums.blocks, blocks)):
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-11 * np.abs(want).max())
        np.testing.assert_allclose(state.mean(name), rows.mean(0), rtol=0, atol=1e-10)
    assert (state.weight == state.weight_squared).all()
    assert (3 * state.weight == state.document_weight_squared).all()
    assert state.weight.sum() == state.block_weight.sum() == state.samples == 90
    assert state.documents == 30
    assert state.hashes.tolist() == sorted(set(TASK.document.tolist()))


def test_the_state_is_what_the_specification_says() -> None:
    state = empty(4096, blocks=0)
    kinds = (state.joint, state.activation, state.error)
    assert sum(sums.total.nbytes for sums in kinds if sums is not None) == 196_608


def test_any_split_and_order_is_one_pass() -> None:
    whole = accumulate(empty(M, first=True), features(SKETCH, TASK), TASK.document)
    rng = np.random.default_rng(0)
    for _ in range(5):
        cuts = sorted(set((3 * rng.integers(0, 31, 4)).tolist()) | {0, 90})
        pieces = [slice(a, b) for a, b in itertools.pairwise(cuts)]
        rng.shuffle(pieces)  # type: ignore[arg-type]
        streamed, merged = empty(M, first=True), []
        for rows in pieces:
            one = part(TASK, rows)
            streamed = accumulate(streamed, features(SKETCH, one), one.document)
            merged.append(signed("batch_sums", SKETCH, one))
        close(streamed, whole)
        while len(merged) > 1:
            a, b = (merged.pop(int(rng.integers(len(merged)))) for _ in range(2))
            merged.append(merge(a, b))
        close(merged[0].state, whole)
        assert merged[0].state.hashes.tolist() == whole.hashes.tolist()


def test_documents_that_batches_cut_are_put_together() -> None:
    """In any order, with samples of one document anywhere, some documents whole in one batch."""
    task = language_like(400, 3, per_document=100)
    task = replace(task, document=np.concatenate([task.document[:200], hashes(200, 5)]))
    given = features(SKETCH, task)
    like = empty(M, first=True)
    want = accumulate(like, given, task.document)
    rng = np.random.default_rng(1)
    for _ in range(3):
        order = rng.permutation(400)
        pieces = []
        for rows in np.split(order, np.sort(rng.integers(0, 401, 5))):
            count = np.array([np.sum(task.document == d) for d in task.document[rows]])
            here = np.array([np.sum(task.document[rows] == d) for d in task.document[rows]])
            whole = (here == count).astype(bool)
            pieces.append(batch_sums(like, chosen(given, rows), task.document[rows], whole))
        assert sum(len(one.hashes) for one in pieces) <= 2 * len(pieces)
        close(whole_state(pieces), want)
    with_none = batch_sums(like, chosen(given, order[:0]), task.document[:0])
    close(whole_state([*pieces, with_none]), want)


def test_subtract_undoes_merge() -> None:
    a, b = (
        signed("a", SKETCH, part(TASK, slice(0, 60))),
        signed("b", SKETCH, part(TASK, slice(60, 90))),
    )
    back = subtract(merge(a, b), b)
    close(back.state, a.state, 1e-11)
    assert back.state.hashes.tolist() == a.state.hashes.tolist()
    with pytest.raises(UnembedError, match=r"60 samples of 20 .* from 30 of 10: subtract only"):
        subtract(b, a)


def test_a_scaled_signature_is_one_of_repeated_samples_but_for_pairs_with_itself() -> None:
    a, b = (
        signed("a", SKETCH, part(TASK, slice(0, 60))),
        signed("b", SKETCH, part(TASK, slice(60, 90))),
    )
    mixed = merge(a, scaled(b, 2.5)).state
    ours, theirs = a.state, b.state
    np.testing.assert_allclose(mixed.joint.total, ours.joint.total + 2.5 * theirs.joint.total)
    np.testing.assert_allclose(mixed.joint.own, ours.joint.own + 6.25 * theirs.joint.own)
    assert mixed.weight.sum() == 60 + 75
    assert mixed.samples == pytest.approx(135**2 / (60 + 30 * 6.25))
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UnembedError, match="must be positive"):
            scaled(b, weight)


def test_documents_decide_fold_and_block_and_rows_of_one_are_together() -> None:
    state = accumulate(empty(M), features(SKETCH, part(TASK, slice(0, 3))), TASK.document[:3])
    assert sorted(state.weight.tolist()) == [0, 3]
    assert sorted(state.block_weight.tolist())[-2:] == [0, 3]


def test_the_smallest_hashes_are_kept() -> None:
    many = hashes(500)
    rows = torch.zeros(500, M)
    given = Features(rows, rows, rows)
    state = accumulate(empty(M), given, many)
    assert state.hashes.tolist() == sorted(many.tolist())[:HASHES]
    assert state.documents == 500
    signed_hashes = many.astype(np.int64)
    assert accumulate(empty(M), given, signed_hashes).hashes.tolist() == state.hashes.tolist()


def test_a_document_cut_by_batches_is_counted_as_told() -> None:
    rows = torch.zeros(2, M)
    given, state = Features(rows, rows, rows), empty(M)
    for begun in (1, 0):
        state = accumulate(state, given, np.array([8, 8]), documents=begun)
    assert (state.documents, state.samples) == (1, 4)


def test_what_is_not_finite_is_refused() -> None:
    given = features(SKETCH, TASK)
    broken = given.error.clone()
    broken[[4, 7], 3] = float("nan")
    with pytest.raises(UnembedError, match="2 of 90 rows of error"):
        accumulate(empty(M), replace(given, error=broken), TASK.document)
    with pytest.raises(UnembedError, match="keeps 'first' features"):
        accumulate(empty(M, first=True), replace(given, first=None), TASK.document)
    with pytest.raises(UnembedError, match="blocks is 33"):
        empty(M, blocks=33)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (
            replace(IDENTITY, spec=replace(SKETCH.spec, seed=2)),
            "a has seed 0 and b seed 2: .*--seed",
        ),
        (replace(IDENTITY, spec=replace(SKETCH.spec, m=1024)), "a has m 512 and b m 1024: "),
        (replace(IDENTITY, spec=replace(SKETCH.spec, vocab=61)), "a has vocab 60 and b vocab 61"),
        (
            replace(IDENTITY, spec=replace(SKETCH.spec, construction="srht")),
            "complex_tensorsketch and b",
        ),
        (replace(IDENTITY, unit="sequence"), "a has unit token and b unit sequence"),
        (replace(IDENTITY, fisher="true"), "a has fisher empirical and b fisher true"),
        (replace(IDENTITY, head_digest="h2"), "a has head digest head and b head digest h2"),
        (replace(IDENTITY, model_digest="b2"), "a has model digest body and b model digest b2"),
        (replace(IDENTITY, tokenizer="t2"), "a has tokenizer tokenizer and b tokenizer t2"),
        (replace(IDENTITY, support="yes/no"), "a has support of all tokens and b support yes/no"),
    ],
)
def test_what_does_not_compare_is_refused_with_both_values(other: Identity, words: str) -> None:
    a = signed("a", SKETCH, TASK)
    b = Signature("b", other, a.state, {})
    for verb in (merge, subtract):
        with pytest.raises(UnembedError, match=words):
            verb(a, b)
    assert mismatch(IDENTITY, IDENTITY) is None
    assert "\n" not in str(mismatch(IDENTITY, other))


def test_what_was_kept_must_agree_too() -> None:
    a, b = signed("a", SKETCH, TASK), signed("b", SKETCH, TASK, blocks=0)
    with pytest.raises(UnembedError, match=r"a keeps joint, .* and 32 blocks, and b .* 0 blocks"):
        merge(a, b)


def test_facts_that_differ_are_joined() -> None:
    a, b = (replace(signed("a", SKETCH, TASK), facts=f) for f in ({"model": "x", "text": "1"},) * 2)
    assert merge(a, b).facts == {"model": "x", "text": "1"}
    assert merge(a, replace(b, facts={"text": "2"})).facts == {"model": "x", "text": "1; 2"}
    assert merge(a, replace(b, facts={"text": "2" * 500})).facts["text"] == "several"


@pytest.mark.parametrize("construction", CONSTRUCTIONS)
def test_a_number_and_the_one_half_further_are_a_feature_of_their_own(
    construction: str,
) -> None:
    """What the groups and blocks of features rest on, in every construction."""
    m = 64
    sketch = sketch_of(SketchSpec(9, 5, construction, m))
    touched = sketch.unpack(torch.eye(m, dtype=torch.float64)) != 0
    touched = touched[: m // 2] | touched[m // 2 :]
    assert (touched.sum(0) == 1).all(), "no feature has parts elsewhere"
    assert kept(torch.arange(1024)[None].float()).tolist()[0] == [*range(128), *range(512, 640)]
