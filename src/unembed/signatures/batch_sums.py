"""Samples that come in batches, in which documents may be cut, and how a state takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt64

from unembed.errors import UnembedError
from unembed.short_repr import ShortRepr
from unembed.signatures.documents import FOLDS, Documents, folds_of
from unembed.signatures.state import SUMMED, Features, State
from unembed.signatures.sums import Sums, lowest


@dataclass(frozen=True)
class BatchSums(ShortRepr):
    """Some samples, and the sums of the documents that have more of them in other batches.

    ``state`` is that of all samples, but that it lacks the pairs within the documents that are
    open and does not count these. ``samples`` is how many of theirs are here and ``joint`` to
    ``first`` their ``Σ ψ``, in float64: 96 KiB a document for three kinds at m = 4096.
    """

    state: State
    hashes: UInt64[np.ndarray, " open"]
    samples: Int[np.ndarray, " open"]
    joint: Float[np.ndarray, "open sketch"]
    activation: Float[np.ndarray, "open sketch"] | None
    error: Float[np.ndarray, "open sketch"] | None
    first: Float[np.ndarray, "open sketch"] | None

    def sums(self, name: str) -> Float[np.ndarray, "open sketch"] | None:
        """``Σ ψ`` of each open document, of one kind; None where it was not kept."""
        found: Float[np.ndarray, "open sketch"] | None = getattr(self, name)
        return found


def batch_sums(
    like: State,
    features: Features,
    document: Int[np.ndarray, " rows"] | UInt64[np.ndarray, " rows"],
    whole: Bool[np.ndarray, " rows"] | None = None,
) -> BatchSums:
    """Some samples, of which is kept what ``like`` keeps; float32 rows are summed in float64.

    ``document`` is a hash of what the model read, of 63 bits or 64, one a row: rows of equal hash
    are dependent. ``whole`` tells of each row that all of its document's rows are here, so that
    nothing is kept of that document alone; None that those of every row are.
    Raises UnembedError where a feature is not finite, or where ``first`` is kept and not given.
    """
    blocks, documents = len(like.block_weight), Documents.of(document, whole)
    added: dict[str, Any] = dict.fromkeys(SUMMED)
    opened: dict[str, Any] = dict.fromkeys(SUMMED)
    for name in SUMMED:
        if like.sums(name) is None:
            continue
        rows = getattr(features, name)
        if rows is None:
            raise UnembedError(f"the state keeps {name!r} features and none were given: give both")
        added[name], opened[name] = Sums.of(rows, documents, blocks)
        if not np.isfinite(added[name].total).all():
            bad = int((~torch.isfinite(rows)).any(1).sum())
            raise UnembedError(
                f"{bad} of {len(rows)} rows of {name} features are not finite: leave those "
                "positions out, or run the model in a wider dtype"
            )
    samples, left = documents.samples.astype(np.float64), documents.open
    weight = _summed(samples, documents.folds, FOLDS)
    state = State(
        **added,
        weight=weight,
        weight_squared=weight,
        document_weight_squared=_summed(np.where(left, 0, samples**2), documents.folds, FOLDS),
        block_weight=_summed(samples, documents.blocks(blocks), blocks),
        trace=_trace(features),
        documents=int((~left).sum()),
        hashes=lowest(documents.hashes),
    )
    return BatchSums(state, documents.hashes[left], documents.samples[left], **opened)


def whole_state(batches: Sequence[BatchSums]) -> State:
    """The state of all samples of some batches, in which every document is whole from here on.

    Holds ``Σ ψ`` of one kind of all open documents at once, besides what the batches hold.
    """
    state = reduce(State.__add__, [one.state for one in batches])
    hashes, number = np.unique(np.concatenate([p.hashes for p in batches]), return_inverse=True)
    if not len(hashes):
        return state
    where = np.split(number, np.cumsum([len(one.hashes) for one in batches])[:-1])
    folds = folds_of(hashes)
    samples = np.bincount(number, np.concatenate([one.samples for one in batches]))
    kinds: dict[str, Any] = {
        name: _with_pairs(state.sums(name), [one.sums(name) for one in batches], where, folds)
        for name in SUMMED
    }
    return replace(
        state,
        **kinds,
        document_weight_squared=state.document_weight_squared + _summed(samples**2, folds, FOLDS),
        documents=state.documents + len(hashes),
    )


def accumulate(
    state: State,
    features: Features,
    document: Int[np.ndarray, " rows"] | UInt64[np.ndarray, " rows"],
    *,
    documents: int | None = None,
) -> State:
    """The state with some samples more, all those of their documents.

    ``state + whole_state([batch_sums(state, features, document)])``. A document whose samples come
    in several calls counts as several, the pairs between which stay in norms: take ``batch_sums``
    of such calls, and the ``whole_state`` of all. ``documents`` is how many are counted here; None
    counts the distinct ones. Raises UnembedError as ``batch_sums`` does.
    """
    added = whole_state([batch_sums(state, features, document)])
    return state + (added if documents is None else replace(added, documents=documents))


def _with_pairs(
    sums: Sums | None,
    opened: Sequence[Float[np.ndarray, "_ sketch"] | None],
    where: Sequence[Int[np.ndarray, " _"]],
    folds: Int[np.ndarray, " documents"],
) -> Sums | None:
    """Sums with the pairs within open documents, whose numbers in each batch ``where`` holds."""
    if sums is None:
        return None
    m = sums.total.shape[1]
    whole = np.zeros((len(folds), m))
    for at, some in zip(where, opened, strict=True):
        if some is not None:
            whole[at] += some
    squares = np.einsum("dm,dm->d", whole, whole) / m
    return replace(sums, own=sums.own + _summed(squares, folds, FOLDS))


def _summed(
    values: Float[np.ndarray, " documents"], ids: Int[np.ndarray, " documents"], count: int
) -> Float[np.ndarray, " ids"]:
    """Sums of values by id, below ``count``; of no documents too they are floating."""
    return np.bincount(ids, values, count)[:count].astype(np.float64)


def _trace(features: Features) -> float | None:
    """``Σ ‖g‖²``: as given, or from the sketch of g."""
    if features.squared_norm is not None:
        return float(features.squared_norm.double().sum())
    if features.first is None:
        return None
    return float(features.first.double().square().sum()) / features.first.shape[1]
