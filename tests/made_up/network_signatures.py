"""Signatures of small made-up networks: modules whose samples are outer products, or sums of some.

Each module's maps are its own; a sample's features are those of theory §12.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from made_up.tasks import hashes
from unembed.signatures.batch_sums import accumulate
from unembed.signatures.network.align import align_networks
from unembed.signatures.network.modules import HEAD, NetworkModule
from unembed.signatures.network.records import NetworkAlignments
from unembed.signatures.network.signature import NetworkSignature, module_part
from unembed.signatures.sketches.constructions import sketch_of
from unembed.signatures.sketches.names import DEFAULT
from unembed.signatures.sketches.sketch import Sketch, SketchSpec
from unembed.signatures.state import Features, State, empty

WIDTH, VOCAB = 6, 11
BLOCK = (("q_proj", WIDTH, WIDTH), ("down_proj", WIDTH, 9))
DEPTHS = 2
M = 64


def modules(depths: int = DEPTHS) -> tuple[NetworkModule, ...]:
    blocks = [
        NetworkModule(f"model.layers.{depth}.{kind}", outputs, inputs, depth, kind)
        for depth in range(depths)
        for kind, outputs, inputs in BLOCK
    ]
    return (*blocks, NetworkModule(HEAD, VOCAB, WIDTH, None, HEAD))


@dataclass(frozen=True)
class NetworkTask:
    """Errors and inputs of every module, by sample and position, and a document hash a sample."""

    error: dict[str, torch.Tensor]
    activation: dict[str, torch.Tensor]
    document: np.ndarray

    def gradient(self, module: str) -> np.ndarray:
        """``Σ_pos δ aᵀ`` of each sample in float64, flat."""
        e, a = (x[module].double().numpy() for x in (self.error, self.activation))
        return np.einsum("npi,npj->nij", e, a).reshape(len(e), -1)


def network_task(
    n: int,
    seed: int,
    *,
    positions: int = 3,
    per_document: int = 2,
    tilt: float = 1.0,
    of: tuple[NetworkModule, ...] | None = None,
    law: int | None = None,
) -> NetworkTask:
    """Low-rank errors and inputs around centres that are partly the task's own, by its ``law``."""
    common, own = np.random.default_rng(5), np.random.default_rng([seed, 1])
    laws = own if law is None else np.random.default_rng([law, 1])
    errors, activations = {}, {}
    # What a position is about shows in every module, so that their gradients go together.
    about = [own.normal(0.5, size=(n, positions, 3)) for _ in range(2)]
    for module in modules() if of is None else of:
        sides = ((errors, module.outputs), (activations, module.inputs))
        for topic, (into, width) in zip(about, sides, strict=True):
            shared = common.normal(size=(3, width))
            unlike = tilt if module.depth is None else tilt * (module.depth + 1) / 2
            mine = shared + unlike * laws.normal(size=(3, width))
            rows = topic @ mine
            rows = rows + 0.3 * own.normal(size=(n, positions, width))
            into[module.name] = torch.tensor(rows).float()
    document = np.repeat(hashes(-(-n // per_document), seed), per_document)[:n]
    return NetworkTask(errors, activations, document)


@cache
def sketch_for(module: NetworkModule, m: int, seed: int) -> Sketch:
    """A module's own maps; the head's are those of its own spec."""
    return sketch_of(module.spec(DEFAULT, m, seed))


def network_signed(
    name: str,
    task: NetworkTask,
    *,
    of: tuple[NetworkModule, ...] | None = None,
    m: int = M,
    seed: int = 0,
    blocks: int = 32,
    precision: str = "float32",
) -> NetworkSignature:
    """What a pass over these samples would give."""
    of = modules() if of is None else of
    x, y, marginals = {}, {}, {}
    for module in of:
        sketch = sketch_for(module, m, seed)
        e, a = (side[module.name] for side in (task.error, task.activation))
        r, s = (_mapped(sketch, each, e) for each in sketch.error)
        ra, sa = (_mapped(sketch, each, a) for each in sketch.activation)
        x[module], y[module] = (r * ra).sum(1), (s * sa).sum(1)
        marginals[module] = [sketch.pack((p * q).sum(1)) for p, q in ((ra, sa), (r, s))]
    packing = sketch_for(of[-1], m, seed)

    def state(some: list[NetworkModule], joint: torch.Tensor, marginal: bool) -> State:
        first = packing.pack(torch.stack([x[one] for one in some]).sum(0))
        sides = marginals[some[0]] if marginal else [torch.zeros_like(first)] * 2
        made = Features(packing.pack(joint), *sides, first)
        found = accumulate(empty(m, first=True, blocks=blocks), made, task.document)
        return found if marginal else State(**{**vars(found), "activation": None, "error": None})

    def summed(some: list[NetworkModule]) -> torch.Tensor:
        return torch.stack([x[one] * y[one] for one in some]).sum(0)

    every = list(of)
    whole = (torch.stack([x[one] for one in of]).sum(0)) * torch.stack([y[one] for one in of]).sum(
        0
    )
    states = {"full": state(every, whole, False), "blocks": state(every, summed(every), False)}
    for depth in sorted({one.depth for one in of if one.depth is not None}):
        some = [one for one in of if one.depth == depth]
        states[f"depth:{depth}"] = state(some, summed(some), False)
    for one in of:
        states[module_part(one)] = state([one], x[one] * y[one], True)
    return NetworkSignature(
        name=name,
        head=SketchSpec(VOCAB, WIDTH, m=m, seed=seed),
        unit="sequence",
        head_digest="head",
        model_digest="body",
        tokenizer="tokenizer",
        support="",
        precision=precision,
        modules=of,
        states=states,
        facts={"model": "made up", "text": name},
    )


def _mapped(sketch: Sketch, linear: object, rows: torch.Tensor) -> torch.Tensor:
    flat = rows.reshape(-1, rows.shape[-1])
    into = torch.zeros(len(flat), linear.width)  # type: ignore[attr-defined]
    linear.add(flat, 0, into)  # type: ignore[attr-defined]
    features = sketch.factor(into)
    return features.reshape(*rows.shape[:2], -1)


@cache
def network_alignments(tasks: int, *, depths: int = 6, m: int = 256) -> NetworkAlignments:
    """Of several tasks, the more unlike the deeper."""
    of = modules(depths)
    made = []
    for seed, name in enumerate(("reviews", "manuals", "poems", "law")[:tasks]):
        task = network_task(200, seed, tilt=0.5, of=of)
        made.append(network_signed(name, task, of=of, m=m))
    return align_networks(made)
