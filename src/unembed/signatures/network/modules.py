"""The linear modules of a model whose gradients are sketched, and how some of them are chosen."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from unembed.errors import UnembedError
from unembed.head.head import output_embedding
from unembed.models.running_lists import LISTS, run_probe, running_lists
from unembed.short_repr import ShortRepr
from unembed.signatures.network.fused import fused_weights, widths_met
from unembed.signatures.sketches.sketch import SketchSpec

HEAD = "head"
"""What the output head is called among the modules, whatever the model calls it."""
DEPTH, KIND = "depth:", "kind:"
ADAPTER = ("lora_A", "lora_B")
"""The matrices of an adapter, as PEFT names them."""
MOST_NAMED = 3
"""Modules that a fact or an error names before it counts the others."""


@dataclass(frozen=True)
class NetworkModule(ShortRepr):
    """A linear map of a model whose gradient is sketched, with the widths of its two sides.

    ``name`` is that of ``named_modules()``, or ``HEAD``. Its gradient at a position is ``δ aᵀ``
    with the error δ, ``outputs`` wide, and the input a, ``inputs`` wide. ``depth`` is the number of
    its block from 0, None outside of the blocks. ``kind`` is what the blocks have in common: the
    last piece of its name ("q_proj", "c_attn"; of an adapter "q_proj.lora_A").
    """

    name: str
    outputs: int
    inputs: int
    depth: int | None
    kind: str

    def spec(self, construction: str, m: int, seed: int) -> SketchSpec:
        """The sketch of this module's gradient, of random numbers of its own.

        The head's are those of ``seed`` itself, so that its part is the signature of the head.
        """
        own = seed if self.name == HEAD else seed_of(seed, self.name)
        return SketchSpec(max(self.outputs, 2), self.inputs, construction, m, own)


@dataclass(frozen=True)
class LeftOut(ShortRepr):
    """Of what has weights, what is not sketched: modules by why not, others by class.

    ``uncalled`` are linear modules that no text calls: their weights are unused, or used in place,
    as those of Mamba's ``dt_proj``.
    """

    frozen: tuple[str, ...]
    not_asked: tuple[str, ...]
    uncalled: tuple[str, ...]
    others: dict[str, int]

    def __str__(self) -> str:
        found = [f"{count} {kind}" for kind, count in sorted(self.others.items())]
        whys = {
            "frozen": self.frozen,
            "not asked for": self.not_asked,
            "linear but not called": self.uncalled,
        }
        for why, names in whys.items():
            if names:
                found.append(f"{len(names)} {why} ({some_of(names)})")
        return ", ".join(found)


def seed_of(seed: int, name: str) -> int:
    """The seed of one module's random maps: 63 bits of the SHA-256 of ``seed/name``."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little") & ((1 << 63) - 1)


def network_modules(model: nn.Module, patterns: Sequence[str] = ()) -> tuple[NetworkModule, ...]:
    """The linear modules that a model's forward pass runs, in order, the output head last.

    These are ``nn.Linear``, the transposed ``Conv1D`` of GPT-2, and the fused experts of a mixture,
    by the name of their parameter: one map whose ``outputs`` are those of all experts, one after
    the other, so that each has random numbers of its own. Where an adapter is in place
    they are its matrices; else modules whose weight requires no gradient are left out. A pattern
    is a name with ``*`` and ``?`` as in file names, ``depth:3``, ``depth:3-7``, ``kind:q_proj``, or
    ``head``; a module is taken where one of them matches, and all are without any.
    Raises UnembedError for a pattern that matches nothing, or frozen modules alone, and for a model
    with nothing to train.
    """
    trained, frozen, adapter = _by_training(model, _running(model))
    if not trained:
        raise UnembedError(
            f"all {len(frozen)} linear modules are frozen ({some_of([x.name for x in frozen])}): "
            "set requires_grad of the weights that would be trained"
        )
    for pattern in patterns:
        if any(_matches(pattern, one) for one in trained):
            continue
        if held := [one.name for one in frozen if _matches(pattern, one)]:
            why = "an adapter is in place" if adapter else "their weights require no gradient"
            raise UnembedError(
                f"{pattern!r} names frozen modules alone ({some_of(held)}), since {why}: leave it "
                "out, or set requires_grad of their weights"
            )
        raise UnembedError(f"{pattern!r} matches no module: {_near(pattern, trained)}")
    return tuple(
        one
        for one in trained
        if not patterns or any(_matches(pattern, one) for pattern in patterns)
    )


def left_out(model: nn.Module, chosen: Sequence[NetworkModule]) -> LeftOut:
    """What has weights of its own, but is not among the modules that were chosen."""
    found = _running(model)
    names = {one.name for one in chosen}
    trained = {one.name for one in _by_training(model, found)[0]}
    rest = [one.name for one in found if one.name not in names]
    head, others, uncalled = output_embedding(model), dict[str, int](), list[str]()
    running = {*names, *rest}
    for path, module in model.named_modules():
        own = [name for name, _ in module.named_parameters(recurse=False)]
        fused = any(f"{path}.{name}" in running for name in own)
        if not own or fused or module is head:
            continue
        if _is_linear(module):
            uncalled += [] if path in running else [path]
        else:
            kind = type(module).__name__
            others[kind] = others.get(kind, 0) + 1
    return LeftOut(
        tuple(name for name in rest if name not in trained),
        tuple(name for name in rest if name in trained),
        tuple(uncalled),
        others,
    )


def some_of(names: Sequence[str]) -> str:
    """The first few of some names, and how many there are besides."""
    rest = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def weight_of(model: nn.Module, name: str) -> Any:
    """The weight of a module by its name, that of the output embedding for ``HEAD``."""
    if name == HEAD:
        return output_embedding(model).weight
    path, _, own = name.rpartition(".")
    found = getattr(model.get_submodule(path), own)
    return found if isinstance(found, nn.Parameter) else found.weight


def is_routed(name: str) -> bool:
    """Whether a module may be one of several in its block, which not every text reaches."""
    return sum(piece.isdecimal() for piece in name.split(".")) > 1


def is_transposed(module: nn.Module) -> bool:
    """Whether a module is the ``Conv1D`` of transformers, whose weight is inputs by outputs."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or is_transposed(module)


def _running(model: nn.Module) -> list[NetworkModule]:
    """Every linear module that runs on text, frozen ones too, and the head last."""
    head, ran = output_embedding(model), set[str]()
    linear = {
        name: module
        for name, module in model.named_modules()
        if _is_linear(module) and module is not head
    }
    fused = fused_weights(model)
    lists = [name for name, module in model.named_modules() if isinstance(module, LISTS)]
    with contextlib.ExitStack() as stack:
        for name, module in linear.items():

            def note(_module: nn.Module, _args: object, which: str = name) -> None:
                ran.add(which)

            stack.callback(module.register_forward_pre_hook(note).remove)
        widths = stack.enter_context(widths_met(fused))
        run_probe(model)
    blocks = next((one.path for one in running_lists(model) if one.in_order), None)
    found = []
    for path, module in model.named_modules():
        if path in linear and (
            path in ran
            or any(one.startswith(f"{blocks}.") and _within(path, one, ran) for one in lists)
        ):
            outputs, inputs = module.weight.shape
            if is_transposed(module):
                outputs, inputs = inputs, outputs
            found.append(
                NetworkModule(path, int(outputs), int(inputs), _depth(path, blocks), _kind(path))
            )
        for own, weight in module.named_parameters(recurse=False):
            name = f"{path}.{own}"
            if name in widths:
                outputs, inputs = widths[name]
                depth = _depth(name, blocks)
                found.append(NetworkModule(name, len(weight) * outputs, inputs, depth, own))
    rows, dim = output_embedding(model).weight.shape
    return [*found, NetworkModule(HEAD, int(rows), int(dim), None, HEAD)]


def _within(name: str, path: str, ran: set[str]) -> bool:
    """Whether a module lies in a list within a block, of which others ran: experts that a router
    did not choose for the few tokens of a probe."""
    return name.startswith(f"{path}.") and any(other.startswith(f"{path}.") for other in ran)


def _depth(name: str, blocks: str | None) -> int | None:
    if blocks is None or not name.startswith(f"{blocks}."):
        return None
    number = name.removeprefix(f"{blocks}.").partition(".")[0]
    return int(number) if number.isdecimal() else None


def _kind(name: str) -> str:
    """The last piece of a name that is no number; of an adapter with what it adapts before it."""
    pieces = name.split(".")
    for matrix in ADAPTER:
        if matrix in pieces:
            at = pieces.index(matrix)
            return ".".join(pieces[max(at - 1, 0) : at + 1])
    named = [at for at, piece in enumerate(pieces) if not piece.isdecimal()]
    return ".".join(pieces[named[-1] :]) if named else name


def _of_adapter(name: str) -> bool:
    return not set(ADAPTER).isdisjoint(name.split("."))


def _by_training(
    model: nn.Module, running: Sequence[NetworkModule]
) -> tuple[list[NetworkModule], list[NetworkModule], bool]:
    """What training would move, what is frozen, and whether an adapter is in place."""
    adapter = any(_of_adapter(one.name) for one in running)
    trained = [one for one in running if _trains(model, one.name, adapter)]
    return trained, [one for one in running if one not in trained], adapter


def _trains(model: nn.Module, name: str, adapter: bool) -> bool:
    """Whether training would move a module; an adapter in place trains, loaded frozen or not."""
    if _of_adapter(name):
        return True
    if adapter and "base_layer" in name.split("."):
        return False
    return bool(weight_of(model, name).requires_grad)


def _matches(pattern: str, module: NetworkModule) -> bool:
    if pattern.startswith(KIND):
        return fnmatchcase(module.kind, pattern.removeprefix(KIND))
    if pattern.startswith(DEPTH):
        first, last = _depths(pattern)
        return module.depth is not None and first <= module.depth <= last
    return fnmatchcase(module.name, pattern)


def _depths(pattern: str) -> tuple[int, int]:
    """The first and the last depth that a pattern asks for."""
    first, dash, last = pattern.removeprefix(DEPTH).partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()):
        raise UnembedError(f"{pattern!r} is no depth: give one, such as depth:3, or depth:3-7")
    if dash and int(last) < int(first):
        raise UnembedError(f"{pattern!r} ends before it begins: give depth:{last}-{first}")
    return int(first), int(last) if dash else int(first)


def _near(pattern: str, modules: Sequence[NetworkModule]) -> str:
    """What there is instead, the nearest first."""
    if pattern.startswith(DEPTH):
        depths = [one.depth for one in modules if one.depth is not None]
        return f"its blocks are 0 to {max(depths)}" if depths else "no module lies in a block"
    kinds = list(dict.fromkeys(one.kind for one in modules))
    if pattern.startswith(KIND):
        return f"its kinds are {', '.join(kinds)}"
    names = [one.name for one in modules]
    near = get_close_matches(pattern, [*names, *kinds], MOST_NAMED, 0.3)
    return f"give a name with * for any letters, such as {some_of(near or names)}"
