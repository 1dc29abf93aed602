from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from reference import signatures as oracle
from unembed.errors import UnembedError
from unembed.head.head import Head
from unembed.signatures.alignment import exact, kernels
from unembed.signatures.alignment.exact import exact_alignments, truncation_bound
from unembed.signatures.alignment.grams import (
    TopkErrors,
    error_blocks,
    fisher_gram,
    logsumexp,
    topk_errors,
)
from unembed.signatures.alignment.kinds import KINDS
from unembed.signatures.alignment.records import Alignments
from unembed.signatures.samples import Pool, Samples

VOCAB, DIM = 5, 3


def make_head(vocab: int = VOCAB, dim: int = DIM, plain: bool = False, size: float = 1.0) -> Head:
    g = torch.Generator().manual_seed(vocab)
    weight = size * torch.randn(vocab, dim, generator=g)
    if plain:
        return Head.from_parts(weight)
    valid = torch.ones(vocab, dtype=torch.bool)
    valid[1] = False
    return Head.from_parts(weight, torch.randn(vocab, generator=g), 0.7, 5.0, valid)


def make_task(
    name: str,
    documents: Sequence[int],
    seed: int,
    head: Head,
    sequences: Sequence[int] | None = None,
    drift: float = 0.5,
) -> Samples:
    """Normal hidden states around a mean of the task's, and targets that are tokens."""
    g = torch.Generator().manual_seed(seed)
    n = len(documents)
    hidden = torch.randn(n, head.dim, generator=g) + drift * torch.randn(head.dim, generator=g)
    known = torch.arange(head.vocab)
    known = known if head.valid is None else known[head.valid]
    targets = known[torch.randint(len(known), (n,), generator=g)]
    order = range(n) if sequences is None else sequences
    return Samples(name, hidden, targets, np.array(documents), np.array(order))


def three_tasks(head: Head) -> list[Samples]:
    """Two tasks that share two documents, and one apart; sequences of one to three positions."""
    return [
        make_task("a", [90, 7, 7, 90, 90, 3, 5, 5], 1, head, [0, 1, 1, 2, 2, 5, 6, 6]),
        make_task("b", [7, 3, 3, 3, 11, 12, 12], 2, head, [4, 1, 1, 1, 2, 3, 9]),
        make_task("c", [21, 22, 22, 23, 24, 25], 3, head, [1, 2, 2, 3, 4, 5]),
    ]


def values(found: Alignments) -> dict[str, np.ndarray]:
    return {kind: p.value for kind in KINDS if (p := found.pairs(kind)) is not None}


def same(left: Alignments, right: Alignments, tolerance: float = 1e-12) -> None:
    for kind in KINDS:
        a, b = left.pairs(kind), right.pairs(kind)
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            for field in ("value", "sampling_se", "low", "high"):
                np.testing.assert_allclose(
                    getattr(a, field), getattr(b, field), rtol=1e-9, atol=tolerance
                )
    for one, other in zip(left.tasks, right.tasks, strict=True):
        assert one.status == other.status
        for field in ("residual", "participation_ratio"):
            a, b = getattr(one, field), getattr(other, field)
            assert a == (None if b is None else pytest.approx(b, rel=1e-9))


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "bias-softcap-padded"])
@pytest.mark.parametrize("fisher", ["empirical", "true"])
@pytest.mark.parametrize("unit", ["token", "sequence"])
@pytest.mark.parametrize("debias", [False, True])
def test_everything_is_that_of_the_materialised_fishers(
    debias: bool, unit: str, fisher: str, plain: bool
) -> None:
    """Every label and every sum of a sequence is enumerated; 1e-10 in float64."""
    head = make_head(4 if unit == "sequence" else VOCAB, 2, plain)
    tasks = three_tasks(head)
    found = exact_alignments(tasks, head, fisher=fisher, unit=unit, debias=debias)  # type: ignore[arg-type]
    documents = [oracle.sample_documents(t, unit) for t in tasks]
    samples = [oracle.fishers(t, head, unit, fisher) for t in tasks]
    pairs = [oracle.marginals(t, head, unit, fisher) for t in tasks]
    wanted = {
        "joint": oracle.cosine(samples, documents, debias),
        "activation": oracle.cosine([m for m, _ in pairs], documents, debias),
        "error": oracle.cosine([e for _, e in pairs], documents, debias),
    }
    wanted["proxy"] = wanted["activation"] * wanted["error"]
    wanted["coupling"] = wanted["joint"] / wanted["proxy"]
    if fisher == "empirical":
        means = [oracle.gradients(t, head, unit) for t in tasks]
        wanted["first_moment"] = oracle.cosine(means, documents, debias)
    assert values(found).keys() == wanted.keys()
    for kind, matrix in wanted.items():
        np.testing.assert_allclose(values(found)[kind], matrix, rtol=0, atol=1e-10, err_msg=kind)
    for t, fact in enumerate(found.tasks):
        mean, d = np.mean(samples[t], axis=0), documents[t]
        norm = oracle.inner_product(samples[t], samples[t], d, d, debias)
        assert fact.participation_ratio == pytest.approx(np.trace(mean) ** 2 / norm, rel=1e-10)
        assert (fact.samples, fact.documents) == (len(d), len(set(d)))
    if unit == "token" and not debias:
        for t, fact in enumerate(found.tasks):
            fish, m, e = (np.mean(x, axis=0) for x in (samples[t], *pairs[t]))
            off = np.linalg.norm(fish - np.kron(e, m)) / np.linalg.norm(fish)
            assert fact.residual == pytest.approx(off, rel=1e-10)
    if unit == "sequence":
        assert all(fact.residual is None for fact in found.tasks)


def test_the_debiased_residual_is_that_of_four_nested_loops() -> None:
    head = make_head()
    layouts = [[1, 1, 2, 3, 4, 4, 5], [1, 2, 3, 4, 5, 6], [1, 1, 1, 2, 3, 3]]
    negative = positive = 0
    for seed in range(12):
        task = make_task("a", layouts[seed % 3], seed, head, drift=0)
        fact = exact_alignments([task], head, block=3).tasks[0]
        if fact.documents < 4:
            assert fact.residual is None
            continue
        e, a = oracle.errors(task, head), task.hidden.double().numpy()
        squared = oracle.debiased_residual((a @ a.T) ** 2, (e @ e.T) ** 2, task.document.tolist())
        if squared < 0:
            negative += 1
            assert fact.residual is None
        else:
            positive += 1
            assert fact.residual == pytest.approx(math.sqrt(squared), rel=1e-9)
    assert negative > 0
    assert positive > 1


@pytest.mark.parametrize("fisher", ["empirical", "true"])
def test_coupling_and_certificate_hold_exactly_of_all_pairs(fisher: str) -> None:
    """A = ρ A_proxy, ρ from its own definition, and the angle between A and A_proxy."""
    head = make_head(7, 4)
    tasks = [make_task(name, range(9), seed, head) for seed, name in enumerate("abcd")]
    found = exact_alignments(tasks, head, debias=False, fisher=fisher)  # type: ignore[arg-type]
    got = values(found)
    a = [t.hidden.double().numpy() for t in tasks]
    if fisher == "empirical":
        e = [oracle.errors(t, head) for t in tasks]
        y = [[(u @ v.T) ** 2 for v in e] for u in e]
    else:
        _, spread = zip(*(oracle.marginals(t, head, "token", "true") for t in tasks), strict=True)
        y = [[np.einsum("iab,jab->ij", u, v) for v in spread] for u in spread]
    r = np.empty((4, 4))
    for i in range(4):
        for j in range(4):
            x = (a[i] @ a[j].T) ** 2
            r[i, j] = (x * y[i][j]).mean() / (x.mean() * y[i][j].mean())
    rho = r / np.sqrt(np.outer(r.diagonal(), r.diagonal()))
    np.testing.assert_allclose(got["coupling"], rho, atol=1e-10)
    np.testing.assert_allclose(got["joint"], rho * got["proxy"], atol=1e-10)
    angles = [np.arccos(np.minimum(got[kind], 1)) for kind in ("joint", "proxy")]
    delta = np.arcsin([fact.residual or math.nan for fact in found.tasks])
    assert (np.abs(angles[0] - angles[1]) <= delta[:, None] + delta + 1e-7).all()
    assert (np.abs(angles[0] - angles[1]) > 1e-3).any()


def test_shared_activations_and_disjoint_errors_are_told_apart_by_the_joint_alone() -> None:
    """Each document's text is in both tasks; the tokens that err are not (theory §11)."""
    vocab, n = 8, 12
    weight = torch.zeros(vocab, 5)
    weight[:4, 0], weight[4:, 0] = 200.0, -200.0
    head = Head.from_parts(weight)
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(n, 5, generator=g)
    hidden[:, 0] = 3
    document = np.arange(n)
    first = Samples("first", hidden, torch.arange(n) % 4, document, document)
    # The mirror image activates the other tokens, and a·a' does not see the sign of both.
    second = replace(first, name="second", hidden=-hidden, targets=4 + torch.arange(n) % 4)
    for debias in (False, True):
        got = values(exact_alignments([first, second], head, debias=debias))
        assert got["activation"][0, 1] == pytest.approx(1, abs=1e-12)
        assert got["joint"][0, 1] == pytest.approx(0, abs=1e-12)
        assert got["error"][0, 1] == pytest.approx(0, abs=1e-12)


def test_flipped_labels_are_aligned_while_their_mean_gradients_oppose() -> None:
    head = Head.from_parts(torch.zeros(2, 3))
    hidden = torch.randn(10, 3, generator=torch.Generator().manual_seed(0)) + 2
    document = np.arange(10)
    up = Samples("up", hidden, torch.zeros(10, dtype=torch.long), document, document)
    down = replace(up, name="down", targets=torch.ones(10, dtype=torch.long))
    for debias in (False, True):
        got = values(exact_alignments([up, down], head, debias=debias))
        assert got["joint"][0, 1] == pytest.approx(1, abs=1e-12)
        assert got["first_moment"][0, 1] == pytest.approx(-1, abs=1e-12)


@pytest.mark.parametrize("how", ["token", "sequence", "true", "top_k", "biased"])
def test_block_sizes_and_the_order_of_positions_change_nothing(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = make_head(23, 6)
    tasks = [
        make_task("a", [1, 1, 2, 2, 2, 3, 4, 5, 5, 6], 1, head, [1, 1, 2, 2, 3, 4, 5, 6, 6, 7]),
        make_task("b", [3, 4, 5, 7, 8, 8, 8, 9], 2, head, [0, 1, 2, 3, 4, 4, 4, 5]),
        make_task("c", [31, 32, 33, 34, 35], 3, head),
    ]
    ways: dict[str, dict[str, object]] = {
        "token": {},
        "sequence": {"unit": "sequence"},
        "true": {"fisher": "true"},
        "top_k": {"top_k": 4},
        "biased": {"debias": False},
    }
    whole = exact_alignments(tasks, head, **ways[how])  # type: ignore[arg-type]
    for block in (1, 3, 7, 23):
        same(exact_alignments(tasks, head, block=block, **ways[how]), whole)  # type: ignore[arg-type]
    monkeypatch.setattr(kernels, "BAND", 100)
    same(exact_alignments(tasks, head, block=2, **ways[how]), whole)  # type: ignore[arg-type]
    order = np.random.default_rng(0).permutation(10)
    shuffled = Samples(
        "a",
        tasks[0].hidden[order],
        tasks[0].targets[order],
        tasks[0].document[order],
        tasks[0].sequence[order],
    )
    same(exact_alignments([shuffled, *tasks[1:]], head, **ways[how]), whole)  # type: ignore[arg-type]


def test_a_copy_of_a_task_is_aligned_with_it_exactly() -> None:
    head = make_head(11, 4)
    task = make_task("a", [1, 1, 2, 3, 3, 4, 5], 1, head)
    found = exact_alignments([task, replace(task, name="copy")], head)
    for kind in KINDS:
        pairs = found.pairs(kind)
        assert pairs is not None
        np.testing.assert_allclose(pairs.value, 1, atol=1e-12)
        assert not pairs.sketch_se.any()
    np.testing.assert_allclose(found.joint.sampling_se, 0, atol=1e-12)


def without(task: Samples, documents: set[int]) -> Samples:
    kept = np.array([d not in documents for d in task.document.tolist()])
    return Samples(
        task.name, task.hidden[kept], task.targets[kept], task.document[kept], task.sequence[kept]
    )


@pytest.mark.parametrize("debias", [False, True])
def test_the_jackknife_is_that_of_samples_really_deleted(
    debias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of kin are deleted at once, those of others apart; 1e-9."""
    monkeypatch.setattr(exact, "MOST_BLOCKS", 4)
    head = make_head(9, 4)
    tasks = [
        make_task("a", [1, 1, 2, 3, 4, 5, 6, 7, 7, 8], 1, head, drift=2),
        make_task("b", [5, 6, 6, 7, 8, 9, 10, 11], 2, head, drift=2),
        make_task("c", [31, 32, 33, 33, 34, 35, 36, 37, 38, 38], 3, head, drift=2),
    ]
    found = exact_alignments(tasks, head, debias=debias)
    # Documents dealt to 4 blocks in the order of their numbers, by groups of kin.
    dealt = [[{d for d in range(1, 12) if (d - 1) % 4 == b} for b in range(4)]] * 2
    dealt = [*dealt, [{d for d in range(31, 39) if (d - 31) % 4 == b} for b in range(4)]]

    def deleted(*which: int) -> dict[str, np.ndarray]:
        several = [
            values(
                exact_alignments(
                    [without(t, dealt[i][b]) if i in which else t for i, t in enumerate(tasks)],
                    head,
                    debias=debias,
                )
            )
            for b in range(4)
        ]
        return {
            kind: 3 / 4 * np.square(stack - stack.mean(0)).sum(0)
            for kind in KINDS
            if (stack := np.stack([one[kind] for one in several])) is not None
        }

    together, first, last = deleted(0, 1), deleted(0), deleted(2)
    for kind in KINDS:
        pairs = found.pairs(kind)
        assert pairs is not None
        got = pairs.sampling_se
        assert got[0, 1] == pytest.approx(math.sqrt(together[kind][0, 1]), rel=1e-9)
        assert got[1, 0] == pytest.approx(got[0, 1], rel=1e-12)
        apart = math.sqrt(first[kind][0, 2] + last[kind][0, 2])
        assert got[0, 2] == pytest.approx(apart, rel=1e-9)
        assert got[2, 0] == pytest.approx(apart, rel=1e-9)
        np.testing.assert_allclose(pairs.high - pairs.value, 1.96 * got, atol=1e-12)
        np.testing.assert_allclose(pairs.value - pairs.low, 1.96 * got, atol=1e-12)


def population(
    head: Head, seed: int, size: int = 60
) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Hidden states and targets to draw from, and the Fisher of a uniform draw."""
    task = make_task("population", range(size), seed, head, drift=1.0)
    g = np.stack(oracle.gradients(task, head, "token"))
    return task.hidden, task.targets, np.einsum("na,nb->ab", g, g) / size


def draw(
    rng: np.random.Generator,
    source: tuple[torch.Tensor, torch.Tensor, np.ndarray],
    n: int,
    name: str,
    first: int,
) -> Samples:
    picked = rng.integers(len(source[1]), size=n)
    numbers = np.arange(first, first + n)
    return Samples(name, source[0][picked], source[1][picked], numbers, numbers)


@pytest.mark.slow
def test_debiased_norms_and_residuals_are_unbiased_and_plug_in_ones_are_not() -> None:
    """150 draws of 12 samples: within 3 standard errors of the population's ‖F‖²."""
    head = make_head(7, 3)
    source = population(head, 1)
    rng = np.random.default_rng(0)
    truth = float((source[2] ** 2).sum())
    found: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(150):
        task = draw(rng, source, 12, "draw", 0)
        for debias, norms in found.items():
            measured = exact._measure([task], head, "empirical", "token", debias, None, 64)
            norms.append(float(measured.cells.means[0, 0, 0]))
    se = {debias: np.std(norms) / math.sqrt(150) for debias, norms in found.items()}
    assert abs(np.mean(found[True]) - truth) < 3 * se[True]
    assert np.mean(found[False]) - truth > 6 * se[False]


@pytest.mark.slow
def test_jackknife_intervals_cover(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two apart, and two that read the same documents: 95 % nominal, 60 draws of 64."""
    monkeypatch.setattr(exact, "MOST_BLOCKS", 16)
    head = make_head(7, 3)
    one, two = population(head, 1), population(head, 2)
    truth = (one[2] * two[2]).sum() / math.sqrt((one[2] ** 2).sum() * (two[2] ** 2).sum())
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(60):
        tasks = [draw(rng, one, 64, "one", 0), draw(rng, two, 64, "two", 100)]
        joint = exact_alignments(tasks, head).joint
        covered.append(joint.low[0, 1] <= truth <= joint.high[0, 1])
    assert 0.86 <= np.mean(covered) <= 1
    # The same states, targets of another task: kin.
    relabelled = (one[0], two[1], population_fisher(head, one[0], two[1]))
    truth = (one[2] * relabelled[2]).sum() / math.sqrt(
        (one[2] ** 2).sum() * (relabelled[2] ** 2).sum()
    )
    covered = []
    for _ in range(60):
        first = draw(rng, one, 64, "one", 0)
        index = [int((one[0] == h).all(1).nonzero()[0, 0]) for h in first.hidden]
        second = replace(first, name="two", targets=relabelled[1][index])
        joint = exact_alignments([first, second], head).joint
        covered.append(joint.low[0, 1] <= truth <= joint.high[0, 1])
    assert 0.86 <= np.mean(covered) <= 1


def population_fisher(head: Head, hidden: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
    n = len(targets)
    task = Samples("all", hidden, targets, np.arange(n), np.arange(n))
    g = np.stack(oracle.gradients(task, head, "token"))
    return np.asarray(np.einsum("na,nb->ab", g, g) / n)


@pytest.mark.parametrize("vocab", [2, 3, 127, 129])
@pytest.mark.parametrize("block", [1, 50, 128, 1000])
def test_error_blocks_are_softmax_less_one_hot(vocab: int, block: int) -> None:
    head = make_head(vocab, 5, plain=vocab < 3)
    task = make_task("a", range(7), 0, head)
    total = logsumexp(task.hidden, head, block)
    blocks = list(error_blocks(task.hidden, task.targets, head, total, block))
    assert all(b.shape[1] <= block and b.dtype == torch.float64 for b in blocks)
    np.testing.assert_allclose(torch.cat(blocks, 1), oracle.errors(task, head), atol=1e-14)


def test_the_true_kernel_is_the_mean_over_both_labels() -> None:
    g = torch.Generator().manual_seed(0)
    p = torch.randn(6, 5, generator=g, dtype=torch.float64).mul(3).softmax(1)
    got = fisher_gram(lambda: iter(p.split(2, 1)), slice(1, 4))
    for i in range(1, 4):
        for j in range(6):
            wanted = math.fsum(
                float(p[i, y] * p[j, z] * ((p[i] - eye(5, y)) @ (p[j] - eye(5, z))) ** 2)
                for y in range(5)
                for z in range(5)
            )
            assert got[i - 1, j] == pytest.approx(wanted, abs=1e-14)


def eye(n: int, at: int) -> torch.Tensor:
    return torch.eye(n, dtype=torch.float64)[at]


@pytest.mark.parametrize("k", [1, 2, 5, 30])
def test_topk_errors_keep_the_largest_and_the_target(k: int) -> None:
    head = make_head(17, 5, size=2)
    task = make_task("a", range(40), 0, head)
    e = oracle.errors(task, head)
    found = topk_errors(task.hidden, task.targets, head, k, block=6)
    dense = torch.cat(list(found.blocks(4)), 1).numpy()
    whole = np.zeros_like(e)
    tokens = found.ids.unique().numpy()
    whole[:, tokens] = dense
    for i, target in enumerate(task.targets.tolist()):
        kept = set(np.argsort(-np.abs(e[i]))[:k].tolist()) | {target}
        wanted = [e[i, v] if v in kept else 0.0 for v in range(17)]
        np.testing.assert_allclose(whole[i], wanted, atol=1e-14)
    np.testing.assert_allclose(found.dropped, np.linalg.norm(e - whole, axis=1), atol=1e-14)
    np.testing.assert_allclose(found.kept, np.linalg.norm(whole, axis=1), atol=1e-14)
    off = np.abs(e @ e.T - whole @ whole.T)
    assert (off <= found.slack(slice(0, 40)).numpy() + 1e-14).all()


def test_the_target_is_kept_where_another_entry_is_as_large() -> None:
    """Of two tokens, both err by the same amount, and k = 1 may pick either."""
    head = make_head(2, 5, plain=True)
    task = make_task("a", range(40), 0, head)
    found = topk_errors(task.hidden, task.targets, head, 1)
    dense = torch.cat(list(found.blocks(4)), 1)
    rows = torch.arange(40)
    wanted = oracle.errors(task, head)[rows, task.targets]
    np.testing.assert_allclose(dense[rows, task.targets], wanted, atol=1e-14)


def kept_of(rows: list[list[float]], dropped: list[float]) -> TopkErrors:
    values = torch.tensor(rows, dtype=torch.float64)
    ids = torch.arange(values.shape[1]).expand(len(values), -1)
    return TopkErrors(ids, values, values.norm(dim=1), torch.tensor(dropped, dtype=torch.float64))


@pytest.mark.parametrize("s", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("off", [1e-6, 0.1, 1.0])
def test_the_slack_covers_the_worst_of_what_may_be_dropped(s: float, off: float) -> None:
    """Errors (1, s) and (0, 1) kept of (1, s) and (off, 1): as bad as Cauchy and Schwarz allow."""
    kept = kept_of([[1, s], [0, 1]], [0, off])
    errors = kernels.Errors(lambda: kept.blocks(2), kept, None)
    span = slice(0, 2)
    hidden = torch.ones(2, 1, dtype=torch.float64)
    found = kernels.Kernels.of(hidden, errors, errors.gram(span), span, np.arange(2))
    assert found.slack is not None
    for quantity in (0, 2):
        assert found.values[quantity, 0, 1] == pytest.approx(s**2)
        assert found.slack[quantity, 0, 1] >= ((s + off) ** 2 - s**2) * (1 - 1e-12)
    assert found.slack[3, 0, 1] >= off
    # The same direction dropped of both, by far the larger part.
    small = kept_of([[0.1, 0], [0, 0.1]], [1, 1])
    assert small.slack(span)[0, 1] >= 1


@pytest.mark.parametrize("unit", ["token", "sequence"])
@pytest.mark.parametrize("debias", [False, True])
def test_truncation_never_moves_a_value_by_more_than_its_bound(debias: bool, unit: str) -> None:
    """A random search over heads, sharpness and k; the bound is finite and met by most."""
    finite = moved = 0
    for seed in range(16):
        rng = np.random.default_rng(seed)
        head = make_head(int(rng.integers(6, 40)), 4, size=float(rng.uniform(0.2, 6)))
        n = int(rng.integers(16, 40))
        tasks = [
            make_task(name, np.arange(n) // 2, 2 * seed + i, head, (np.arange(n) // 2).tolist(), 2)
            for i, name in enumerate("ab")
        ]
        k = int(rng.integers(1, head.vocab))
        how = {"unit": unit, "debias": debias}
        whole = exact_alignments(tasks, head, **how)  # type: ignore[arg-type]
        cut = exact_alignments(tasks, head, top_k=k, **how)  # type: ignore[arg-type]
        bound = truncation_bound(tasks, head, k, **how)  # type: ignore[arg-type]
        off = np.abs(whole.joint.value - cut.joint.value)
        some = np.isfinite(off)
        assert (off[some] <= bound[some] + 1e-12).all()
        finite += np.isfinite(bound[0, 1])
        moved += off[0, 1] > 1e-6
        for kind in KINDS:
            exactly, roughly = whole.pairs(kind), cut.pairs(kind)
            assert exactly is not None
            assert roughly is not None
            span = np.nan_to_num(1.96 * roughly.sampling_se)
            known = np.isfinite(exactly.value) & np.isfinite(roughly.value)
            over = exactly.value > roughly.high - span + 1e-9
            under = exactly.value < roughly.low + span - 1e-9
            assert not (known & (over | under)).any(), kind
    assert finite > 4
    assert moved > 6


def test_all_entries_kept_is_the_whole_answer() -> None:
    head = make_head(9, 4)
    tasks = three_tasks(head)
    whole, cut = exact_alignments(tasks, head), exact_alignments(tasks, head, top_k=9)
    same(whole, cut)
    assert cut.method == "exact, top-9 errors"
    np.testing.assert_allclose(truncation_bound(tasks, head, 9), 0, atol=1e-12)


def test_failures_are_values_with_reasons() -> None:
    head = make_head(6, 4, plain=True)
    single = make_task("single", [5, 5, 5], 1, head)
    fine = make_task("fine", range(100, 130), 2, head, drift=3)
    found = exact_alignments([single, fine], head)
    assert found.tasks[0].status.startswith("too few samples: n = 3 in one document")
    assert found.tasks[0].participation_ratio is None
    assert found.tasks[0].residual is None
    assert found.tasks[1].status == "ok"
    for kind in KINDS:
        pairs = found.pairs(kind)
        assert pairs is not None
        assert np.isnan(pairs.value[0]).all()
        assert np.isfinite(pairs.value[1, 1])
    assert Alignments.from_json(found.to_json()).tasks == found.tasks
    # States at right angles: no gradient meets another.
    bare = Samples("bare", torch.eye(4), torch.arange(4), np.arange(4), np.arange(4))
    found = exact_alignments([bare], head)
    assert found.tasks[0].status.startswith("too few samples: n = 4, participation ratio")
    assert np.isnan(found.joint.value[0, 0])
    assert exact_alignments([bare], head, debias=False).tasks[0].status == "ok"
    # Opposite states: the mean gradient is 0, its debiased square negative; the Fisher is fine.
    flat = Head.from_parts(torch.zeros(2, 2))
    states = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    zero = torch.zeros(2, dtype=torch.long)
    found = exact_alignments([Samples("opposite", states, zero, np.arange(2), np.arange(2))], flat)
    assert found.tasks[0].status.startswith("ok, but the mean gradient is lost in noise")
    assert found.first_moment is not None
    assert np.isnan(found.first_moment.value[0, 0])
    assert found.joint.value[0, 0] == pytest.approx(1)
    silent = replace(bare, hidden=torch.zeros(4, 4))
    assert exact_alignments([silent], head).tasks[0].status.startswith("no gradient")


def test_one_block_of_documents_has_no_standard_error() -> None:
    head = make_head(6, 4)
    found = exact_alignments([make_task("a", [1, 1, 1], 0, head)], head, debias=False)
    assert np.isfinite(found.joint.value).all()
    assert np.isnan(found.joint.sampling_se).all()
    assert np.isnan(found.joint.low).all()


def test_kin_are_found_by_way_of_others_and_share_blocks() -> None:
    head = make_head(6, 4)
    tasks = [
        make_task("a", [1, 2, 3], 0, head),
        make_task("b", [3, 4, 5], 1, head),
        make_task("c", [5, 6], 2, head),
        make_task("d", [7, 8, 9], 3, head),
    ]
    pool = Pool.of(tasks, head, 2)
    wanted = np.zeros((4, 4), dtype=bool)
    wanted[:3, :3] = wanted[3, 3] = True
    assert (pool.kin == wanted).all()
    for document in np.unique(pool.document):
        assert len(set(pool.block[pool.document == document].tolist())) == 1
    assert np.bincount(pool.block[pool.task == 3], minlength=2).tolist() == [2, 1]


def test_what_cannot_be_used_is_refused_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    head = make_head(6, 4)
    task = make_task("a", range(5), 0, head)
    with pytest.raises(UnembedError, match=r"no tasks"):
        exact_alignments([], head)
    with pytest.raises(UnembedError, match=r"two tasks are named 'a'"):
        exact_alignments([task, task], head)
    with pytest.raises(UnembedError, match=r"4 wide, .* 3"):
        exact_alignments([task], make_head(6, 3))
    with pytest.raises(UnembedError, match=r"target 1 of task 'a'"):
        exact_alignments([replace(task, targets=torch.ones(5, dtype=torch.long))], head)
    with pytest.raises(UnembedError, match=r"target 6 of task 'a'"):
        exact_alignments([replace(task, targets=torch.full((5,), 6))], head)
    with pytest.raises(UnembedError, match=r"fisher 'false' is not"):
        exact._check([task], "false", "token", None, 1)
    with pytest.raises(UnembedError, match=r"unit 'word' is not"):
        exact._check([task], "true", "word", None, 1)
    with pytest.raises(UnembedError, match=r"top_k = 3 is for observed errors"):
        exact_alignments([task], head, fisher="true", top_k=3)
    with pytest.raises(UnembedError, match=r"top_k is 0"):
        exact_alignments([task], head, top_k=0)
    with pytest.raises(UnembedError, match=r"block is 0"):
        exact_alignments([task], head, block=0)
    broken = task.hidden.clone()
    broken[3, 1] = math.inf
    with pytest.raises(UnembedError, match=r"1 of the 5 hidden states .* not finite"):
        replace(task, hidden=broken)
    with pytest.raises(UnembedError, match=r"has no positions"):
        Samples("none", task.hidden[:0], task.targets[:0], np.arange(0), np.arange(0))
    with pytest.raises(UnembedError, match=r"sequence 2 of task 'a'"):
        replace(task, sequence=np.array([0, 1, 2, 2, 3]))
    monkeypatch.setattr(exact, "MOST_POSITIONS", 4)
    with pytest.raises(UnembedError, match=r"5 positions .*the 4 .* sketch"):
        exact_alignments([task], head)
