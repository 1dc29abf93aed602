"""Files that hold hidden states, a row a token, of which some rows are read at a time."""

from __future__ import annotations

import hashlib
import math
import struct
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from unembed.errors import UnembedError
from unembed.models.weight_files import StoredTensor, tensors_of
from unembed.runs.manifest import Part, verify
from unembed.short_repr import ShortRepr

STATES, TOKENS = "hidden_states", "token_ids"
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""Types of states, as the safetensors format spells them."""
INTEGERS = {"I64": "<i8", "I32": "<i4", "I16": "<i2", "U32": "<u4", "U16": "<u2", "U8": "<u1"}
"""Types of token ids."""
HELD_BYTES = 1 << 29
"""Row groups of Parquet files that are held at a time, one at least."""
DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error)
"""What a file without a header of the safetensors format raises."""


@runtime_checkable
class StatesFile(Protocol):
    """Some rows of hidden states on disk."""

    @property
    def path(self) -> Path:
        """The file that they lie in."""
        ...

    @property
    def width(self) -> int:
        """How many numbers a state has."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Their type."""
        ...

    def read(self, start: int, stop: int) -> Float[Tensor, "rows width"]:
        """The states of these rows. Raises UnembedError where the file is damaged."""
        ...


@dataclass(frozen=True)
class SafetensorsStates(ShortRepr):
    """States in a tensor of a safetensors file, ``[rows, width]`` or ``[rows, layers, width]``.

    Of several layers the last is read. No row is in memory but those that were asked for. With
    ``part`` the file is compared with its recorded SHA-256 before the first row is read, when all
    of it is about to be read anyway.
    """

    path: Path
    tensor: StoredTensor
    part: Part | None = None
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)
    _whole: list[bool] = field(default_factory=list, repr=False, compare=False)

    @property
    def width(self) -> int:
        """How many numbers a state has."""
        return self.tensor.shape[-1]

    @property
    def layers(self) -> int:
        """How many layers the file has of each token."""
        return self.tensor.shape[1] if len(self.tensor.shape) == 3 else 1

    @property
    def dtype(self) -> torch.dtype:
        """Their type."""
        return DTYPES[self.tensor.dtype]

    def read(self, start: int, stop: int) -> Float[Tensor, "rows width"]:
        """The states of these rows. Raises UnembedError where the file is damaged."""
        self._verify()
        size = self.layers * self.width * self.dtype.itemsize
        data = bytearray((stop - start) * size)
        try:
            with self.path.open("rb") as stream:
                stream.seek(self.tensor.begin + start * size)
                read = stream.readinto(data)
        except OSError as error:
            raise UnembedError(f"{self.path} cannot be read: {error.strerror}") from error
        if read != len(data):
            raise UnembedError(f"{self.path} has become shorter since it was opened")
        rows = torch.frombuffer(data, dtype=self.dtype).view(stop - start, self.layers, self.width)
        return rows[:, -1]

    def _verify(self) -> None:
        if self.part is None:
            return
        with self._lock:
            if not self._whole:
                folder = self.path.parents[self.part.path.count("/")]
                verify(folder, (self.part,))
                self._whole.append(True)


@dataclass
class RowGroups:
    """The row groups of Parquet files that were read last, HELD_BYTES of them."""

    held: OrderedDict[tuple[Path, int], Tensor] = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def states(self, group: ParquetStates) -> Float[Tensor, "rows width"]:
        """All states of a row group, a row a token."""
        key = group.path, group.group
        with self._lock:
            found = self.held.pop(key, None)
            if found is None:
                found = torch.from_numpy(states_of_group(*key, group.width, group.lengths))
            self.held[key] = found
            while len(self.held) > 1 and sum(x.nbytes for x in self.held.values()) > HELD_BYTES:
                self.held.popitem(last=False)
            return found


@dataclass(frozen=True)
class ParquetStates(ShortRepr):
    """States of a row group of a Parquet file, whose column is a list of numbers, or of states.

    ``lengths`` is how many states each of its rows has.
    """

    path: Path
    group: int
    width: int
    dtype: torch.dtype
    lengths: Int[np.ndarray, " texts"] = field(repr=False, compare=False)
    groups: RowGroups = field(repr=False, compare=False)

    def read(self, start: int, stop: int) -> Float[Tensor, "rows width"]:
        """The states of these rows. Raises UnembedError where the file is damaged."""
        return self.groups.states(self)[start:stop]


def states_of_group(
    path: Path, group: int, width: int, lengths: Int[np.ndarray, " texts"]
) -> Float[np.ndarray, "rows width"]:
    """The states of a row group, of whose rows each has so many.

    Raises UnembedError, naming the row, where one has another number of them, or one is missing.
    """
    try:
        column = pq.ParquetFile(path).read_row_group(group, columns=[STATES])[STATES]
    except (OSError, pa.ArrowException) as error:
        raise UnembedError(f"{path} is damaged ({_first_line(error)}): write it again") from error
    numbers: Any = column.combine_chunks()
    nested = is_list(numbers.type.value_type)
    wanted = lengths if nested else lengths * width
    _refuse_other_lengths(path, group, numbers, wanted, "states" if nested else "numbers")
    numbers = numbers.flatten()
    if nested:
        _refuse_other_lengths(path, group, numbers, np.full(len(numbers), width), "numbers")
        numbers = numbers.flatten()
    # A null is no number: it is counted where the logits are not finite.
    return np.array(numbers.to_numpy(zero_copy_only=False)).reshape(-1, width)


def is_list(kind: pa.DataType) -> bool:
    """Whether an Arrow type is one of lists."""
    types = pa.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _refuse_other_lengths(
    path: Path, group: int, lists: Any, wanted: Int[np.ndarray, " lists"], what: str
) -> None:
    found = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    other = np.flatnonzero(found != wanted)
    if other.size:
        at = int(other[0])
        raise UnembedError(
            f"{path} has {found[at]:,} {what} in entry {at + 1} of row group {group}, where "
            f"{wanted[at]:,} are needed: write it again"
        )


def safetensors_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file by name, none of which is read.

    Raises UnembedError where it is no safetensors file, or not as long as its header says.
    """
    try:
        found = {one.name: one for one in tensors_of(path)}
        size = path.stat().st_size
        end = max((one.begin + one.bytes for one in found.values()), default=size)
        if size != end:
            raise ValueError(f"{size:,} bytes, where its header asks for {end:,}")
        for one in found.values():
            _check_size(one)
    except DAMAGED as error:
        raise UnembedError(
            f"{path} is damaged or no safetensors file ({_first_line(error)}): write it again"
        ) from error
    return found


def integers(path: Path, tensor: StoredTensor) -> Integer[np.ndarray, " numbers"]:
    """The whole numbers of a tensor, end to end."""
    if tensor.dtype not in INTEGERS:
        raise UnembedError(
            f"{path} holds {tensor.name} as {tensor.dtype}: give whole numbers, such as I64"
        )
    try:
        count = math.prod(tensor.shape)
        return np.fromfile(path, INTEGERS[tensor.dtype], count, offset=tensor.begin)
    except OSError as error:
        raise UnembedError(f"{path} cannot be read: {error.strerror}") from error


def digest_of_headers(files: list[tuple[str, int]]) -> str:
    """SHA-256 over the names and sizes of files."""
    digest = hashlib.sha256()
    for name, size in files:
        digest.update(f"{len(name)} {name} {size}\n".encode())
    return digest.hexdigest()


def _check_size(tensor: StoredTensor) -> None:
    sizes = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2}
    size = sizes.get(tensor.dtype)
    if size is not None and math.prod(tensor.shape) * size != tensor.bytes:
        raise ValueError(f"{tensor.name} of shape {tensor.shape} has {tensor.bytes:,} bytes")


def _first_line(error: BaseException) -> str:
    lines = [line.strip().rstrip(".:") for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else repr(error)
