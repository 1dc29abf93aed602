"""How many bytes a model's weights take, and how many of them it holds rounded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from torch import nn

from unembed.head.head import output_embedding
from unembed.models.adapters import WEIGHTS, base_of, is_adapter_alone
from unembed.models.checkpoint import Checkpoint, gguf_file
from unembed.models.quantization import RoundedShare, kind_of, nominal_bytes, rounded_shares
from unembed.models.weight_files import StoredTensor, stored_tensors, tensors_of
from unembed.short_repr import ShortRepr

Known = Literal["stored", "nominal", "loaded"]
"""As the files hold them, by the bits of a scheme that is applied here, or as they are loaded."""

PLAIN_GGUF = ("F32", "F16", "BF16", "F64")
PLAIN = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class WeightBytes(ShortRepr):
    """Bytes of a model's weights: of its body and of its head, which a tied embedding is part of.

    ``known`` says whether the files hold so many, a scheme's bits make them, or memory does.
    ``rounded`` are the shares of weights that are held rounded, of all and by kind of module; none
    of a plain model.
    """

    body: int
    head: int
    known: Known
    rounded: tuple[RoundedShare, ...] = ()

    @property
    def weights(self) -> int:
        """Of all weights."""
        return self.body + self.head

    def _phrases(self) -> Iterator[str]:
        yield f"{self.weights:,} bytes {self.known}"
        yield f"head {self.head:,}"


def bytes_of_weights(checkpoint: Checkpoint, given: str, base: str | None = None) -> WeightBytes:
    """The bytes of a loaded checkpoint's weights, by the headers of its files where it has any.

    ``given`` is where it was loaded from. An adapter's own file counts beside its base's.
    """
    adapter = is_adapter_alone(given)
    place = base_of(given, base) if adapter else given
    file = gguf_file(place)
    if file is not None:
        return _of_gguf(file)
    stored = stored_tensors(Path(place)) if Path(place).is_dir() else ()
    model = checkpoint.model
    if not stored:
        head = output_embedding(model).weight
        sizes = {id(one): one.numel() * one.element_size() for one in model.parameters()}
        of_head = sizes.get(id(head), head.numel() * head.element_size())
        return WeightBytes(sum(sizes.values()) - of_head, of_head, "loaded")
    paths = _paths_of_head(model)
    names = [one.name for one in stored]
    path = next((path for path in paths if any(_within(name, path) for name in names)), None)
    of_head = sum(one.bytes for one in stored if path is not None and _within(one.name, path))
    more = tensors_of(Path(given) / WEIGHTS) if adapter else ()
    rest = sum(one.bytes for one in (*stored, *more)) - of_head
    rounded = () if checkpoint.stored_as is None else _rounded(model, stored)
    return WeightBytes(rest, of_head, "stored", rounded)


def bytes_when_rounded(
    model: nn.Module, scheme: str, stored: WeightBytes, *, head: bool = False
) -> WeightBytes:
    """The bytes of a model's weights after ``quantized``, by its scheme's bits.

    What is not rounded, and the scales, take what a number of the ``stored`` weights does on
    average, where files hold them unrounded; else what they take in memory.
    """
    width = None
    if stored.known == "stored" and not stored.rounded:
        width = stored.weights / sum(one.numel() for one in model.parameters())
    body, of_head = nominal_bytes(model, scheme, head=head, width=width)
    return WeightBytes(body, of_head, "nominal", rounded_shares(model, head=head))


def bytes_in(model: nn.Module, width: int, dtype: str) -> WeightBytes:
    """The bytes of a model's weights in a precision of ``width`` bytes a number."""
    of_head = output_embedding(model).weight.numel()
    whole = sum(one.numel() for one in model.parameters())
    shares = (RoundedShare(f"all weights, to {dtype}", whole, whole),)
    return WeightBytes(width * (whole - of_head), width * of_head, "nominal", shares)


def _paths_of_head(model: nn.Module) -> list[str]:
    """Where the head's matrix may lie in a file: as the head's own, or as a tied embedding."""
    last = output_embedding(model)
    own = [path for path, module in model.named_modules() if module is last]
    tied = [
        path
        for path, module in model.named_modules()
        if module is not last and getattr(module, "weight", None) is last.weight
    ]
    return own + tied


def _within(name: str, path: str) -> bool:
    """Whether a file's tensor is of the module at a path; either may have a prefix more."""
    module = name.rpartition(".")[0]
    return module == path or module.endswith(f".{path}") or path.endswith(f".{module}")


def _rounded(model: nn.Module, stored: Iterable[StoredTensor]) -> tuple[RoundedShare, ...]:
    """Weights of the model that no file holds in a plain precision, by kind of module."""
    plain = {one.name for one in stored if one.dtype in PLAIN}
    ends = {end for name in plain for end in _ends(name)}
    last = output_embedding(model)
    first: dict[int, nn.Module] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            first.setdefault(id(parameter), module)
    return _shares(
        (
            kind_of(module, parameter, last),
            parameter.numel(),
            f"{path}.{key}" not in ends and plain.isdisjoint(_ends(f"{path}.{key}")),
        )
        for path, module in model.named_modules()
        for key, parameter in module.named_parameters(recurse=False)
        if first[id(parameter)] is module
    )


def _ends(name: str) -> Iterator[str]:
    """A tensor's name without the first parts of its path, of which its module's is the last."""
    return (name.split(".", i)[-1] for i in range(name.count(".")))


def _of_gguf(file: Path) -> WeightBytes:
    reader: Any = import_module("gguf").GGUFReader(str(file))
    sizes = {one.name: int(one.n_bytes) for one in reader.tensors}
    names = [name for name in ("output.weight", "token_embd.weight") if name in sizes]
    of_head = sizes[names[0]] if names else 0
    found = [
        (_kind_in_gguf(one), math.prod(map(int, one.shape)), one.tensor_type.name not in PLAIN_GGUF)
        for one in reader.tensors
    ]
    return WeightBytes(sum(sizes.values()) - of_head, of_head, "stored", _shares(found))


def _kind_in_gguf(tensor: Any) -> str:
    if tensor.name == "output.weight":
        return "head"
    if tensor.name.startswith("token_embd"):
        return "embeddings"
    if len(tensor.shape) < 2 or min(map(int, tensor.shape)) == 1:
        return "norms and biases"
    return "experts" if len(tensor.shape) == 3 else "linear layers"


def _shares(found: Iterable[tuple[str, int, bool]]) -> tuple[RoundedShare, ...]:
    """The share of rounded weights of all and of each kind, from kind, size and whether rounded."""
    counts: dict[str, tuple[int, int]] = {}
    for kind, size, rounded in found:
        before, weights = counts.get(kind, (0, 0))
        counts[kind] = (before + size * rounded, weights + size)
    if not any(rounded for rounded, _weights in counts.values()):
        return ()
    total = [sum(column) for column in zip(*counts.values(), strict=True)]
    shares = (RoundedShare(kind, *count) for kind, count in counts.items())
    return (RoundedShare("all weights", *total), *sorted(shares, key=lambda one: -one.weights))
