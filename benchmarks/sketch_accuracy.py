"""How far sketched alignments lie from exact ones, by construction, and how often intervals hold.

    python benchmarks/sketch_accuracy.py
    python benchmarks/sketch_accuracy.py --constructions srht complex_tensorsketch --seeds 40
    python benchmarks/sketch_accuracy.py --constructions complex_tensorsketch --m 8192

A dozen topics of the interpreter's library on the bundled model, 2,400 positions each. Exact
cosines come from Gram matrices of all positions, sketches see the same ones, so that what is left
is the sketch's error alone. ``plug-in`` are cosines with all pairs of samples, ``debiased`` those
without pairs of one document. Coverage is that
of the 95 % interval of the sketch's own standard error, over pairs and seeds, for plug-in cosines.
``limit`` is what independent normal features would give, (1 - cosine^2) / sqrt(m).
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unembed.demo.story import bundled_model
from unembed.demo.topics import topics
from unembed.head.head import Head
from unembed.head.precision import Precision
from unembed.models.checkpoint import Checkpoint, load
from unembed.models.model_pass import ModelPass
from unembed.signatures.alignment.align import align, interval
from unembed.signatures.alignment.records import Alignments
from unembed.signatures.alignment.texts import samples_of
from unembed.signatures.batch_sums import batch_sums, whole_state
from unembed.signatures.reading.features import features
from unembed.signatures.reading.sketcher import SketchOptions
from unembed.signatures.samples import Samples
from unembed.signatures.signature import Identity, Signature
from unembed.signatures.sketches.constructions import sketch_of
from unembed.signatures.sketches.names import CONSTRUCTIONS
from unembed.signatures.sketches.sketch import SketchSpec
from unembed.signatures.state import empty

POSITIONS = 2_400
ROWS = 600
KINDS = ("joint", "activation", "error")


@dataclass(frozen=True)
class Tasks:
    """Every topic's positions, and the head that reads them."""

    samples: list[Samples]
    head: Head


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    usual = [name for name in CONSTRUCTIONS if name != "dense"]
    parser.add_argument("--constructions", nargs="+", choices=CONSTRUCTIONS, default=usual)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--m", type=int, default=4_096)
    given = parser.parse_args()
    tasks = read(load(bundled_model()))
    exact = {
        name: cosines(tasks, debias) for name, debias in (("plug-in", False), ("debiased", True))
    }
    inside = np.triu_indices(len(tasks.samples), 1)
    count = sum(len(task.targets) for task in tasks.samples)
    mean = {name: exact[name]["joint"][inside].mean() for name in exact}
    print(f"{len(tasks.samples)} tasks, {count:,} positions, m = {given.m}, {given.seeds} seeds")
    print(", ".join(f"mean joint {name} {value:.3f}" for name, value in mean.items()))
    limit = np.sqrt(np.square(1 - exact["plug-in"]["joint"][inside] ** 2).mean() / given.m)
    print(f"{'limit':<22}{limit:.4f}")
    for construction in given.constructions:
        off: dict[str, list[float]] = {}
        held: dict[str, list[float]] = {}
        start = time.perf_counter()
        for seed in range(given.seeds):
            found = sketched(tasks, construction, given.m, seed)
            for name, alignments in found.items():
                for kind in KINDS:
                    pairs, true = alignments.pairs(kind), exact[name][kind]
                    assert pairs is not None
                    gap = (pairs.value - true)[inside]
                    off.setdefault(f"{name} {kind}", []).append(float(np.nanmean(gap**2)))
                    if name == "plug-in":
                        low, high = interval(pairs.value, pairs.sketch_se, "cosine")
                        within = ((low <= true) & (true <= high))[inside]
                        held.setdefault(kind, []).append(float(within.mean()))
        seconds = (time.perf_counter() - start) / given.seeds
        errors = ", ".join(f"{name} {shown(values)}" for name, values in off.items())
        coverage = ", ".join(f"{kind} {np.mean(some):.3f}" for kind, some in held.items())
        print(f"{construction:<22}RMSE {errors}")
        print(f"{'':<22}coverage {coverage}; {seconds:.1f} s a seed", flush=True)


def shown(squares: list[float]) -> str:
    """Root mean square over seeds and pairs, with its standard error over seeds."""
    root = float(np.sqrt(np.mean(squares)))
    spread = float(np.std(squares, ddof=1)) / len(squares) ** 0.5 / (2 * root)
    return f"{root:.4f} ± {spread:.4f}"


def read(checkpoint: Checkpoint) -> Tasks:
    """The hidden states of every topic."""
    found = []
    options = SketchOptions(max_positions=POSITIONS)
    for name, topic in topics(checkpoint).items():
        reading = ModelPass.of(checkpoint.model, topic.text, options, "bundled")
        found.append(samples_of(reading, name))
    return Tasks(found, reading.head)


def errors_of(hidden: Tensor, targets: Tensor, head: Head) -> Tensor:
    logits = hidden @ head.weight.T
    if head.valid is not None:
        logits[:, ~head.valid] = -torch.inf
    error = logits.softmax(1)
    error[torch.arange(len(error)), targets] -= 1
    return error


def cosines(tasks: Tasks, debias: bool) -> dict[str, np.ndarray]:
    """Exact cosines, from sums of the kernels over pairs of documents."""
    hidden = torch.cat([task.hidden for task in tasks.samples])
    targets = torch.cat([task.targets for task in tasks.samples])
    _, document = np.unique(
        np.concatenate([task.document for task in tasks.samples]), return_inverse=True
    )
    owner = np.repeat(np.arange(len(tasks.samples)), [len(t.targets) for t in tasks.samples])
    ids = torch.from_numpy(document)
    member = torch.nn.functional.one_hot(ids).float()
    error = torch.cat(
        [
            errors_of(*some, tasks.head)
            for some in zip(hidden.split(ROWS), targets.split(ROWS), strict=True)
        ]
    )
    sums = {kind: torch.zeros(2 * (member.shape[1],), dtype=torch.float64) for kind in KINDS}
    for rows in torch.arange(len(hidden)).split(ROWS):
        x, y = (hidden[rows] @ hidden.T).square(), (error[rows] @ error.T).square()
        for kind, kernel in zip(KINDS, (x * y, x, y), strict=True):
            sums[kind].index_add_(0, ids[rows], (kernel @ member).double())
    task_of = np.zeros(member.shape[1], dtype=int)
    task_of[document] = owner
    share = torch.nn.functional.one_hot(torch.from_numpy(task_of)).double()
    size = share.T @ torch.bincount(ids).double()
    found = {}
    for kind, matrix in sums.items():
        pairs = torch.outer(size, size)
        if debias:
            matrix = matrix - matrix.diag().diag()
            pairs -= (share.T @ torch.bincount(ids).double().square()).diag()
        product = share.T @ matrix @ share / pairs
        norm = product.diag().sqrt()
        found[kind] = (product / torch.outer(norm, norm)).numpy()
    return found


def sketched(tasks: Tasks, construction: str, m: int, seed: int) -> dict[str, Alignments]:
    head = tasks.head
    spec = SketchSpec(head.vocab, head.dim, construction, m, seed)
    made, precision = sketch_of(spec, torch.device("cpu")), Precision.probe(head.weight)
    identity = Identity(spec, "token", "empirical", "", "", "")
    signatures = []
    for task in tasks.samples:
        pieces = []
        for rows in torch.arange(len(task.targets)).split(ROWS):
            _, some = features(
                task.hidden[rows], head, task.targets[rows], made, precision=precision
            )
            documents = task.document[rows.numpy()]
            pieces.append(batch_sums(empty(m), some, documents, np.zeros(len(rows), dtype=bool)))
        signatures.append(Signature(task.name, identity, whole_state(pieces), {}))
    return {
        "plug-in": align(signatures, debias=False),
        "debiased": align(signatures),
    }


if __name__ == "__main__":
    main()
