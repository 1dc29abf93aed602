"""What a cloud is compared with: a Gaussian of its covariance, and the text in shuffled order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from unembed.text.windows import Windows

NEGLIGIBLE = 1e-14
"""Part of the largest variance below which an axis is rounding."""


def gaussian_cloud(
    variances: Float[np.ndarray, " axes"], points: int, *, seed: int = 0
) -> Float[np.ndarray, "points kept"]:
    """Points of a Gaussian with these variances along its axes.

    That of a cloud's covariance but for a rotation, which changes no distance, and for the axes of
    negligible variance.
    """
    kept = variances[variances > NEGLIGIBLE * variances.max(initial=0.0)]
    generator = np.random.default_rng(seed)
    found: Float[np.ndarray, "points kept"] = generator.standard_normal((points, len(kept)))
    found *= np.sqrt(kept)
    return found


def shuffled_windows(windows: Windows, *, seed: int = 0) -> Windows:
    """The same windows over a text in which each document's tokens stand in another order.

    The frequencies of the tokens, the lengths and the positions stay; order, and what it says, is
    gone. Of a document all tokens are permuted together, over all its rows; a BOS token that the
    tokenizer puts at the beginning of a row stays there. A document's order depends on the seed
    and its number alone. Only for reading states: what was marked as counted no longer says why.
    """
    corpus = windows.corpus
    ids = np.array(corpus.ids)
    in_order = np.argsort(corpus.document, kind="stable")
    numbers = corpus.document[in_order]
    for document in np.unique(windows.doc).tolist():
        first, last = np.searchsorted(numbers, [document, document + 1])
        rows = in_order[first:last]
        begins = corpus.starts[rows] + (corpus.bos is not None)
        places = np.concatenate(
            [np.arange(*span) for span in zip(begins, corpus.starts[rows + 1], strict=True)]
        )
        ids[places] = ids[np.random.default_rng([seed, document]).permutation(places)]
    return replace(windows, corpus=replace(corpus, ids=ids))
