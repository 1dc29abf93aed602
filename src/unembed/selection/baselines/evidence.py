"""LogME: the evidence of a linear model of the classes, with its two variances at their best.

As in ``models``, ``source`` is the target's text as the source's model reads it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unembed.head.head import Head
from unembed.selection.baselines.models import ROUNDING, class_sums
from unembed.signatures.samples import Samples

RANGE = 1e9
"""How far α/β may be from the mean squared singular value: beyond, rounding decides."""
GRID = 256
STEPS = 40
"""Each takes away 38 % of what is left of two steps of the grid."""
GOLDEN = (math.sqrt(5) - 1) / 2


@torch.no_grad()
def logme(target: Samples, source: Samples, head: Head) -> float:
    """LogME, the log maximum evidence (You et al. 2021), in nats a position.

    For each next token c that occurs, with ``y = [y_i = c]`` and hidden states f (not centred)::

        max over α, β > 0 of log N(y; 0, f fᵀ / α + I / β) / n

    and the mean over tokens, each counted once. For a given ratio ``t = α / β`` the best β is
    ``n / R``, with ``R = yᵀ (I + f fᵀ / t)⁻¹ y``, so the evidence is ``(n log(n / R) - n -
    n log 2π - log det(I + f fᵀ / t)) / 2``; both are sums over one singular value decomposition.
    t is searched from 1e-9 to 1e9 of the mean squared singular value, on a grid and then within it
    by golden section, all tokens at once; the published iteration finds a stationary point of the
    same. The bounds bind where no variance beats none (the value is then that of no signal) and
    where states tell a class exactly in fewer directions than there are positions (whose evidence
    has no bound). The same under rotation and scale of the states. NaN where all states are 0.
    Source: theory §11.
    """
    hidden = source.hidden.double()
    n = len(hidden)
    if not bool(hidden.any()):
        return math.nan
    vectors, values, _ = torch.linalg.svd(hidden, full_matrices=False)
    kept = values > ROUNDING * values[0]
    vectors, values = vectors[:, kept], values[kept]
    sums, count = class_sums(vectors, source.targets.to(hidden.device))
    explained = sums.square()
    # What is left over is a squared norm: 0, but for rounding, where the states span everything.
    whole = len(values) == n
    left = torch.zeros_like(count) if whole else (count - explained.sum(1)).clamp_min(0)
    model = _Model(explained, left, values.square(), n)
    centre = math.log(float(values.square().mean()))
    grid = torch.linspace(-math.log(RANGE), math.log(RANGE), GRID, dtype=torch.float64) + centre
    grid = grid.to(hidden.device)
    best = model.on_grid(grid).argmax(1)
    low, high = grid[(best - 1).clamp_min(0)], grid[(best + 1).clamp_max(GRID - 1)]
    for _ in range(STEPS):
        first, second = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        rising = model.at(first) < model.at(second)
        low, high = torch.where(rising, first, low), torch.where(rising, high, second)
    found = torch.maximum(model.at((low + high) / 2), model.at(grid[best]))
    return float(found.mean())


@dataclass(frozen=True)
class _Model:
    """The evidence of every class, in nats a position, as a function of ``log t``.

    ``explained`` are the squared products of y with each left singular vector, ``left`` what of
    ``‖y‖²`` they leave, ``squares`` the squared singular values.
    """

    explained: Float[Tensor, "classes k"]
    left: Float[Tensor, " classes"]
    squares: Float[Tensor, " k"]
    n: int

    def on_grid(self, log_t: Float[Tensor, " points"]) -> Float[Tensor, "classes points"]:
        """At the same points for all classes."""
        share = 1 / (1 + self.squares[:, None] / log_t.exp())
        return self._evidence(self.explained @ share + self.left[:, None], share.log().sum(0))

    def at(self, log_t: Float[Tensor, " classes"]) -> Float[Tensor, " classes"]:
        """At a point for each class."""
        share = 1 / (1 + self.squares / log_t.exp()[:, None])
        return self._evidence((self.explained * share).sum(1) + self.left, share.log().sum(1))

    def _evidence(
        self, residual: Float[Tensor, "*shape"], log_determinant: Float[Tensor, "*last"]
    ) -> Float[Tensor, "*shape"]:
        fit = -torch.log(residual / self.n) - 1 - math.log(2 * math.pi)
        return (fit + log_determinant / self.n) / 2
