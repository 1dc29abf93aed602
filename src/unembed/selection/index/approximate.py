"""An approximate first pass over an index of millions: the rows that a query is likely alike.

Faiss keeps the first 1,024 numbers of each row as int8, in lists of rows that are near each other,
and reads the lists nearest to a query only. What it finds is looked at whole by the index.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from unembed.errors import UnembedError, WriteError
from unembed.runs.files import PARTIAL, write_whole
from unembed.selection.index.files import refusals
from unembed.selection.index.ledger import Ledger
from unembed.selection.index.sieve import prefix
from unembed.selection.index.vectors import spans

LISTS = 4
"""Lists for each root of the rows,"""
TRAINED = 39
"""rows for each list from which their centres come, the fewest that faiss calls enough,"""
ROUNDS = 10
"""and how often these are moved."""
PROBED = 1024
"""Lists that are read: a query like no row has its best in many,"""
LIKELY = 2048
"""and rows that are found in them, to be looked at whole; or so many for each one asked for:"""
FOR_EACH = 32


@dataclass(frozen=True)
class PassRecord:
    """What is noted of a pass: its rows, the first of the index, and the SHA-256 of its file.

    ``vectors`` is the SHA-256 of the CRC-32s of these rows, which tells other vectors.
    """

    rows: int
    vectors: str
    sha256: str


@dataclass(frozen=True)
class Approximate:
    """Faiss's index of the first rows, numbered as they are; of one generation of vectors."""

    lists: Any
    generation: int
    rows: int

    @staticmethod
    def read(ledger: Ledger) -> Approximate:
        """The pass that was built of an index's vectors.

        Raises UnembedError where faiss or the pass is missing, and where it is damaged or stale.
        """
        faiss = faiss_module()
        path, noted = (ledger.folder / name for name in ledger.header.approximate)
        again = f"run `unembed index build {ledger.folder}`"
        try:
            before = noted.read_bytes()
            note = PassRecord(**json.loads(before))
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
            # Faiss trusts what it reads, so damage must be found before.
            if found != note.sha256:
                raise ValueError("its SHA-256 is not the one recorded when it was written")
            if note.rows > ledger.rows or note.vectors != _digest(ledger, note.rows):
                raise UnembedError(
                    f"{path} is of other vectors than the index held when it was opened: open it "
                    f"again, or {again}"
                )
            lists = faiss.read_index(str(path))
        except FileNotFoundError:
            raise UnembedError(
                f"{ledger.folder} has no approximate pass over its vectors as they are now (none "
                f"was built, or the room of removed entries was given back since): {again}"
            ) from None
        except OSError as error:
            raise UnembedError(f"{path} cannot be read ({error.strerror}): {again}") from None
        except (ValueError, TypeError, RuntimeError) as error:
            raise UnembedError(f"{path} is damaged ({error}): {again}") from None
        return Approximate(lists, ledger.header.generation, note.rows)

    def of(self, ledger: Ledger) -> bool:
        """Whether it is of the vectors that the index has now."""
        return self.generation == ledger.header.generation and self.rows <= ledger.rows

    def likely(
        self, ledger: Ledger, query: Float[Tensor, " sketch"], k: int
    ) -> Int[np.ndarray, " some"]:
        """Rows not removed, in order: likely the k best among them, and all added since."""
        faiss = faiss_module()
        alive = ledger.alive[: self.rows]
        wanted = min(max(LIKELY, FOR_EACH * k), int(alive.sum()))
        least, probed = min(k, wanted), min(PROBED, self.lists.nlist)
        found: Int[np.ndarray, " some"] = np.zeros(0, dtype=np.int64)
        bits = np.packbits(alive, bitorder="little")
        while wanted:
            # The lists that are read may hold fewer rows than are asked for.
            among = faiss.SearchParametersIVF(nprobe=probed, sel=faiss.IDSelectorBitmap(bits))
            numbers = self.lists.search(_units(query[None]), wanted, params=among)[1][0]
            found = np.sort(numbers[numbers >= 0])
            if len(found) >= least or probed == self.lists.nlist:
                break
            probed = min(2 * probed, self.lists.nlist)
        return np.concatenate([found, self.rows + np.flatnonzero(ledger.alive[self.rows :])])


def built(ledger: Ledger) -> Approximate:
    """Faiss's lists of all rows of an index; it takes minutes for a million.

    Raises UnembedError where faiss is missing, or the index is empty.
    """
    faiss = faiss_module()
    count = ledger.rows
    if len(ledger.removed) == count:
        raise UnembedError(f"{ledger.folder} is empty: add signatures before an approximate pass")
    size = max(1, min(round(LISTS * math.sqrt(count)), count // TRAINED))
    alive = np.flatnonzero(ledger.alive)
    chosen = alive[np.linspace(0, len(alive) - 1, min(len(alive), TRAINED * size)).astype(np.int64)]
    m = ledger.layout.m
    first = np.concatenate(
        [_units(ledger.vectors.wide(chosen[s], ledger.scales)) for s in spans(len(chosen), m)]
    )
    width = first.shape[1]
    lists = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(width),
        width,
        size,
        faiss.ScalarQuantizer.QT_8bit,
        faiss.METRIC_INNER_PRODUCT,
    )
    lists.cp.spherical, lists.cp.niter = True, ROUNDS
    lists.cp.min_points_per_centroid, lists.cp.max_points_per_centroid = 1, TRAINED
    lists.train(first)
    for span in spans(count, m):
        some = _units(ledger.vectors.wide(span, ledger.scales))
        lists.add_with_ids(some, np.arange(span.start, span.stop, dtype=np.int64))
    return Approximate(lists, ledger.header.generation, count)


def keep(ledger: Ledger, made: Approximate) -> Approximate:
    """Write a pass next to the vectors, under the lock, and return it.

    Raises UnembedError where the vectors are other ones by now, WriteError where the system
    refuses.
    """
    if not made.of(ledger):
        raise UnembedError(
            f"{ledger.folder} was compacted while its approximate pass was built: build it again"
        )
    path, noted = (ledger.folder / name for name in ledger.header.approximate)
    partial = path.with_name(path.name + PARTIAL)
    try:
        with refusals(path):
            _write(made.lists, partial)
            with partial.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
                os.fsync(stream.fileno())
            # A note of the pass before would call this one damaged.
            noted.unlink(missing_ok=True)
            partial.replace(path)
    except WriteError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    note = PassRecord(made.rows, _digest(ledger, made.rows), digest)
    write_whole(noted, json.dumps(asdict(note), indent=1).encode())
    return made


def _write(lists: Any, path: Path) -> None:
    """Write what faiss holds; its own errors are no OSError."""
    with path.open("wb") as stream:
        writer = faiss_module().PyCallbackIOWriter(stream.write)
        faiss_module().write_index(lists, writer)


def faiss_module() -> Any:
    """Faiss, an extra. Raises UnembedError without it."""
    if find_spec("faiss") is None:
        raise UnembedError("an approximate pass needs faiss: pip install 'unembed[faiss]'")
    import faiss

    return faiss


def _units(vectors: Float[Tensor, "rows sketch"]) -> Float32[np.ndarray, "rows width"]:
    """The first features, of norm 1."""
    found: Float32[np.ndarray, "rows width"] = torch.nn.functional.normalize(
        prefix(vectors)
    ).numpy()
    return np.ascontiguousarray(found)


def _digest(ledger: Ledger, rows: int) -> str:
    return hashlib.sha256(ledger.column("crc32")[:rows].astype("<u4").tobytes()).hexdigest()
