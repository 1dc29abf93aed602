"""Slow, obvious twins of the baselines: everything materialised, plain numpy, loops."""

from __future__ import annotations

import itertools
import math

import numpy as np

import reference.signatures
from unembed.head.head import Head
from unembed.signatures.samples import Samples


def states(text: Samples) -> np.ndarray:
    return text.hidden.double().numpy()


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    return float((x * y).sum() / (np.linalg.norm(x) * np.linalg.norm(y)))


def covariance(x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(0)
    return sum(np.outer(row, row) for row in centred) / len(x)


def root(c: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(c)
    return vectors @ np.diag(np.sqrt(np.maximum(values, 0))) @ vectors.T


def nuclear(x: np.ndarray) -> float:
    return float(np.linalg.svd(x, compute_uv=False).sum())


def spearman(x: list[float], y: list[float]) -> float:
    def ranks(values: list[float]) -> list[float]:
        return [
            sum(other < v for other in values) + (sum(other == v for other in values) + 1) / 2
            for v in values
        ]

    return float(np.corrcoef(ranks(x), ranks(y))[0, 1])


def rank_likeness(a: np.ndarray, b: np.ndarray) -> float:
    """Of the correlations of rows."""
    likeness = []
    for x in (a, b):
        r = np.corrcoef(x)
        likeness.append([float(r[i, j]) for i, j in itertools.combinations(range(len(r)), 2)])
    return spearman(*likeness)


def principal(c: np.ndarray) -> np.ndarray:
    """The eigenvectors that hold 99 % of the trace, one after the other."""
    values, vectors = np.linalg.eigh(c)
    kept, held = [], 0.0
    for i in reversed(range(len(values))):
        if held >= 0.99 * values.sum():
            break
        kept.append(vectors[:, i])
        held += values[i]
    return np.stack(kept, 1)


def subspace_likeness(c: np.ndarray, d: np.ndarray) -> float:
    """The mean cosine of the principal angles, from the product of the two projections."""
    u, v = principal(c), principal(d)
    least = min(u.shape[1], v.shape[1])
    squared = np.linalg.eigvals(u @ u.T @ v @ v.T).real
    return float(np.mean(np.sqrt(np.maximum(np.sort(squared)[::-1][:least], 0))))


def centred_product(
    k: np.ndarray, m: np.ndarray, rows: list[int], columns: list[int]
) -> tuple[float, int]:
    """The mean over four positions of four documents, and how many such fours there are."""
    found = []
    for i, r in itertools.product(range(len(rows)), repeat=2):
        for j, c in itertools.product(range(len(columns)), repeat=2):
            if len({rows[i], rows[r], columns[j], columns[c]}) == 4:
                left = k[i, j] - k[i, c] - k[r, j] + k[r, c]
                right = m[i, j] - m[i, c] - m[r, j] + m[r, c]
                found.append(left * right / 4)
    return (math.fsum(found) / len(found) if found else math.nan), len(found)


def cka_debiased(target: Samples, source: Samples) -> float:
    x, y = states(source), states(target)
    d, f = source.document.tolist(), target.document.tolist()
    product, own, other = (
        centred_product(a @ b.T, a @ b.T, p, q)[0]
        for a, b, p, q in ((x, y, d, f), (x, x, d, d), (y, y, f, f))
    )
    return product / math.sqrt(own * other)


def paired_debiased_cka(a: np.ndarray, b: np.ndarray, documents: list[int]) -> float:
    k, m = a @ a.T, b @ b.T
    product, own, other = (
        centred_product(x, y, documents, documents)[0] for x, y in ((k, m), (k, k), (m, m))
    )
    return product / math.sqrt(own * other)


def kappa(a: np.ndarray, b: np.ndarray, rank: int, ridge: float, *, centre: bool = True) -> float:
    """The distance from the polar factor, which is written out."""
    if centre:
        a, b = a - a.mean(0), b - b.mean(0)
    sides = []
    for x in (a, b):
        values, vectors = np.linalg.eigh(x.T @ x / len(x))
        top = np.argsort(values)[::-1][:rank]
        sides.append((vectors[:, top], np.diag((values[top] + ridge) ** -0.5)))
    (v, p), (w, q) = sides
    c = p @ v.T @ (a.T @ b / len(a)) @ w @ q
    left, _, right = np.linalg.svd(c)
    return float(np.linalg.norm(c - left @ right) / math.sqrt(rank))


def gradients(text: Samples, head: Head) -> np.ndarray:
    return np.array(reference.signatures.gradients(text, head, "token"))


def fisher(g: np.ndarray) -> np.ndarray:
    return sum(np.outer(row, row) for row in g) / len(g)


def error_moment(text: Samples, head: Head) -> np.ndarray:
    return fisher(reference.signatures.errors(text, head))


def diagonal(text: Samples, head: Head) -> np.ndarray:
    """The mean of e[k]² a[i]², tokens by coordinates."""
    e, a = reference.signatures.errors(text, head), states(text)
    found = np.zeros((head.vocab, head.dim))
    for row in range(len(a)):
        for k in range(head.vocab):
            for i in range(head.dim):
                found[k, i] += e[row, k] ** 2 * a[row, i] ** 2 / len(a)
    return found


def task2vec(target: Samples, source: Samples, head: Head) -> float:
    s, t = ([row.sum() / head.dim for row in diagonal(x, head)] for x in (source, target))
    kept = [(x / (x + y), y / (x + y)) for x, y in zip(s, t, strict=True) if x + y > 0]
    return cosine(*np.array(kept).T)


def unigram(target: Samples, source: Samples, head: Head) -> float:
    counts = [[x.targets.tolist().count(v) for v in range(head.vocab)] for x in (source, target)]
    return cosine(*np.array(counts, dtype=float))


def unigram_loss(target: Samples, source: Samples, head: Head, alpha: float) -> float:
    seen = source.targets.tolist()
    return math.fsum(
        math.log((seen.count(y) + alpha) / (len(seen) + alpha * head.tokens))
        for y in target.targets.tolist()
    ) / len(target.targets)


def loss(text: Samples, head: Head) -> float:
    p = reference.signatures.probabilities(text, head)
    return float(np.mean([math.log(p[i, y]) for i, y in enumerate(text.targets.tolist())]))


def leep(text: Samples, head: Head) -> float:
    """By way of the whole table of joint probabilities, tokens by tokens."""
    p, y = reference.signatures.probabilities(text, head), text.targets.tolist()
    joint = np.zeros((head.vocab, head.vocab))
    for i, label in enumerate(y):
        joint[label] += p[i] / len(y)
    total = 0.0
    for i, label in enumerate(y):
        chance = 0.0
        for z in range(head.vocab):
            if joint[:, z].sum() > 0:
                chance += joint[label, z] / joint[:, z].sum() * p[i, z]
        total += math.log(chance) / len(y)
    return total


def h_score(text: Samples) -> float:
    """With the covariances and the inverse written out."""
    x, y = states(text), text.targets.tolist()
    n, dim = x.shape
    x = x - x.mean(0)
    c = covariance(x)
    mean = np.trace(c) / dim
    off = ((c - mean * np.eye(dim)) ** 2).sum()
    noise = sum(((np.outer(row, row) - c) ** 2).sum() for row in x) / n**2
    weight = min(1.0, noise / off) if off > 1e-12 * (c**2).sum() else 0.0
    between = np.zeros((dim, dim))
    for label in set(y):
        rows = x[[i for i in range(n) if y[i] == label]]
        between += len(rows) / n * np.outer(rows.mean(0), rows.mean(0))
    shrunk = (1 - weight) * c + weight * mean * np.eye(dim)
    return float((1 - weight) * np.trace(np.linalg.pinv(shrunk, rcond=1e-12) @ between))


def log_evidence(f: np.ndarray, y: np.ndarray, alpha: float, beta: float) -> float:
    """The log density of y under N(0, f fᵀ / alpha + I / beta)."""
    c = f @ f.T / alpha + np.eye(len(f)) / beta
    sign, size = np.linalg.slogdet(c)
    assert sign > 0
    return float(-(y @ np.linalg.solve(c, y) + size + len(f) * math.log(2 * math.pi)) / 2)


def best_log_evidence(f: np.ndarray, y: np.ndarray, rounds: int = 3000) -> float:
    """By the published fixed point, from three starts; bounded where it runs away."""
    n = len(f)
    values, vectors = np.linalg.eigh(f.T @ f)
    values = np.maximum(values, 0)
    found = []
    for alpha, beta in ((1.0, 1.0), (1e-3, 1.0), (1e3, 1.0)):
        for _ in range(rounds):
            gamma = (beta * values / (alpha + beta * values)).sum()
            m = vectors @ ((vectors.T @ f.T @ y) * beta / (alpha + beta * values))
            alpha = min(gamma / (m @ m), 1e9 * beta)
            beta = (n - gamma) / ((f @ m - y) ** 2).sum()
        found.append(log_evidence(f, y, alpha, beta))
    return max(found)


def logme(text: Samples) -> float:
    f, labels = states(text), text.targets.numpy()
    found = [best_log_evidence(f, (labels == c).astype(float)) for c in np.unique(labels)]
    return float(np.mean(found)) / len(f)
