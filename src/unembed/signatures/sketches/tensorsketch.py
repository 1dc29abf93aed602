"""Four count-sketches, multiplied in the Fourier domain and kept there.

A count-sketch throws each coordinate, with a random sign, into one of B buckets. The sketch of a
tensor product is the circular convolution of the factors' sketches, and in the Fourier domain a
product; inner products are the same there (Parseval), so nothing is transformed back (theory §9).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from unembed.short_repr import ShortRepr
from unembed.signatures.sketches.packing import ComplexSketch, FourMaps, planar
from unembed.signatures.sketches.randomness import balanced, quarter_turns, signs
from unembed.signatures.sketches.sketch import SIDES, SketchSpec


@dataclass(frozen=True)
class CountSketch(ShortRepr):
    """The linear map ``into[:, index[k]] += sign[k] * x[:, k]``, one signed addition a coordinate.

    ``index`` is int32 of 0 to ``width - 1`` and ``sign`` float32 of -1 and 1. Where ``width = 2 B``
    stands for B complex buckets, the first B are real parts and the others imaginary ones: a phase
    of i is an index B further on. Source: theory §9.
    """

    index: Int[Tensor, " vocab"]
    sign: Float[Tensor, " vocab"]
    width: int

    def add(
        self, block: Float[Tensor, "rows columns"], start: int, into: Float[Tensor, "rows width"]
    ) -> None:
        """``into += block @ S[:, start : start + columns].T``, in place.

        Columns past the last of S are left out.
        """
        at = slice(start, start + block.shape[1])
        index, sign = self.index[at], self.sign[at]
        signed = block[:, : len(sign)] * sign
        # On CPU an eighth of the time of ``index_add_``, which goes column by column.
        into.scatter_add_(1, index.long().expand_as(signed), signed)

    def columns(self, ids: Int[Tensor, " rows"]) -> Float[Tensor, "rows width"]:
        """``S[:, ids].T``: one ±1 a row."""
        out = torch.zeros(len(ids), self.width, dtype=torch.float32, device=self.sign.device)
        return out.scatter_(1, self.index[ids].long()[:, None], self.sign[ids][:, None])


class ComplexTensorSketch(ComplexSketch):
    """Signs of {1, i, -1, -i} and B = m / 2 complex buckets; the features are the B frequencies.

    ``(1/B) Re Σ_f ψ_f conj(ψ'_f)`` estimates ``(g·g')²`` without bias. ``error_squared`` hashes to
    ``h1 + h2 mod B`` and its phase is the product of the two.
    """

    @staticmethod
    def of(spec: SketchSpec, device: torch.device) -> ComplexTensorSketch:
        """Draw the hashes and phases of a spec."""
        buckets = spec.m // 2
        turns = [
            quarter_turns(spec.seed, f"{side} sign", size)
            for side, size in zip(SIDES, _sizes(spec), strict=True)
        ]
        turns.append((turns[0] + turns[1]) % 4)
        maps = [
            _count_sketch(bucket + buckets * (turn % 2), 1 - 2 * (turn // 2), spec.m, device)
            for bucket, turn in zip(_hashes(spec, buckets), turns, strict=True)
        ]
        return ComplexTensorSketch(spec, (maps[0], maps[1]), maps[4], (maps[2], maps[3]))

    def factor(self, raw: Float[Tensor, "rows width"]) -> Complex[Tensor, "rows features"]:
        """The discrete Fourier transform of the complex buckets."""
        frequencies: Tensor = torch.fft.fft(planar(raw))
        return frequencies


class TensorSketch(FourMaps):
    """Signs of {1, -1} and m real buckets; the features are the m / 2 + 1 frequencies of an rfft.

    Frequencies other than 0 and m / 2 stand for their conjugates too, so that
    ``(1/m) Σ_f w_f Re ψ_f conj(ψ'_f)`` with w = 1, 2, ..., 2, 1 estimates ``(g·g')²``.
    """

    @staticmethod
    def of(spec: SketchSpec, device: torch.device) -> TensorSketch:
        """Draw the hashes and signs of a spec."""
        drawn = [
            signs(spec.seed, f"{side} sign", size)
            for side, size in zip(SIDES, _sizes(spec), strict=True)
        ]
        drawn.append(drawn[0] * drawn[1])
        maps = [
            _count_sketch(bucket, sign, spec.m, device)
            for bucket, sign in zip(_hashes(spec, spec.m), drawn, strict=True)
        ]
        return TensorSketch(spec, (maps[0], maps[1]), maps[4], (maps[2], maps[3]))

    def factor(self, raw: Float[Tensor, "rows width"]) -> Complex[Tensor, "rows features"]:
        """The discrete Fourier transform of the buckets, non-negative frequencies."""
        frequencies: Tensor = torch.fft.rfft(raw)
        return frequencies

    def pack(self, features: Complex[Tensor, "rows features"]) -> Float[Tensor, "rows sketch"]:
        """Real parts of all frequencies, then imaginary ones of all but the first and last.

        Those two are real, and weigh 1; the others weigh √2.
        """
        real = features.real * self._weights(features.real)
        return torch.cat([real, features.imag[:, 1:-1] * math.sqrt(2)], 1)

    def unpack(self, packed: Float[Tensor, "rows sketch"]) -> Complex[Tensor, "rows features"]:
        """The inverse of ``pack``."""
        ends = self.spec.m // 2 + 1
        real = packed[:, :ends] / self._weights(packed)
        imag = torch.nn.functional.pad(packed[:, ends:] / math.sqrt(2), (1, 1))
        return torch.complex(real, imag)

    def _weights(self, like: Float[Tensor, "rows numbers"]) -> Float[Tensor, " frequencies"]:
        weights = like.new_full((self.spec.m // 2 + 1,), math.sqrt(2))
        weights[0] = weights[-1] = 1
        return weights


def _hashes(spec: SketchSpec, buckets: int) -> list[Int[np.ndarray, " coordinates"]]:
    """The buckets of the error's r and s, of the activation's, and of ``error_squared``.

    Hashes may have any structure where the signs are independent. The mass of ``e eᵀ`` lies on its
    diagonal, so it is ``h1 + h2`` that is drawn balanced, and h2 the difference: no two of the
    first B tokens, mostly the frequent ones, then share a diagonal's bucket.
    """
    r, a, b, both = (
        balanced(spec.seed, f"{side} bucket", size, buckets)
        for side, size in (
            (SIDES[0], spec.vocab),
            (SIDES[2], spec.dim),
            (SIDES[3], spec.dim),
            ("error squared", spec.vocab),
        )
    )
    return [r, (both - r) % buckets, a, b, both]


def _sizes(spec: SketchSpec) -> tuple[int, int, int, int]:
    return (spec.vocab, spec.vocab, spec.dim, spec.dim)


def _count_sketch(
    index: Int[np.ndarray, " vocab"],
    sign: Int[np.ndarray, " vocab"],
    width: int,
    device: torch.device,
) -> CountSketch:
    return CountSketch(
        torch.from_numpy(index.astype(np.int32)).to(device),
        torch.from_numpy(sign.astype(np.float32)).to(device),
        width,
    )
