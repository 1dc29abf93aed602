"""Signatures as safetensors files: whole, to go on with, or compact, to be stored with a model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np

from unembed.errors import UnembedError
from unembed.runs.files import check_output, write_output
from unembed.signatures.alignment.estimators import squared_norm
from unembed.signatures.sealed import (
    OF_HEAD,
    Tensors,
    damage,
    file_bytes,
    is_signature,
    sealed,
    unsealed,
)
from unembed.signatures.signature import Identity, Signature, refuse_empty
from unembed.signatures.sketches.sketch import SketchSpec
from unembed.signatures.state import SUMMED, WEIGHTS, State
from unembed.signatures.sums import KEPT, Sums

Dtype = Literal["float32", "float16", "int8"]

COMPACT_FILE = "fisher_signature.safetensors"
"""What a compact signature is called in a model's or an adapter's folder."""


def save(signature: Signature, path: str | Path) -> None:
    """Write the whole state, which can be merged, subtracted and re-weighted when read again.

    At m = 4096: 192 KiB, 192 more of document blocks, 128 more of first moments. The file appears
    whole or not at all. Raises UnembedError for a signature without samples, and where it cannot be
    written.
    """
    refuse_empty(signature)
    write_output(Path(path), as_bytes(signature), is_signature)


def check_signature_output(path: str | Path) -> None:
    """Raise UnembedError where no signature can be written, or something else is there."""
    check_output(Path(path), is_signature)


def export_path(path: str | Path) -> Path:
    """The file that ``export`` writes for a path, which may be a model's or an adapter's folder."""
    path = Path(path)
    return path if path.suffix == ".safetensors" and not path.is_dir() else path / COMPACT_FILE


def load(path: str | Path) -> Signature:
    """Read what ``save`` or ``export`` wrote, every byte of it checked.

    Raises UnembedError, in one line, for anything else.
    """
    return from_bytes(file_bytes(path, OF_HEAD), str(path))


def as_bytes(signature: Signature) -> bytes:
    """A file's content; the same signature gives the same bytes."""
    state = signature.state
    tensors: Tensors = {
        **{name: getattr(state, name) for name in WEIGHTS},
        "hashes": state.hashes,
    }
    for name in SUMMED:
        sums = state.sums(name)
        if sums is not None:
            tensors |= {f"{name}.{part}": array for part, array in vars(sums).items()}
    return _sealed(signature, {"stored": "whole"}, tensors)


def export(signature: Signature, path: str | Path, *, dtype: Dtype = "float32") -> Path:
    """Write the mean joint feature alone, for storage with a model; returns the file's path.

    The debiased squared norm goes with it, so that alignments stay debiased. At m = 4096 the vector
    takes 16 KiB as float32, 8 as float16 and 4 as int8, which are fractions of its largest number.
    The cosine of two of 200 samples moved by less than 1e-6, 1e-4 and 2e-3. A path without that
    suffix is a folder, which gets the file ``fisher_signature.safetensors``.
    What is read back has one fold and neither marginals nor sampling errors.
    Raises UnembedError where the squared norm is not positive, and where it cannot be written.
    """
    refuse_empty(signature)
    state, path = signature.state, export_path(path)
    square = squared_norm(state, "joint")
    if not square > 0:
        raise UnembedError(
            f"{signature.name} has too few samples to export (n = {state.samples:g}, debiased "
            f"squared norm {square:.3g}): sketch more text"
        )
    mean = state.joint.total.sum(0) / state.weight.sum()
    peak = float(np.abs(mean).max())
    scale = {"float32": 1.0, "float16": peak, "int8": peak / 127}[dtype]
    reduced = mean / scale
    stored = (np.rint(reduced) if dtype == "int8" else reduced).astype(dtype)
    facts = {
        "stored": "compact",
        "scale": scale,
        "square": square,
        **{name: float(getattr(state, name).sum()) for name in WEIGHTS[:3]},
    }
    stored_bytes = _sealed(signature, facts, {"joint": stored, "hashes": state.hashes})
    write_output(path, stored_bytes, is_signature)
    return path


def from_bytes(data: bytes, where: str) -> Signature:
    """The signature of a file's content; ``where`` names it in errors (UnembedError)."""
    with damage(where):
        header, tensors = unsealed(data, where, OF_HEAD)
        state = _state(header, tensors)
        identity = Identity(spec=SketchSpec(**header["spec"]), **header["identity"])
        if not state.weight.any():
            raise UnembedError(f"{where} holds 0 samples: sketch a text, or subtract less of it")
        check_state(state, identity.spec.m)
        facts = {str(key): str(value) for key, value in header["facts"].items()}
        return Signature(str(header["name"]), identity, state, facts)


def _sealed(signature: Signature, values: dict[str, Any], tensors: Tensors) -> bytes:
    identity = signature.identity.plain()
    header = {
        "name": signature.name,
        "spec": identity.pop("spec"),
        "identity": identity,
        "facts": signature.facts,
        "documents": signature.state.documents,
        "trace": signature.state.trace,
        **values,
    }
    return sealed(OF_HEAD, header, tensors)


def _state(header: dict[str, Any], tensors: Tensors) -> State:
    trace = header["trace"]
    hashes = tensors["hashes"]
    if hashes.dtype != np.uint64 or hashes.ndim != 1:
        raise ValueError(f"hashes are {hashes.dtype} of shape {hashes.shape}")
    documents, trace = int(header["documents"]), None if trace is None else float(trace)
    if header["stored"] == "compact":
        weight = np.array([header["weight"]], dtype=np.float64)
        squared = np.array([header["weight_squared"]], dtype=np.float64)
        mean = tensors["joint"].astype(np.float64) * float(header["scale"])
        total = mean[None] * weight
        together = np.array([header["document_weight_squared"]], dtype=np.float64)
        # The pairs within documents that leave the debiased norm it was written with.
        own = np.square(total).sum(1) / len(mean) - header["square"] * (weight**2 - together)
        joint = Sums(total, own, np.zeros((0, min(KEPT, len(mean)))))
        return State(
            joint=joint,
            activation=None,
            error=None,
            first=None,
            weight=weight,
            weight_squared=squared,
            document_weight_squared=together,
            block_weight=np.zeros(0),
            trace=trace,
            documents=documents,
            hashes=hashes,
        )
    for name, array in tensors.items():
        if array.dtype != np.float64 and name != "hashes":
            raise ValueError(f"{name} is {array.dtype}, not float64")
    if "joint.total" not in tensors:
        raise ValueError("it has no joint sums")
    kinds: dict[str, Any] = {
        name: Sums(*(tensors[f"{name}.{part}"] for part in ("total", "own", "blocks")))
        if f"{name}.total" in tensors
        else None
        for name in SUMMED
    }
    weights: dict[str, Any] = {name: tensors[name] for name in WEIGHTS}
    return State(**kinds, **weights, trace=trace, documents=documents, hashes=hashes)


def check_state(state: State, m: int) -> None:
    """Raise ValueError where the numbers of a file do not fit m, or each other."""
    folds, width = state.joint.total.shape
    if width != m or folds not in (1, 2):
        raise ValueError(f"sums of {folds} folds of {width} numbers, for m = {m}")
    weight, squared = state.weight, state.weight_squared
    total = float(weight.sum())
    if not total > 0 or (weight < 0).any() or ((weight > 0) != (squared > 0)).any():
        raise ValueError(f"{total:g} samples")
    together = state.document_weight_squared
    if (together < squared * (1 - 1e-9)).any() or (together > weight**2 * (1 + 1e-9)).any():
        raise ValueError(f"squares {together} of the samples of documents")
    blocks = float(state.block_weight.sum())
    if len(state.block_weight) and not math.isclose(blocks, total, rel_tol=1e-9):
        raise ValueError(f"{blocks:g} samples in blocks, {total:g} in folds")
    if not max(1, len(state.hashes)) <= state.documents:
        raise ValueError(f"{state.documents} documents, and hashes of {len(state.hashes)}")
