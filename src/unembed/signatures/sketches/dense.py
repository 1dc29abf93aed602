"""Independent signs throughout: what the fast constructions approximate, by a product."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unembed.short_repr import ShortRepr
from unembed.signatures.sketches.packing import RealSketch
from unembed.signatures.sketches.randomness import words_at
from unembed.signatures.sketches.sketch import SIDES, SketchSpec

BITS = 64
"""Signs a word of random bits gives."""

PART = 512
"""Columns whose signs are held at once."""


@dataclass(frozen=True)
class SignMap(ShortRepr):
    """The linear map ``x -> S x`` with S of independent signs, drawn anew whenever they are needed.

    Column k takes the bits of ``ceil(width / 64)`` words of its own, the lowest first. With several
    ``streams`` an entry is the product of theirs. Source: theory §9.
    """

    seed: int
    streams: tuple[str, ...]
    vocab: int
    width: int
    device: torch.device

    def add(
        self, block: Float[Tensor, "rows columns"], start: int, into: Float[Tensor, "rows width"]
    ) -> None:
        """``into += block @ S[:, start : start + columns].T``, in place."""
        stop = min(start + block.shape[1], self.vocab)
        for at in range(start, stop, PART):
            ids = torch.arange(at, min(at + PART, stop))
            into.addmm_(block[:, at - start : at - start + len(ids)], self.columns(ids))

    def columns(self, ids: Int[Tensor, " rows"]) -> Float[Tensor, "rows width"]:
        """``S[:, ids].T``: each id's own signs."""
        each = -(-self.width // BITS)
        index = (ids.cpu().numpy()[:, None] * each + np.arange(each)).reshape(-1)
        bits = np.zeros(len(index), dtype=np.uint64)
        for stream in self.streams:
            bits ^= words_at(self.seed, stream, index)
        drawn = bits.astype("<u8").view(np.uint8).reshape(len(ids), each * BITS // 8)
        signs = np.unpackbits(drawn, axis=1, bitorder="little")[:, : self.width]
        return 1 - 2 * torch.from_numpy(signs).to(self.device, torch.float32)


class Dense(RealSketch):
    """m rows of independent signs for each of the four maps: the oracle of the others, and slow."""

    @staticmethod
    def of(spec: SketchSpec, device: torch.device) -> Dense:
        """Name the streams of a spec; nothing is drawn yet."""
        r, s, a, b = SIDES
        vocab, dim = spec.vocab, spec.dim
        maps = [
            SignMap(spec.seed, streams, size, spec.m, device)
            for streams, size in (
                ((r,), vocab),
                ((s,), vocab),
                ((r, s), vocab),
                ((a,), dim),
                ((b,), dim),
            )
        ]
        return Dense(spec, (maps[0], maps[1]), maps[2], (maps[3], maps[4]))
