"""Mixtures: against every subset and every pair of samples, with honest errors, on real text."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from made_up.tasks import Task, chosen, exact_features, hashes, language_like, signed, spec_of
from reference.mixture import every_subset, inner_products, sampling_moves
from unembed.demo.story import bundled_model
from unembed.demo.text import documents
from unembed.errors import UnembedError
from unembed.models.checkpoint import load
from unembed.runs.manifest import read_run
from unembed.selection.mixing.fit import Fit
from unembed.selection.mixing.groups import FreeDirections
from unembed.selection.mixing.inner_products import InnerProducts, Shares
from unembed.selection.mixing.mixture import mix
from unembed.selection.mixing.nonnegative import nonnegative, nonnegative_each
from unembed.selection.mixing.record import Mixture
from unembed.selection.mixing.text import interleave_line, mixture_text, residual_words
from unembed.selection.mixing.warnings import _alike, _below_zero
from unembed.selection.ranking.rank import rank
from unembed.selection.scores import FEATURES
from unembed.signatures.alignment.align import align
from unembed.signatures.alignment.overlap import shared_part
from unembed.signatures.batch_sums import accumulate
from unembed.signatures.file import export
from unembed.signatures.file import load as read_signature
from unembed.signatures.reading.run import sketch
from unembed.signatures.reading.sketcher import SketchOptions
from unembed.signatures.signature import Identity, Signature, merge, scaled, subtract
from unembed.signatures.sketches.constructions import sketch_of
from unembed.signatures.sketches.sketch import SketchSpec
from unembed.signatures.state import Features, empty
from unembed.text.corpus import Corpus

VOCAB, DIM, EXACT = 5, 4, 256
SHARES = (0.5, 0.3, 0.2)


def small(n: int, seed: int, *, per_document: int = 3, tilt: float = 1.0) -> Task:
    return language_like(n, seed, vocab=VOCAB, dim=DIM, tilt=tilt, per_document=per_document)


def of_features(name: str, given: Features, document: np.ndarray, blocks: int = 32) -> Signature:
    """A signature whose products are the kernels themselves, so that it has no sketch error."""
    identity = Identity(
        SketchSpec(VOCAB, DIM, m=EXACT), "token", "empirical", "head", "body", "tokenizer"
    )
    state = accumulate(empty(EXACT, first=True, blocks=blocks), given, document)
    return Signature(name, identity, state, {})


def exactly(name: str, task: Task) -> Signature:
    return of_features(name, exact_features(task, EXACT), task.document)


def joined(tasks: list[Task]) -> Task:
    parts = zip(*(vars(task).values() for task in tasks), strict=True)
    error, activation, document = parts
    return Task(torch.cat(error), torch.cat(activation), np.concatenate(document))


def weights_of(found: Mixture) -> np.ndarray:
    return np.array([share.weight.value for share in found.shares])


# The solver


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_weights_are_those_of_the_best_subset(count: int) -> None:
    rng = np.random.default_rng(count)
    sizes = set()
    for _ in range(60):
        rows = rng.normal(size=(count + 2, count)) + rng.normal() * 2
        gram, product = rows.T @ rows, rows.T @ rng.normal(size=count + 2)
        got, want = nonnegative(gram, product), every_subset(gram, product)
        np.testing.assert_allclose(got, want, rtol=1e-7, atol=1e-9)
        assert ((got > 0) == (want > 0)).all(), "a source that is left out has 0 itself"
        slope = product - gram @ got
        scale = np.abs(product).max()
        assert (slope <= 1e-9 * scale).all()
        assert (np.abs(slope[got > 0]) <= 1e-9 * scale).all()
        sizes.add(int((got > 0).sum()))
    each = rng.normal(size=(80, count))
    got = nonnegative_each(gram, each)
    want = np.stack([nonnegative(gram, product) for product in each])
    np.testing.assert_allclose(got, want, rtol=1e-7, atol=1e-9)
    assert ((got > 0) == (want > 0)).all()
    assert len(sizes) > min(count, 2)


def test_weights_of_sources_that_are_nearly_one() -> None:
    """Where rounding decides, the search still ends, and the misfit is the least."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        one = rng.normal(size=(6, 1))
        rows = one + 1e-6 * rng.normal(size=(6, 5))
        gram, product = rows.T @ rows + 1e-12 * np.eye(5), rows.T @ (one[:, 0] * 2)
        got = nonnegative(gram, product)
        assert got.sum() == pytest.approx(2, rel=1e-4)
        value = got @ gram @ got - 2 * product @ got
        assert value == pytest.approx(-4 * float(one[:, 0] @ one[:, 0]), rel=1e-6)


def test_weights_at_the_edge() -> None:
    assert (nonnegative(np.eye(3), np.array([-1.0, -2.0, 0.0])) == 0).all()
    np.testing.assert_array_equal(nonnegative(np.eye(2), np.array([3.0, -1.0])), [3, 0])
    assert nonnegative(np.zeros((0, 0)), np.zeros(0)).shape == (0,)
    with pytest.raises(ValueError, match="singular"):
        nonnegative(np.zeros((2, 2)), np.ones(2))
    with pytest.raises(ValueError, match="not finite"):
        nonnegative(np.eye(2), np.array([1.0, math.nan]))


# What it is solved from


@pytest.mark.parametrize("debias", [True, False])
@pytest.mark.parametrize("by", FEATURES)
def test_agrees_with_loops_over_every_pair(by: str, debias: bool) -> None:
    kernel = {"gradient": "first_moment"}.get(by, by)
    sources = [small(150, 2), small(120, 3), small(180, 5)]
    own = [small(90, 2), small(45, 3)]
    target = joined(
        [replace(t, document=hashes(len(t.document), 40 + i)) for i, t in enumerate(own)]
    )
    value = inner_products([target, *sources], kernel, debias=debias)
    got = mix(
        exactly("target", target),
        [exactly(str(i), task) for i, task in enumerate(sources)],
        by=by,
        debias=debias,
    )
    assert np.linalg.eigvalsh(value[1:, 1:])[0] > 0
    want = every_subset(value[1:, 1:], value[1:, 0])
    assert got.total.value == pytest.approx(want.sum(), rel=1e-4)
    np.testing.assert_allclose(weights_of(got), want / want.sum(), rtol=1e-4, atol=1e-6)
    assert got.samples == 135
    assert [share.samples for share in got.shares] == [150, 120, 180]


def test_a_text_of_the_sources_own_documents_is_their_blend_exactly() -> None:
    sources = [small(60, seed) for seed in (1, 2, 3)]
    parts = [exactly(str(i), task) for i, task in enumerate(sources)]
    target = replace(
        merge(merge(parts[0], scaled(parts[1], 0.5)), scaled(parts[2], 0.25)), name="t"
    )
    for by in FEATURES:
        found = mix(target, parts, by=by, debias=False)
        np.testing.assert_allclose(weights_of(found), np.array([4, 2, 1]) / 7, rtol=1e-5)
        assert found.total.value == pytest.approx(1, rel=1e-5)


def test_tasks_that_share_documents_lose_blocks_together() -> None:
    """Products and norms across folds, and each lost block as a loop would count it."""
    target, other = small(90, 1, tilt=0.4), small(90, 2, tilt=0.4)
    alike = replace(small(90, 3, tilt=0.4), document=target.document)
    tasks = [exactly(str(i), task) for i, task in enumerate((target, other, alike))]
    states = [task.state for task in tasks]
    products = InnerProducts.of(states, "joint", True, 1.0)
    assert products is not None
    assert products.cluster.tolist() == [0, 1, 0]
    folds = [x.joint.total / x.weight[:, None] for x in states]
    across = (folds[0][0] @ folds[2][1] + folds[0][1] @ folds[2][0]) / 2 / EXACT
    assert products.value[0, 2] == pytest.approx(across, rel=1e-6)
    assert products.value[2, 2] == pytest.approx(folds[2][0] @ folds[2][1] / EXACT, rel=1e-6)
    assert products.value[0, 1] == pytest.approx(
        float(states[0].mean("joint") @ states[1].mean("joint")) / EXACT, rel=1e-6
    )
    along = np.array([1.0, -0.4, -0.7])
    found = products.shares(along)
    assert found.sampling is not None
    want = sampling_moves(products, along)
    got = np.sort(found.sampling.reshape(2, -1, 5), 1)
    np.testing.assert_allclose(got, np.sort(want, 1), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        found.covariance(), Shares(found.sketch, want, 1.0).covariance(), rtol=1e-6, atol=1e-12
    )
    groups = np.concatenate(
        [
            products.by_group @ along,
            np.einsum("i,gij,j->g", along, products.by_group, along)[:, None],
            products.by_group[:, :1, 0],
        ],
        1,
    )
    spread = np.cov(groups.T) / len(groups)
    np.testing.assert_allclose(found.sketch.T @ found.sketch, spread, rtol=1e-6, atol=1e-12)


def test_covariances_take_out_the_noise_of_few_features() -> None:
    """Halves that hold a signal and noise of their own, which comes back only as a ratio."""
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(4000, 3)) @ np.array([[1, 0.5, 0], [0, 1, 0], [0, 0, 2]])
    halves = np.stack([signal + 2 * rng.normal(size=(4000, 3)) for _ in range(2)])
    found = Shares(np.zeros((4, 3)), halves, 0.25).covariance() / 4000
    want = np.cov(signal.T) + 0.25 * 2 * np.eye(3)
    np.testing.assert_allclose(found, want, atol=0.15)
    few = Shares(np.zeros((4, 3)), halves[:, :2] * np.array([[[1]], [[-1]]]), 0.01)
    assert np.linalg.eigvalsh(few.covariance()).min() > -1e-9, "of opposite halves too"


# Intervals


@pytest.mark.slow
def test_intervals_hold_what_they_say() -> None:
    """New documents each time: weights inside and at 0, their sum, and a residual of 0."""
    size, per_document, rng = 6000, 3, np.random.default_rng(5)
    pools = [exact_features(small(size, seed), EXACT) for seed in (1, 2, 3, 4)]
    truth = np.array([0.5, 0.3, 0.2, 0])
    held: dict[str, list[bool]] = {}
    residuals, over = [], []
    for trial in range(40):

        def drawn(pool: int, count: int) -> Features:
            at = rng.integers(0, size // per_document, count // per_document) * per_document
            return chosen(pools[pool], (at[:, None] + np.arange(per_document)).ravel())

        sources = [
            of_features(str(i), drawn(i, 600), np.repeat(hashes(200, 9 * trial + i), per_document))
            for i in range(4)
        ]
        parts = [drawn(i, n) for i, n in enumerate((300, 180, 120))]
        blend = Features(
            *(
                torch.cat(rows)
                for rows in zip(*(vars(part).values() for part in parts), strict=True)
            )
        )
        names = np.repeat(hashes(200, 9 * trial + 8), per_document)
        found = mix(of_features("blend", blend, names), sources)
        for share, true in zip(found.shares, truth, strict=True):
            weight = share.weight
            assert weight.low is not None
            assert weight.high is not None
            assert 0 <= weight.low <= weight.value <= weight.high <= 1
            held.setdefault(share.name, []).append(weight.low <= true <= weight.high)
        total, residual = found.total, found.residual
        held.setdefault("total", []).append(total.low <= 1 <= total.high)
        held.setdefault("residual", []).append(residual.low <= 0 <= residual.high)
        residuals.append(residual.value)
        over.append(any("No mixture" in sentence for sentence in found.warnings))
    for name, hits in held.items():
        assert np.mean(hits) >= 0.85, (name, np.mean(hits))
    assert np.mean([np.mean(held[str(i)]) for i in range(3)]) < 0.999
    assert abs(np.mean(residuals)) < 0.008, "what fits the noise is given back"
    assert np.mean(over) < 0.05


def test_a_source_that_is_lacking_is_told_of() -> None:
    pools = [exact_features(small(3000, seed, tilt=2.5), EXACT) for seed in (1, 2, 6)]
    rng = np.random.default_rng(1)

    def drawn(*counts: int) -> Signature:
        parts = [chosen(p, rng.integers(0, 3000, n)) for p, n in zip(pools, counts, strict=True)]
        rows = [torch.cat(x) for x in zip(*(vars(part).values() for part in parts), strict=True)]
        return of_features(
            "-".join(map(str, counts)), Features(*rows), hashes(sum(counts), counts[0])
        )

    sources = [drawn(900, 0, 0), drawn(0, 901, 0)]
    found = mix(drawn(300, 300, 600), sources)
    values = [
        np.concatenate([pool.joint.double().mean(0).numpy()]) / math.sqrt(EXACT) for pool in pools
    ]
    target = 0.25 * values[0] + 0.25 * values[1] + 0.5 * values[2]
    rows = np.stack(values[:2])
    weights = every_subset(rows @ rows.T, rows @ target)
    want = float(np.square(target - weights @ rows).sum() / np.square(target).sum())
    assert want > 0.1
    assert found.residual.value == pytest.approx(want, abs=0.05)
    assert found.residual.low <= want <= found.residual.high
    [said] = [x for x in found.warnings if x.startswith("No mixture of the sources expresses")]
    assert f"{residual_words(found.residual)} of 300-300-600" in said
    assert not mix(drawn(600, 600, 0), sources).warnings


@pytest.mark.parametrize(("cosine", "said"), [(0.11, "too few"), (0.9, "too alike")])
def test_two_shares_that_trade_off_are_alike_only_by_their_cosine(cosine: float, said: str) -> None:
    # Weights of two sources whose errors go together as their cosine says.
    root = np.linalg.cholesky(np.array([[1, -cosine], [-cosine, 1]]))
    draws = 0.5 + 0.14 * np.random.default_rng(0).normal(size=(2000, 2)) @ root.T
    draws = draws.clip(0.02)
    shares = draws / draws.sum(1, keepdims=True)
    assert np.corrcoef(shares.T)[0, 1] == pytest.approx(-1)
    low, high = np.quantile(shares, (0.025, 0.975), axis=0)
    found = Fit(
        weights=draws.mean(0),
        draws=draws,
        least=shares,
        most=shares,
        free=FreeDirections(np.zeros((0, 2)), np.ones(2), np.eye(2)),
        residual=0.0,
        residual_se=0.0,
        cosines=np.array([[1, cosine], [cosine, 1]]),
        lowest=1 - cosine,
    )
    [warning] = _alike(("reviews", "manuals"), found, shares, low, high, set())
    assert said in warning
    assert ("cosine" in warning) == (said == "too alike")


def test_sources_too_alike_are_weighed_together() -> None:
    pool = [exact_features(small(3000, seed), EXACT) for seed in (1, 2)]
    rng = np.random.default_rng(3)

    def drawn(name: str, which: int, n: int, seed: int) -> Signature:
        return of_features(name, chosen(pool[which], rng.integers(0, 3000, n)), hashes(n, seed))

    sources = [drawn("one", 0, 600, 1), drawn("twin", 0, 600, 2), drawn("other", 1, 600, 3)]
    target = replace(merge(drawn("a", 0, 400, 4), drawn("b", 1, 200, 5)), name="target")
    found = mix(target, sources)
    [said] = [x for x in found.warnings if "too alike" in x]
    assert said.startswith("one and twin are too alike to be told apart (cosine ")
    one, twin, other = found.shares
    assert other.weight.low > 0.2
    assert other.weight.high < 0.5
    assert one.weight.high - one.weight.low > 0.2
    assert twin.weight.high - twin.weight.low > 0.2


# Sources that replace each other


POOL = [exact_features(small(1500, seed, tilt=1.5), EXACT) for seed in (1, 2, 3)]


def of_pool(name: str, counts: tuple[int, int, int], seed: int) -> Signature:
    """So many samples of each of three texts, each its own document."""
    rng = np.random.default_rng(seed)
    parts = [chosen(p, rng.integers(0, 1500, n)) for p, n in zip(POOL, counts, strict=True)]
    rows = [torch.cat(x) for x in zip(*(vars(part).values() for part in parts), strict=True)]
    return of_features(name, Features(*rows), hashes(sum(counts), seed))


def test_two_copies_of_a_source_have_any_part_of_what_they_weigh() -> None:
    target, one, other = (
        of_pool(name, counts, seed)
        for seed, (name, counts) in enumerate(
            {"t": (400, 200, 0), "one": (600, 0, 0), "other": (0, 600, 0)}.items(), 1
        )
    )
    copy = replace(one, name="copy")
    found = mix(target, [one, copy])
    assert [(share.weight.low, share.weight.high) for share in found.shares] == [(0, 1), (0, 1)]
    [said] = [x for x in found.warnings if "copies" in x]
    assert said.startswith("one and copy are copies of each other: together they weigh 1.00 to")
    assert said.endswith("leave copy out.")

    alone, both = mix(target, [one, other]), mix(target, [one, copy, other])
    assert not alone.warnings
    a, b, rest = both.shares
    for share in (a, b):
        assert share.weight.low == pytest.approx(0, abs=1e-6)
        assert share.weight.high == pytest.approx(alone.shares[0].weight.high, abs=0.03)
    assert a.weight.value + b.weight.value == pytest.approx(alone.shares[0].weight.value, abs=0.01)
    assert rest.weight.low == pytest.approx(alone.shares[1].weight.low, abs=0.03)
    assert rest.weight.high == pytest.approx(alone.shares[1].weight.high, abs=0.03)
    heavy = mix(target, [one, scaled(replace(one, name="heavy"), 3.0), other])
    assert any("one and heavy are copies" in x for x in heavy.warnings)


def test_each_pair_of_copies_is_named() -> None:
    one, other = of_pool("one", (600, 0, 0), 2), of_pool("other", (0, 600, 0), 3)
    pairs = [one, replace(one, name="one again"), other, replace(other, name="other again")]
    found = mix(of_pool("t", (400, 200, 0), 1), pairs)
    said = [x for x in found.warnings if "copies" in x]
    assert [x.split(" are")[0] for x in said] == ["one and one again", "other and other again"]


@pytest.mark.parametrize("own", [True, False], ids=["of their documents", "of other documents"])
def test_a_source_that_is_a_blend_of_two_others_is_found(own: bool) -> None:
    """Though no two of the three are alike, and no pair's weight is known better than one's."""
    one, other = of_pool("one", (600, 0, 0), 2), of_pool("other", (0, 600, 0), 3)
    blend = merge(one, other) if own else of_pool("blend", (600, 600, 0), 9)
    sources = [one, other, replace(blend, name="blend"), of_pool("third", (0, 0, 600), 4)]
    found = mix(of_pool("t", (400, 200, 0), 1), sources)
    [said] = [x for x in found.warnings if "blend of" in x]
    assert said.startswith("blend is a blend of one and other (")
    assert "leave blend out" in said
    first, second, whole, third = (share.weight for share in found.shares)
    # 2/3 and 1/3, or 1/3 of the one and 2/3 of the blend, or whatever lies between.
    assert first.low < 0.34
    assert first.high > 0.64
    assert second.low == whole.low == pytest.approx(0, abs=1e-3)
    assert second.high > 0.3
    assert whole.high > 0.6
    assert third.high < 0.1


def test_sources_that_differ_are_weighed_as_before() -> None:
    sources = [exactly(str(i), small(300, i + 1)) for i in range(4)]
    states = [exactly("t", small(200, 11, tilt=0.5)).state, *(one.state for one in sources)]
    products = InnerProducts.of(states, "joint", True, 1.0)
    assert products is not None
    found = Fit.of(products)
    assert not found.free.groups()
    np.testing.assert_array_equal(found.least, found.most)


def test_documents_that_target_and_sources_share_are_told() -> None:
    one, other = of_pool("one", (600, 0, 0), 2), of_pool("other", (0, 600, 0), 3)
    target = replace(merge(one, of_pool("more", (0, 600, 0), 5)), name="t")
    [said] = [x for x in mix(target, [one, other]).warnings if "shares documents" in x]
    part = shared_part(target.state, one.state)
    assert part == pytest.approx(0.5, abs=0.2)
    assert said.startswith(f"t shares documents with one ({part:.0%}): ")
    assert shared_part(one.state, target.state) == 1
    assert shared_part(one.state, other.state) == 0


def test_a_residual_below_0_is_told() -> None:
    sources = [of_pool("one", (600, 0, 0), 2), of_pool("other", (0, 600, 0), 3)]
    found = mix(of_pool("t", (400, 200, 0), 1), sources)
    below = replace(found, residual=replace(found.residual, value=-0.001, low=-0.01, high=0.01))
    assert "not determined, at most 1.0\u00a0% (below 0 by chance)" in mixture_text(below)
    above = replace(below, residual=replace(found.residual, value=0.001))
    assert "by chance" not in mixture_text(above)
    beyond = replace(below, residual=replace(found.residual, value=-0.05, low=-0.06, high=-0.04))
    [said] = _below_zero(beyond)
    assert said.startswith("The residual is below 0 (-0.050, -0.040 at most)")
    assert not list(_below_zero(below))


def test_a_signature_without_samples_is_refused() -> None:
    one, other = of_pool("one", (600, 0, 0), 2), of_pool("other", (0, 600, 0), 3)
    nothing = replace(subtract(one, replace(one, name="again")), name="nothing")
    for every in ([nothing, one, other], [one, nothing, other]):
        with pytest.raises(UnembedError, match="nothing holds 0 samples"):
            mix(every[0], every[1:])
        with pytest.raises(UnembedError, match="nothing holds 0 samples"):
            rank(every[0], every[1:])
        with pytest.raises(UnembedError, match="nothing holds 0 samples"):
            align(every)


def test_order_scale_and_repetition_change_nothing() -> None:
    sources = [exactly(str(i), small(300, i + 1)) for i in range(4)]
    target = replace(
        merge(exactly("a", small(200, 11, tilt=0.5)), exactly("b", small(150, 2))), name="target"
    )
    found = mix(target, sources)
    assert found == mix(target, sources)
    turned = mix(target, sources[::-1])
    np.testing.assert_allclose(weights_of(turned)[::-1], weights_of(found), rtol=1e-9, atol=1e-12)
    heavy = mix(scaled(target, 3.0), [scaled(sources[0], 7.0), *sources[1:]])
    np.testing.assert_allclose(weights_of(heavy), weights_of(found), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        [share.weight.high for share in turned.shares][::-1],
        [share.weight.high for share in found.shares],
        atol=0.05,
    )
    assert Mixture.from_json(found.to_json()) == found


def test_a_blend_of_real_texts_is_found() -> None:
    """Three topics on the bundled model, 2,500 positions each, in documents of about 100.

    No document of the blend is in a source. So few tell weights to 0.2.
    """
    checkpoint = load(bundled_model())
    positions, characters = 2_500, 500
    beginnings = ("topic:", "doc:", "idlelib/")
    every = list(documents("train"))
    blend, sources, counts = [], [], []
    for beginning, share in zip(beginnings, SHARES, strict=True):
        own = [one.text for one in every if one.name.startswith(beginning)]
        long = [text for text in own if len(text) >= characters]
        order = np.random.default_rng(len(long)).permutation(len(long))
        texts = [long[i][(len(long[i]) - characters) // 2 :][:characters] for i in order]
        ids = checkpoint.tokenizer(texts).input_ids
        ends = np.cumsum([len(row) - 1 for row in ids])
        parts = [
            (ends <= positions),
            (ends > positions) & (ends <= positions * (1 + share)),
        ]
        own, other = ([texts[i] for i in np.flatnonzero(part)] for part in parts)
        counts.append(int(np.diff(ends, prepend=0)[parts[1]].sum()))
        blend += other
        sources.append(Corpus.from_texts(own, checkpoint.tokenizer))
    truth = np.array(counts) / sum(counts)
    np.testing.assert_allclose(truth, SHARES, atol=0.03)
    options = SketchOptions(m=1024)
    target = sketch(
        checkpoint, Corpus.from_texts(blend, checkpoint.tokenizer), options, task="blend"
    )
    made = [
        sketch(checkpoint, text, options, task=name)
        for name, text in zip(beginnings, sources, strict=True)
    ]
    for by in ("joint", "activation", "error"):
        found = mix(target, made, by=by)
        off = np.abs(weights_of(found) - truth)
        assert off.max() < 0.2, (by, off)
        for share, true in zip(found.shares, truth, strict=True):
            assert share.weight.low <= true <= share.weight.high, (by, share)
        assert found.total.low <= 1 <= found.total.high
        assert not any("No mixture" in sentence for sentence in found.warnings)


# What cannot be said


def noise(name: str, n: int, seed: int) -> Signature:
    """Gradients in directions of their own, so few that the norm may be anything."""
    rng = np.random.default_rng(seed)
    task = Task(
        torch.tensor(rng.normal(size=(n, 60))).float(),
        torch.tensor(rng.normal(size=(n, 12))).float(),
        hashes(n, seed),
    )
    return signed(name, sketch_of(spec_of(task, m=512)), task)


def test_too_few_samples_is_a_value_with_a_reason() -> None:
    usual = [language_like(300, seed) for seed in (1, 2, 3)]
    made = sketch_of(spec_of(usual[0], m=512))
    target, *sources = (signed(str(i), made, task) for i, task in enumerate(usual))
    lost = next(
        one
        for one in (noise("noise", 12, seed) for seed in range(50))
        if np.diag(InnerProducts.of([one.state], "joint", True, 1.0).value)[0] <= 0
    )
    found = mix(target, [*sources, lost])
    weight = found.shares[2].weight
    assert weight.value is None
    assert weight.reason.startswith("too few samples: the joint mean is lost in noise")
    assert "n = 12" in weight.reason
    assert found.shares[2].probability == 0
    assert found.shares[0].weight == mix(target, sources).shares[0].weight
    assert any(x.startswith("noise is left out: too few samples") for x in found.warnings)
    nothing = mix(lost, sources)
    assert [share.weight.value for share in nothing.shares] == [None, None]
    assert nothing.total.value is nothing.residual.value is None
    assert nothing.warnings[0].startswith("noise cannot be mixed: the target has too few samples")
    assert interleave_line(nothing) is None
    assert "none: the target has too few samples" in mixture_text(nothing)
    alone = mix(target, [sources[0], lost])
    assert alone.shares[0].weight.value == 1
    assert alone.shares[1].weight.value is None
    single = replace(usual[1], document=np.full(300, 8, dtype=np.uint64))
    found = mix(target, [signed("lone", made, single), *sources])
    assert found.shares[0].weight.reason.startswith("too few documents: 1")
    assert mix(target, [signed("lone", made, single), *sources], debias=False).total.value > 0


def test_few_samples_are_told_of() -> None:
    usual = [language_like(300, seed) for seed in (1, 2)]
    made = sketch_of(spec_of(usual[0], m=512))
    sources = [signed(str(i), made, task) for i, task in enumerate(usual)]
    few = next(
        one
        for one in (noise("noise", 12, seed) for seed in range(50))
        if np.diag(InnerProducts.of([one.state], "joint", True, 1.0).value)[0] > 0
    )
    said = mix(few, sources).warnings
    [told] = [x for x in said if "have few samples" in x]
    assert told.startswith("1 of 3 signatures have few samples")
    assert "noise (" in told
    assert "n = 12 in 12 documents" in told
    many = [signed(f"s{i}", made, language_like(60, 20 + i)) for i in range(12)]
    said = mix(few, many).warnings
    assert any(x.startswith("12 sources are more than 12 documents of noise") for x in said)


def test_nothing_is_nearer_than_what_points_away() -> None:
    """By the mean gradient, which is signed."""
    task = small(300, 1)
    turned = [
        replace(task, error=-task.error, document=hashes(300, 5)),
        replace(small(300, 1, tilt=0.9), document=hashes(300, 6)),
    ]
    turned[1] = replace(turned[1], error=-turned[1].error)
    found = mix(
        exactly("t", task), [exactly(str(i), x) for i, x in enumerate(turned)], by="gradient"
    )
    assert [share.weight.value for share in found.shares] == [None, None]
    assert "no mixture of the sources is nearer to t by gradient" in found.shares[0].weight.reason
    assert found.total.value == 0
    assert found.residual.value == pytest.approx(1, abs=0.02)
    assert [share.probability for share in found.shares] == [0, 0]
    assert any("There are no weights" in sentence for sentence in found.warnings)


def test_an_indefinite_matrix_is_made_the_nearest_definite_one() -> None:
    value = np.array(
        [[1, 0.9, 0.8, 0.5], [0.9, 1, 0.95, 0.1], [0.8, 0.95, 1, 0.6], [0.5, 0.1, 0.6, 1]]
    )
    assert np.linalg.eigvalsh(value[1:, 1:])[0] < -0.05
    products = InnerProducts(value, np.stack([value] * 4), None, np.arange(4), 1.0)
    found = Fit.of(products, draws=3)
    assert found.lowest < -0.05
    assert (found.weights >= 0).all()
    assert np.isfinite(found.draws).all()
    np.testing.assert_allclose(found.draws, found.weights[None].repeat(3, 0), rtol=1e-9)


def test_errors_as_large_as_the_norms_leave_no_weights() -> None:
    made = sketch_of(spec_of(language_like(300, 1), m=512))
    sources = [signed(str(i), made, language_like(300, i)) for i in (1, 2)]
    reasons = set()
    for seed in range(40):
        found = mix(noise("noise", 12, seed), sources)
        if found.total.value is None:
            assert "too few samples: " in found.total.reason or "can be weighed" in (
                found.total.reason
            )
            reasons.add(found.shares[0].weight.reason)
        else:
            assert abs(found.residual.value) < 5
    assert reasons


def test_compact_signatures_have_the_sketchs_error_alone(tmp_path: Path) -> None:
    tasks = [language_like(300, seed) for seed in (1, 2, 3)]
    made = sketch_of(spec_of(tasks[0], m=512))
    whole = [signed(str(i), made, task) for i, task in enumerate(tasks)]
    compact = read_signature(export(whole[1], tmp_path / "compact.safetensors"))
    found, usual = mix(whole[0], [compact, whole[2]]), mix(whole[0], whole[1:])
    np.testing.assert_allclose(weights_of(found), weights_of(usual), rtol=1e-5, atol=1e-6)
    assert any("Intervals hold the sketch's error alone" in x for x in found.warnings)
    assert "1 keeps too few blocks" in " ".join(found.warnings)
    ours, theirs = found.shares[0].weight, usual.shares[0].weight
    assert 0 < ours.high - ours.low < theirs.high - theirs.low
    with pytest.raises(UnembedError, match="1 keeps no error features"):
        mix(whole[0], [compact, whole[2]], by="error")
    sharing = signed("2", made, replace(tasks[2], document=tasks[0].document))
    compact = read_signature(export(sharing, tmp_path / "sharing.safetensors"))
    found = mix(whole[0], [whole[1], compact])
    assert any(x.startswith("2 shares documents with 0, which a compact") for x in found.warnings)


def test_what_cannot_be_mixed_is_refused() -> None:
    task = language_like(60, 1)
    sketches = [sketch_of(spec_of(task, m=64, seed=seed)) for seed in (1, 2)]
    a, b, c = (signed(str(s), sketches[0], language_like(60, s)) for s in (1, 2, 3))
    with pytest.raises(UnembedError, match="1 source "):
        mix(a, [b])
    with pytest.raises(UnembedError, match="two signatures are named '2'"):
        mix(a, [b, b])
    with pytest.raises(UnembedError, match="target 1 is the source copy"):
        mix(a, [b, replace(a, name="copy")])
    with pytest.raises(UnembedError, match="1 has seed 1 and x seed 2"):
        mix(a, [b, signed("x", sketches[1], task)])
    with pytest.raises(UnembedError, match=r"'coupling' .*joint, activation"):
        mix(a, [b, c], by="coupling")
    bare = replace(c, state=replace(c.state, first=None))
    with pytest.raises(UnembedError, match=r"3 keeps no mean gradient.*--first"):
        mix(a, [b, bare], by="gradient")
    assert mix(a, [b, bare]).total.value > 0


# What is done with it


def test_probabilities_are_shares_of_documents() -> None:
    sources = [exactly("long", small(400, 1, per_document=8)), exactly("short", small(400, 2))]
    target = replace(
        merge(exactly("a", small(400, 11)), exactly("b", small(200, 2, per_document=2))), name="t"
    )
    target = mix(target, sources)
    long, short = target.shares
    ratio = (long.weight.value / 8) / (short.weight.value / 3)
    # 400 samples are 133 documents of 3, and one of 1.
    assert long.probability / short.probability == pytest.approx(ratio, rel=0.01)
    assert long.probability + short.probability == pytest.approx(1)


def test_the_line_mixes_as_it_says(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    sources = [
        exactly(name, small(300, i + 1)) for i, name in enumerate(("a b/c.txt", "2", "c_txt"))
    ]
    target = replace(merge(exactly("x", small(200, 1)), exactly("y", small(150, 3))), name="target")
    done = mix(target, sources, out=tmp_path / "run", command="unembed mix")
    assert Mixture.load(tmp_path / "run") == done
    assert dict(read_run(tmp_path / "run").facts)["Sketch"].startswith(
        "complex_tensorsketch, m = 256"
    )
    again = mix(target, sources, out=tmp_path / "run")
    assert again == done == mix(target, sources)
    with pytest.raises(UnembedError, match="another"):
        mix(target, sources, out=tmp_path / "run", by="error")
    line = interleave_line(
        replace(
            done,
            shares=tuple(
                replace(share, probability=p)
                for share, p in zip(done.shares, (2 / 3, 0.0, 1 / 3), strict=True)
            ),
        )
    )
    assert line == "interleave_datasets([c_txt, c_txt_2], probabilities=[0.6667, 0.3333])"
    thirds = tuple(replace(share, probability=1 / 3) for share in done.shares)
    assert interleave_line(replace(done, shares=thirds)) == (
        "interleave_datasets([c_txt, text_2, c_txt_2], probabilities=[0.3334, 0.3333, 0.3333])"
    )
    two = [datasets.Dataset.from_dict({"from": [i] * 3000}) for i in range(2)]
    mixed = datasets.interleave_datasets(two, probabilities=[0.6667, 0.3333], seed=0)
    assert np.mean(np.array(mixed["from"][:3000]) == 0) == pytest.approx(2 / 3, abs=0.03)
    text = mixture_text(done)
    assert text.startswith("target by joint: ")
    assert "of 3 sources used" in text.splitlines()[0]
    assert text.splitlines()[-1].startswith("interleave_datasets([")
