"""Signatures of whole networks as files: the sums of all parts, stacked, and what they are of."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from unembed.errors import UnembedError
from unembed.runs.files import write_output
from unembed.signatures.file import check_state
from unembed.signatures.network.modules import NetworkModule
from unembed.signatures.network.signature import NetworkSignature
from unembed.signatures.sealed import (
    OF_NETWORK,
    Tensors,
    damage,
    file_bytes,
    is_signature,
    sealed,
    unsealed,
)
from unembed.signatures.signature import refuse_empty
from unembed.signatures.sketches.sketch import SketchSpec
from unembed.signatures.state import SUMMED, WEIGHTS, State
from unembed.signatures.sums import Sums

PIECES = ("total", "own", "blocks")
IDENTITY = ("unit", "head_digest", "model_digest", "tokenizer", "support", "precision")


def save_network(signature: NetworkSignature, path: str | Path) -> None:
    """Write every part's state, to be merged, subtracted and compared when read again.

    At m = 4096: 128 KiB for each kind of sums of each part, whose modules have three kinds. The
    file appears whole or not at all. Raises UnembedError as ``save`` does.
    """
    refuse_empty(signature.part(next(iter(signature.states))))
    write_output(Path(path), network_as_bytes(signature), is_signature)


def load_network(path: str | Path) -> NetworkSignature:
    """Read what ``save_network`` wrote, every byte of it checked.

    Raises UnembedError, in one line, for anything else, a head's signature among it.
    """
    return network_from_bytes(file_bytes(path, OF_NETWORK), str(path))


def network_as_bytes(signature: NetworkSignature) -> bytes:
    """A file's content; the same signature gives the same bytes."""
    states = dict(signature.states)
    first = next(iter(states.values()))
    tensors: Tensors = {name: getattr(first, name) for name in WEIGHTS}
    tensors["hashes"] = first.hashes
    holding: dict[str, list[str]] = {}
    for kind in SUMMED:
        kept = {part: sums for part, one in states.items() if (sums := one.sums(kind)) is not None}
        if kept:
            holding[kind] = list(kept)
            for piece in PIECES:
                tensors[f"{kind}.{piece}"] = np.stack([getattr(x, piece) for x in kept.values()])
    header = {
        "name": signature.name,
        "head": asdict(signature.head),
        "identity": {name: getattr(signature, name) for name in IDENTITY},
        "modules": [list(vars(module).values()) for module in signature.modules],
        "parts": list(states),
        "holding": holding,
        "traces": [state.trace for state in states.values()],
        "documents": first.documents,
        "facts": signature.facts,
    }
    return sealed(OF_NETWORK, header, tensors)


def network_from_bytes(data: bytes, where: str) -> NetworkSignature:
    """The signature of a file's content; ``where`` names it in errors (UnembedError)."""
    with damage(where):
        header, tensors = unsealed(data, where, OF_NETWORK)
        if not tensors["weight"].any():
            raise UnembedError(f"{where} holds 0 samples: sketch a text, or subtract less of it")
        spec = SketchSpec(**header["head"])
        states = _states(header, tensors)
        for state in states.values():
            check_state(state, spec.m)
        return NetworkSignature(
            name=str(header["name"]),
            head=spec,
            **{name: header["identity"][name] for name in IDENTITY},
            modules=tuple(NetworkModule(*values) for values in header["modules"]),
            states=states,
            facts={str(key): str(value) for key, value in header["facts"].items()},
        )


def _states(header: dict[str, Any], tensors: Tensors) -> dict[str, State]:
    """Every part's state, whose sums are rows of the stacked ones."""
    for name, array in tensors.items():
        wanted = np.uint64 if name == "hashes" else np.float64
        if array.dtype != wanted:
            raise ValueError(f"{name} is {array.dtype}, not {np.dtype(wanted)}")
    weights: dict[str, Any] = {name: tensors[name] for name in WEIGHTS}
    found: dict[str, dict[str, Sums]] = {part: {} for part in header["parts"]}
    for kind, parts in header["holding"].items():
        stacked = [tensors[f"{kind}.{piece}"] for piece in PIECES]
        for part, *row in zip(parts, *stacked, strict=True):
            found[part][kind] = Sums(*row)
    states = {}
    for (part, kinds), trace in zip(found.items(), header["traces"], strict=True):
        if "joint" not in kinds:
            raise ValueError(f"part {part!r} has no joint sums")
        states[part] = State(
            **{kind: kinds.get(kind) for kind in SUMMED},  # type: ignore[arg-type]
            **weights,
            trace=None if trace is None else float(trace),
            documents=int(header["documents"]),
            hashes=tensors["hashes"],
        )
    return states
