"""What holds between the parts of networks' Fishers, in plain numbers (theory §12).

``F`` is a task's Fisher over all modules, ``F^ℓℓ`` the block of module ℓ (or of a depth, which is
the blocks of its modules), ``F_blk`` all such blocks, and ``A`` the cosine of two tasks' Fishers.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

Vector = Float[np.ndarray, " blocks"]


def profile_cosine(ours: Vector, theirs: Vector) -> float:
    """How alike two tasks spread over the network: the cosine of ``v = (‖F^ℓℓ‖)_ℓ``.

    It bounds their alignment of all blocks, which reaches it where every block's own is 1.
    """
    return float(ours @ theirs / (np.linalg.norm(ours) * np.linalg.norm(theirs)))


def block_weights(ours: Vector, theirs: Vector) -> Vector:
    """How much each block counts in the alignment of all: ``w_ℓ ∝ v_iℓ v_jℓ``, with sum 1."""
    product = ours * theirs
    return np.asarray(product / product.sum())


def alignment_of_blocks(each: Vector, ours: Vector, theirs: Vector) -> float:
    """``A_blk = cos(v_i, v_j) Σ_ℓ w_ℓ A^ℓℓ``, exactly, of each block's own alignment."""
    return profile_cosine(ours, theirs) * float(block_weights(ours, theirs) @ each)


def off_diagonal_share(blocks: float, full: float) -> float:
    """``η = √(1 - ‖F_blk‖² / ‖F‖²)`` of squared norms: how much of F lies between modules.

    NaN where that is the root of a negative number, as estimates of norms may have it.
    """
    left = 1 - blocks / full if full > 0 else math.nan
    return math.sqrt(left) if left >= 0 else math.nan


def full_between(alignment: float, ours: float, theirs: float) -> tuple[float, float]:
    """Between what the alignment of the whole network lies, by that of its blocks.

    ``√((1 - η_i²)(1 - η_j²)) A_blk ± η_i η_j`` with the shares η of ``off_diagonal_share``: by
    Cauchy and Schwarz, as the blocks and what lies between them are orthogonal.
    """
    middle = math.sqrt((1 - ours**2) * (1 - theirs**2)) * alignment
    return middle - ours * theirs, middle + ours * theirs
