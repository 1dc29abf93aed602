"""Alignments from every pair of samples, one after the other."""

from __future__ import annotations

import math

from made_up.tasks import Task

KERNELS = ("joint", "activation", "error", "first_moment")


def kernels(a: Task, b: Task) -> dict[str, list[list[float]]]:
    """``(g·g')²``, ``(a·a')²``, ``(e·e')²`` and ``g·g'`` of every pair of samples."""
    found: dict[str, list[list[float]]] = {name: [] for name in KERNELS}
    for e, x in zip(a.error.double(), a.activation.double(), strict=True):
        inner_e, inner_a = b.error.double() @ e, b.activation.double() @ x
        for name, row in zip(
            KERNELS,
            ((inner_e * inner_a) ** 2, inner_a**2, inner_e**2, inner_e * inner_a),
            strict=True,
        ):
            found[name].append(row.tolist())
    return found


def mean(kernel: list[list[float]], counted: list[list[bool]]) -> float:
    kept = [
        k
        for row, keep in zip(kernel, counted, strict=True)
        for k, c in zip(row, keep, strict=True)
        if c
    ]
    return math.fsum(kept) / len(kept) if kept else math.nan


def alignment(a: Task, b: Task, *, debias: bool, shared: bool) -> dict[str, float]:
    """Every quantity of two tasks. Norms are over pairs of samples of different documents; with
    ``shared`` inputs, norms and products are over pairs of different folds."""

    def apart(x: Task) -> list[list[bool]]:
        return [[bool(i != j) for j in x.document] for i in x.document]

    def halves(x: Task, y: Task, kernel: list[list[float]]) -> float:
        """Each of the two pairs of folds counts alike."""
        means = []
        for fold in (0, 1):
            chosen = [
                [int(i) & 1 == fold and int(j) & 1 != fold for j in y.document] for i in x.document
            ]
            means.append(mean(kernel, chosen))
        return sum(means) / 2

    def all_pairs(x: Task, y: Task) -> list[list[bool]]:
        return [[True] * len(y.document) for _ in x.document]

    ab, aa, bb = kernels(a, b), kernels(a, a), kernels(b, b)
    found = {}
    for name in KERNELS:
        n = mean(ab[name], all_pairs(a, b))
        if debias and shared:
            n = halves(a, b, ab[name])
        norms = []
        for x, kernel in ((a, aa[name]), (b, bb[name])):
            if not debias:
                norms.append(mean(kernel, all_pairs(x, x)))
            elif not shared:
                norms.append(mean(kernel, apart(x)))
            else:
                norms.append(halves(x, x, kernel))
        found[name] = n / math.sqrt(norms[0] * norms[1]) if min(norms) > 0 else math.nan
    found["proxy"] = found["activation"] * found["error"]
    found["coupling"] = found["joint"] / found["proxy"]
    return found
