"""Scores from signatures of the whole network: each part of it, by sequences and by positions.

All parts of a task come from one forward and one backward pass over its text. ``full`` compares
whole gradients, ``blocks`` sums the Fishers of the modules, ``profile`` is the mean of the cosines
of the depths, and each depth and each kind of module stands alone beside the head. A second way
is taken over adapters: the modules are then the low-rank matrices that LoRA would train, fresh, or
after a short training on a mixture of all sources.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from cost import Cost, measured
from jaxtyping import Float
from methods import Found, aligned, steps
from safetensors.torch import load_file
from tasks import Task
from torch import Tensor, nn
from torch.nn.functional import normalize

from training import LoraTraining, adapted, every_row
from unembed import Checkpoint, Head, head_loss
from unembed.head import Precision, final_hidden
from unembed.runs import progress_bar
from unembed.signatures import NetworkOptions, NetworkSignature, sketch_network

Unit = Literal["token", "sequence"]
Adapters = Literal["fresh", "warm"]
UNITS: tuple[Unit, ...] = ("token", "sequence")
ADAPTERS: tuple[Adapters, ...] = ("fresh", "warm")


@dataclass(frozen=True)
class NetworkSetup:
    """What is sketched: ``m`` numbers a part, from each of these ``seeds`` of projections."""

    m: int = 2_048
    units: tuple[Unit, ...] = UNITS
    seeds: tuple[int, ...] = (0,)
    adapters: tuple[Adapters, ...] = ADAPTERS


def from_network(
    checkpoint: Checkpoint, tasks: list[Task], setup: NetworkSetup, shown: bool
) -> list[Found]:
    """Alignments and gradient cosines by every part of the network, for each unit and seed."""
    found: list[Found] = []
    passes = len(tasks) * len(setup.units) * len(setup.seeds)
    with progress_bar("network", "task", passes, shown) as bar:
        for seed in setup.seeds:
            for unit in setup.units:
                label = f", {unit}" + (f", seed {seed}" if seed else "")
                signed, cost = _signed(checkpoint, tasks, setup.m, unit, seed, bar.update)
                found += _of_parts(signed, label, cost, setup.m)
    return found


def from_adapters(
    checkpoint: Checkpoint,
    tasks: list[Task],
    head: Head,
    training: LoraTraining,
    setup: NetworkSetup,
    seed: int,
    shown: bool,
) -> list[Found]:
    """The same over the matrices of adapters: what LoRA would move, at its start or a little on."""
    found: list[Found] = []
    with progress_bar("adapters", "task", len(tasks) * len(setup.adapters), shown) as bar:
        for state in setup.adapters:
            texts = [] if state == "fresh" else [task.text.train for task in tasks]
            model = adapted(checkpoint, texts, head, training, seed).model
            within = Checkpoint(checkpoint.name, model.eval(), checkpoint.tokenizer)
            signed, cost = _signed(within, tasks, setup.m, "sequence", 0, bar.update)
            for part in ("full", "blocks"):
                own = [one.part(part) for one in signed]
                found += aligned(own, ("joint",), f" {part} of {state} adapters", cost, setup.m)
            found += aligned(own, ("gradient",), f" of {state} adapters", cost, setup.m)
    return found


def adapter_steps(
    checkpoint: Checkpoint,
    tasks: list[Task],
    head: Head,
    training: LoraTraining,
    folder: Path,
) -> list[Found]:
    """How far each trained adapter should lower each target's loss, to first order.

    ``-<ΔW, G>`` over all adapted layers, with ΔW what the adapter adds to the weights and G the
    mean gradient of the target's text to train on, taken at the model without adapters. One
    backward pass a target, and none an adapter; nothing is sketched. The cosine too, and those of
    mean gradients of sources with those of targets, to which sketched ones must come close.
    """
    model = copy.deepcopy(checkpoint.model).eval()
    layers = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    moves = [_moves(folder / f"{task.name}.safetensors", layers, training) for task in tasks]
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    weights = [layers[name].weight.requires_grad_() for name in moves[0]]
    means = []
    precision = Precision.probe(head.weight)
    with measured() as cost:
        for task in tasks:
            total = [torch.zeros_like(w) for w in weights]
            count = 0
            for ids, targets, real in every_row(task.text.train, training.rows):
                hidden = final_hidden(model, ids)[real]
                loss = head_loss(hidden, head, targets, precision=precision).nll.sum()
                for into, each in zip(total, torch.autograd.grad(loss, weights), strict=True):
                    into += each
                count += len(targets)
            means.append(torch.cat([x.flatten() for x in total]) / count)
        gradients = torch.stack(means)
        steps = torch.stack([torch.cat([x.flatten() for x in one.values()]) for one in moves])
    size = 4 * gradients.shape[1]
    return [
        Found(name, found.double().numpy(), cost.seconds, cost.mib, size)
        for name, found in (
            ("adapter's step", -steps @ gradients.T),
            ("adapter's cosine", -normalize(steps) @ normalize(gradients).T),
            ("step of the body, exact", gradients @ gradients.T),
            ("gradient of the body, exact", normalize(gradients) @ normalize(gradients).T),
        )
    ]


def _moves(
    file: Path, layers: Mapping[str, nn.Module], training: LoraTraining
) -> dict[str, Float[Tensor, "outputs inputs"]]:
    """What an adapter adds to each layer's weight: ``alpha / rank * B A`` with alpha = 2 rank."""
    kept = load_file(file)
    found = {}
    for name in layers:
        ends = [[k for k in kept if f".{name}.lora_{side}." in k] for side in "AB"]
        if all(ends):
            a, b = (kept[end[0]] for end in ends)
            found[name] = 2.0 * (b @ a)
    return found


def _signed(
    checkpoint: Checkpoint,
    tasks: list[Task],
    m: int,
    unit: Unit,
    seed: int,
    step: Callable[[], object],
) -> tuple[list[NetworkSignature], Cost]:
    most = len(tasks[0].train.targets)
    options = NetworkOptions(
        m=m, max_positions=most, blocks=0, first_moment=True, unit=unit, seed=seed
    )
    signed = []
    with measured() as cost:
        for task in tasks:
            signed.append(sketch_network(checkpoint, task.text.train, options, task=task.name))
            step()
    return signed, cost


def _of_parts(
    signed: Sequence[NetworkSignature], label: str, cost: Cost, m: int
) -> Iterator[Found]:
    depths = sorted({x.depth for x in signed[0].modules if x.depth is not None})
    kinds = list(dict.fromkeys(x.kind for x in signed[0].modules if x.depth is not None))
    profile: dict[str, list[Found]] = {"joint": [], "gradient": []}
    for part in (
        "full",
        "blocks",
        "head",
        *(f"depth:{n}" for n in depths),
        *(f"kind:{k}" for k in kinds),
    ):
        own = [one.part(part) for one in signed]
        # The sum over modules of products of mean gradients is one number, full or in blocks.
        which = ("joint",) if part == "blocks" else ("joint", "gradient")
        for one in aligned(own, which, f" {part}{label}", cost, m):
            yield one
            if part.startswith("depth:"):
                profile[one.method.split()[0]].append(one)
        if part in ("full", "head"):
            made = steps(own, cost, m)
            yield Found(f"step {part}{label}", made.values, cost.seconds, cost.mib, made.bytes)
    for kind, some in profile.items():
        values = np.mean([one.values for one in some], 0)
        size = sum(one.bytes or 0 for one in some)
        yield Found(f"{kind} profile{label}", values, cost.seconds, cost.mib, size)
