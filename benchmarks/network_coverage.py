"""Made-up tasks of a small network, for ``coverage.py``: intervals of the parts of its signatures.

Four modules of 6 x 5, of which two make a depth. A document has a direction of its own, a window
three positions, whose errors and inputs have a part of the window's before; what a task has in
common with the other differs from module to module, and modules of one window have a part in
common, without which there would be nothing off the diagonal. The truth is that of the matrices
``E[g gᵀ]`` of a huge draw. ``kind`` is the sum of two modules' states, as it is made on reading.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unembed.signatures.alignment.align import align
from unembed.signatures.batch_sums import accumulate
from unembed.signatures.network.modules import NetworkModule
from unembed.signatures.network.signature import together
from unembed.signatures.signature import Identity, Signature
from unembed.signatures.sketches.constructions import sketch_of
from unembed.signatures.state import Features, State, empty
from unembed.stats.estimate import Estimate

OUTPUTS, INPUTS, MODULES = 6, 5, 4
IN_COMMON = (0.9, 0.6, 0.3, 0.0)
"""How much of a task's centre is the other's too, by module."""
SETTINGS = ((20, 1024), (60, 1024), (200, 1024), (60, 4096))
"""Documents and m."""
EACH = 4
"""Windows a document."""

Found = Mapping[str, tuple[Estimate, float]]


def networks(runs: int) -> Iterator[tuple[str, Iterator[Found]]]:
    truth = exact_cosines(*(_whole(task) for task in (0, 1)))
    for documents, m in SETTINGS:
        yield f"{documents} documents, m {m:,}", _networks(runs, documents, m, truth)


def _networks(runs: int, documents: int, m: int, truth: Mapping[str, float]) -> Iterator[Found]:
    for run in range(runs):
        rng = np.random.default_rng([run, documents, m])
        found = [
            _states(gradients(task, documents, rng), m, run, documents * 10 * run + task)
            for task in (0, 1)
        ]
        yield {part: (_joint(*(one[part] for one in found)), truth[part]) for part in truth}


def _joint(a: State, b: State) -> Estimate:
    """The alignment of two states, with its interval."""
    spec = NetworkModule("any", OUTPUTS, INPUTS, 0, "any").spec(
        "complex_tensorsketch", a.joint.total.shape[1], 0
    )
    identity = Identity(spec, "sequence", "empirical", "head", "body", "tokenizer")
    made = align([Signature("a", identity, a, {}), Signature("b", identity, b, {})]).joint
    value, low, high = (float(x[0, 1]) for x in (made.value, made.low, made.high))
    if not math.isfinite(low):
        return Estimate(0.0)
    return Estimate(value, low, high)


def _states(g: Tensor, m: int, seed: int, hashes: int) -> dict[str, State]:
    """By part, the states of windows x modules x outputs x inputs, documents in order."""
    drawn = np.random.default_rng(hashes).integers(1, 1 << 62, len(g) // EACH, dtype=np.uint64)
    document = np.repeat(drawn, EACH)
    xs, ys = [], []
    for number in range(MODULES):
        module = NetworkModule(f"module {number}", OUTPUTS, INPUTS, number // 2, "any")
        sketch = sketch_of(module.spec("complex_tensorsketch", m, seed))
        r, s, a, b = (
            sketch.factor(side.columns(torch.arange(size)))
            for side, size in zip(
                (*sketch.error, *sketch.activation), (OUTPUTS,) * 2 + (INPUTS,) * 2, strict=True
            )
        )
        each = g[:, number].to(r.dtype)
        xs.append(((each @ a) * r).sum(1))
        ys.append(((each @ b) * s).sum(1))
    products = [x * y for x, y in zip(xs, ys, strict=True)]
    parts = {
        "full": sum(xs) * sum(ys),
        "blocks": sum(products),
        "depth 0": products[0] + products[1],
        **{f"module {number}": product for number, product in enumerate(products)},
    }
    states = {}
    for part, psi in parts.items():
        packed = sketch.pack(psi)
        states[part] = accumulate(empty(m), Features(packed, packed, packed), document)
    states["kind of modules 0, 1"] = together([states["module 0"], states["module 1"]])
    return states


def gradients(task: int, documents: int, rng: np.random.Generator) -> Tensor:
    """Windows x modules x outputs x inputs: sums of error times input over three positions."""
    windows = documents * EACH
    found = np.zeros((windows, MODULES, OUTPUTS, INPUTS))
    shared_before = rng.normal(size=(windows, 1))
    for number in range(MODULES):
        world, own = (np.random.default_rng([number, x]) for x in (99, task))
        keep = IN_COMMON[number]
        sides = []
        for size in (OUTPUTS, INPUTS):
            common, alone = world.normal(size=size), own.normal(size=size)
            centre = math.sqrt(keep) * common + math.sqrt(1 - keep) * alone
            topic = np.repeat(rng.normal(size=(documents, size)), EACH, 0)
            window = rng.normal(size=(windows, 1, size))
            rest = rng.normal(size=(windows, 3, size))
            sides.append(centre + 0.4 * topic[:, None] + 0.4 * window + 0.5 * rest)
        scale = np.exp(0.4 * rng.normal(size=(windows, 1)) + 0.3 * shared_before)
        found[:, number] = np.einsum("wpo,wpi->woi", *sides) * scale[:, :, None]
    return torch.from_numpy(found).float()


def _whole(task: int, draws: int = 100, documents: int = 2_000) -> np.ndarray:
    """``E[g gᵀ]`` of all modules."""
    rng, total = np.random.default_rng([task, 12345]), 0.0
    for _ in range(draws):
        g = gradients(task, documents, rng).flatten(1).double().numpy()
        total = total + g.T @ g / len(g) / draws
    return np.asarray(total)


def exact_cosines(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """By part, ``⟨F_a, F_b⟩ / (‖F_a‖ ‖F_b‖)``."""
    size = OUTPUTS * INPUTS
    module = np.arange(len(a)) // size
    block = module[:, None] == module
    masks: dict[str, Any] = {"full": np.ones_like(block), "blocks": block}
    masks["depth 0"] = masks["kind of modules 0, 1"] = block & (module < 2)
    masks |= {f"module {number}": block & (module == number) for number in range(MODULES)}
    return {
        part: float((a * b)[on].sum() / math.sqrt((a * a)[on].sum() * (b * b)[on].sum()))
        for part, on in masks.items()
    }
