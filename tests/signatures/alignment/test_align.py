"""Alignments from signatures: against every pair of samples, without bias, with honest errors."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from made_up.tasks import (
    Task,
    chosen,
    exact_features,
    features,
    hashes,
    language_like,
    signed,
    spec_of,
)
from reference.alignment import alignment
from unembed.errors import UnembedError
from unembed.head.head import Head
from unembed.signatures.alignment.align import align, interval, numbers
from unembed.signatures.alignment.estimators import Cosine, Kind
from unembed.signatures.alignment.exact import exact_alignments
from unembed.signatures.alignment.kinds import KINDS
from unembed.signatures.alignment.records import Alignments
from unembed.signatures.alignment.task_facts import residual
from unembed.signatures.batch_sums import accumulate
from unembed.signatures.samples import Samples
from unembed.signatures.signature import Identity, Signature, merge, scaled
from unembed.signatures.sketches.constructions import sketch_of
from unembed.signatures.sketches.sketch import SketchSpec
from unembed.signatures.state import Features, empty

UPPER = np.triu_indices(3, 1)


VOCAB, DIM, EXACT = 5, 4, 256
"""So that ``g gᵀ`` has 210 different numbers, all of which are kept of blocks."""


def small(n: int, seed: int, *, per_document: int = 1, tilt: float = 0.4) -> Task:
    return language_like(n, seed, vocab=VOCAB, dim=DIM, tilt=tilt, per_document=per_document)


def of_features(name: str, given: Features, document: np.ndarray, blocks: int = 32) -> Signature:
    """A signature whose products are the kernels themselves, so that it has no sketch error."""
    spec = SketchSpec(VOCAB, DIM, m=EXACT)
    identity = Identity(spec, "sequence", "empirical", "head", "body", "tokenizer")
    state = accumulate(empty(EXACT, first=True, blocks=blocks), given, document)
    return Signature(name, identity, state, {})


def exactly(name: str, task: Task, *, blocks: int = 32) -> Signature:
    return of_features(name, exact_features(task, EXACT), task.document, blocks)


def aligned(tasks: list[Task], *, debias: bool = True) -> Alignments:
    return align([exactly(str(i), task) for i, task in enumerate(tasks)], debias=debias)


@pytest.mark.parametrize("debias", [True, False])
@pytest.mark.parametrize("per_document", [1, 3])
def test_agrees_with_loops_over_every_pair(debias: bool, per_document: int) -> None:
    tasks = [small(n, seed, per_document=per_document) for n, seed in ((30, 1), (45, 2), (60, 5))]
    got = aligned(tasks, debias=debias)
    for i in range(3):
        for j in range(3):
            want = alignment(tasks[i], tasks[j], debias=debias, shared=False)
            for kind in KINDS:
                pairs = got.pairs(kind)
                assert pairs is not None
                expected = 1.0 if i == j and math.isfinite(pairs.value[i, j]) else want[kind]
                assert pairs.value[i, j] == pytest.approx(expected, rel=2e-5, nan_ok=True), kind


def test_tasks_that_share_inputs_agree_with_loops_over_the_pairs_across_folds() -> None:
    a = small(60, 1, per_document=2)
    b = replace(small(60, 2, per_document=2), document=a.document, activation=a.activation)
    got = aligned([a, b])
    want = alignment(a, b, debias=True, shared=True)
    for kind in KINDS:
        pairs = got.pairs(kind)
        assert pairs is not None
        assert pairs.value[0, 1] == pytest.approx(want[kind], rel=2e-5, nan_ok=True), kind
        assert pairs.value[0, 1] == pairs.value[1, 0] or kind == "first_moment"


def test_the_same_task_twice_is_one() -> None:
    task = language_like(120, 1)
    sketch = sketch_of(spec_of(task, m=512))
    found = align([signed("a", sketch, task), signed("b", sketch, task)])
    for kind in KINDS:
        pairs = found.pairs(kind)
        assert pairs is not None
        np.testing.assert_allclose(pairs.value, 1, atol=1e-12)
        np.testing.assert_allclose(pairs.sketch_se, 0, atol=1e-9)
        np.testing.assert_allclose(pairs.sampling_se, 0, atol=1e-7)


@pytest.mark.slow
def test_debiased_norms_and_products_are_without_bias() -> None:
    """One Fisher, drawn from again and again; the naive estimates are off by a quarter and more."""
    n, trials, rng = 24, 200, np.random.default_rng(1)
    pool = exact_features(small(6000, 1, tilt=0), EXACT)
    mean = pool.joint.double().mean(0)
    truth = float(mean @ mean) / EXACT
    found: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    def kind(*given: tuple[Features, np.ndarray]) -> Kind:
        states = [of_features("x", f, document, 0).state for f, document in given]
        made = Kind.of(states, "joint", True)
        assert made is not None
        return made

    for trial in range(trials):
        at, document = rng.integers(0, 6000, n), hashes(n, trial)
        if len({int(x) & 1 for x in document[: n // 2]}) < 2:
            continue
        one = kind((chosen(pool, at), document))
        note("norm: pairs of different samples", float(one.norms.mean()))
        note("norm: pairs across folds", float(one.fold_norms.mean()))
        note("naive norm: all pairs", float(np.square(one.pooled).mean()))
        # Each document holds the same sample twice: as dependent as can be.
        two = kind((chosen(pool, np.repeat(at[: n // 2], 2)), np.repeat(document[: n // 2], 2)))
        note("norm: pairs of different documents", float(two.norms.mean()))
        own = float(np.square(two.pooled).mean()) * n**2
        alone = float(chosen(pool, at[: n // 2]).joint.double().square().sum()) / EXACT * 2
        note("naive norm: pairs of different samples", (own - alone) / (n * (n - 1)))
        # Another task on the same inputs, here of the same gradients.
        both = kind((chosen(pool, at), document), (chosen(pool, at), document))
        cross = both.first[:, 0] * both.second[:, 1] + both.second[:, 0] * both.first[:, 1]
        note("product: pairs across folds", float(cross.mean() / 2))
        note("naive product: all pairs", float((both.pooled[:, 0] * both.pooled[:, 1]).mean()))
    for name, values in found.items():
        off = np.mean(values) / truth - 1
        if name.startswith("naive"):
            assert off > 0.25, (name, off)
        else:
            error = np.std(values) / math.sqrt(len(values)) / truth
            assert error < 0.1, (name, error)
            assert abs(off) < 3.5 * error, (name, off, error)


def test_documents_of_several_samples_agree_with_gram_matrices() -> None:
    """To the error of the sketch, of which ``sketch_se`` is told without knowing them."""
    rng = np.random.default_rng(3)
    head = Head.from_parts(torch.tensor(rng.normal(size=(60, 12))).float())
    tasks = []
    for i in range(4):
        centre = rng.normal(size=12) + np.repeat(rng.normal(size=(15, 12)), 10, 0)
        hidden = torch.tensor(centre + 0.5 * rng.normal(size=(150, 12))).float()
        document = np.repeat(hashes(15, i), 10).astype(np.int64)
        drawn = torch.Generator().manual_seed(i)
        shares = (hidden @ head.weight.T).softmax(1)
        targets = torch.multinomial(shares, 1, generator=drawn)[:, 0]
        tasks.append(Samples(str(i), hidden, targets, document, np.arange(150)))
    want = exact_alignments(tasks, head)
    errors = [(t.hidden @ head.weight.T).softmax(1) for t in tasks]
    for task, error in zip(tasks, errors, strict=True):
        error[torch.arange(150), task.targets] -= 1
    given = [
        Task(e, t.hidden, t.document.astype(np.uint64)) for e, t in zip(errors, tasks, strict=True)
    ]
    sketch = sketch_of(spec_of(given[0], m=4096))
    got = align([signed(str(i), sketch, task) for i, task in enumerate(given)])
    inside = np.triu_indices(4, 1)
    for kind in ("joint", "activation", "error"):
        ours, theirs = got.pairs(kind), want.pairs(kind)
        assert ours is not None
        assert theirs is not None
        off = np.abs(ours.value - theirs.value)[inside]
        assert off.max() < 0.1, (kind, off)
        assert (off <= 4 * ours.sketch_se[inside]).all(), (kind, off)


def test_documents_of_one_fold_have_norms_but_no_products_of_shared_inputs() -> None:
    task = language_like(200, 1, per_document=4)
    task = replace(task, document=task.document | np.uint64(1))
    sketch = sketch_of(spec_of(task, m=512))
    alone = align([signed("a", sketch, task), signed("b", sketch, language_like(200, 2))])
    assert [one.status for one in alone.tasks] == ["ok", "ok"]
    assert np.isfinite(alone.joint.value).all()
    found = align([signed("a", sketch, task), signed("b", sketch, task)])
    assert np.isnan(found.joint.value[0, 1])
    assert found.tasks[0].status.startswith("ok, but it shares inputs with b, and no Fisher")


def test_too_few_samples_is_a_value_with_a_reason() -> None:
    rng = np.random.default_rng(0)
    spread = Task(
        torch.tensor(rng.normal(size=(12, 60))).float(),
        torch.tensor(rng.normal(size=(12, 12))).float(),
        hashes(12, 3),
    )
    sketch = sketch_of(spec_of(spread, m=512))
    usual = language_like(200, 1)
    statuses = set()
    for seed in range(12):
        draw = np.random.default_rng(seed)
        noise = replace(spread, error=torch.tensor(draw.normal(size=(12, 60))).float())
        found = align([signed("noise", sketch, noise), signed("task", sketch, usual)])
        status = found.tasks[0].status
        statuses.add(status.split(":")[0])
        assert "n = 12" in status
        assert found.tasks[1].status == "ok"
        assert found.joint.value[1, 1] == 1
        if status.startswith("too few samples"):
            assert np.isnan(found.joint.value[0]).all()
            assert np.isnan(found.joint.low[0]).all()
            assert found.tasks[0].participation_ratio is None
        else:
            assert "participation ratio" in status
            assert found.joint.value[0, 0] == 1
    assert statuses == {"too few samples", "few samples"}
    lone = replace(usual, document=np.full(200, 8, dtype=np.uint64))
    found = align([signed("lone", sketch, lone), signed("task", sketch, usual)])
    assert found.tasks[0].status.startswith("too few documents: 1, which has no independent pair")
    assert np.isnan(found.joint.value[0]).all()
    assert align([signed("lone", sketch, lone)], debias=False).tasks[0].status == "ok"


@pytest.mark.slow
@pytest.mark.parametrize("construction", ["complex_tensorsketch", "srht"])
def test_sketch_intervals_hold_what_they_say(construction: str) -> None:
    """Fixed samples, 60 seeds of the sketch: the exact value lies within 95 % intervals."""
    tasks = [language_like(60, s, tilt=t) for s, t in ((1, 0.2), (2, 0.2), (3, 0.5))]
    want = [[alignment(a, b, debias=True, shared=False) for b in tasks] for a in tasks]
    hits: dict[str, list[np.ndarray]] = {kind: [] for kind in KINDS}
    for seed in range(60):
        sketch = sketch_of(spec_of(tasks[0], m=512, construction=construction, seed=seed))
        found = align([signed(str(i), sketch, t, blocks=0) for i, t in enumerate(tasks)])
        for kind in KINDS:
            pairs = found.pairs(kind)
            assert pairs is not None
            low, high = interval(
                pairs.value, pairs.sketch_se, "ratio" if kind == "coupling" else "cosine"
            )
            true = np.array([[cell[kind] for cell in row] for row in want])
            hits[kind].append(((low <= true) & (true <= high))[UPPER])
            assert np.isnan(pairs.sampling_se[UPPER]).all()
            assert np.isnan(pairs.low[UPPER]).all()
    for kind, found_hits in hits.items():
        assert 0.87 <= np.mean(found_hits) <= 0.995, (kind, np.mean(found_hits))


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
def test_sampling_intervals_hold_what_they_say(shared: bool) -> None:
    """Exact features, new documents each time: the population's value lies within intervals.

    Documents hold two samples, which are equal, so that 300 count where there are 600.
    """
    size, documents, rng = 8000, 300, np.random.default_rng(5)
    tasks = [small(size, seed, tilt=0.5) for seed in (1, 4)]
    if shared:
        tasks[1] = replace(tasks[1], activation=tasks[0].activation)
    pools = [exact_features(task, EXACT) for task in tasks]
    every = np.arange(size)
    truth = align(
        [of_features(str(i), pool, hashes(size, i), 0) for i, pool in enumerate(pools)],
        debias=False,
    )
    hits: dict[str, list[bool]] = {kind: [] for kind in KINDS}
    for trial in range(80):
        drawn = [rng.choice(every, documents) for _ in pools]
        named = [hashes(documents, 2 * trial + i) for i in range(2)]
        if shared:
            drawn[1], named[1] = drawn[0], named[0]
        found = align(
            [
                of_features(str(i), chosen(pool, np.repeat(at, 2)), np.repeat(names, 2))
                for i, (pool, at, names) in enumerate(zip(pools, drawn, named, strict=True))
            ]
        )
        for kind in KINDS:
            pairs, true = found.pairs(kind), truth.pairs(kind)
            assert pairs is not None
            assert true is not None
            # Sampling errors alone: the groups of these features are no sample of others.
            low, high = interval(
                pairs.value, pairs.sampling_se, "ratio" if kind == "coupling" else "cosine"
            )
            hits[kind].append(bool(low[0, 1] <= true.value[0, 1] <= high[0, 1]))
    for kind in KINDS:
        most = (
            1 if shared and kind == "activation" else 0.995
        )  # the same activations are 1, exactly
        assert 0.86 <= np.mean(hits[kind]) <= most, (kind, np.mean(hits[kind]))


@pytest.mark.slow
def test_sampling_errors_agree_with_new_draws_of_the_exact_value() -> None:
    """At a reduced width, where the noise of few features would add a fifth to the error."""
    exact, variances = [], []
    pool = [language_like(4000, s, tilt=0.5) for s in (3, 4)]
    rng = np.random.default_rng(2)

    def kernel(a: Task, b: Task) -> np.ndarray:
        e, x = (
            a.error.double() @ b.error.double().T,
            a.activation.double() @ b.activation.double().T,
        )
        return np.asarray((e * x).square())

    def norm(a: Task) -> float:
        values = kernel(a, a)
        return float((values.sum() - np.trace(values)) / (len(values) * (len(values) - 1)))

    for trial in range(100):
        tasks = []
        for i, task in enumerate(pool):
            at = rng.integers(0, 4000, 150)
            tasks.append(Task(task.error[at], task.activation[at], hashes(150, 2 * trial + i)))
        exact.append(kernel(*tasks).mean() / math.sqrt(norm(tasks[0]) * norm(tasks[1])))
        sketch = sketch_of(spec_of(pool[0], m=2048, seed=trial))
        pairs = align([signed(str(i), sketch, t) for i, t in enumerate(tasks)]).joint
        variances.append(pairs.sampling_se[0, 1] ** 2)
    assert math.sqrt(np.mean(variances)) == pytest.approx(np.std(exact), rel=0.15)


def test_residual_and_participation_ratio_agree_with_whole_matrices() -> None:
    task = language_like(400, 2, vocab=8, dim=4)
    g = (task.error[:, :, None] * task.activation[:, None]).flatten(1).double()
    fisher = g.T @ g / 400
    second = [(x.T @ x / 400).double() for x in (task.error, task.activation)]
    norm = fisher.square().sum()
    delta = float(((fisher - torch.kron(*second)).square().sum() / norm).sqrt())
    sketch = sketch_of(spec_of(task, m=1 << 13))
    state = signed("a", sketch, task).state
    plain = align([signed("a", sketch, task)], debias=False).tasks[0]
    assert plain.residual == pytest.approx(delta, rel=0.03)
    assert plain.participation_ratio == pytest.approx(float(fisher.trace() ** 2 / norm), rel=0.03)
    assert residual(state, sketch) == pytest.approx(delta, rel=0.1)
    bare = replace(features(sketch, task), squared_norm=None)
    without = accumulate(empty(1 << 13, first=True), bare, task.document)
    facts = align([Signature("a", signed("a", sketch, task).identity, without, {})]).tasks[0]
    assert facts.participation_ratio == pytest.approx(float(fisher.trace() ** 2 / norm), rel=0.05)


def test_the_debiased_residual_leaves_out_what_loops_leave_out() -> None:
    task = language_like(24, 2, vocab=8, dim=4)
    sketch = sketch_of(spec_of(task, m=64))
    given = features(sketch, task)
    left, fishers = [], []
    for fold in (0, 1):
        rows = [i for i, name in enumerate(task.document.tolist()) if name % 2 == fold]
        fisher = sum(given.joint[i].double() for i in rows) / len(rows)
        parts = [sketch.unpack(x.double()[rows]) for x in (given.activation, given.error)]
        product, pairs = torch.zeros(1, 64).double(), 0
        for i in range(len(rows)):
            for j in range(len(rows)):
                if i != j:
                    product += sketch.pack(parts[0][i : i + 1] * parts[1][j : j + 1])
                    pairs += 1
        left.append(fisher - product[0] / pairs)
        fishers.append(fisher)
    square = float(left[0] @ left[1]) / float(fishers[0] @ fishers[1])
    found = residual(signed("a", sketch, task).state, sketch)
    assert found == pytest.approx(math.sqrt(square), rel=1e-5) if square > 0 else found is None


@pytest.mark.slow
def test_the_debiased_residual_is_without_bias_where_the_plug_in_is_not() -> None:
    pool = language_like(5000, 2, vocab=8, dim=4)
    sketch = sketch_of(spec_of(pool, m=4096))
    true = residual(signed("a", sketch, pool).state, sketch, False)
    assert true is not None
    rng = np.random.default_rng(0)
    squares: dict[bool, list[float]] = {True: [], False: []}
    for trial in range(50):
        at = rng.integers(0, 5000, 40)
        state = signed(
            "a", sketch, Task(pool.error[at], pool.activation[at], hashes(40, trial))
        ).state
        for debias in (True, False):
            found = residual(state, sketch, debias)
            squares[debias].append(0.0 if found is None else found**2)
    assert np.median(squares[True]) == pytest.approx(true**2, rel=0.15)
    assert np.median(squares[False]) > 1.1 * true**2


def test_a_mixture_is_the_cosine_of_mixed_fishers() -> None:
    a, b, c = (small(300, seed, tilt=0.4) for seed in (1, 2, 3))
    ours = [exactly(name, task) for name, task in (("a", a), ("b", b), ("c", c))]
    mixed = replace(merge(ours[0], scaled(ours[1], 3.0)), name="mixed")
    found = align([mixed, ours[2]], debias=False).joint.value[0, 1]
    x, y = ours[0].state.mean("joint"), ours[1].state.mean("joint")
    target = ours[2].state.mean("joint")
    assert x is not None
    assert y is not None
    assert target is not None
    mixture = (x + 3 * y) / 4
    want = mixture @ target / math.sqrt((mixture @ mixture) * (target @ target))
    assert found == pytest.approx(want, rel=1e-12)
    assert align([mixed, ours[2]]).tasks[0].samples == round(1200**2 / (300 + 9 * 300))


def test_hundreds_of_tasks_come_in_parts_with_the_same_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tasks = [language_like(40, seed, tilt=0.3, per_document=2) for seed in range(7)]
    tasks[3] = replace(tasks[3], document=tasks[4].document)
    sketch = sketch_of(spec_of(tasks[0], m=256))
    signatures = [signed(str(i), sketch, task) for i, task in enumerate(tasks)]
    whole = align(signatures)
    monkeypatch.setattr("unembed.signatures.alignment.align.MOST_SHARES", 1)
    parts = align(signatures)
    for kind in KINDS:
        ours, theirs = whole.pairs(kind), parts.pairs(kind)
        assert ours is not None
        assert theirs is not None
        for field in ("value", "sketch_se", "sampling_se", "low", "high"):
            x, y = getattr(ours, field), getattr(theirs, field)
            np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-9)
            np.testing.assert_allclose(x, x.T, rtol=1e-6, atol=1e-9)
    again = Alignments.from_json(whole.to_json())
    np.testing.assert_array_equal(again.joint.value, whole.joint.value)


def test_the_sampling_variance_takes_out_the_noise_of_few_features() -> None:
    """Two halves that hold signal + noise of their own: the noise comes back only as a ratio."""
    rng = np.random.default_rng(0)
    signal = rng.normal(size=4000)
    halves = np.stack([signal + 2 * rng.normal(size=4000) for _ in range(2)])[:, :, None, None]
    cosine = Cosine(np.array([[0.1]]), np.zeros((8, 1, 1)), halves)
    found = numbers(cosine, 0.25, "cosine")
    assert found is not None
    assert found[2, 0, 0] ** 2 / 4000 == pytest.approx(1 + 0.25 * 2, rel=0.1)


def test_intervals_stay_where_cosines_do_until_they_cannot() -> None:
    value, se = np.array([[0.9, 0.0, -0.6, 1.02, 0.97]]), np.array([[0.05, 0.1, 0.2, 0.1, 0.2]])
    low, high = interval(value, se, "cosine")
    assert (low[0, :3] > -1).all()
    assert (high[0, :3] < 1).all()
    assert high[0, 0] - 0.9 < 0.9 - low[0, 0], "less room above"
    np.testing.assert_allclose(low[0, 3:], [1.02 - 0.195996, 0.97 - 0.391993], atol=1e-5)
    ratio = interval(np.array([[2.0, -0.5]]), np.array([[1.0, 0.1]]), "ratio")
    np.testing.assert_allclose(ratio[0], [[2 * math.exp(-0.979982), -0.695996]], atol=1e-5)
    np.testing.assert_allclose(ratio[1], [[2 * math.exp(0.979982), -0.304004]], atol=1e-5)


def test_what_does_not_compare_is_refused() -> None:
    task = language_like(20, 1)
    sketches = [sketch_of(spec_of(task, m=64, seed=seed)) for seed in (1, 2)]
    a, b = (signed(f"{s.spec.seed}.safetensors", s, task) for s in sketches)
    with pytest.raises(UnembedError, match=r"1\.safetensors has seed 1 and 2\.safetensors seed 2"):
        align([a, b])
    with pytest.raises(UnembedError, match=r"two signatures are named '1\.safetensors'"):
        align([a, a])
    with pytest.raises(UnembedError, match="no signatures"):
        align([])


def test_kinds_that_one_task_lacks_are_none() -> None:
    task = language_like(60, 1)
    sketch = sketch_of(spec_of(task, m=64))
    whole = signed("a", sketch, task)
    bare = accumulate(empty(64, blocks=0), features(sketch, task), task.document)
    found = align([whole, replace(whole, name="b", state=bare)])
    assert found.first_moment is None
    assert found.coupling is not None
    assert found.method == "complex_tensorsketch"
    assert np.isnan(found.joint.sampling_se[0, 1])
