"""Unit vectors of an index: how they are made, stored one after the other, and multiplied."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped, UInt8, UInt64
from torch import Tensor

from unembed.errors import UnembedError
from unembed.selection.index.files import refusals
from unembed.selection.scores import FEATURES
from unembed.signatures.alignment.estimators import squared_norm
from unembed.signatures.file import Dtype
from unembed.signatures.state import State
from unembed.signatures.sums import HASHES

REMEDIES = {
    "activation": "a compact signature has none",
    "error": "a compact signature has none",
    "gradient": "sketch it again with --first-moment",
}
HASH_BYTES = 8 * HASHES
NUMBERS = 1 << 22
"""That are widened to float32 at a time: 16 MiB."""


@dataclass(frozen=True)
class Layout:
    """How a row is stored: m numbers, then 64 hashes of documents, 0 where there are fewer."""

    m: int
    dtype: Dtype

    @property
    def width(self) -> int:
        """Bytes of the numbers."""
        return self.m * np.dtype(self.dtype).itemsize

    @property
    def stride(self) -> int:
        """Bytes of a row."""
        return self.width + HASH_BYTES


@dataclass(frozen=True)
class Stored:
    """Rows as bytes, with what each has to be multiplied with, and its CRC-32."""

    data: bytes
    scales: tuple[float, ...]
    crcs: tuple[int, ...]


@dataclass(frozen=True)
class Vectors:
    """Rows of a file that is mapped into memory, as it was when they were read."""

    rows: UInt8[np.ndarray, "rows bytes"]
    layout: Layout

    @staticmethod
    def mapped(path: Path, layout: Layout, count: int) -> Vectors:
        """The first ``count`` rows. Raises UnembedError where the file has fewer."""
        if not count:
            return Vectors(np.zeros((0, layout.stride), dtype=np.uint8), layout)
        try:
            # "c": pages are private if written to, which nobody does; a tensor asks for it.
            rows = np.memmap(path, np.uint8, "c", shape=(count, layout.stride))
        except ValueError:
            raise UnembedError(
                f"{path} is cut short, {path.stat().st_size:,} bytes where {count:,} vectors take "
                f"{count * layout.stride:,}: restore the index from a copy, or make it anew"
            ) from None
        return Vectors(np.asarray(rows), layout)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def stored(self) -> Shaped[np.ndarray, "rows sketch"]:
        """The numbers as they are stored, to be multiplied by each row's scale."""
        found: Shaped[np.ndarray, "rows sketch"] = self.rows[:, : self.layout.width].view(
            self.layout.dtype
        )
        return found

    def hashes(self, row: int) -> UInt64[np.ndarray, " hashes"]:
        """The smallest hashes of a row's documents."""
        every = self.rows[row, self.layout.width :].view(np.uint64)
        found: UInt64[np.ndarray, " hashes"] = every[every != 0]
        return found

    def crc(self, row: int) -> int:
        """The CRC-32 of a row's bytes as they are now."""
        return zlib.crc32(self.rows[row].data)

    def wide(
        self, at: slice | Int[np.ndarray, " some"], scales: Float[np.ndarray, " rows"]
    ) -> Float[Tensor, "some sketch"]:
        """Some rows as unit vectors in float32; a slice of float32 is not copied."""
        stored = torch.from_numpy(self.stored[at])
        if self.layout.dtype == "float32":
            return stored
        return stored.float() * torch.from_numpy(scales[at].astype(np.float32))[:, None]

    def products(
        self,
        query: Float[Tensor, " sketch"],
        scales: Float[np.ndarray, " rows"],
        at: Int[np.ndarray, " some"] | None = None,
    ) -> Float[np.ndarray, " some"]:
        """``x · query / m`` of all rows x, or of some, to float32's rounding."""
        count = len(self) if at is None else len(at)
        found = np.empty(count, dtype=np.float32)
        for span in spans(count, self.layout.m):
            some = span if at is None else at[span]
            found[span] = torch.mv(self.wide(some, scales), query).numpy()
        return found / self.layout.m


def spans(count: int, m: int) -> Iterator[slice]:
    """Rows that are taken at a time."""
    step = max(1, NUMBERS // m)
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


@dataclass(frozen=True)
class Mean:
    """A task's mean feature μ of one kind, with its debiased squared norm D (theory §10).

    D is not positive where samples are too few, and NaN where there is one document only.
    ``independent`` is the share of independent pairs of samples among all, ``1 - Σ_d n_d² / n²``.
    """

    mean: Float[np.ndarray, " sketch"]
    square: float
    independent: float

    @staticmethod
    def of(state: State, by: str, name: str) -> Mean:
        """Of one kind. Raises UnembedError where it was not kept, or is 0."""
        mean = state.mean(FEATURES[by])
        if mean is None:
            raise UnembedError(f"{name} keeps no {by} features, as this index does: {REMEDIES[by]}")
        if not mean.any():
            raise UnembedError(f"the {by} features of {name} are 0: sketch more text")
        whole = float(state.weight.sum()) ** 2
        independent = 1 - float(state.document_weight_squared.sum()) / whole
        return Mean(mean, squared_norm(state, FEATURES[by]), independent)

    @property
    def unit(self) -> Float[np.ndarray, " sketch"]:
        """``μ / √D``: the debiased cosine of two tasks is the product of theirs over m."""
        return np.asarray(self.mean / np.sqrt(self.square), dtype=np.float32)

    @property
    def reliability(self) -> float:
        """D over the plain squared norm: about ``n / (n + participation ratio)`` of n samples."""
        return self.square / float(np.square(self.mean).mean())

    @property
    def plain_unit(self) -> Float[np.ndarray, " sketch"]:
        """μ of mean square 1, the pairs of dependent samples left in: what an index stores."""
        return np.asarray(self.mean / np.sqrt(np.square(self.mean).mean()), dtype=np.float32)


def stored(
    layout: Layout,
    vectors: Float[np.ndarray, "rows sketch"],
    hashes: Sequence[UInt64[np.ndarray, "..."]],
) -> Stored:
    """Rows as they are stored: float16 and int8 as fractions of each one's largest number."""
    numbers = torch.from_numpy(vectors)
    peaks = numbers.abs().amax(1)
    peaks[peaks == 0] = 1
    scales = {"float32": torch.ones_like(peaks), "float16": peaks, "int8": peaks / 127}
    scale = scales[layout.dtype]
    rows = np.empty((len(vectors), layout.stride), dtype=np.uint8)
    into = torch.from_numpy(rows)[:, : layout.width]
    reduced = numbers / scale[:, None] if layout.dtype != "float32" else numbers
    if layout.dtype == "int8":
        reduced = reduced.round_()
    into.view(getattr(torch, layout.dtype)).copy_(reduced)
    filled = np.zeros((len(vectors), HASHES), dtype=np.uint64)
    for row, some in zip(filled, hashes, strict=True):
        row[: len(some)] = some
    rows[:, layout.width :] = filled.view(np.uint8)
    crcs = tuple(zlib.crc32(row.data) for row in rows)
    return Stored(rows.tobytes(), tuple(scale.tolist()), crcs)


def cut(path: Path, size: int) -> None:
    """Drop what lies behind a file's committed end. Raises UnembedError where it is shorter."""
    with refusals(path), path.open("r+b") as stream:
        found = stream.seek(0, 2)
        if found > size:
            stream.truncate(size)
    if found < size:
        raise UnembedError(
            f"{path} is cut short, {found:,} bytes where {size:,} were written: restore the index "
            "from a copy, or make it anew"
        )
