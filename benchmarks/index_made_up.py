"""Signatures that no model made: clusters of uneven size, as like each other as real ones are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unembed.selection.index.entries import Entry
from unembed.selection.index.index import PendingEntry
from unembed.signatures.signature import Identity, Signature
from unembed.signatures.sketches.sketch import SketchSpec
from unembed.signatures.state import State
from unembed.signatures.sums import Sums

SPEC = SketchSpec(50_257, 768)
IDENTITY = Identity(SPEC, "token", "empirical", "head", "body", "tokenizer")
COMMON, LEAST, MOST = 0.2, 0.3, 0.95
AXES = 48
"""Directions in which members of every cluster differ from each other, the first ones most."""
ROWS = 4096


@dataclass(frozen=True)
class World:
    """Cluster centres, common axes, and how alike the members of each cluster are."""

    base: Tensor
    centres: Tensor
    axes: Tensor
    cosine: Tensor
    share: Tensor

    @staticmethod
    def of(m: int, clusters: int, seed: int) -> World:
        """Cosines within clusters are spread over .3 to .95; sizes fall as 1 / rank."""
        draw = torch.Generator().manual_seed(seed)
        axes = torch.randn(AXES, m, generator=draw) / torch.arange(1, AXES + 1)[:, None].sqrt()
        axes /= axes.square().sum(0).mean().sqrt()
        size = 1 / torch.arange(1, clusters + 1)
        cosine = LEAST + (MOST - LEAST) * torch.rand(clusters, generator=draw)
        base, centres = (torch.randn(n, m, generator=draw) for n in (1, clusters))
        return World(base[0], centres, axes, cosine, size / size.sum())

    def members(self, count: int, seed: int) -> Tensor:
        """Unit vectors of clusters drawn by their size: mean squares of 1."""
        draw = torch.Generator().manual_seed(seed)
        cluster = torch.multinomial(self.share, count, True, generator=draw)
        cosine = self.cosine[cluster][:, None]
        x = self._own(count, draw).mul_((1 - cosine).sqrt())
        x.addcmul_(self.centres[cluster], (cosine - COMMON).sqrt())
        return unit(x.add_(self.base, alpha=math.sqrt(COMMON)))

    def strangers(self, count: int, seed: int) -> Tensor:
        """Unit vectors of no cluster."""
        draw = torch.Generator().manual_seed(seed)
        own = self._own(count, draw)
        return unit(math.sqrt(COMMON) * self.base + math.sqrt(1 - COMMON) * own)

    def batches(self, count: int, seed: int) -> Iterator[Tensor]:
        """Members, some thousands at a time."""
        for start in range(0, count, ROWS):
            yield self.members(min(ROWS, count - start), seed + 1 + start)

    def _own(self, count: int, draw: torch.Generator) -> Tensor:
        """What sets a member apart: half along the axes, half its own alone."""
        along = torch.randn(count, AXES, generator=draw)
        alone = torch.randn(count, self.base.shape[0], generator=draw)
        return torch.addmm(alone, along, self.axes, beta=math.sqrt(0.5), alpha=math.sqrt(0.5))


def unit(x: Tensor) -> Tensor:
    size = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x.mul_(math.sqrt(x.shape[1]) / size)


def point(name: str, vector: np.ndarray) -> PendingEntry:
    """An entry to be, with plausible facts."""
    entry = Entry(
        name,
        50_000.0,
        200,
        "a-model",
        f"{name}.txt: column 'text', a document is a row, rows under two tokens dropped",
        "0" * 64,
        (name.split(".")[0],),
        "",
        "",
        1.0,
        0.9,
        0.995,
        "2026-01-01T00:00:00+00:00",
        "0" * 64,
        1.0,
        0,
    )
    hashes = np.arange(1, 65, dtype=np.uint64) * np.uint64(abs(hash(name)) or 1)
    return PendingEntry(entry, vector, hashes)


def signature(name: str, vector: np.ndarray, documents: int = 200) -> Signature:
    """A signature with this mean joint feature, whose debiased norm is nine tenths of the plain."""
    m = len(vector)
    weight = np.array([documents / 2, documents / 2]) * 250
    squared = weight * 250
    total = np.tile(vector.astype(np.float64) * weight[0], (2, 1))
    plain = float(np.square(vector, dtype=np.float64).mean())
    whole, pairs = weight.sum() ** 2, weight.sum() ** 2 - squared.sum()
    own = np.full(2, (plain * whole - 0.9 * plain * pairs) / 2)
    rng = np.random.default_rng(abs(hash(name)))
    state = State(
        Sums(total, own, np.zeros((0, min(256, m)))),
        None,
        None,
        None,
        weight,
        weight,
        squared,
        np.zeros(0),
        None,
        documents,
        np.sort(rng.integers(1, 1 << 63, 64, dtype=np.uint64)),
    )
    return Signature(name, IDENTITY, state, {"model": "a-model", "text": name})
