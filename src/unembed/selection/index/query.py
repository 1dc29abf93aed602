"""The entries of an index that a signature is most alike, each with its cosine and its error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from unembed.errors import UnembedError
from unembed.selection.index.approximate import Approximate
from unembed.selection.index.entries import Entry
from unembed.selection.index.ledger import Ledger
from unembed.selection.index.nearest import best_rows
from unembed.selection.index.vectors import Mean
from unembed.short_repr import ShortRepr
from unembed.signatures.alignment.align import interval
from unembed.signatures.alignment.estimators import GROUPS
from unembed.signatures.signature import Signature, mismatch
from unembed.stats.estimate import Estimate


@dataclass(frozen=True)
class Match(ShortRepr):
    """One entry found.

    ``score`` orders the matches: the cosine with neither norm debiased. It is too low, the more so
    the fewer samples an entry has, which is what finds the right one: the debiased norm of a few
    samples is so uncertain that the least of them would win. ``cosine`` is debiased; its interval
    holds the error of the sketch, ``sketch_se``, and not that of the samples, which an index does
    not keep. Of an entry that ``shares_inputs`` with the query, it is too high.
    """

    entry: Entry
    score: float
    cosine: Estimate
    sketch_se: float | None
    shares_inputs: bool

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.entry.name,
            "score": self.score,
            "cosine": vars(self.cosine),
            "sketch_se": self.sketch_se,
            "shares_inputs": self.shares_inputs,
            "entry": self.entry.to_json(),
        }


@dataclass(frozen=True)
class Answer(ShortRepr):
    """The best entries, best first.

    ``searched`` are the entries there are, and ``closely`` how many rows were read whole.
    ``status`` is "ok", or why the cosines are not known.
    """

    query: str
    samples: float
    documents: int
    by: str
    matches: tuple[Match, ...]
    searched: int
    closely: int
    status: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**vars(self), "matches": [match.to_json() for match in self.matches]}


def ask(
    ledger: Ledger,
    signature: Signature,
    top: int,
    digest: str,
    *,
    sieved: bool = True,
    first: Approximate | None = None,
) -> Answer:
    """The entries of largest plain cosine with a signature, and their debiased ones (theory §10).

    Naively, for the unit vectors ``x`` of the entries of reliability r and the query's mean feature
    μ of debiased squared norm D, the largest ``top`` of ``score = x @ μ / (m * norm(μ))``, and of
    these ``cosine = x @ μ / (m * sqrt(D * r))``. Where D is not positive, the order stands and
    cosines are not known. The entry of the same file as the query, by ``digest``, has 1. With a
    ``first`` pass, the rows that it finds likely, and those added since, are looked at alone.
    Raises UnembedError where the query does not compare with the index, or a vector that was found
    is damaged.
    """
    header = ledger.header
    if top < 1:
        raise UnembedError(f"--top is {top}: ask for one entry at least")
    names = (str(ledger.folder), signature.name)
    difference = mismatch(header.identity, signature.identity, names)
    if difference:
        raise UnembedError(difference)
    state = signature.state
    mean = Mean.of(state, header.by, signature.name)
    query = torch.from_numpy(mean.plain_unit)
    among = None if first is None else first.likely(ledger, query, top)
    rows, scores, closely = best_rows(ledger, query, top, sieved=sieved, among=among)
    entries = [ledger.entry(row) for row in rows.tolist()]
    for row, entry in zip(rows.tolist(), entries, strict=True):
        intact(ledger, row, entry)
    n = round(state.samples)
    cosines = _cosines(ledger, rows, entries, mean, n)
    matches = []
    for row, entry, score, (cosine, se) in zip(
        rows.tolist(), entries, scores.tolist(), cosines, strict=True
    ):
        if entry.sha256 == digest:
            cosine, se = Estimate(1.0, 1.0, 1.0, n), 0.0
        shared = bool(np.isin(state.hashes, ledger.vectors.hashes(row)).any())
        matches.append(Match(entry, score, cosine, se, shared))
    status = "ok"
    if not mean.square > 0:
        status = (
            "cosines are not known, though their order is: the query has too few samples "
            f"(n = {state.samples:g} in {state.documents} documents)"
        )
    return Answer(
        signature.name,
        state.samples,
        state.documents,
        header.by,
        tuple(matches),
        ledger.rows - len(ledger.removed),
        closely,
        status,
    )


def intact(ledger: Ledger, row: int, entry: Entry) -> None:
    """Raise UnembedError where a row's bytes are not what was written."""
    if ledger.vectors.crc(row) != entry.crc32:
        raise UnembedError(
            f"{ledger.folder / ledger.header.vectors} is damaged at {entry.name!r}, which does not "
            f"agree with its checksum: add it again with --replace"
        )


def _cosines(
    ledger: Ledger, rows: Int[np.ndarray, " best"], entries: list[Entry], query: Mean, n: int
) -> list[tuple[Estimate, float | None]]:
    """The debiased cosines of some entries with a query, and the sketch's errors."""
    if not query.square > 0 or not entries:
        return [(Estimate(None, n=n, reason="too few samples in the query"), None)] * len(rows)
    found: list[tuple[Estimate, float | None]] = [
        (Estimate(None, n=n, reason="too few samples in the entry"), None)
    ] * len(rows)
    known = [i for i, entry in enumerate(entries) if entry.reliability is not None]
    if not known:
        return found
    independent = np.array([entries[i].independent for i in known])
    reliability = np.array([entries[i].reliability for i in known], dtype=np.float32)
    x = ledger.vectors.wide(rows[known], ledger.scales).numpy() / np.sqrt(reliability)[:, None]
    value, se = cosines_of(x, independent, query)
    low, high = (end[0] for end in interval(value[None], se[None], "cosine"))
    numbers = np.stack([value, low, high, se], 1).tolist()
    for i, (cosine, bottom, top, error) in zip(known, numbers, strict=True):
        found[i] = Estimate(cosine, bottom, top, n), error
    return found


def cosines_of(
    x: Float[np.ndarray, "best sketch"], independent: Float[np.ndarray, " best"], query: Mean
) -> tuple[Float[np.ndarray, " best"], Float[np.ndarray, " best"]]:
    """Cosines of vectors of debiased norm 1 with a query, and their errors by groups of features.

    The share of group g is ``n_g - n - n / 2 ((a_g - a) / p + (b_g - b) / q)`` with the group's
    means of ``x y``, ``x²`` and ``y²``, those of all features, and the shares p and q of
    independent pairs, by which a debiased norm varies more. Source: theory §10.
    """
    y = query.unit[None]
    product, a, b = (_group_means(x * y), _group_means(x * x), _group_means(y * y))
    value = product.mean(1, keepdims=True)
    off = (a - a.mean(1, keepdims=True)) / independent[:, None]
    off = off + (b - b.mean()) / query.independent
    shares = product - value - value / 2 * off
    groups = shares.shape[1]
    return value[:, 0], np.sqrt(np.square(shares).sum(1) / (groups * (groups - 1)))


def _group_means(of: Float[np.ndarray, "best sketch"]) -> Float[np.ndarray, "best groups"]:
    """Means over groups of whole features; numbers j and ``j + m / 2`` are parts of one."""
    count, m = of.shape
    parts = of.reshape(count, 2, min(GROUPS, m // 2), -1)
    return np.asarray(parts.mean((1, 3), dtype=np.float64))
