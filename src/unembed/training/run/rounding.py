"""What of a training survives the rounding of its weights to the dtype that they are saved in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from unembed.short_repr import ShortRepr


@dataclass(frozen=True)
class Rounding(ShortRepr):
    """Of the entries that differ from the start in float32, ``kept`` still do as ``dtype``."""

    dtype: str
    moved: int
    kept: int

    @staticmethod
    @torch.no_grad()
    def of(start: nn.Module, refined: nn.Module, dtype: torch.dtype) -> Rounding:
        """Of float32 weights that are about to be saved; names that the start lacks are left out.

        Equivalent to ``((after != before) & (after.to(dtype) != before)).sum()`` for ``kept``.
        """
        before = dict(start.named_parameters(remove_duplicate=False))
        moved = kept = 0
        for name, parameter in refined.named_parameters():
            if name not in before:
                continue
            was = before[name].to(parameter.device)
            differs = parameter != was.to(parameter.dtype)
            moved += int(differs.sum())
            kept += int((differs & (parameter.to(dtype).to(parameter.dtype) != was)).sum())
        return Rounding(str(dtype).removeprefix("torch."), moved, kept)

    @property
    def share(self) -> float | None:
        """Kept of moved; None where nothing moved."""
        return self.kept / self.moved if self.moved else None
