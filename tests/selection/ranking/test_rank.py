"""Rankings: the values of alignments, and chances to be the best that keep their word."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from made_up.tasks import Task, exact_features, hashes, language_like, signed, spec_of
from reference.ranking import chances, joint_shares
from unembed.errors import UnembedError
from unembed.report.verdicts.ranking import sentence
from unembed.selection.ranking.chances import covariance, probabilities, together
from unembed.selection.ranking.rank import rank
from unembed.selection.ranking.records import Ranking
from unembed.selection.scores import SIGNATURE_SCORES
from unembed.signatures.alignment.align import align
from unembed.signatures.alignment.estimators import Kind
from unembed.signatures.batch_sums import accumulate
from unembed.signatures.file import export, load
from unembed.signatures.signature import Identity, Signature
from unembed.signatures.sketches.constructions import sketch_of
from unembed.signatures.sketches.sketch import SketchSpec
from unembed.signatures.state import empty

VOCAB, DIM, EXACT = 5, 4, 256
"""So that ``g gᵀ`` has 210 different numbers, all of which are kept of blocks."""
ALIGNED = {name: "first_moment" if name == "gradient" else name for name in SIGNATURE_SCORES[:-1]}


def small(n: int, seed: int, *, per_document: int = 1) -> Task:
    return language_like(n, seed, vocab=VOCAB, dim=DIM, tilt=0.4, per_document=per_document)


def exactly(name: str, task: Task, *, blocks: int = 32, first: bool = True) -> Signature:
    """A signature whose products are the kernels themselves."""
    spec = SketchSpec(VOCAB, DIM, m=EXACT)
    identity = Identity(spec, "sequence", "empirical", "head", "body", "tokenizer")
    given = exact_features(task, EXACT)
    state = accumulate(empty(EXACT, first=first, blocks=blocks), given, task.document)
    return Signature(name, identity, state, {})


def several(seed: int = 0, m: int = 512) -> list[Signature]:
    tasks = [language_like(240, s, tilt=t, per_document=4) for s, t in ((1, 0.1), (2, 0.1), (3, 1))]
    tasks.append(replace(language_like(240, 4, per_document=4), document=tasks[0].document))
    sketch = sketch_of(spec_of(tasks[0], m=m, seed=seed))
    return [signed(name, sketch, task) for name, task in zip("tabs", tasks, strict=True)]


def by_name(ranking: Ranking) -> dict[str, Any]:
    return {source.name: source for source in ranking.sources}


@pytest.mark.parametrize("debias", [True, False])
@pytest.mark.parametrize("by", ALIGNED)
def test_values_and_intervals_are_those_of_alignments(by: str, debias: bool) -> None:
    signatures = several()
    pairs = align(signatures, debias=debias).pairs(ALIGNED[by])
    assert pairs is not None
    found = rank(signatures[0], signatures[1:], by=by, debias=debias)
    assert (found.target, found.by, found.debiased) == ("t", by, debias)
    assert found.method == "complex_tensorsketch"
    scores = [source.value for source in found.sources]
    assert all(value is not None for value in scores)
    assert scores == sorted(scores, key=lambda x: -float(x or 0))
    for t, name in enumerate("abs", 1):
        source = by_name(found)[name]
        assert source.value == pytest.approx(pairs.value[0, t], rel=1e-12)
        assert source.low == pytest.approx(pairs.low[0, t], rel=1e-9)
        assert source.high == pytest.approx(pairs.high[0, t], rel=1e-9)
        assert (source.samples, source.documents) == (240, 60)
    assert sum(source.best or 0 for source in found.sources) == pytest.approx(1)
    assert Ranking.from_json(found.to_json()) == found


@pytest.mark.parametrize("documents", [1, 3])
def test_errors_go_together_as_deleted_blocks_say(documents: int) -> None:
    """Of exact features: what a block adds, from the kernels of every pair without it."""
    tasks = [small(n, seed, per_document=documents) for n, seed in ((48, 1), (60, 2), (66, 5))]
    kind = Kind.of([exactly(str(i), t, blocks=8).state for i, t in enumerate(tasks)], "joint", True)
    assert kind is not None
    apart = np.zeros((1, 3), dtype=bool)
    score = kind.cosines(slice(0, 1), apart)
    bare = replace(score, sketch=np.zeros_like(score.sketch))
    got = covariance(bare, 1.0, np.eye(3, dtype=bool))
    found = [joint_shares(tasks[0], task, 8) for task in tasks[1:]]
    for t, (value, shares) in enumerate(found, 1):
        assert score.value[0, t] == pytest.approx(value, rel=1e-6)
        variance = sum(x**2 for side in shares.values() for x in side)
        assert got[t, t] == pytest.approx(variance, rel=1e-5)
    both = zip(found[0][1]["target"], found[1][1]["target"], strict=True)
    assert got[1, 2] == pytest.approx(sum(x * y for x, y in both), rel=1e-5)
    related = np.eye(3, dtype=bool)
    related[1, 2] = related[2, 1] = True
    more = zip(found[0][1]["source"], found[1][1]["source"], strict=True)
    gained = covariance(bare, 1.0, related) - got
    assert gained[1, 2] == pytest.approx(sum(x * y for x, y in more), rel=1e-4)
    assert gained[1, 1] == 0
    with_sketch = covariance(score, 1.0, np.eye(3, dtype=bool)) - got
    want = sum(np.outer(group[0], group[0]) for group in score.sketch)
    np.testing.assert_allclose(with_sketch, want, atol=1e-12)


def test_documents_that_several_tasks_share_count_once_for_each_of_them() -> None:
    """Where nothing was lost together: what each document adds to one score, times the other."""
    rng = np.random.default_rng(0)
    shares = rng.normal(size=(2, 8, 4))
    shares[:, :, 0] = 0
    shared = np.eye(4, dtype=bool)
    for pair in ((0, 1), (0, 2), (1, 2)):
        shared[pair] = shared[pair[::-1]] = True
    got = together(shares.reshape(16, 4), shares.reshape(16, 4), shared)
    target, own = shares
    for j in range(1, 4):
        for k in range(1, 4):
            want = 0.0
            for b in range(8):
                for mine, t in ((target[b, j], 0), (own[b, j], j)):
                    for theirs, u in ((target[b, k], 0), (own[b, k], k)):
                        want += mine * theirs * shared[t, u]
            assert got[j, k] == pytest.approx(want)


def test_the_sketch_errs_alike_for_all_sources() -> None:
    """The same samples, 48 seeds: differences of scores vary as paired errors say, not more."""
    found, told = [], []
    tasks = [language_like(60, s, tilt=t) for s, t in ((1, 0.1), (2, 0.1), (3, 1))]
    for seed in range(48):
        sketch = sketch_of(spec_of(tasks[0], m=512, seed=seed))
        states = [signed("", sketch, task, blocks=0).state for task in tasks]
        kind = Kind.of(states, "joint", True)
        assert kind is not None
        score = kind.cosines(slice(0, 1), np.zeros((1, 3), dtype=bool))
        found.append(score.value[0, 1:])
        shares = score.sketch[:, 0, 1:]
        told.append(shares.T @ shares)
    seen = np.cov(np.array(found).T)
    mean = np.mean(told, 0)
    difference = np.array([1, -1])
    ratio = math.sqrt(difference @ mean @ difference / (difference @ seen @ difference))
    assert 0.75 < ratio < 1.35, ratio
    assert mean[0, 1] > 0.1 * math.sqrt(mean[0, 0] * mean[1, 1])


def test_chances_are_those_of_draws_one_by_one() -> None:
    value = np.array([0.2, 0.26, 0.1, 0.24])
    root = np.random.default_rng(0).normal(size=(4, 4)) * 0.03
    errors = root @ root.T
    got = probabilities(value, errors)
    np.testing.assert_allclose(got, chances(value.tolist(), errors, 20_000, 1), atol=0.015)
    assert got.sum() == pytest.approx(1)
    np.testing.assert_array_equal(got, probabilities(value, errors))
    order = [2, 0, 3, 1]
    again = probabilities(value[order], errors[np.ix_(order, order)])
    np.testing.assert_allclose(again, got[order], atol=0.015)
    with pytest.raises(ValueError, match="not known"):
        probabilities(np.array([0.1, np.nan]), errors[:2, :2])


def test_what_two_scores_have_in_common_does_not_set_them_apart() -> None:
    pair = np.array([[1.0, 0.98], [0.98, 1.0]]) * 0.01
    near = probabilities(np.array([0.5, 0.4]), pair)[0]
    alone = probabilities(np.array([0.5, 0.4]), np.diag(np.diag(pair)))[0]
    assert near > 0.99
    assert alone == pytest.approx(0.5 * (1 + math.erf(0.5)), abs=0.01)


def test_ties_are_shared() -> None:
    value = np.array([0.4, 0.4, 0.1])
    np.testing.assert_array_equal(probabilities(value, np.zeros((3, 3))), [0.5, 0.5, 0])
    same = np.full((3, 3), 0.01)
    np.testing.assert_allclose(probabilities(value, same), [0.5, 0.5, 0], atol=1e-9)
    first, *others = several()
    found = rank(first, [others[0], replace(others[0], name="again"), others[1]])
    chance = by_name(found)
    assert chance["a"].best == pytest.approx(chance["again"].best, abs=1e-12)
    assert chance["a"].value == chance["again"].value
    itself = rank(first, [others[0], replace(first, name="copy")])
    assert itself.sources[0].name == "copy"
    assert (itself.sources[0].best or 0) > 0.95


def test_noise_that_is_no_covariance_keeps_its_variances() -> None:
    """Three scores cannot each err against both others; -1/2 is the most that they can."""
    away = np.ones((3, 3)) - np.eye(3)
    wrong, right = 1e-4 * (np.eye(3) - 0.9 * away), 1e-4 * (np.eye(3) - 0.5 * away)
    value = np.array([0.5, 0.48, 0.3])
    np.testing.assert_allclose(probabilities(value, wrong), probabilities(value, right), atol=0.01)


@dataclass(frozen=True)
class Population:
    """A task's documents, to be drawn from: hidden states around a centre, and labels by habit."""

    head: np.ndarray
    centre: np.ndarray
    habit: np.ndarray

    def drawn(self, documents: int, seed: int) -> Task:
        """Five samples a document."""
        rng = np.random.default_rng(seed)
        dim, n = len(self.centre), 5 * documents
        topic = np.repeat(rng.normal(size=(documents, dim)), 5, 0)
        a = self.centre + 0.5 * (topic + rng.normal(size=(n, dim)))
        p = np.exp(a @ self.head.T)
        p /= p.sum(1, keepdims=True)
        q = p * self.habit / (p * self.habit).sum(1, keepdims=True)
        p[np.arange(n), (q.cumsum(1) > rng.random((n, 1))).argmax(1)] -= 1
        document = np.repeat(hashes(documents, seed), 5)
        return Task(torch.tensor(p).float(), torch.tensor(a).float(), document)

    def truth(self, seed: int) -> dict[str, np.ndarray]:
        """The Fisher and the mean gradient of many samples."""
        task = self.drawn(800, seed)
        g = (task.error[:, :, None] * task.activation[:, None]).flatten(1)
        return {"joint": (g.T @ g).flatten().numpy(), "gradient": g.sum(0).numpy()}


@pytest.mark.slow
def test_chances_keep_their_word() -> None:
    """Known populations, tasks drawn from them: what is told 80 % is the best in about as many."""
    told, true = [], []
    for problem in range(20):
        rng = np.random.default_rng([problem, 5])
        head, base, away = rng.normal(size=(20, 6)) * 0.6, rng.normal(size=6), rng.normal(size=6)
        worlds = [
            Population(head, base + near, np.exp(0.7 * rng.normal(size=20)))
            for near in (away, *(away / 2 + 0.5 * rng.normal(size=(5, 6))))
        ]
        means = [world.truth(problem * 100 + i) for i, world in enumerate(worlds)]
        tasks = [world.drawn(30, problem * 100 + 50 + i) for i, world in enumerate(worlds)]
        sketch = sketch_of(spec_of(tasks[0], m=512, seed=problem))
        target, *sources = (signed(str(i), sketch, task) for i, task in enumerate(tasks))
        for by in ("joint", "gradient"):
            cosines = [means[0][by] @ x[by] / np.linalg.norm(x[by]) for x in means[1:]]
            for source in rank(target, sources, by=by).sources:
                if source.best is not None:
                    told.append(source.best)
                    true.append(source.name == str(1 + int(np.argmax(cosines))))
    chance, hit = np.array(told), np.array(true, dtype=float)
    assert len(told) > 160
    for low, high in ((0.0, 0.1), (0.1, 0.5), (0.5, 1.01)):
        inside = (chance >= low) & (chance < high)
        spread = math.sqrt(float((chance * (1 - chance))[inside].sum())) / inside.sum()
        off = hit[inside].mean() - chance[inside].mean()
        assert abs(off) < 3 * spread, (low, off, spread)
    assert np.square(chance - hit).mean() < 0.1


def test_a_step_is_what_the_loss_falls_by() -> None:
    rng = np.random.default_rng(1)
    head = rng.normal(size=(VOCAB, DIM))

    def told(seed: int) -> tuple[Task, np.ndarray]:
        a, y = rng.normal(size=(40, DIM)) + 0.5, rng.integers(VOCAB, size=40)
        p = np.exp(a @ head.T)
        p /= p.sum(1, keepdims=True)
        p[np.arange(40), y] -= 1
        return Task(torch.tensor(p), torch.tensor(a), hashes(40, seed)), y

    def loss(weight: np.ndarray, task: Task, y: np.ndarray) -> float:
        logits = task.activation.numpy() @ weight.T
        chosen = logits[np.arange(len(y)), y]
        return float((np.log(np.exp(logits).sum(1)) - chosen).mean())

    target, answers = told(1)
    sources = [told(seed)[0] for seed in (2, 3)]
    found = rank(
        exactly("t", target), [exactly(str(i), task) for i, task in enumerate(sources)], by="step"
    )
    for i, task in enumerate(sources):
        gradient = (task.error.T @ task.activation / 40).numpy()
        rate = 1e-4
        after, before = (loss(head + step * gradient, target, answers) for step in (-rate, rate))
        source = by_name(found)[str(i)]
        assert source.value == pytest.approx((before - after) / (2 * rate), rel=1e-3)
        assert source.low < source.value < source.high
    shared = replace(sources[0], document=target.document)
    across = rank(exactly("t", target), [exactly("s", shared)], by="step").sources[0]
    folds = [
        (target.document & np.uint64(1)).astype(int),
        (shared.document & np.uint64(1)).astype(int),
    ]

    def mean(task: Task, fold: np.ndarray, k: int) -> np.ndarray:
        at = torch.from_numpy(np.flatnonzero(fold == k))
        found: np.ndarray = (task.error[at].T @ task.activation[at] / len(at)).numpy()
        return found

    products = [
        float((mean(target, folds[0], k) * mean(shared, folds[1], 1 - k)).sum()) for k in (0, 1)
    ]
    assert across.value == pytest.approx(sum(products) / 2, rel=1e-5)
    assert across.low is not None


def test_sources_without_a_score_go_last() -> None:
    target, good, *_ = several()
    usual = language_like(240, 1, per_document=4)
    sketch = sketch_of(spec_of(usual, m=512))
    lone = replace(usual, document=np.full(240, 8, dtype=np.uint64))
    rng = np.random.default_rng(1)
    noise = Task(
        torch.tensor(rng.normal(size=(12, 60))).float(),
        torch.tensor(rng.normal(size=(12, 12))).float(),
        hashes(12, 3),
    )
    bad = [signed("lone", sketch, lone), signed("noise", sketch, noise)]
    found = rank(target, [*bad, good])
    assert [source.name for source in found.sources] == ["a", "lone", "noise"]
    assert [source.best for source in found.sources] == [1, None, None]
    assert "is the only source with a score for t" in sentence(found)
    assert " 0 %" not in str(found)
    for source in found.sources[1:]:
        assert source.status.endswith("; sketch more documents of it, or rank with --no-debias")
    assert found.sources[1].value is None
    assert found.sources[1].low is None
    assert found.sources[1].status.startswith("too few documents: 1")
    assert found.sources[2].status.startswith("too few samples")
    nothing = rank(replace(bad[0], name="target"), [good])
    assert nothing.status.startswith("too few documents")
    assert nothing.sources[0].value is None
    assert nothing.sources[0].best is None
    assert "too few documents: 1" in nothing.sources[0].status
    assert "more documents of the target" in nothing.sources[0].status


def test_one_source_is_the_best() -> None:
    target, source, *_ = several()
    assert rank(target, [source]).sources[0].best == 1


def test_signatures_without_blocks_have_scores_alone(tmp_path: Path) -> None:
    target, *sources = several()
    compact = load(export(sources[0], tmp_path / "compact"))
    found = rank(target, [replace(compact, name="compact"), sources[1]])
    both = align([target, compact, sources[1]])
    first = by_name(found)["compact"]
    assert first.value == pytest.approx(both.joint.value[0, 1], rel=1e-6)
    assert (first.low, first.high, first.best) == (None, None, None)
    assert first.status == "ok, but no interval: no blocks of documents are kept"
    assert by_name(found)["b"].best is None
    assert "not all signatures keep" in found.status
    assert rank(target, [compact]).sources[0].best == 1
    # A task whose documents are all of one block has none either; the others keep theirs.
    task = language_like(240, 5, per_document=60)
    document = np.repeat(np.array([0, 1, 1 << 40, (1 << 40) + 1], dtype=np.uint64), 60)
    few = signed("few", sketch_of(spec_of(task, m=512)), replace(task, document=document))
    mixed = rank(target, [few, *sources[:2]])
    assert by_name(mixed)["few"].best is None
    assert by_name(mixed)["few"].status == "ok, but no interval: too few documents, 4"
    assert sum(by_name(mixed)[name].best for name in "ab") == pytest.approx(1)


def test_what_cannot_be_ranked(tmp_path: Path) -> None:
    target, *sources = several()
    with pytest.raises(UnembedError, match=r"'coupling' .*joint, activation"):
        rank(target, sources, by="coupling")
    with pytest.raises(UnembedError, match=r"no sources .* t"):
        rank(target, [])
    with pytest.raises(UnembedError, match="two signatures are named 't'"):
        rank(target, [target])
    with pytest.raises(UnembedError, match="a task is named ''"):
        rank(target, [replace(sources[0], name="")])
    other = replace(sources[0].identity, head_digest="another")
    with pytest.raises(UnembedError, match="t has head digest head and a head digest another"):
        rank(target, [replace(sources[0], identity=other)])
    plain = replace(sources[0], state=replace(sources[0].state, first=None))
    for by in ("gradient", "step"):
        with pytest.raises(UnembedError, match=rf"a keeps nothing .* by {by}: .* --first-moment"):
            rank(target, [plain], by=by)
    assert rank(target, [plain]).sources[0].value is not None
    compact = load(export(sources[0], tmp_path / "compact"))
    with pytest.raises(UnembedError, match="whole signature"):
        rank(target, [compact], by="proxy")
