"""The rows of an index whose products with a query are largest."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unembed.selection.index.ledger import Ledger

FIRST_ROWS = 512
"""Rows that are looked at closely before it is known how far down the sieve's order to go."""
SAMPLE_ROWS = 256
"""Rows from all over the index, which tell how far off the sieve is."""
STANDARD_ERRORS = 3.0
"""Standard errors of the sieve's cosine by which a row must miss the best to be left out."""
LEAST_ERROR = 0.02
"""Cosines near 1 have smaller errors, as ``1 - c²``, but the rounding to int8 stays."""

Best = tuple[Int[np.ndarray, " best"], Float[np.ndarray, " best"], int]
"""Rows, best first, their products, and how many rows were looked at closely."""


def best_rows(
    ledger: Ledger,
    query: Float[Tensor, " sketch"],
    k: int,
    *,
    sieved: bool = True,
    among: Int[np.ndarray, " some"] | None = None,
) -> Best:
    """The k rows with the largest ``x · query / m``; of a query of mean square 1, plain cosines.

    Naively ``argsort(-vectors @ query)[:k]``. In a large index, a sieve of the first features comes
    before: rows are left out whose cosine there is further below the k-th best than three times its
    standard error, ``σ (1 - c²)``, with σ measured for this query on rows from all over the index.
    ``sieved`` False looks at every row. Rows to look at, ``among``, take the sieve's place.
    """
    alive, scales = ledger.alive, ledger.scales
    k = min(k, int((alive if among is None else alive[among]).sum()))
    if among is not None:
        return _largest(among, ledger.vectors.products(query, scales, among), alive, k)
    sieve = ledger.whole_sieve() if sieved else None
    if sieve is None or len(sieve.scales) <= FIRST_ROWS + SAMPLE_ROWS or not k:
        found = ledger.vectors.products(query, scales)
        return _largest(np.arange(ledger.rows), found, alive, k)

    def products(at: Int[np.ndarray, " some"]) -> Float[np.ndarray, " some"]:
        return ledger.vectors.products(query, scales, at)

    cosine, loud = sieve.cosines(query), sieve.scales[:, 1]
    count = len(cosine)
    error = np.maximum(1 - np.square(cosine), LEAST_ERROR)
    guess = np.where(alive[:count], cosine * loud, -np.inf)
    sample = np.linspace(0, count - 1, SAMPLE_ROWS).astype(np.int64)
    off = (products(sample) / loud[sample] - cosine[sample]) / error[sample]
    spread = float(np.sqrt(np.mean(np.square(off))))
    seen = np.zeros(ledger.rows, dtype=bool)
    first = np.argpartition(-guess, FIRST_ROWS)[:FIRST_ROWS]
    seen[first] = True
    seen[count:] = True
    rows = np.flatnonzero(seen)
    found = products(rows)
    least = _largest(rows, found, alive, k)[1][-1]
    near = (guess + STANDARD_ERRORS * spread * error * loud >= least) & ~seen[:count]
    more = np.flatnonzero(near)
    rows, found = np.concatenate([rows, more]), np.concatenate([found, products(more)])
    return _largest(rows, found, alive, k)


def _largest(
    rows: Int[np.ndarray, " rows"],
    found: Float[np.ndarray, " rows"],
    alive: Bool[np.ndarray, " every"],
    k: int,
) -> Best:
    """The k best of some rows; equals in order of their rows."""
    kept = np.where(alive[rows], found, -np.inf)
    if k < len(kept):
        least = np.partition(kept, len(kept) - k)[len(kept) - k] if k else np.inf
        some = np.flatnonzero(kept >= least)
    else:
        some = np.arange(len(kept))
    order = some[np.lexsort((rows[some], -kept[some]))][:k]
    return rows[order], found[order], len(rows)
