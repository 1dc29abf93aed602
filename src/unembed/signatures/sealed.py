"""Files of signatures: safetensors whose one header says what they are, with a checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped
from safetensors import SafetensorError
from safetensors.numpy import load as read_tensors
from safetensors.numpy import save as tensors_as_bytes

from unembed.errors import UnembedError

OF_HEAD = "unembed.signature"
OF_NETWORK = "unembed.network_signature"
"""The key of the header, which tells the kinds of signatures apart."""
WANTED = {
    OF_HEAD: "is the signature of a whole network: say which part of it with --part, such as "
    "--part head (in Python load_network(path).part('head'))",
    OF_NETWORK: "is the signature of an output head alone: sketch the text again with --network, "
    "or give --part head",
}
"""What is said of a file of the other kind, by the kind that is wanted."""
SCHEMA = 1

LENGTH_BYTES = 8
LONGEST_HEADER = 1 << 20
LARGEST_FILE = 1 << 32
MOST_LETTERS = 160

Tensors = dict[str, Shaped[np.ndarray, "..."]]


def is_signature(start: bytes) -> bool:
    """Whether a file that begins so is a signature, of a head or of a network."""
    try:
        kind_of(start, "")
    except UnembedError:
        return False
    return True


def kind_of(data: bytes, where: str) -> str:
    """``OF_HEAD`` or ``OF_NETWORK``: what a file that begins so is the signature of.

    Raises UnembedError for one that is neither; ``where`` names it.
    """
    return _described(data, where)[0]


def file_kind(path: str | Path) -> str:
    """``kind_of`` of a file; raises UnembedError in one line where it cannot be read."""
    path = Path(path)
    with _refusals(path), path.open("rb") as stream:
        return kind_of(stream.read(LENGTH_BYTES + LONGEST_HEADER), str(path))


def file_bytes(path: str | Path, kind: str) -> bytes:
    """The content of a file of this kind. Raises UnembedError, in one line, for anything else.

    The header is read first, so that a model of many gigabytes is not.
    """
    path = Path(path)
    with _refusals(path), path.open("rb") as stream:
        start = stream.read(LENGTH_BYTES + LONGEST_HEADER)
        _must_be(kind, start, str(path))
        # Room is taken at once for as much as is asked for.
        left = path.stat().st_size - len(start) if path.is_file() else LARGEST_FILE
        return start + stream.read(min(max(left, 0), LARGEST_FILE))


def sealed(kind: str, values: dict[str, Any], tensors: Tensors) -> bytes:
    """A file's content; the same values and tensors give the same bytes."""
    header = {"schema": SCHEMA, **values}
    header["sha256"] = seal(header, tensors)
    # One key alone: of several, the order in the file would be left to chance.
    return tensors_as_bytes(tensors, {kind: json.dumps(header, sort_keys=True, allow_nan=False)})


def unsealed(data: bytes, where: str, kind: str) -> tuple[dict[str, Any], Tensors]:
    """What ``sealed`` was given, every byte checked. Raises within ``damage``, and UnembedError."""
    header = json.loads(_must_be(kind, data, where))
    schema = header.pop("schema")
    if schema != SCHEMA:
        raise UnembedError(
            f"{where} is a signature of schema {schema!r}, this version reads {SCHEMA}: "
            "install the version that wrote it"
        )
    stated = header.pop("sha256")
    tensors = read_tensors(data)
    if stated != seal({"schema": schema, **header}, tensors):
        raise ValueError("its SHA-256 is not the one it states")
    return header, tensors


@contextmanager
def damage(where: str) -> Iterator[None]:
    """Say of whatever goes wrong with a file's content that it is damaged, in one line."""
    try:
        yield
    except UnembedError:
        raise
    except (SafetensorError, ArithmeticError, AttributeError, LookupError, TypeError) as error:
        reason = str(error)
    except (ValueError, RecursionError, MemoryError) as error:
        reason = str(error)
    else:
        return
    brief = " ".join(reason.split())[:MOST_LETTERS]
    raise UnembedError(f"{where} is damaged ({brief}): copy it again, or repeat the sketch")


def seal(header: dict[str, Any], tensors: Tensors) -> str:
    """The SHA-256 of a header and of every tensor's name, dtype, shape and bytes."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, array in sorted(tensors.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _must_be(kind: str, data: bytes, where: str) -> str:
    """The header of a file of this kind."""
    found, header = _described(data, where)
    if found != kind:
        raise UnembedError(f"{where} {WANTED[kind]}")
    return header


def _described(data: bytes, where: str) -> tuple[str, str]:
    """The kind and own header of a safetensors file that may go on after ``data``."""
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
        values = header.get("__metadata__", {})
        found = [(kind, values[kind]) for kind in WANTED if isinstance(values.get(kind), str)]
    except (ValueError, AttributeError, RecursionError):
        raise UnembedError(f"{where} is damaged in its header: copy it again") from None
    if len(found) != 1:
        raise UnembedError(
            f"{where} is a safetensors file, but no signature: give one that `unembed sketch` wrote"
        )
    return found[0]


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """One wording for a file that cannot be read."""
    try:
        if path.is_dir():
            raise UnembedError(f"{path} is a folder: give the signature's file in it")
        yield
    except FileNotFoundError:
        raise UnembedError(f"{path} does not exist: give the file of a signature") from None
    except (OSError, ValueError) as error:
        if isinstance(error, UnembedError):
            raise
        raise UnembedError(f"{path} cannot be read: {error}") from None
