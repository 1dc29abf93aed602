"""A rotation of the residual stream that leaves rows of weights without large entries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from unembed.runs.progress import progress_bar
from unembed.short_repr import ShortRepr

STEPS = 300
RATE, LAST_RATE = 0.02, 1e-4
SHARPNESS = (5.0, 30.0)
"""Of the smooth maximum, at the first step and at the last."""
MOST_ROWS = 1 << 16
"""Rows of readers that are looked at, evenly spread over all of them."""
ROWS_A_STEP = 1 << 13


@dataclass(frozen=True)
class Matrices(ShortRepr):
    """What a rotation ``Q`` acts on: rows that become ``w Q``, and matrices that become ``Q^T W``.

    Some of the readers' rows where there are many; the writers are all there, ``(width, in)``.
    ``group`` is how many weights of a row share a scale, None: all of them.
    """

    readers: Float[Tensor, "rows width"]
    writers: tuple[Float[Tensor, "width _"], ...]
    group: int | None

    @staticmethod
    def of(
        readers: Sequence[Float[Tensor, "_ width"]],
        writers: Sequence[Float[Tensor, "width _"]],
        group: int | None,
    ) -> Matrices:
        """Take every so many rows of the readers, at most MOST_ROWS."""
        total = sum(len(one) for one in readers)
        apart = max(1, -(-total // MOST_ROWS))
        rows = torch.cat([one[::apart] for one in readers])
        return Matrices(rows, tuple(writers), group)

    def drawn(self, draws: torch.Generator) -> Matrices:
        """At most ROWS_A_STEP rows of the readers, and writers of so many columns or one."""
        readers, writers = self.readers, list(self.writers)
        if len(readers) > ROWS_A_STEP:
            order = torch.randperm(len(readers), generator=draws)[:ROWS_A_STEP]
            readers = readers[order.to(readers.device)]
        if sum(one.shape[1] for one in writers) > ROWS_A_STEP:
            left, some = ROWS_A_STEP, []
            for number in torch.randperm(len(writers), generator=draws).tolist():
                left -= writers[number].shape[1]
                some.append(writers[number])
                if left <= 0:
                    break
            writers = some
        return Matrices(readers, tuple(writers), self.group)

    def roughness(
        self,
        rotation: Float[Tensor, "width width"],
        largest: Callable[[Tensor], Tensor],
    ) -> Float[Tensor, ""]:
        """Mean squared ``largest`` of what shares a scale over its row's rms, in turned rows.

        The variance of what rounding adds to a weight, in units of its row's mean square, is this
        over ``3 (2^bits - 1)^2``. The mean over readers' rows, and that over writers' matrices,
        count alike.
        """
        found = _rough(self.readers @ rotation, self.group, largest)
        if not self.writers:
            return found
        turned = [_rough(rotation.T @ one, self.group, largest) for one in self.writers]
        return (found + torch.stack(turned).mean()) / 2


def _rough(
    rows: Float[Tensor, "rows width"], group: int | None, largest: Callable[[Tensor], Tensor]
) -> Float[Tensor, ""]:
    sizes = rows.abs()
    tiny = torch.finfo(rows.dtype).tiny
    relative = sizes / rows.square().mean(1, keepdim=True).clamp_min(tiny).sqrt()
    if group is not None and rows.shape[1] % group == 0:
        relative = relative.view(len(rows), -1, group)
    return largest(relative).square().mean()


def plain_maximum(sizes: Tensor) -> Tensor:
    """The largest along the last axis."""
    return sizes.amax(-1)


def smooth_maximum(sharpness: float, sizes: Tensor) -> Tensor:
    """``log(sum(exp(sharpness * x))) / sharpness`` along the last axis, at least the largest."""
    found: Tensor = torch.logsumexp(sharpness * sizes, -1) / sharpness
    return found


def random_rotation(
    width: int, draws: torch.Generator, *, keeps_ones: bool
) -> Float[Tensor, "width width"]:
    """An orthogonal matrix, uniform among all or those that keep the vector of ones; float64."""
    if not keeps_ones:
        return _uniform(width, draws)
    within = torch.eye(width, dtype=torch.float64)
    within[1:, 1:] = _uniform(width - 1, draws)
    # A reflection that exchanges the first axis and the direction of ones.
    normal = torch.full((width,), width**-0.5, dtype=torch.float64)
    normal[0] -= 1
    mirror: Tensor = torch.eye(width, dtype=torch.float64) - 2 * torch.outer(
        normal, normal
    ) / normal.dot(normal)
    found: Tensor = mirror @ within @ mirror
    return found


def _uniform(width: int, draws: torch.Generator) -> Float[Tensor, "width width"]:
    normal = torch.randn(width, width, generator=draws, dtype=torch.float64)
    q, r = torch.linalg.qr(normal)
    found: Tensor = q * torch.sign(torch.diagonal(r))
    return found


def learned_rotation(
    matrices: Matrices,
    *,
    seed: int = 0,
    steps: int = STEPS,
    keeps_ones: bool = False,
    progress: bool = False,
) -> Float[Tensor, "width width"]:
    """A rotation that makes the roughness of these matrices small, from a random one.

    ``Q = Q0 (1 + S)^-1 (1 - S)`` of a skew-symmetric ``S``, by Adam with a falling rate; the
    maximum is smooth and grows sharper. With ``keeps_ones`` the vector of ones stays. The result is
    in float64 on the CPU, and the same for a seed, a number of threads and a version of torch.
    """
    width, device = matrices.readers.shape[1], matrices.readers.device
    draws = torch.Generator().manual_seed(seed)
    first = random_rotation(width, draws, keeps_ones=keeps_ones).to(device, torch.float32)
    free = torch.zeros(width, width, device=device, requires_grad=True)
    one = torch.eye(width, device=device)
    optimizer = torch.optim.Adam([free], lr=RATE)

    def rotation() -> Tensor:
        skew = free - free.T
        if keeps_ones:
            skew = skew - skew.mean(0, keepdim=True)
            skew = skew - skew.mean(1, keepdim=True)
        turned: Tensor = first @ torch.linalg.solve(one + skew, one - skew)
        return turned

    with progress_bar("learning a rotation", "steps", steps, progress) as bar, torch.enable_grad():
        for step in range(steps):
            done = step / steps
            sharp = SHARPNESS[0] + (SHARPNESS[1] - SHARPNESS[0]) * done
            for group in optimizer.param_groups:
                group["lr"] = RATE * (1 - done) + LAST_RATE
            optimizer.zero_grad()
            rough = matrices.drawn(draws).roughness(rotation(), partial(smooth_maximum, sharp))
            rough.backward()
            optimizer.step()
            bar.update()
    with torch.no_grad():
        left, _sizes, right = torch.linalg.svd(rotation().double().cpu())
        found: Tensor = left @ right
    return found
