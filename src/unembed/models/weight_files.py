"""What a checkpoint's files hold, by their headers: names, types and shapes, no weight read."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

INDEX = "model.safetensors.index.json"
MOST_HEADER_BYTES = 100 << 20
"""Longest header that the safetensors format allows."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a safetensors file, by its header; ``dtype`` as the format spells it: F32, I8.

    Its numbers are the ``bytes`` from byte ``begin`` of the file on.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int = 0
    begin: int = 0

    @property
    def is_integer(self) -> bool:
        """Whether its numbers are whole ones."""
        return self.dtype[0] in "IU"

    @property
    def needs_scale(self) -> bool:
        """Whether its type is one that a weight has only beside a scale."""
        return self.is_integer or self.dtype.startswith(("F8_", "F6_", "F4"))


def stored_tensors(folder: Path) -> tuple[StoredTensor, ...]:
    """The tensors of the files that a model is loaded from; none where a header is damaged.

    Those are the files of the index, or ``model.safetensors``. Loading tells what is damaged.
    """
    try:
        return tensors_of(*_weight_files(folder))
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        struct.error,
    ):
        return ()


def tensors_of(*files: Path) -> tuple[StoredTensor, ...]:
    """The tensors of these files. Raises what a file without a header of the format does."""
    found: list[StoredTensor] = []
    for path in files:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > MOST_HEADER_BYTES:
                raise ValueError(f"{path} has a header of {length} bytes")
            header = json.loads(stream.read(length))
        found += [
            StoredTensor(
                name,
                str(entry["dtype"]),
                tuple(entry["shape"]),
                int(entry["data_offsets"][1]) - int(entry["data_offsets"][0]),
                8 + length + int(entry["data_offsets"][0]),
            )
            for name, entry in header.items()
            if name != "__metadata__"
        ]
    return tuple(found)


def _weight_files(folder: Path) -> list[Path]:
    whole, index = folder / "model.safetensors", folder / INDEX
    if whole.exists() or not index.exists():
        return [whole]
    names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    return [folder / name for name in names if Path(name).name == name]
