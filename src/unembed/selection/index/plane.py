"""A map of an index: its signatures on the two axes that tell them best apart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from unembed.errors import UnembedError
from unembed.runs.run_record import Drawn
from unembed.selection.index.index import Index
from unembed.short_repr import ShortRepr

MOST_ENTRIES = 20_000
MOST_EXACT = 2_000
"""Entries up to which the axes are taken from all products of two, and not from a random start."""
EXTRA_AXES = 30
TURNS = 6


@dataclass(frozen=True)
class Map(ShortRepr, Drawn):
    """Where each signature of an index lies on the two axes that tell them best apart.

    ``points`` are principal components of the unit vectors: distances on the map are at most the
    distances ``√(2 - 2 cosine)`` between signatures. ``explained`` is the share of the squared
    distances that each axis holds. ``tags`` are the first tag of each, "" where it has none.
    """

    KIND: ClassVar[str] = "index"

    names: tuple[str, ...]
    tags: tuple[str, ...]
    samples: tuple[int, ...]
    points: Float[np.ndarray, "entries 2"]
    explained: tuple[float, float]


def map_of(index: Index, *, seed: int = 0) -> Map:
    """Principal components of the unit vectors, of at most 20,000 entries drawn by ``seed``.

    Naively ``u, s, v = svd(x / sqrt(m) - mean); points = (u * s)[:, :2]``, each axis turned so that
    its farthest point is positive. Beyond 2,000 entries the axes come from a random start and six
    turns. Raises UnembedError for fewer than two entries.
    """
    entries = index.entries
    if len(entries) < 2:
        raise UnembedError(f"{index.folder} has {len(entries)} entries: a map needs two or more")
    chosen = list(range(len(entries)))
    if len(entries) > MOST_ENTRIES:
        drawn = np.random.default_rng(seed).choice(len(entries), MOST_ENTRIES, replace=False)
        chosen = sorted(drawn.tolist())
    x = torch.from_numpy(index.vectors(chosen)) / math.sqrt(index.identity.spec.m)
    points, explained = principal(x - x.mean(0), seed)
    some = [entries[i] for i in chosen]
    return Map(
        tuple(entry.name for entry in some),
        tuple(entry.tags[0] if entry.tags else "" for entry in some),
        tuple(round(entry.samples) for entry in some),
        points,
        explained,
    )


def principal(
    x: Float[Tensor, "entries sketch"], seed: int
) -> tuple[Float[np.ndarray, "entries 2"], tuple[float, float]]:
    """Coordinates of centred rows on their two widest axes, and the shares that these explain."""
    total = float(x.double().square().sum())
    if not total > 0:
        return np.zeros((len(x), 2)), (0.0, 0.0)
    if len(x) <= MOST_EXACT:
        wide = x.double()
        values, vectors = torch.linalg.eigh(wide @ wide.T)
        points = vectors[:, -2:].flip(1) * values[-2:].flip(0).clamp_min(0).sqrt()
    else:
        drawn = torch.Generator().manual_seed(seed)
        basis = torch.randn(x.shape[1], 2 + EXTRA_AXES, generator=drawn)
        for _ in range(TURNS):
            basis = torch.linalg.qr(x.T @ (x @ basis))[0]
        onto = x @ basis
        _, _, axes = torch.linalg.svd(onto.double(), full_matrices=False)
        points = onto.double() @ axes[:2].T
    farthest = points.abs().argmax(0)
    points = points * points.gather(0, farthest[None]).sign()
    first, second = (points.square().sum(0) / total).tolist()
    return points.numpy(), (first, second)
