"""Subsampled randomised Hadamard transforms: random diagonals, then some rows of H.

``H_N`` is the Sylvester matrix, ``H[t, k] = (-1)^popcount(t & k)``, symmetric and unnormalised.
Its rows multiply to rows, ``H[t] ∘ H[t'] = H[t ⊕ t']``, which is what ``error_squared`` uses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unembed.short_repr import ShortRepr
from unembed.signatures.sketches.hadamard import fwht
from unembed.signatures.sketches.packing import ComplexSketch, RealSketch
from unembed.signatures.sketches.randomness import balanced, quarter_turns
from unembed.signatures.sketches.sketch import SIDES, SketchSpec

UNIT = 512
"""What the first columns of blocks are multiples of; a block's end is padded up to it at most."""

PHASES = torch.tensor([[1.0, 0.0, -1.0, 0.0], [0.0, 1.0, 0.0, -1.0]], dtype=torch.float32)
"""Real and imaginary parts of the quarter turns 1, i, -1, -i."""


@dataclass(frozen=True)
class HadamardMap(ShortRepr):
    """The linear map ``x -> (H_N (D ∘ pad(x)))[rows]``, N the least power of two that holds x.

    ``planes`` are the real part of D and, of a complex D, the imaginary one, which each give half
    of a result's numbers. Where fewer rows exist than are wanted, several transforms with
    diagonals of their own are stacked: ``rows[c]`` are those of the copy c, whose diagonal is
    ``planes[:, c]``. Source: theory §9.
    """

    planes: Float[Tensor, "planes copies vocab"]
    rows: Int[Tensor, "copies each"]

    @property
    def width(self) -> int:
        """Real numbers a row: one a plane and Hadamard row."""
        return len(self.planes) * self.rows.numel()

    def add(
        self, block: Float[Tensor, "rows columns"], start: int, into: Float[Tensor, "rows width"]
    ) -> None:
        """``into += block @ S[:, start : start + columns].T``, in place.

        ``H_N = H_C ⊗ H_B``: the columns of an aligned run of B, the c-th, are transformed on their
        own, and row t of the whole is ``(-1)^popcount(t_hi & c)`` times row ``t_lo`` of theirs. So
        runs can come in any order; a block is cut into the largest aligned ones.
        """
        planes, copies, vocab = self.planes.shape
        stop = min(start + block.shape[1], vocab)
        total = into.view(len(into), planes, copies, -1)
        at = start
        while at < stop:
            run = _run(at, stop, _order(vocab))
            signed = self.planes[:, :, at : min(at + run, stop)]
            held = signed.shape[2]
            x = block[:, None, None, at - start : at - start + held] * signed
            if held < run:
                x = torch.nn.functional.pad(x, (0, run - held))
            low = (self.rows % run).expand(len(into), planes, copies, -1)
            taken = fwht(x).gather(3, low)
            total += taken * _entries(self.rows // run, at // run)
            at += run

    def columns(self, ids: Int[Tensor, " rows"]) -> Float[Tensor, "rows width"]:
        """``S[:, ids].T``: ``H[t, id] D[id]``, by the parity of ``popcount(t & id)``."""
        entries = _entries(self.rows, ids[:, None, None, None])
        signed = self.planes[:, :, ids].permute(2, 0, 1)[..., None]
        return (entries * signed).flatten(1)


class SRHT(RealSketch):
    """Signs of {1, -1} and m rows of H, two lists for r and s that are drawn independently.

    One list for both would leave ``H[t] ∘ H[t] = 1``, and with it a variance that m does not lower.
    """

    @staticmethod
    def of(spec: SketchSpec, device: torch.device) -> SRHT:
        """Draw the diagonals and row lists of a spec."""
        error, squared, activation = _drawn(spec, spec.m, 2)
        maps = [_map(drawn, slice(0, 1), device) for drawn in (*error, squared, *activation)]
        return SRHT(spec, (maps[0], maps[1]), maps[2], (maps[3], maps[4]))


class ComplexSRHT(ComplexSketch):
    """Diagonals of {1, i, -1, -i} and m / 2 rows of H, whose features are complex.

    The mean of ``Re ψ_j conj(ψ'_j)`` estimates ``(g·g')²``; four phases that cancel are rarer than
    four signs, so that it spreads less than as many real numbers.
    """

    @staticmethod
    def of(spec: SketchSpec, device: torch.device) -> ComplexSRHT:
        """Draw the diagonals and row lists of a spec."""
        error, squared, activation = _drawn(spec, spec.m // 2, 4)
        maps = [_map(drawn, slice(0, 2), device) for drawn in (*error, squared, *activation)]
        return ComplexSRHT(spec, (maps[0], maps[1]), maps[2], (maps[3], maps[4]))


@dataclass(frozen=True)
class _Transform(ShortRepr):
    """The diagonal of each copy, in quarter turns, and its list of rows."""

    turns: Int[np.ndarray, "copies vocab"]
    rows: Int[np.ndarray, "copies each"]

    def __mul__(self, other: _Transform) -> _Transform:
        """The transform whose columns are the products of these columns."""
        return _Transform((self.turns + other.turns) % 4, self.rows ^ other.rows)


def _drawn(
    spec: SketchSpec, features: int, phases: int
) -> tuple[tuple[_Transform, _Transform], _Transform, tuple[_Transform, _Transform]]:
    """The transforms of the error, their product, and those of the activation."""
    r, s, a, b = (
        _transform(spec.seed, side, size, features, phases)
        for side, size in zip(SIDES, (spec.vocab, spec.vocab, spec.dim, spec.dim), strict=True)
    )
    return (r, s), r * s, (a, b)


def _transform(seed: int, side: str, size: int, features: int, phases: int) -> _Transform:
    """``features`` rows of the Hadamard matrix of the least order that holds ``size`` columns.

    Each list is without replacement; where it has all N rows, as many copies as make up the rest.
    """
    order = _order(size)
    copies, each = max(1, features // order), min(features, order)
    turns = quarter_turns(seed, f"{side} diagonal", copies * size).reshape(copies, size)
    rows = balanced(seed, f"{side} rows", copies * order, order).reshape(copies, order)[:, :each]
    return _Transform(turns if phases == 4 else turns // 2 * 2, rows)


def _map(drawn: _Transform, planes: slice, device: torch.device) -> HadamardMap:
    signs = PHASES[planes, torch.from_numpy(drawn.turns)]
    return HadamardMap(signs.contiguous().to(device), torch.from_numpy(drawn.rows).to(device))


def _order(size: int) -> int:
    """The least power of two that is not below ``size``."""
    return 1 << (size - 1).bit_length()


def _run(at: int, stop: int, order: int) -> int:
    """The largest power of two that divides ``at`` and of which the columns to ``stop`` fill one.

    At the end a run reaches past ``stop``, where its columns are 0.
    """
    aligned = at & -at if at else order
    left = max(stop - at, min(UNIT, order))
    return min(aligned, 1 << (left.bit_length() - 1))


def _entries(row: Int[Tensor, "..."], column: Int[Tensor, "..."] | int) -> Float[Tensor, "..."]:
    """``(-1)^popcount(row & column)`` in float32, the parity found by halving the word."""
    bits = row & column
    for shift in (16, 8, 4, 2, 1):
        bits = bits ^ (bits >> shift)
    return 1 - 2 * (bits & 1).float()
