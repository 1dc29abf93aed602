"""How alike the updates of several tasks are, from their signatures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float

from unembed.errors import UnembedError
from unembed.signatures.alignment.estimators import GROUPS, Cosine, Kind
from unembed.signatures.alignment.kinds import KINDS
from unembed.signatures.alignment.overlap import shared_inputs
from unembed.signatures.alignment.records import Alignments, Pairs
from unembed.signatures.alignment.task_facts import task_facts
from unembed.signatures.reading.files import facts_of, key_of
from unembed.signatures.signature import Signature, agree_all
from unembed.signatures.state import SUMMED
from unembed.signatures.sums import KEPT
from unembed.stats.student import NORMAL_975

Scale = Literal["cosine", "ratio"]

MOST_SHARES = 1 << 21
"""Shares of pairs that are held at a time, for each kind; changes memory, never a result."""


def align(
    signatures: Sequence[Signature],
    *,
    debias: bool = True,
    out: str | Path | None = None,
    command: str = "",
) -> Alignments:
    """Every alignment of several tasks from their sketches, each with its errors (theory §7, §10).

    Naively, with each task's mean packed features ``x`` of three kinds::

        joint, activation, error = (x_i @ x_j / (norm(x_i) * norm(x_j)) for each kind)
        proxy = activation * error; coupling = joint / proxy

    ``debias`` leaves pairs of dependent samples out: of norms, the pairs within a document; and of
    two tasks that share inputs, the pairs within one of two folds of documents from products and
    norms (their smallest document hashes tell). It supposes that inputs were drawn independently:
    of a set balanced by hand, and to rank tasks on one set of prompts, where it costs half of the
    evidence, leave it off. A squared norm that is not positive then gives NaN, with the reason in
    the task's status; a cosine may pass 1. Without ``debias`` all pairs count.

    ``sketch_se`` comes from up to 128 groups of features, ``sampling_se`` from blocks of documents,
    at a reduced width (tasks that share inputs lose a block together; of others the variances
    add); it is NaN where no blocks, or fewer than two, were kept. ``low`` and ``high`` hold 95 %
    with both errors: cosines on Fisher's z scale while a standard error stays within 1, plainly
    beyond; coupling, while positive, on the logarithmic one, and NaN where the interval of
    activation or error holds 0. What a signature did not keep is None. With ``out`` the result is
    kept there, and not computed where it is there already; ``command`` says how to replay it.
    Raises UnembedError for no signatures, two of one name, and for two that do not compare.
    """
    if not signatures:
        raise UnembedError("no signatures to compare: give one at least")
    agree_all(signatures)
    if out is not None:
        return Alignments.keep(
            out,
            key_of(signatures, debias=debias),
            lambda _: align(signatures, debias=debias).to_json(),
            facts=facts_of(signatures),
            command=command,
        )
    states = [signature.state for signature in signatures]
    kinds = {name: Kind.of(states, name, debias) for name in SUMMED}
    shared = shared_inputs(states)
    others = shared & ~np.eye(len(states), dtype=bool)
    identity = signatures[0].identity
    rows = max(1, MOST_SHARES // ((GROUPS + 2 * len(states[0].block_weight)) * len(states)))
    ratio = min(KEPT, identity.spec.m) / identity.spec.m
    found = []
    for start in range(0, len(states), rows):
        span = slice(start, start + rows)
        cosines = _cosines(kinds, span, others[span] & debias)
        found.append({name: numbers(one, ratio, name) for name, one in cosines.items()})
    pairs: dict[str, Any] = {
        name: joined([part[name] for part in found]) if name in found[0] else None for name in KINDS
    }
    if pairs["coupling"] is not None:
        pairs["coupling"] = _determined(*(pairs[x] for x in ("coupling", "activation", "error")))
    return Alignments(
        tasks=task_facts(signatures, list(kinds.values()), shared, debias),
        **pairs,
        method=identity.spec.construction,
        unit=identity.unit,
        fisher=identity.fisher,
        debiased=debias,
        part=identity.part,
    )


def _cosines(
    kinds: Mapping[str, Kind | None], rows: slice, among: Bool[np.ndarray, "rows tasks"]
) -> dict[str, Cosine]:
    """Of some tasks with all, what can be had of ``KINDS``; ``among`` are those on one input."""
    found = {
        "first_moment" if name == "first" else name: kind.cosines(rows, among)
        for name, kind in kinds.items()
        if kind is not None
    }
    if "activation" in found and "error" in found:
        found["proxy"] = found["activation"] * found["error"]
        found["coupling"] = found["joint"] / found["proxy"]
    return found


def numbers(cosine: Cosine, ratio: float, kind: str) -> Float[np.ndarray, "5 rows tasks"]:
    """The fields of ``Pairs``; ``ratio`` is the share of the features that blocks are kept of."""
    value = cosine.value
    sketch = np.sqrt(np.square(cosine.sketch).sum(0))
    sampling = np.full_like(value, np.nan)
    if cosine.sampling is not None:
        sampling = sampling_error(cosine.sampling, ratio)
    scale: Scale = "ratio" if kind == "coupling" else "cosine"
    low, high = interval(value, np.hypot(sketch, sampling), scale)
    return np.stack([value, sketch, sampling, low, high])


def sampling_error(
    shares: Float[np.ndarray, "halves blocks *rest"], ratio: float
) -> Float[np.ndarray, "*rest"]:
    """The standard error of what blocks of documents have these shares of.

    The product of a block's shares in two separate halves of the features that blocks are kept of
    has the square of its true share as its mean; the square of their mean has the noise of few
    features in it too. The variance is the first, with the part of that noise that would be left
    with all features. Where that is negative, as the noise is large, it is the second, an upper
    bound.
    """
    first, second = shares
    free = (first * second).sum(0)
    noisy = np.square((first + second) / 2).sum(0)
    variance = free + (noisy - free) * ratio
    return np.asarray(np.sqrt(np.where(variance < 0, noisy, variance)))


def _determined(coupling: Pairs, activation: Pairs, error: Pairs) -> Pairs:
    """The coupling without the pairs whose activation or error may be 0: no ratio to that."""
    nothing = (activation.low <= 0) | (error.low <= 0)
    return Pairs(*(np.where(nothing, np.nan, array) for array in vars(coupling).values()))


def interval(
    value: Float[np.ndarray, "rows tasks"], se: Float[np.ndarray, "rows tasks"], scale: Scale
) -> tuple[Float[np.ndarray, "rows tasks"], Float[np.ndarray, "rows tasks"]]:
    """The 95 % interval of a cosine or a ratio with this standard error.

    A cosine c of ``|c| + se < 1``: ``tanh(atanh c ± 1.96 se / (1 - c²))``. A ratio r > 0:
    ``r exp(± 1.96 se / r)``. Others: ``± 1.96 se``.
    """
    reach = NORMAL_975 * se
    low, high = value - reach, value + reach
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        if scale == "cosine":
            inside = np.abs(value) + se < 1
            z = np.arctanh(np.where(inside, value, 0))
            step = reach / (1 - np.where(inside, value, 0) ** 2)
            ends = np.tanh(z - step), np.tanh(z + step)
        else:
            inside = value > 0
            step = reach / np.where(inside, value, 1)
            ends = value * np.exp(-step), value * np.exp(step)
    return np.where(inside, ends[0], low), np.where(inside, ends[1], high)


def joined(parts: list[Float[np.ndarray, "5 rows tasks"]]) -> Pairs:
    """The rows of all tasks as one record; a task and itself are 1 exactly, without an error."""
    fields = np.concatenate(parts, 1)
    itself = np.eye(fields.shape[1], dtype=bool) & np.isfinite(fields[0])
    exact = np.array([1.0, 0.0, 0.0, 1.0, 1.0])[:, None, None]
    value, sketch, sampling, low, high = np.where(itself, exact, fields)
    return Pairs(value, sketch, sampling, low, high)
