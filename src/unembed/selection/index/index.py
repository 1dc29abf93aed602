"""Signatures kept in a folder, to be asked which of them a text is most alike."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt64

from unembed.errors import UnembedError, WriteError
from unembed.selection.index.approximate import Approximate, built, faiss_module, keep
from unembed.selection.index.entries import Entry, Label
from unembed.selection.index.files import (
    HEADER,
    Header,
    Record,
    append,
    foreign_files,
    refusals,
    refuse_links,
    writing,
)
from unembed.selection.index.growth import settle
from unembed.selection.index.ledger import Ledger, new_index
from unembed.selection.index.query import Answer, ask, intact
from unembed.selection.index.vectors import Mean, stored
from unembed.selection.scores import FEATURES
from unembed.short_repr import ShortRepr
from unembed.signatures.file import Dtype, as_bytes
from unembed.signatures.signature import Identity, Signature, mismatch

WAIT_S = 10.0
CHECKED = 1 << 26
"""Bytes of vectors up to which all are compared with their checksums when an index is opened."""
COMMITTED = 1024
"""Entries that a record holds at most."""


@dataclass(frozen=True)
class PendingEntry:
    """An entry to be, with its unit vector and the smallest hashes of its documents."""

    entry: Entry
    vector: Float[np.ndarray, " sketch"]
    hashes: UInt64[np.ndarray, " hashes"]


class Index(ShortRepr):
    """A folder of signatures that compare with each other.

    It shows the folder as it was when it was opened, until it adds or removes, or ``refresh`` is
    called. Any number of processes may read while one writes; an addition counts from the
    moment that it is reported, whatever happens to the process or the machine.
    """

    def __init__(self, folder: Path, ledger: Ledger, wait_s: float = WAIT_S) -> None:
        self.folder = folder
        self.wait_s = wait_s
        self._ledger = ledger
        self._first: Approximate | None = None

    @staticmethod
    def create(
        folder: str | Path,
        identity: Identity,
        *,
        by: str = "joint",
        dtype: Dtype = "float32",
        wait_s: float = WAIT_S,
        join: bool = False,
    ) -> Index:
        """Begin an empty index of signatures with this identity, in a new or empty folder.

        ``by`` is what they are compared by, and ``dtype`` how numbers are stored: at m = 4096 a
        signature takes 16, 8 or 4 KiB. With ``join``, an index of this identity that another
        process began meanwhile is opened. Raises UnembedError where the folder holds anything else.
        """
        folder = Path(folder)
        with refusals(folder):
            folder.mkdir(parents=True, exist_ok=True)
        if by not in FEATURES:
            raise UnembedError(f"by {by!r} is not one of {', '.join(FEATURES)}")
        others = foreign_files(folder)
        if others:
            raise UnembedError(
                f"{folder} holds files that are no index ({others[0]}): give an empty or new folder"
            )
        with writing(folder, wait_s):
            refuse_links(folder)
            there = (folder / HEADER).exists()
            if there and not join:
                raise UnembedError(f"{folder} holds an index already: add to it")
            if not there:
                new_index(folder, Header(identity, by, dtype))
        index = Index(folder, Ledger.read(folder), wait_s)
        difference = mismatch(index.identity, identity, (str(folder), "what is added"))
        if difference:
            raise UnembedError(difference)
        return index

    @staticmethod
    def open(folder: str | Path, *, check: bool = True, wait_s: float = WAIT_S) -> Index:
        """Read an index as it is now; ``wait_s`` is how long to wait for another writer.

        Of up to 64 MiB, with ``check``, every vector is compared with its checksum; of a larger one
        those that a query finds are, and ``verify`` compares all. Raises UnembedError where there
        is no index, and where it is damaged.
        """
        index = Index(Path(folder), Ledger.read(Path(folder)), wait_s)
        if check and index._ledger.vectors.rows.nbytes <= CHECKED:
            index.verify()
        return index

    def _phrases(self) -> Iterator[str]:
        yield str(self.folder)
        yield f"{len(self):,} entries by {self.by}"
        yield f"{self.dtype} of m = {self.identity.spec.m:,}"

    def _rows(self) -> list[tuple[str, str]]:
        return [
            ("folder", str(self.folder)),
            ("entries", f"{len(self):,}"),
            ("compared by", self.by),
            ("numbers", f"{self.dtype} of m = {self.identity.spec.m:,}"),
        ]

    def __len__(self) -> int:
        return self._ledger.rows - len(self._ledger.removed)

    @property
    def identity(self) -> Identity:
        """What all of its signatures agree in."""
        return self._ledger.header.identity

    @property
    def by(self) -> str:
        """The kind of features that cosines are of."""
        return self._ledger.header.by

    @property
    def dtype(self) -> Dtype:
        """How numbers are stored."""
        return self._ledger.header.dtype

    @property
    def entries(self) -> list[Entry]:
        """Its entries, in the order in which they were added."""
        return self._ledger.entries()

    @property
    def unfinished(self) -> str:
        """What a change that was not finished, or was cut off the files since, was of; or ""."""
        return self._ledger.unfinished()

    def refresh(self) -> None:
        """See what other processes have done since."""
        self._ledger = Ledger.read(self.folder)

    def vectors(self, at: Sequence[int] | None = None) -> Float[np.ndarray, "entries sketch"]:
        """The unit vectors of its entries, or of those at some places among ``entries``.

        ``x · x' / m`` is the plain cosine of two of them, and 1 of one with itself.
        """
        rows = np.flatnonzero(self._ledger.alive)
        chosen = rows if at is None else rows[np.array(at, dtype=np.int64)]
        wide = self._ledger.vectors.wide(chosen, self._ledger.scales)
        return np.asarray(wide.numpy())

    def verify(self) -> None:
        """Compare every vector, and the sieve, with the checksums: UnembedError where one is not
        what was written.
        """
        ledger = self._ledger
        ledger.whole_sieve()
        for row, crc in enumerate(ledger.column("crc32").tolist()):
            if row not in ledger.removed and ledger.vectors.crc(row) != crc:
                intact(ledger, row, ledger.entry(row))

    def add(
        self,
        signatures: Sequence[Signature],
        label: Label | None = None,
        *,
        replace: bool = False,
        digests: Sequence[str] | None = None,
    ) -> tuple[Entry, ...]:
        """Keep signatures under their names, all with one label; on disk when it returns.

        ``replace`` lets one take the place of another of its name. ``digests`` are the SHA-256 of
        the files they came from (of what ``save`` would write, if left out). Raises UnembedError
        where one does not compare with the index, lacks its features, or bears a name that is
        taken, before any is added; WriteError where the system refuses, which may be after some.
        """
        where = (str(self.folder), self.identity, self.by)
        return self.put(points_of(signatures, *where, label, digests), replace=replace)

    def put(self, points: Sequence[PendingEntry], *, replace: bool = False) -> tuple[Entry, ...]:
        """Keep vectors made elsewhere, as ``add`` does; ``scale`` and ``crc32`` are set here."""
        added: list[Entry] = []
        with writing(self.folder, self.wait_s):
            ledger = self._ledger = self._ledger.current()
            self._check_names([point.entry.name for point in points], replace)
            try:
                for start in range(0, len(points), COMMITTED):
                    added += _commit(ledger, points[start : start + COMMITTED])
            finally:
                self._settle()
        return tuple(added)

    def remove(self, names: Sequence[str]) -> None:
        """Forget entries. Raises UnembedError for a name that is not there, before any goes."""
        with writing(self.folder, self.wait_s):
            ledger = self._ledger = self._ledger.current()
            unknown = [name for name in names if name not in ledger.names]
            if unknown:
                raise UnembedError(
                    f"{self.folder} has no entry named {unknown[0]!r}: see `unembed index list`"
                )
            ledger.commit(Record(removed=tuple(sorted({ledger.names[name] for name in names}))))
            self._settle()

    def query(
        self,
        signature: Signature,
        top: int = 10,
        *,
        digest: str | None = None,
        sieved: bool = True,
        approximate: bool = False,
    ) -> Answer:
        """The ``top`` entries that a signature is most alike; see ``ask``.

        ``digest`` is the SHA-256 of its file, by which it knows itself in the index. ``sieved``
        False looks at every entry whole, however many there are. ``approximate`` looks at those
        that the pass made by ``build`` finds likely, and at all added since: about one in a hundred
        of the best is missed. Raises UnembedError where none was built, or it is damaged.
        """
        ledger, own = self._ledger, digest or digest_of(signature)
        if approximate and (self._first is None or not self._first.of(ledger)):
            self._first = Approximate.read(ledger)
        first = self._first if approximate else None
        return ask(ledger, signature, top, own, sieved=sieved, first=first)

    def build(self) -> int:
        """Make the first pass of approximate queries, over all rows; gives how many.

        Others may read and write meanwhile; the lock is held only to put it in place. What is added
        later is looked at whole, so build again when that is much. Raises UnembedError where faiss
        is missing, the index is empty, a vector is damaged, or a compaction came in between.
        """
        faiss_module()
        self.refresh()
        self.verify()
        made = built(self._ledger)
        with writing(self.folder, self.wait_s):
            self._ledger = self._ledger.current()
            self._first = keep(self._ledger, made)
        return made.rows

    def _check_names(self, names: Sequence[str], replacing: bool) -> None:
        seen: set[str] = set()
        for name in names:
            if not name.strip() or not name.isprintable():
                raise UnembedError(f"{name!r} is no name for an entry: give printable characters")
            if name in seen:
                raise UnembedError(f"two signatures are named {name!r}: give each its own name")
            seen.add(name)
            if name in self._ledger.names and not replacing:
                raise UnembedError(
                    f"{self.folder} has an entry named {name!r} already: give --replace to put "
                    "this one in its place, or another name"
                )

    def _settle(self) -> None:
        lost = self._ledger.lost
        try:
            self._ledger = settle(self._ledger)
        except WriteError:
            # What was committed stays; the ledger may have been left half way.
            self._ledger = Ledger.read(self.folder)
        self._ledger.lost = lost


def points_of(
    signatures: Sequence[Signature],
    where: str,
    identity: Identity,
    by: str,
    label: Label | None = None,
    digests: Sequence[str] | None = None,
) -> list[PendingEntry]:
    """Signatures as entries to be of the index at ``where``. Raises UnembedError as ``add`` does,
    but for names.
    """
    given = digests or [digest_of(signature) for signature in signatures]
    label, now = label or Label(), datetime.now(UTC).isoformat(timespec="seconds")
    points = []
    for signature, digest in zip(signatures, given, strict=True):
        state, facts = signature.state, signature.facts
        difference = mismatch(identity, signature.identity, (where, signature.name))
        if difference:
            raise UnembedError(difference)
        mean = Mean.of(state, by, signature.name)
        known = mean.square > 0
        entry = Entry(
            signature.name,
            state.samples,
            state.documents,
            facts.get("model", ""),
            facts.get("text", ""),
            facts.get("text_digest", ""),
            label.tags,
            label.licence,
            label.note,
            mean.square if known else None,
            mean.reliability if known else None,
            mean.independent,
            now,
            digest,
            1.0,
            0,
        )
        points.append(PendingEntry(entry, mean.plain_unit, state.hashes))
    return points


def digest_of(signature: Signature) -> str:
    """The SHA-256 of the file that ``save`` would write."""
    return hashlib.sha256(as_bytes(signature)).hexdigest()


def _commit(ledger: Ledger, points: Sequence[PendingEntry]) -> tuple[Entry, ...]:
    """Write vectors, flush them, and then the record that makes them count."""
    rows = stored(
        ledger.layout,
        np.stack([point.vector for point in points]),
        [point.hashes for point in points],
    )
    append(ledger.folder / ledger.header.vectors, ledger.rows * ledger.layout.stride, rows.data)
    entries = tuple(
        replace(point.entry, scale=scale, crc32=crc)
        for point, scale, crc in zip(points, rows.scales, rows.crcs, strict=True)
    )
    names = ledger.names
    replaced = tuple(names[entry.name] for entry in entries if entry.name in names)
    ledger.commit(Record(entries, replaced))
    return entries
