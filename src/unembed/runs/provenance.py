"""What produced a number: model, head, corpus, precision path, plan and versions."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from importlib import metadata
from threading import Thread
from typing import Any

import torch
from torch import Tensor, nn

from unembed.errors import UnembedError
from unembed.head.head import Head, bytes_of
from unembed.head.precision import Precision
from unembed.short_repr import ShortRepr

SCHEMA = 1
LEFT_OUT = "unembed_left_out"
"""Attribute of a loaded model: what of its checkpoint takes no part in what is measured."""
PACKAGES = ("unembed", "torch", "transformers", "tokenizers", "numpy", "pyarrow")


@dataclass(frozen=True)
class TextFacts(ShortRepr):
    """What was read and how it was cut: the part of a run's provenance that the text decides.

    ``duplicate_documents`` are equal to an earlier one, token for token, and ``double_bos_rows``
    begin with a BOS token beside the tokenizer's own. ``cut_prompts`` and ``split_completions`` are
    rows longer than the context. ``notes`` say all that in sentences, and what was not read.
    """

    corpus: str
    digest: str
    tokenizer: str
    documents: int
    rows: int
    tokens: int
    blank_rows: int
    short_rows: int
    context: int
    overflow: str
    positions: int
    duplicate_documents: int = 0
    double_bos_rows: int = 0
    cut_prompts: int = 0
    split_completions: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Provenance(ShortRepr):
    """Everything that the numbers of a run depend on, as plain values.

    Two runs with equal provenance hold equal bytes on one machine. ``cpu`` is there
    because a transformer's body may round differently on another machine, and ``threads``, those
    that each batch was computed by, because it may on another number of them. ``left_out`` says in
    words what of the checkpoint took no part.
    """

    kind: str
    schema: int
    model: str
    architecture: str
    model_digest: str
    model_dtype: str
    device: str
    head_recipe: str
    head_shape: tuple[int, int]
    head_tokens: int
    head_tied: bool
    head_digest: str
    row_norm_cv: float | None
    product_route: str
    product_error: float
    epilogue: str
    text: TextFacts
    batch_tokens: int
    part_positions: int
    options: dict[str, Any]
    versions: dict[str, str]
    cpu: str
    threads: int
    left_out: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values for a manifest; ``left_out`` only where there is something."""
        values = {**asdict(self), "head_shape": list(self.head_shape)}
        values["text"]["notes"] = list(values["text"]["notes"])
        left_out = list(values.pop("left_out"))
        return {**values, "left_out": left_out} if left_out else values

    @staticmethod
    def from_json(values: dict[str, Any]) -> Provenance:
        """Read back what ``to_json`` wrote."""
        text = TextFacts(**{**values["text"], "notes": tuple(values["text"].get("notes", ()))})
        shape, left_out = tuple(values["head_shape"]), tuple(values.get("left_out", ()))
        return Provenance(**{**values, "head_shape": shape, "text": text, "left_out": left_out})


def provenance_of(
    kind: str,
    name: str,
    model: nn.Module,
    head: Head,
    precision: Precision,
    text: TextFacts,
    batch_tokens: int,
    part_positions: int,
    options: dict[str, Any],
    threads: int,
    model_digest: str,
) -> Provenance:
    """Collect the provenance of a run that is about to start; ``model_digest`` is ``digest_of``."""
    return Provenance(
        kind=kind,
        schema=SCHEMA,
        model=name,
        architecture=type(model).__name__,
        model_digest=model_digest,
        model_dtype=str(next(model.parameters()).dtype).removeprefix("torch."),
        device=describe_device(head.weight.device),
        head_recipe=head.recipe,
        head_shape=(head.vocab, head.dim),
        head_tokens=head.tokens,
        head_tied=head.tied,
        head_digest=head.digest,
        row_norm_cv=row_norm_cv(head),
        product_route=precision.route,
        product_error=precision.error,
        epilogue=precision.epilogue,
        text=text,
        batch_tokens=batch_tokens,
        part_positions=part_positions,
        options=options,
        versions={"python": platform.python_version(), **versions_of_packages()},
        cpu=torch.backends.cpu.get_cpu_capability(),
        threads=threads,
        left_out=tuple(getattr(model, LEFT_OUT, ())),
    )


def digest_of(model: nn.Module, without: tuple[str, ...] = ()) -> str:
    """SHA-256 over the names, dtypes and bytes of a model's parameters and buffers.

    Those whose names begin with one of ``without`` are left out. It is the same wherever the
    weights lie: on several processes, which all call this, or outside of memory.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith(without):
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(bytes_of(_whole(model, name, tensor)))
    return digest.hexdigest()


def _whole(model: nn.Module, name: str, tensor: Tensor) -> Tensor:
    """A weight with all its values, gathered from processes or read from where it was offloaded."""
    if tensor.is_meta:
        path, _, own = name.rpartition(".")
        hook: Any = getattr(model.get_submodule(path), "_hf_hook", None)
        for one in getattr(hook, "hooks", [hook]):
            values = getattr(one, "weights_map", None)
            if values is not None:
                held: Tensor = values[own]
                return held.to(tensor.dtype)
        raise UnembedError(f"the weight {name} holds no values: load it somewhere")
    gather: Callable[[], Tensor] | None = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def digest_meanwhile(model: nn.Module) -> Future[str]:
    """``digest_of(model)``, by a thread that nothing waits for unless it asks for the result.

    Hashing takes one core, about a second for two gigabytes, and does not hold Python's lock. Of a
    model on several processes it is made at once: what they send each other has one order.
    """
    found: Future[str] = Future()
    if any(hasattr(one, "full_tensor") for one in model.parameters()):
        found.set_result(digest_of(model))
        return found

    def work() -> None:
        try:
            found.set_result(digest_of(model))
        except BaseException as error:
            found.set_exception(error)

    Thread(target=work, name="digest", daemon=True).start()
    return found


def row_norm_cv(head: Head) -> float | None:
    """Coefficient of variation of the token rows' norms; at 0 the cells are Euclidean.

    None where a row is not finite.
    """
    norms = torch.empty(len(head.weight), dtype=torch.float64)
    for start in range(0, len(norms), 1024):
        rows = head.weight[start : start + 1024]
        norms[start : start + 1024] = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float32)
    norms = norms if head.share is None else head.share.joined(norms)
    norms = norms if head.valid is None else norms[head.valid.cpu()]
    spread = float(norms.std(correction=0) / norms.mean())
    return spread if spread == spread and spread != float("inf") else None


def describe_device(device: torch.device) -> str:
    """The device's kind, with its product name where it has one."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def versions_of_packages() -> dict[str, str]:
    """The version of each package that a number may depend on."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "source checkout"
    return found
