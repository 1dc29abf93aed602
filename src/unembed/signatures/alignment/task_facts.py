"""What is known of each task of an alignment, and whether its samples suffice."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float

from unembed.signatures.alignment.estimators import Kind
from unembed.signatures.alignment.records import TaskFacts
from unembed.signatures.documents import FOLDS
from unembed.signatures.signature import Signature
from unembed.signatures.sketches.constructions import sketch_of
from unembed.signatures.sketches.sketch import Sketch
from unembed.signatures.state import State

WORDS = ("Fisher", "activations", "errors", "mean gradient")
NOISE = 2.0
"""A plug-in squared norm this many times the debiased one is half noise: n is about the
participation ratio, since the pairs of a sample with itself add ``tr(F)² / n`` to it."""


def task_facts(
    signatures: Sequence[Signature],
    kinds: Sequence[Kind | None],
    shared: Bool[np.ndarray, "tasks tasks"],
    debias: bool,
) -> tuple[TaskFacts, ...]:
    """Samples, participation ratio, residual and status of each task (theory §7, §10).

    The status is "ok" or says what is wrong, in order of what matters: no documents to debias
    with, a squared norm that is not positive, one that is half noise, and inputs shared with
    another task where the signature is compact, or its folds too small for their product.
    """
    joint = kinds[0]
    assert joint is not None
    norms = joint.norms.mean(0)
    identity = signatures[0].identity
    whole = [_whole(signature.state) for signature in signatures]
    sketch = None
    if identity.unit == "token" and any(whole):
        sketch = sketch_of(identity.spec, torch.device("cpu"))
    found = []
    for t, (signature, one) in enumerate(zip(signatures, whole, strict=True)):
        state, square = signature.state, float(norms[t])
        trace = _trace(state)
        ratio = trace**2 / square if trace is not None and square > 0 else None
        left = residual(state, sketch, debias) if sketch is not None and one else None
        relatives = [s.name for u, s in enumerate(signatures) if shared[t, u] and u != t]
        status = "ok"
        if debias:
            across = float(joint.fold_norms[:, t].mean())
            status = _status(state, [_norms(kind, t) for kind in kinds], ratio, relatives, across)
        found.append(
            TaskFacts(signature.name, round(state.samples), state.documents, ratio, left, status)
        )
    return tuple(found)


def residual(state: State, sketch: Sketch, debias: bool = True) -> float | None:
    """``δ = ‖F - M ⊗ Γ‖ / ‖F‖`` of one task, from its sums alone (theory §7, §10).

    ``M ⊗ Γ`` is the product of activation and error features, whose pairs of a sample with itself
    are just the joint features: ``(Σψ_a ∘ Σψ_e - Σψ) / (n (n - 1))`` is without bias. With R the
    difference to ``F`` in each fold, ``δ² = ⟨R_0, R_1⟩ / ⟨F_0, F_1⟩``, so that no pair of dependent
    samples is left but those of one document and fold within ``M ⊗ Γ``. Without ``debias``, the
    plug-in of the means. None where δ² is not positive: δ cannot be told from 0. Raises ValueError
    for a state without marginals.
    """
    if state.activation is None or state.error is None:
        raise ValueError("no marginals were kept")
    sums = [state.joint.total, state.activation.total, state.error.total]
    weight, squared = state.weight[:, None], state.weight_squared[:, None]
    if not debias or len(weight) < FOLDS:
        sums, weight = [x.sum(0, keepdims=True) for x in sums], weight.sum(keepdims=True)
        squared = np.zeros_like(weight)
    joint, activation, error = sums
    pairs = weight**2 - squared
    if not ((weight > 0) & (pairs > 0)).all():
        return None
    own = joint * squared / weight
    fisher = joint / weight
    left = fisher - (_product(activation, error, sketch) - own) / pairs
    square, size = float(left[0] @ left[-1]), float(fisher[0] @ fisher[-1])
    return math.sqrt(square / size) if square > 0 and size > 0 else None


def _product(
    a: Float[np.ndarray, "folds sketch"], b: Float[np.ndarray, "folds sketch"], sketch: Sketch
) -> Float[np.ndarray, "folds sketch"]:
    """Packed vectors multiplied feature by feature."""
    first, second = (sketch.unpack(torch.from_numpy(x)) for x in (a, b))
    found: Float[np.ndarray, "folds sketch"] = sketch.pack(first * second).numpy()
    return found


def _whole(state: State) -> bool:
    return state.activation is not None and state.error is not None


def _trace(state: State) -> float | None:
    """``tr F = E‖g‖²``."""
    return None if state.trace is None else state.trace / float(state.weight.sum())


def _norms(kind: Kind | None, task: int) -> tuple[float, float] | None:
    """A task's debiased and plug-in squared norms of one kind."""
    if kind is None:
        return None
    pooled = kind.pooled[:, task]
    return float(kind.norms[:, task].mean()), float(np.square(pooled).mean())


def _status(
    state: State,
    norms: Sequence[tuple[float, float] | None],
    ratio: float | None,
    relatives: Sequence[str],
    across: float,
) -> str:
    n = f"n = {state.samples:,.0f}"
    for word, found in zip(WORDS, norms, strict=True):
        if found is None:
            continue
        square, plain = found
        start = "too few samples: " if word != WORDS[-1] else "ok, but "
        if math.isnan(square):
            return f"too few documents: {state.documents}, which has no independent pair, {n}"
        if not square > 0:
            return f"{start}the {word} is lost in noise, its debiased norm {square:.3g}, {n}"
        if word == WORDS[0] and plain > NOISE * square:
            more = "" if ratio is None else f", participation ratio {ratio:,.0f}"
            return f"few samples: {n}{more}"
    if relatives and len(state.weight) < FOLDS:
        return (
            f"ok, but it shares inputs with {relatives[0]}, which a compact signature cannot leave "
            "out of their product: compare whole signatures"
        )
    if relatives and not across > 0:
        return (
            f"ok, but it shares inputs with {relatives[0]}, and no Fisher is found across its two "
            f"folds of documents, which they need, {n}"
        )
    return "ok"
