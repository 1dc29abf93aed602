from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import jaxtyping
import numpy as np
import pytest
import torch
from torch import Tensor

import reference.signatures
from reference import baselines as oracle
from unembed.errors import UnembedError
from unembed.head.head import Head
from unembed.selection.baselines import (
    BASELINES,
    MODEL_BASELINES,
    debiased_cka,
    fisher_diagonals,
    gradients,
    kappa,
    labels,
    linear_cka,
    models,
    procrustes,
    rsa,
    score,
    svcca,
)
from unembed.selection.baselines.unbiased import centred_product
from unembed.signatures.alignment.exact import exact_alignments
from unembed.signatures.samples import Samples

SYMMETRIC = tuple(name for name in BASELINES if name not in ("unigram_loss", "random"))
STATES = ("cka", "cka_debiased", "rsa", "svcca", "kappa", "procrustes")
ROTATED = ("cka", "cka_debiased", "svcca", "kappa", "procrustes")
PAIRED = (linear_cka, debiased_cka, rsa, svcca, procrustes)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_head(vocab: int = 7, dim: int = 5, plain: bool = False) -> Head:
    weight = normal(vocab, dim, seed=vocab)
    if plain:
        return Head.from_parts(weight)
    valid = torch.ones(vocab, dtype=torch.bool)
    valid[1] = False
    return Head.from_parts(weight, normal(vocab, seed=dim), 0.7, 5.0, valid)


def make_text(name: str, documents: list[int], seed: int, head: Head) -> Samples:
    """Normal states with a covariance and a mean of the text's own, and targets that are tokens."""
    n = len(documents)
    mix = rotation(head.dim, 100 + seed).float() / torch.arange(1, head.dim + 1)[:, None] ** 2
    hidden = normal(n, head.dim, seed=seed) @ mix + 0.2 * normal(head.dim, seed=200 + seed)
    known = torch.arange(head.vocab)
    known = known if head.valid is None else known[head.valid]
    g = torch.Generator().manual_seed(seed)
    targets = known[torch.randint(len(known), (n,), generator=g)]
    return Samples(name, hidden, targets, np.array(documents), np.arange(n))


def two_texts(head: Head) -> tuple[Samples, Samples]:
    """Two documents are in both; some hold several positions."""
    target = make_text("target", [90, 7, 7, 3, 5, 5, 8, 12], 1, head)
    return target, make_text("source", [7, 3, 21, 21, 22, 23, 24, 24, 25], 2, head)


def rotation(dim: int, seed: int = 9) -> Tensor:
    return torch.linalg.qr(normal(dim, dim, seed=seed).double()).Q


def wanted(name: str, target: Samples, source: Samples, head: Head) -> float:
    x, y = oracle.states(source), oracle.states(target)
    c, d = oracle.covariance(x), oracle.covariance(y)
    g, h = (oracle.gradients(text, head) for text in (source, target))
    errors = [oracle.error_moment(text, head) for text in (source, target)]
    match name:
        case "cka":
            return oracle.cosine(c, d)
        case "cka_debiased":
            return oracle.cka_debiased(target, source)
        case "rsa":
            return oracle.rank_likeness(x.T, y.T)
        case "svcca":
            return oracle.subspace_likeness(c, d)
        case "kappa":
            rank = min(oracle.principal(z).shape[1] for z in (c, d))
            described = ((z - z.mean(0)).T for z in (x, y))
            return 1 - oracle.kappa(*described, rank, 0.0, centre=False)
        case "procrustes":
            trace = math.sqrt(np.trace(c) * np.trace(d))
            return oracle.nuclear(oracle.root(c) @ oracle.root(d)) / trace
        case "fa_cka_product":
            return oracle.cosine(c, d) * oracle.cosine(*errors)
        case "fa_cka_kernel":
            return oracle.cosine(oracle.fisher(g), oracle.fisher(h))
        case "fa_cka_centred":
            return oracle.cosine(oracle.covariance(g), oracle.covariance(h))
        case "task2vec":
            return oracle.task2vec(target, source, head)
        case "fisher_diagonal":
            return oracle.cosine(*(oracle.diagonal(text, head) for text in (source, target)))
        case "unigram":
            return oracle.unigram(target, source, head)
        case "unigram_loss":
            return oracle.unigram_loss(target, source, head, labels.ALPHA)
        case _:
            raise AssertionError(name)


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "bias-softcap-padded"])
@pytest.mark.parametrize("name", [name for name in BASELINES if name != "random"])
def test_each_is_its_obvious_twin(name: str, plain: bool) -> None:
    """1e-9 in float64, 1e-7 after roots; with fewer coordinates than positions, and with more."""
    for dim in (5, 11):
        head = make_head(7, dim, plain)
        target, source = two_texts(head)
        found = score(name, target, source, head)
        tolerance = 1e-7 if name in ("procrustes", "svcca", "kappa") else 1e-9
        assert found == pytest.approx(wanted(name, target, source, head), abs=tolerance)


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "bias-softcap-padded"])
@pytest.mark.parametrize("dim", [3, 14])
def test_scores_of_models_are_their_obvious_twins(dim: int, plain: bool) -> None:
    """1e-9; the evidence 1e-7, for the twin ends its iteration where it moves no more."""
    head = make_head(6, dim, plain)
    for seed in range(4):
        text = make_text("target", list(range(12)), seed, head)
        read = replace(text, hidden=text.hidden + normal(12, dim, seed=50 + seed))
        found = {name: score(name, text, read, head) for name in MODEL_BASELINES}
        assert found["loss"] == pytest.approx(oracle.loss(read, head), abs=1e-9)
        assert found["leep"] == pytest.approx(oracle.leep(read, head), abs=1e-9)
        assert found["h_score"] == pytest.approx(oracle.h_score(read), abs=1e-9)
        assert found["leep"] < 0
        assert found["h_score"] >= 0
        if dim < 12:
            assert found["logme"] == pytest.approx(oracle.logme(read), abs=1e-7)


def test_the_evidence_is_the_largest_of_any_two_variances() -> None:
    """Against a lattice of both, of the density written out: 2e-3 nats a position below at most."""
    head = make_head(5, 3, plain=True)
    text = make_text("target", list(range(15)), 3, head)
    f = oracle.states(text)
    total = 0.0
    kinds = text.targets.unique().tolist()
    for kind in kinds:
        y = (text.targets.numpy() == kind).astype(float)
        total += max(
            oracle.log_evidence(f, y, 10.0**a, 10.0**b)
            for a in np.arange(-2, 8, 0.1)
            for b in np.arange(-1, 3, 0.05)
        ) / len(f)
    found = score("logme", text, text, head)
    assert total / len(kinds) <= found <= total / len(kinds) + 2e-3


def test_states_that_tell_classes_apart_score_higher() -> None:
    head = make_head(4, 6, plain=True)
    text = make_text("target", list(range(60)), 0, head)
    marks = torch.nn.functional.one_hot(text.targets, 6).float()
    told = replace(text, hidden=text.hidden + 8 * marks)
    for name in ("h_score", "logme"):
        assert score(name, text, told, head) > score(name, text, text, head) + 0.05, name
    sharp = Head.from_parts(4 * torch.eye(4, 6))
    for name in ("leep", "loss"):
        assert score(name, text, told, sharp) > score(name, text, text, sharp) + 0.05, name


@pytest.mark.parametrize("name", MODEL_BASELINES)
def test_scores_of_models_know_no_rotation_and_those_of_states_no_scale(name: str) -> None:
    head = make_head(plain=True)
    text = make_text("target", list(range(20)), 0, head)
    turn = rotation(head.dim)
    before = score(name, text, text, head)
    turned = replace(text, hidden=(text.hidden.double() @ turn))
    turned_head = Head.from_parts(head.weight.double() @ turn)
    assert score(name, text, turned, turned_head) == pytest.approx(before, abs=1e-9)
    if name in ("h_score", "logme"):
        scaled = replace(text, hidden=3 * text.hidden.double())
        assert score(name, text, scaled, head) == pytest.approx(before, abs=1e-9)
        shifted = replace(text, hidden=text.hidden.double() + 5)
        same = score(name, text, shifted, head) == pytest.approx(before, abs=1e-9)
        assert same == (name == "h_score")


@pytest.mark.parametrize("name", SYMMETRIC)
def test_a_text_with_itself_has_one_and_the_order_does_not_matter(name: str) -> None:
    head = make_head()
    target, source = two_texts(head)
    assert score(name, target, target, head) == pytest.approx(1, abs=1e-12)
    there, back = score(name, target, source, head), score(name, source, target, head)
    assert there == pytest.approx(back, abs=1e-12)
    assert abs(there) < 1 - 1e-3 or name == "cka_debiased"


@pytest.mark.parametrize("name", STATES)
def test_rotation_scale_and_shift_of_states(name: str) -> None:
    head = make_head()
    target, source = two_texts(head)
    before = score(name, target, source, head)
    moved = replace(source, hidden=-0.3 * source.hidden.double() + 4 * torch.arange(head.dim))
    assert score(name, target, moved, head) == pytest.approx(before, abs=1e-9)
    turn = rotation(head.dim)
    turned = [replace(text, hidden=text.hidden.double() @ turn) for text in (target, source)]
    same = score(name, *turned, head) == pytest.approx(before, abs=1e-9)
    assert same == (name in ROTATED)
    # Turning one alone is another relation of the two.
    assert score(name, target, turned[1], head) != pytest.approx(before, abs=1e-3)


@pytest.mark.parametrize("name", [n for n in BASELINES if n.startswith(("fa_", "task", "fisher"))])
def test_rotation_and_scale_of_states_and_head_together(name: str) -> None:
    head = make_head(plain=True)
    target, source = two_texts(head)
    before = score(name, target, source, head)
    turn = rotation(head.dim)
    for change, back in ((turn, turn), (3 * torch.eye(5).double(), torch.eye(5).double() / 3)):
        moved = [replace(text, hidden=text.hidden.double() @ change) for text in (target, source)]
        found = score(name, *moved, Head.from_parts(head.weight.double() @ back))
        same = found == pytest.approx(before, abs=1e-9)
        assert same == (name != "fisher_diagonal" or change is not turn)


def test_order_of_positions_and_size_of_blocks_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head = make_head(23, 6)
    target, source = two_texts(head)
    names = [n for n in BASELINES if n != "random"]
    before = {name: score(name, target, source, head) for name in names}
    own = {name: score(name, target, target, head) for name in MODEL_BASELINES}
    order = np.random.default_rng(0).permutation(len(source.document))
    shuffled = Samples(
        "source",
        source.hidden[order],
        source.targets[order],
        source.document[order],
        source.sequence[order],
    )
    for name in names:
        found = score(name, target, shuffled, head)
        assert found == pytest.approx(before[name], abs=1e-12), name
    for block in (1, 4, 23):
        monkeypatch.setattr(fisher_diagonals, "BLOCK", block)
        monkeypatch.setattr(models, "BLOCK", block)
        monkeypatch.setattr(gradients, "MOST_KERNELS", block * 17)
        for name in names:
            found = score(name, target, source, head)
            assert found == pytest.approx(before[name], abs=1e-12), name
        for name in MODEL_BASELINES:
            found = score(name, target, target, head)
            assert found == pytest.approx(own[name], abs=1e-12), name


def test_the_product_kernel_is_the_joint_alignment_from_all_pairs() -> None:
    head = make_head()
    target, source = two_texts(head)
    exact = exact_alignments([target, source], head, debias=False)
    joint = score("fa_cka_kernel", target, source, head)
    assert joint == pytest.approx(exact.joint.value[0, 1], abs=1e-12)
    error = exact.error.value[0, 1] * score("cka", target, source, head)
    assert score("fa_cka_product", target, source, head) == pytest.approx(error, abs=1e-12)


def test_a_shared_encoder_with_disjoint_outputs_is_told_apart_by_errors_alone() -> None:
    """One representation, CKA = 1, and no gradient in common, A = 0 (theory §11)."""
    n, vocab = 12, 8
    bias = torch.zeros(vocab)
    weight = torch.zeros(vocab, 6)
    weight[:4, 0], weight[4:, 0] = 200.0, -200.0
    weight[:4, 1:5], weight[4:, 1:5] = torch.eye(4), torch.eye(4)
    head = Head.from_parts(weight, bias)
    hidden = normal(n, 6, seed=0)
    hidden[:, 0] = 3
    document = np.arange(n)
    first = Samples("first", hidden, torch.arange(n) % 4, document, document)
    # The encoder's constant coordinate chooses the support; its covariance does not see it.
    other = hidden.clone()
    other[:, 0] = -3
    second = Samples("second", other, 4 + torch.arange(n) % 4, document, document)
    for name in ("cka", "cka_debiased", "svcca", "procrustes", "rsa"):
        assert score(name, first, second, head) == pytest.approx(1, abs=1e-9), name
    for name in ("fa_cka_product", "fa_cka_kernel", "fa_cka_centred", "fisher_diagonal"):
        assert score(name, first, second, head) == pytest.approx(0, abs=1e-12), name
    assert score("task2vec", first, second, head) == pytest.approx(0, abs=1e-12)
    assert score("unigram", first, second, head) == 0
    exact = exact_alignments([first, second], head, debias=False)
    assert exact.joint.value[0, 1] == pytest.approx(0, abs=1e-12)
    for measure in PAIRED:
        if measure is not rsa:
            assert measure(hidden, other) == pytest.approx(1, abs=1e-9)


def test_other_answer_words_leave_every_representation_alone() -> None:
    head = make_head()
    text = make_text("yes", list(range(10)), 0, head)
    permuted = torch.tensor([2, 0, 3, 4, 5, 6, 0])
    other = replace(text, name="oui", targets=permuted[text.targets])
    for name in STATES:
        assert score(name, text, other, head) == pytest.approx(1, abs=1e-12), name
    for name in ("unigram", "fa_cka_kernel", "fa_cka_centred", "fisher_diagonal", "task2vec"):
        assert score(name, text, other, head) < 0.95, name


@pytest.mark.parametrize("widths", [(4, 7), (15, 20), (4, 20)])
def test_paired_measures_are_their_obvious_twins(widths: tuple[int, int]) -> None:
    a, b = normal(8, widths[0], seed=1), normal(8, widths[1], seed=2)
    b[:, :3] += a[:, :3]
    x, y = a.double().numpy(), b.double().numpy()
    p, q = x - x.mean(0), y - y.mean(0)
    k, m = p @ p.T, q @ q.T
    trace = math.sqrt(np.trace(k) * np.trace(m))
    assert linear_cka(a, b) == pytest.approx(oracle.cosine(k, m), abs=1e-9)
    assert rsa(a, b) == pytest.approx(oracle.rank_likeness(x, y), abs=1e-9)
    assert svcca(a, b) == pytest.approx(oracle.subspace_likeness(k, m), abs=1e-9)
    assert procrustes(a, b) == pytest.approx(oracle.nuclear(p.T @ q) / trace, abs=1e-7)
    for documents in (list(range(8)), [4, 4, 2, 1, 1, 1, 7, 9]):
        found = debiased_cka(a, b, np.array(documents))
        assert found == pytest.approx(oracle.paired_debiased_cka(x, y, documents), abs=1e-9)
    assert debiased_cka(a, b) == debiased_cka(a, b, np.arange(8))


@pytest.mark.parametrize("measure", PAIRED)
def test_paired_measures_of_one_representation(
    measure: Callable[..., float], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = normal(9, 5, seed=1), normal(9, 6, seed=2)
    assert measure(a, a) == pytest.approx(1, abs=1e-12)
    assert measure(a, b) == pytest.approx(measure(b, a), abs=1e-12)
    turned = 3 * a.double() @ rotation(5)
    if measure is not rsa:
        assert measure(a, turned + 2) == pytest.approx(1, abs=1e-9)
        assert measure(turned + 2, b) == pytest.approx(measure(a, b), abs=1e-9)
    else:
        assert measure(a, 3 * a + 2) == pytest.approx(1, abs=1e-9)
    assert math.isnan(measure(a, torch.full((9, 6), 0.1)))
    with monkeypatch.context() as production:
        production.setattr(jaxtyping.config, "jaxtyping_disable", True)
        with pytest.raises(UnembedError, match="9 rows cannot be paired with 8"):
            measure(a, b[:8])
    with pytest.raises(UnembedError, match="1 of 9 rows are not finite"):
        measure(a, b.index_fill(0, torch.tensor([3]), math.inf))


def test_tied_likenesses_share_a_rank() -> None:
    """To 1e-12: here all inputs are one pattern at either sign and many scales."""
    pattern, scale = normal(6, seed=3).double(), 0.1 + torch.arange(9).double() / 7
    sign = torch.tensor([1.0, -1, 1, 1, -1, 1, -1, -1, 1]).double()
    alike, b = torch.outer(sign * scale, pattern) + 1, normal(9, 7, seed=0)
    x = [float(s) for s in torch.outer(sign, sign)[tuple(torch.triu_indices(9, 9, 1))]]
    y = [float(v) for v in np.corrcoef(b.double().numpy())[np.triu_indices(9, 1)]]
    assert rsa(alike, b) == pytest.approx(oracle.spearman(x, y), abs=1e-12)


def test_integer_patterns_that_tie_share_a_rank() -> None:
    rows = torch.tensor([[1, 0, 0, -1], [1, -1, 0, 0], [1, 0, -1, 0], [2, 1, 0, 5], [0, 1, -1, 0]])
    a, b = rows.double(), normal(5, 7, seed=0)
    x = [float(v) for v in np.corrcoef(a.numpy()).round(12)[np.triu_indices(5, 1)]]
    y = [float(v) for v in np.corrcoef(b.double().numpy())[np.triu_indices(5, 1)]]
    assert len(set(x)) < len(x)
    assert rsa(a, b) == pytest.approx(oracle.spearman(x, y), abs=1e-12)


def test_procrustes_is_the_cosine_after_the_best_rotation() -> None:
    """Of all rotations and reflections of a plane, 20,000 of each: 1e-6."""
    a, b = (x - x.mean(0) for x in (normal(7, 2, seed=s).double() for s in (3, 4)))
    angle = torch.linspace(0, 2 * math.pi, 20_000, dtype=torch.float64)
    cross = a.T @ b
    cos, sin = angle.cos(), angle.sin()
    turned = cos * (cross[0, 0] + cross[1, 1]) + sin * (cross[0, 1] - cross[1, 0])
    mirrored = cos * (cross[0, 0] - cross[1, 1]) + sin * (cross[0, 1] + cross[1, 0])
    best = float(torch.maximum(turned, mirrored).max() / (a.norm() * b.norm()))
    assert procrustes(a, b) == pytest.approx(best, abs=1e-6)


def test_kappa_is_the_distance_from_the_nearest_rotation() -> None:
    a = normal(30, 4, seed=1) * torch.tensor([4.0, 3.0, 2.0, 1.0])
    b = a @ normal(4, 6, seed=2) + normal(30, 6, seed=3)
    x, y = a.double().numpy(), b.double().numpy()
    for rank in (1, 2, 4):
        for ridge in (0.0, 1e-6, 0.5):
            found = kappa(a, b, rank=rank, ridge=ridge)
            assert found == pytest.approx(oracle.kappa(x, y, rank, ridge), abs=1e-9)
            assert 0 < found < 1
    assert kappa(a, b, rank=2) == pytest.approx(kappa(a.double() @ rotation(4) + 1, b, rank=2))
    for p, q in ((a, b), (b, a), (a[:, :2], b)):
        covariances = [oracle.covariance(z.double().numpy()) for z in (p, q)]
        fewer = min(oracle.principal(z).shape[1] for z in covariances)
        assert kappa(p, q) == kappa(p, q, rank=fewer)
    # Any invertible map of all directions is a rotation once both are white.
    assert kappa(a, a.double() @ normal(4, 4, seed=5).double(), rank=4, ridge=0.0) < 1e-9
    assert kappa(a, a, ridge=1.0) > 0.01
    alone = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    assert kappa(alone, torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])) == 1
    assert math.isnan(kappa(a, torch.full((30, 2), 0.1)))
    flat = torch.cat([a, torch.zeros(30, 1)], 1)
    assert kappa(flat, flat, rank=5, ridge=0.0) == pytest.approx(math.sqrt(1 / 5))
    with pytest.raises(UnembedError, match=r"rank is 5.* 4"):
        kappa(a, b, rank=5)
    with pytest.raises(UnembedError, match="ridge is -1"):
        kappa(a, b, ridge=-1.0)


@pytest.mark.slow
def test_products_of_covariances_are_unbiased() -> None:
    """Over 400 draws of six documents of one to three positions: 4 standard errors."""
    g = np.random.default_rng(0)
    mix = [g.normal(size=(4, 4)) for _ in range(2)]
    c, d = (m.T @ m for m in mix)
    products, norms, plain = [], [], []
    for _ in range(400):
        texts, documents = [], []
        for i in range(2):
            document = 10 * i + np.repeat(np.arange(6), [1, 2, 3, 1, 1, 2])
            # A document's positions share a part of their states.
            own = g.normal(size=(6, 4))[document - 10 * i]
            rest = g.normal(size=(len(document), 4))
            texts.append(torch.from_numpy((math.sqrt(0.7) * own + math.sqrt(0.3) * rest) @ mix[i]))
            documents.append(document)
        cross, within = texts[0] @ texts[1].T, texts[0] @ texts[0].T
        products.append(centred_product(cross, cross, documents[0], documents[1]))
        norms.append(centred_product(within, within, documents[0], documents[0]))
        covariances = [oracle.covariance(text.numpy()) for text in texts]
        plain.append((covariances[0] * covariances[1]).sum())
    for found, expected in ((products, (c * d).sum()), (norms, (c * c).sum())):
        assert abs(np.mean(found) - expected) < 4 * np.std(found) / 20
    assert min(norms) > 0
    assert abs(np.mean(plain) - (c * d).sum()) > 4 * np.std(plain) / 20


@pytest.mark.slow
def test_few_positions_bias_the_plain_cka_and_not_the_debiased_one() -> None:
    """Unrelated representations of one text, and one law of two texts: 12 positions, 24 wide."""
    head = Head.from_parts(normal(3, 24, seed=0))
    plain, debiased, texts, texts_debiased = [], [], [], []
    for seed in range(40):
        a, b = normal(12, 24, seed=2 * seed), normal(12, 24, seed=2 * seed + 1)
        plain.append(linear_cka(a, b))
        debiased.append(debiased_cka(a, b))
        order = torch.zeros(12, dtype=torch.long)
        one, other = (
            Samples(str(i), x, order, np.arange(12) + 12 * i, np.arange(12))
            for i, x in enumerate((a, b))
        )
        texts.append(score("cka", one, other, head))
        texts_debiased.append(score("cka_debiased", one, other, head))
    assert np.mean(plain) > 0.5
    assert abs(np.mean(debiased)) < 0.1
    # The two texts have the same covariance, the identity.
    assert np.mean(texts) < 0.5
    assert abs(np.mean(texts_debiased) - 1) < 0.1


def test_a_score_that_is_undefined_is_nan() -> None:
    head = make_head(plain=True)
    target, source = two_texts(head)
    level = replace(source, hidden=normal(5, seed=8).double().expand(9, 5) / 3)
    for name in ("cka", "cka_debiased", "rsa", "svcca", "procrustes", "fa_cka_product"):
        assert math.isnan(score(name, target, level, head)), name
        assert math.isnan(score(name, level, target, head)), name
    assert math.isnan(score("h_score", level, level, head))
    one = replace(level, targets=torch.full_like(level.targets, 2))
    assert math.isnan(score("fa_cka_centred", target, one, head))
    nothing = replace(source, hidden=torch.zeros_like(source.hidden))
    for name in ("fa_cka_kernel", "fa_cka_centred", "task2vec", "fisher_diagonal"):
        assert math.isnan(score(name, target, nothing, head)), name
    assert math.isnan(score("logme", nothing, nothing, head))
    few = replace(source, document=np.array([1, 2, 3, 3, 3, 3, 3, 3, 3]))
    assert math.isnan(score("cka_debiased", target, few, head))
    flat = replace(target, hidden=target.hidden * torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0]))
    assert math.isnan(score("rsa", flat, source, head))
    for name in BASELINES + MODEL_BASELINES:
        if name != "cka_debiased":
            assert math.isfinite(score(name, few, few, head)), name


def test_one_position_and_one_class_are_no_failure() -> None:
    head = make_head(plain=True)
    target, _ = two_texts(head)
    single = Samples(
        "one", target.hidden[:1], target.targets[:1], np.zeros(1, int), np.zeros(1, int)
    )
    for name in ("fa_cka_kernel", "task2vec", "fisher_diagonal", "unigram", "unigram_loss"):
        assert math.isfinite(score(name, target, single, head)), name
    for name in ("logme", "leep", "loss"):
        assert math.isfinite(score(name, single, single, head)), name
    assert score("leep", single, single, head) == pytest.approx(0, abs=1e-12)
    same = replace(target, targets=torch.zeros_like(target.targets))
    assert score("leep", same, same, head) == pytest.approx(0, abs=1e-12)
    assert score("h_score", same, same, head) == pytest.approx(0, abs=1e-12)
    # Two states, one of each class: no shrinkage, and all of the one direction is between classes.
    order = np.arange(2)
    pair = Samples("two", target.hidden[:2], torch.tensor([0, 2]), order, order)
    assert score("h_score", pair, pair, head) == pytest.approx(1, abs=1e-9)
    narrow = replace(target, hidden=target.hidden[:, :1])
    small = make_head(7, 1, plain=True)
    found = score("h_score", narrow, narrow, small)
    assert found == pytest.approx(oracle.h_score(narrow), abs=1e-9)
    assert found > 0.05


def test_the_random_score_is_of_names_and_seed_alone() -> None:
    head = make_head()
    target, source = two_texts(head)
    found = score("random", target, source, head)
    assert found == score("random", target, replace(source, hidden=source.hidden + 1), head)
    assert 0 <= found < 1
    others = [score("random", source, target, head), score("random", target, source, head, seed=1)]
    many = [score("random", target, source, head, seed=s) for s in range(200)]
    assert found not in others
    assert abs(np.mean(many) - 0.5) < 4 * math.sqrt(1 / 12 / 200)


def test_what_cannot_be_scored_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    head = make_head()
    target, source = two_texts(head)
    with pytest.raises(UnembedError, match=r"'ckaa' .*cka, cka_debiased"):
        score("ckaa", target, source, head)
    with pytest.raises(UnembedError, match="5 wide, the head reads 6"):
        score("cka", target, source, make_head(7, 6))
    with pytest.raises(UnembedError, match="target 1 of task 'source' is no token"):
        score("unigram", target, replace(source, targets=torch.ones_like(source.targets)), head)
    for name in MODEL_BASELINES:
        with pytest.raises(UnembedError, match=r"'target' and 'source' .*length"):
            score(name, target, source, head)
    turned = replace(target, name="adapted", targets=target.targets.roll(1))
    with pytest.raises(UnembedError, match="other next tokens"):
        score("leep", target, turned, head)
    monkeypatch.setattr(gradients, "MOST_POSITIONS", 16)
    with pytest.raises(UnembedError, match=r"17 positions .* 16"):
        score("fa_cka_kernel", target, source, head)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(UnembedError, match="7 documents for 8 positions"):
        debiased_cka(target.hidden, target.hidden, np.arange(7))


def test_leep_and_losses_do_not_read_the_first_text() -> None:
    """Of models, the second text and its head are what is scored."""
    head = make_head()
    target, _ = two_texts(head)
    read = replace(target, name="adapted", hidden=2 * target.hidden)
    p = reference.signatures.probabilities(read, head)
    nll = -np.mean([math.log(p[i, y]) for i, y in enumerate(target.targets.tolist())])
    assert score("loss", target, read, head) == pytest.approx(-nll, abs=1e-9)
    for name in MODEL_BASELINES:
        assert score(name, target, read, head) == score(name, read, read, head)
