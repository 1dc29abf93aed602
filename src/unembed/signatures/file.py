"""Signatures as safetensors files: whole, to go on with, or compact, to be stored with a model."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Shaped
from safetensors import SafetensorError
from safetensors.numpy import load as read_tensors
from safetensors.numpy import save as tensors_as_bytes

from unembed.errors import UnembedError
from unembed.runs.files import check_output, write_output
from unembed.signatures.alignment.estimators import squared_norm
from unembed.signatures.signature import Identity, Signature, refuse_empty
from unembed.signatures.sketches.sketch import SketchSpec
from unembed.signatures.state import SUMMED, WEIGHTS, State
from unembed.signatures.sums import KEPT, Sums

Dtype = Literal["float32", "float16", "int8"]

KEY = "unembed.signature"
SCHEMA = 1
COMPACT_FILE = "fisher_signature.safetensors"
"""What a compact signature is called in a model's or an adapter's folder."""

LENGTH_BYTES = 8
LONGEST_HEADER = 1 << 20
LARGEST_FILE = 1 << 30
MOST_LETTERS = 160

Tensors = dict[str, Shaped[np.ndarray, "..."]]


def save(signature: Signature, path: str | Path) -> None:
    """Write the whole state, which can be merged, subtracted and re-weighted when read again.

    At m = 4096: 192 KiB, 192 more of document blocks, 128 more of first moments. The file appears
    whole or not at all. Raises UnembedError for a signature without samples, and where it cannot be
    written.
    """
    refuse_empty(signature)
    write_output(Path(path), as_bytes(signature), is_signature)


def is_signature(start: bytes) -> bool:
    """Whether a file that begins so is a signature."""
    try:
        _described(start, "")
    except UnembedError:
        return False
    return True


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
    path = Path(path)
    try:
        if path.is_dir():
            raise UnembedError(f"{path} is a folder: give the signature's file in it")
        with path.open("rb") as stream:
            start = stream.read(LENGTH_BYTES + LONGEST_HEADER)
            _described(start, str(path))
            # Room is taken at once for as much as is asked for.
            left = path.stat().st_size - len(start) if path.is_file() else LARGEST_FILE
            return from_bytes(start + stream.read(min(max(left, 0), LARGEST_FILE)), str(path))
    except FileNotFoundError:
        raise UnembedError(f"{path} does not exist: give the file of a signature") from None
    except (OSError, ValueError) as error:
        if isinstance(error, UnembedError):
            raise
        raise UnembedError(f"{path} cannot be read: {error}") from None


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
    values = _described(data, where)
    try:
        header = json.loads(values)
        schema = header["schema"]
        if schema != SCHEMA:
            raise UnembedError(
                f"{where} is a signature of schema {schema!r}, this version reads {SCHEMA}: "
                "install the version that wrote it"
            )
        stated = header.pop("sha256")
        tensors = read_tensors(data)
        if stated != _seal(header, tensors):
            raise ValueError("its SHA-256 is not the one it states")
        state = _state(header, tensors)
        identity = Identity(spec=SketchSpec(**header["spec"]), **header["identity"])
        if not state.weight.any():
            raise UnembedError(f"{where} holds 0 samples: sketch a text, or subtract less of it")
        _check(state, identity)
        facts = {str(key): str(value) for key, value in header["facts"].items()}
        return Signature(str(header["name"]), identity, state, facts)
    except UnembedError:
        raise
    except (SafetensorError, ArithmeticError, AttributeError, LookupError, TypeError) as error:
        reason = str(error)
    except (ValueError, RecursionError, MemoryError) as error:
        reason = str(error)
    brief = " ".join(reason.split())[:MOST_LETTERS]
    raise UnembedError(f"{where} is damaged ({brief}): copy it again, or repeat the sketch")


def _described(data: bytes, where: str) -> str:
    """The signature's own part of the header of a safetensors file that may go on after ``data``.

    Read before the tensors are, so that a model of many gigabytes is not.
    """
    length = int.from_bytes(data[:LENGTH_BYTES], "little")
    if len(data) < LENGTH_BYTES or data[LENGTH_BYTES : LENGTH_BYTES + 1] != b"{":
        raise UnembedError(f"{where} is no safetensors file: give the file of a signature")
    if length > LONGEST_HEADER:
        raise UnembedError(
            f"{where} claims a header of {length:,} bytes, a signature's has at most "
            f"{LONGEST_HEADER:,}: give the file of a signature"
        )
    if LENGTH_BYTES + length > len(data):
        raise UnembedError(f"{where} is cut short within its header: copy it again")
    try:
        header = json.loads(data[LENGTH_BYTES : LENGTH_BYTES + length])
        found = header.get("__metadata__", {}).get(KEY)
    except (ValueError, AttributeError, RecursionError):
        raise UnembedError(f"{where} is damaged in its header: copy it again") from None
    if not isinstance(found, str):
        raise UnembedError(
            f"{where} is a safetensors file, but no signature: give one that `unembed sketch` wrote"
        )
    return found


def _sealed(signature: Signature, values: dict[str, Any], tensors: Tensors) -> bytes:
    identity = {k: v for k, v in vars(signature.identity).items() if k != "spec"}
    header = {
        "schema": SCHEMA,
        "name": signature.name,
        "spec": asdict(signature.identity.spec),
        "identity": identity,
        "facts": signature.facts,
        "documents": signature.state.documents,
        "trace": signature.state.trace,
        **values,
    }
    header["sha256"] = _seal(header, tensors)
    # One key alone: of several, the order in the file would be left to chance.
    return tensors_as_bytes(tensors, {KEY: json.dumps(header, sort_keys=True, allow_nan=False)})


def _seal(header: dict[str, Any], tensors: Tensors) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, array in sorted(tensors.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


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


def _check(state: State, identity: Identity) -> None:
    """Raise ValueError where the numbers do not fit the spec, or each other."""
    folds, m = state.joint.total.shape
    if m != identity.spec.m or folds not in (1, 2):
        raise ValueError(f"sums of {folds} folds of {m} numbers, for m = {identity.spec.m}")
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
