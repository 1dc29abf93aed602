"""A narrow copy of an index's vectors, which tells the few that a query must look at closely.

Every prefix of a sketch's features is a sketch. A row's cosine over the first 1,024 numbers, kept
as int8, says within a few hundredths what its cosine over all is, at a small part of the bytes.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Int8
from torch import Tensor

from unembed.selection.index.files import refusals
from unembed.selection.index.vectors import spans

WIDTH = 1024
LEAST_ROWS = 1 << 15
"""Rows from which on a sieve saves time."""
LARGEST_CODE = 127
REMEDY = "delete it, and the next addition makes it again from the vectors"


@dataclass(frozen=True)
class Sieve:
    """Of the first rows of an index, the first features as int8.

    ``codes · query`` times the first column of ``scales`` is the cosine over these features, both
    norms plain; the second is the root of the mean square of all of a row's numbers, by which its
    product with a query of mean square 1 is larger.
    """

    codes: Int8[Tensor, "rows width"]
    scales: Float32[np.ndarray, "rows two"]

    @staticmethod
    def mapped(paths: Sequence[Path], m: int, rows: int) -> Sieve | None:
        """The sieve of so many rows in the two files; None of none, or where a file has fewer."""
        if not rows:
            return None
        width = min(WIDTH, m)
        try:
            codes = np.asarray(np.memmap(paths[0], np.int8, "c", shape=(rows, width)))
            scales = np.asarray(np.memmap(paths[1], np.float32, "c", shape=(rows, 2)))
        except (FileNotFoundError, ValueError):
            return None
        return Sieve(torch.from_numpy(codes), scales)

    @staticmethod
    def of(vectors: Float[Tensor, "rows sketch"]) -> Sieve:
        """Of some rows."""
        first = prefix(vectors)
        norms = first.square().mean(1).sqrt()
        peaks = first.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny)
        codes = (first * (LARGEST_CODE / peaks)[:, None]).round().to(torch.int8)
        small = peaks / LARGEST_CODE / norms.clamp_min(torch.finfo(torch.float32).tiny)
        scales = torch.stack([small, vectors.square().mean(1).sqrt()], 1)
        return Sieve(codes, scales.numpy())

    def cosines(self, query: Float[Tensor, " sketch"]) -> Float[np.ndarray, " rows"]:
        """The plain cosine of each row with a query, over the sieve's features."""
        one = Sieve.of(query[None])
        total = _int_products(self.codes, one.codes[0])
        found: Float[np.ndarray, " rows"] = total * self.scales[:, 0]
        return found * (float(one.scales[0, 0]) / self.codes.shape[1])

    def crcs(self, before: Sequence[int] = (0, 0)) -> tuple[int, ...]:
        """The CRC-32s of codes and scales, behind others with those given."""
        arrays = (self.codes.numpy(), self.scales)
        return tuple(zlib.crc32(x.data, crc) for x, crc in zip(arrays, before, strict=True))

    def write(self, paths: Sequence[Path], at: int) -> None:
        """Put these rows behind the first ``at`` of the files, flushed to disk.

        Raises WriteError where the system refuses.
        """
        for path, rows in zip(paths, (self.codes.numpy(), self.scales), strict=True):
            data = rows.tobytes()
            with refusals(path), path.open("r+b") as stream:
                stream.seek(at * len(data) // len(rows))
                stream.write(data)
                stream.truncate()
                stream.flush()
                os.fdatasync(stream.fileno())


def prefix(vectors: Float[Tensor, "rows sketch"]) -> Float[Tensor, "rows width"]:
    """The first features, whole: number j and number ``j + m / 2`` are parts of one."""
    m = vectors.shape[1]
    if m <= WIDTH:
        return vectors
    half = WIDTH // 2
    return torch.cat([vectors[:, :half], vectors[:, m // 2 : m // 2 + half]], 1)


def _int_products(
    codes: Int8[Tensor, "rows width"], query: Int8[Tensor, " width"]
) -> Float[np.ndarray, " rows"]:
    """``codes @ query``; by float32 where torch has no product of int8."""
    try:
        found = torch._int_mm(query[None], codes.T)[0].numpy()
    except (AttributeError, RuntimeError):
        found = np.empty(len(codes), dtype=np.float32)
        for span in spans(*codes.shape):
            found[span] = torch.mv(codes[span].float(), query.float()).numpy()
    return found.astype(np.float32)
