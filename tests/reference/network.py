"""Gradients of every linear module, sample by sample, and what sketches of them estimate.

Everything is in float64 (but for what a model itself computes in float32, such as its norms): a
window's gradients by ``torch.func``, a position's from zeros that are added to every module's
output, random maps multiplied out as dense matrices, alignments from Gram matrices (theory §12).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from unembed.signatures.sketches.sketch import Sketch
from unembed.text.windows import Windows

HEAD = "head"

Gradients = dict[str, Tensor]
"""One sample's ``G`` by module: (experts x) outputs x inputs."""


@dataclass(frozen=True)
class Window:
    """Tokens that are read at once, what each predicts, which predictions count, the document."""

    ids: Tensor
    targets: Tensor
    counted: Tensor
    document: int


@dataclass(frozen=True)
class Weight:
    """The parameter of a linear module; ``transposed`` ones are stored inputs x outputs."""

    parameter: str
    transposed: bool = False
    experts: int = 0


def windows_of(windows: Windows) -> list[Window]:
    """The windows that a pass reads, one by one."""
    corpus, found = windows.corpus, []
    hashes = corpus.document_hashes()
    for i in range(len(windows.start)):
        start, length, lead = (
            int(windows.start[i]),
            int(windows.length[i]),
            bool(windows.prefixed[i]),
        )
        targets = torch.from_numpy(corpus.ids[start + 1 : start + length + 1].astype(np.int64))
        counted = torch.from_numpy(windows.counted(i))
        if lead:
            targets = torch.cat([torch.zeros(1, dtype=torch.int64), targets])
            counted = torch.cat([torch.zeros(1, dtype=torch.bool), counted])
        found.append(Window(windows.inputs(i), targets, counted, int(hashes[windows.doc[i]])))
    return found


def in_float64(model: Any) -> Any:
    """A copy whose attention and experts are written out."""
    found = copy.deepcopy(model).double().eval()
    base = found.get_base_model() if hasattr(found, "get_base_model") else found
    base.set_attn_implementation("eager")
    if any(weight.experts for weight in linear_weights(found).values()):
        base.set_experts_implementation("eager")
    return found


def linear_weights(model: Any) -> dict[str, Weight]:
    """By name: every linear module that would train, fused experts, and the output head last."""
    head, found = model.get_output_embeddings(), {}
    for name, module in model.named_modules():
        if module is head:
            continue
        if isinstance(module, nn.Linear | Conv1D) and module.weight.requires_grad:
            found[name] = Weight(f"{name}.weight", isinstance(module, Conv1D))
        for own, parameter in module.named_parameters(recurse=False):
            if parameter.ndim == 3 and own.endswith("proj") and parameter.requires_grad:
                found[f"{name}.{own}"] = Weight(f"{name}.{own}", False, len(parameter))
    name = next(name for name, module in model.named_modules() if module is head)
    if head.weight.requires_grad:
        found[HEAD] = Weight(f"{name}.weight")
    return found


def summed_loss(logits: Tensor, targets: Tensor, counted: Tensor, valid: Tensor | None) -> Tensor:
    """The cross-entropy in nats of the predictions that count, among the valid tokens."""
    if valid is not None:
        logits = logits.masked_fill(~valid, -torch.inf)
    each = F.cross_entropy(logits, targets, reduction="none")
    return torch.where(counted, each, 0.0).sum()


def window_gradients(
    model: Any, windows: Sequence[Window], valid: Tensor | None
) -> list[Gradients]:
    """Each window's ``G``; a weight shared with the embedding counts in the head's product alone.

    ``torch.func.vmap(torch.func.grad(loss))`` over windows of one length where there are several,
    unless the experts are chosen by the data.
    """
    weights = linear_weights(model)
    every = dict(model.named_parameters(remove_duplicate=False))
    some = {name: every[w.parameter].detach().clone() for name, w in weights.items()}

    def loss(some: dict[str, Tensor], ids: Tensor, targets: Tensor, counted: Tensor) -> Tensor:
        given = {weights[name].parameter: tensor for name, tensor in some.items()}
        logits = torch.func.functional_call(
            model, given, (), {"input_ids": ids[None], "use_cache": False}, tie_weights=False
        ).logits[0]
        return summed_loss(logits, targets, counted, valid)

    gradient = torch.func.grad(loss)
    found: list[Gradients] = [{} for _ in windows]
    by_length: dict[int, list[int]] = {}
    for i, window in enumerate(windows):
        by_length.setdefault(len(window.ids), []).append(i)
    chosen_by_data = any(weight.experts for weight in weights.values())
    for which in by_length.values():
        rows = [
            torch.stack([getattr(windows[i], name) for i in which])
            for name in ("ids", "targets", "counted")
        ]
        if len(which) > 1 and not chosen_by_data:
            stacked = torch.func.vmap(gradient, in_dims=(None, 0, 0, 0))(some, *rows)
            each = [{name: g[k] for name, g in stacked.items()} for k in range(len(which))]
        else:
            each = [gradient(some, *row) for row in zip(*rows, strict=True)]
        for i, one in zip(which, each, strict=True):
            found[i] = {
                name: (g.T if weights[name].transposed else g).detach() for name, g in one.items()
            }
    return found


@dataclass(frozen=True)
class Positions:
    """A module's inputs and errors at every position: (experts x) positions x inputs, outputs."""

    inputs: Tensor
    errors: Tensor


def window_positions(model: Any, window: Window, valid: Tensor | None) -> dict[str, Positions]:
    """Inputs and back-propagated errors of each module, by position of a window."""
    weights = linear_weights(model)
    with _with_zeros(model, weights) as (inputs, zeros):
        logits = model(input_ids=window.ids[None], use_cache=False).logits[0]
        names = list(weights)
        errors = torch.autograd.grad(
            summed_loss(logits, window.targets, window.counted, valid), [zeros[n] for n in names]
        )
    found = {}
    for name, error in zip(names, errors, strict=True):
        shape = (weights[name].experts,) * bool(weights[name].experts) + (len(window.ids), -1)
        found[name] = Positions(inputs[name].detach().reshape(shape), error.reshape(shape))
    return found


@contextmanager
def _with_zeros(
    model: Any, weights: Mapping[str, Weight]
) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Run every module with zeros added to its output: its inputs, and those zeros, once it ran."""
    inputs: dict[str, Tensor] = {}
    zeros: dict[str, Tensor] = {}
    head = model.get_output_embeddings()

    def wrapped(name: str, plain: Any) -> Any:
        def forward(x: Tensor) -> Tensor:
            out = plain(x)
            inputs[name], zeros[name] = x, torch.zeros_like(out, requires_grad=True)
            return out + zeros[name]

        return forward

    def experts(name: str, module: Any) -> Any:
        """Every expert on every position, weighted 0 where a position is not routed to it.

        Inputs that an expert was not given are noted as 0.
        """

        def forward(x: Tensor, index: Tensor, share: Tensor) -> Tensor:
            out = torch.zeros_like(x)
            width = 2 * module.down_proj.shape[2]
            up = torch.zeros(module.num_experts, len(x), width, dtype=x.dtype, requires_grad=True)
            down = torch.zeros(module.num_experts, *x.shape, dtype=x.dtype, requires_grad=True)
            middle, routed = [], []
            for e in range(module.num_experts):
                gate, linear = (x @ module.gate_up_proj[e].T + up[e]).chunk(2, -1)
                middle.append(module.act_fn(gate) * linear)
                coefficient = torch.where(index == e, share, 0).sum(-1, keepdim=True)
                routed.append((index == e).any(-1, keepdim=True))
                out = out + coefficient * (middle[e] @ module.down_proj[e].T + down[e])
            for own, zero, given in (
                ("gate_up_proj", up, x.expand(module.num_experts, *x.shape)),
                ("down_proj", down, torch.stack(middle)),
            ):
                inputs[f"{name}.{own}"] = given * torch.stack(routed)
                zeros[f"{name}.{own}"] = zero
            return out

        return forward

    with ExitStack() as after:
        for name, module in model.named_modules():
            key = HEAD if module is head else name
            if key in weights:
                module.forward = wrapped(key, module.forward)
            elif f"{name}.gate_up_proj" in weights:
                module.forward = experts(name, module)
            else:
                continue
            after.callback(delattr, module, "forward")
        yield inputs, zeros


def position_gradients(positions: Mapping[str, Positions], window: Window) -> list[Gradients]:
    """``G = δ aᵀ`` of each position whose prediction counts."""
    return [
        {
            name: one.errors[..., t, :, None] * one.inputs[..., t, None, :]
            for name, one in positions.items()
        }
        for t in torch.nonzero(window.counted)[:, 0].tolist()
    ]


def head_errors(model: Any, window: Window, valid: Tensor | None) -> Tensor:
    """``softmax - onehot`` of the final logits, positions x vocabulary, 0 where nothing counts."""
    with torch.no_grad():
        logits = model(input_ids=window.ids[None], use_cache=False).logits[0]
        if valid is not None:
            logits = logits.masked_fill(~valid, -torch.inf)
        error = logits.softmax(-1)
        error[torch.arange(len(error)), window.targets] -= 1
    return error * window.counted[:, None]


# Random maps


def dense_maps(sketch: Sketch) -> list[Tensor]:
    """The error's r and s and the activation's, as matrices: coordinates x features."""
    vocab, dim = sketch.spec.vocab, sketch.spec.dim
    sides = [(linear, vocab) for linear in sketch.error]
    sides += [(linear, dim) for linear in sketch.activation]
    return [sketch.factor(linear.columns(torch.arange(size)).double()) for linear, size in sides]


def projections(sketch: Sketch, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """``r·g`` and ``s·g`` of (samples x) outputs x inputs, feature by feature.

    The outputs of several experts are one after another.
    """
    r, s, a, b = dense_maps(sketch)
    g = gradient.to(r.dtype)
    if g.shape[-2] < sketch.spec.vocab:
        g = g.flatten(0, 1)
    return ((g @ a) * r).sum(-2), ((g @ b) * s).sum(-2)


# Exact alignments


def kernels(samples: Sequence[Gradients]) -> dict[str, np.ndarray]:
    """``K_ℓ[s, t] = G_ℓ(s) · G_ℓ(t)`` of every module."""
    found = {}
    for name in samples[0]:
        rows = torch.stack([sample[name].reshape(-1) for sample in samples])
        found[name] = (rows @ rows.T).numpy()
    return found


def full(of: Mapping[str, np.ndarray]) -> np.ndarray:
    """``(g·g')²`` with the gradients of all modules side by side."""
    whole: np.ndarray = np.square(sum(of.values()))
    return whole


def blocks(of: Mapping[str, np.ndarray]) -> np.ndarray:
    """``Σ_ℓ (g_ℓ·g_ℓ')²``: without the products of two modules."""
    each: np.ndarray = sum(np.square(k) for k in of.values())  # type: ignore[assignment]
    return each


@dataclass(frozen=True)
class Mean:
    """Which samples each of two means is over, and whether pairs of one document count."""

    tasks: np.ndarray
    documents: np.ndarray
    debias: bool = False

    def product(self, kernel: np.ndarray, i: int, j: int) -> float:
        """The mean of a kernel over the pairs of a sample of task i with one of task j."""
        pairs = np.outer(self.tasks == i, self.tasks == j)
        if self.debias:
            pairs &= self.documents[:, None] != self.documents
        return float(kernel[pairs].mean())

    def cosine(self, kernel: np.ndarray, i: int = 0, j: int = 1) -> float:
        """``⟨F_i, F_j⟩ / (‖F_i‖ ‖F_j‖)``."""
        norms = self.product(kernel, i, i) * self.product(kernel, j, j)
        return self.product(kernel, i, j) / math.sqrt(norms)


def block_products(of: Mapping[str, np.ndarray], mean: Mean, i: int, j: int) -> np.ndarray:
    """``⟨F_i^{ℓℓ'}, F_j^{ℓℓ'}⟩`` by ℓ and ℓ'."""
    names = list(of)
    return np.array([[mean.product(of[a] * of[b], i, j) for b in names] for a in names])


def off_diagonal_share(of: Mapping[str, np.ndarray], mean: Mean, i: int) -> float:
    """``η``: the norm of the blocks of two modules over that of all."""
    squares = block_products(of, mean, i, i)
    return math.sqrt((squares.sum() - np.trace(squares)) / squares.sum())


# The limit of random features


def normal_estimates(
    of: Mapping[str, np.ndarray], mean: Mean, m: int, runs: int, *, part: str, seed: int = 0
) -> np.ndarray:
    """Cosines of tasks 0 and 1 from m / 2 complex normal features, in each of some runs.

    ``x`` and ``y`` of a module are normal with covariance K_ℓ over the samples: what maps of
    independent normal numbers give. ``part`` is "full", "blocks" or a module.
    """
    rng = np.random.default_rng(seed)
    names = [part] if part in of else list(of)
    roots = []
    for name in names:
        values, vectors = np.linalg.eigh(of[name])
        roots.append(vectors * np.sqrt(np.maximum(values, 0)))
    found = []
    for _ in range(runs):
        x, y = (
            [root @ _complex_normal(rng, root.shape[1], m // 2) for root in roots] for _ in range(2)
        )
        psi = sum(x) * sum(y) if part == "full" else sum(a * b for a, b in zip(x, y, strict=True))
        means = [psi[mean.tasks == i].mean(0) for i in (0, 1)]
        products = [[float((a * b.conj()).real.mean()) for b in means] for a in means]
        found.append(products[0][1] / math.sqrt(products[0][0] * products[1][1]))
    return np.array(found)


def _complex_normal(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    drawn: np.ndarray = rng.normal(size=(2, rows, columns)) / math.sqrt(2)
    return drawn[0] + 1j * drawn[1]
