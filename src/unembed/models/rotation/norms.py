"""What a norm computes, found by calling it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unembed.short_repr import ShortRepr

PROBES = 64
ERROR = 1e-3
"""Largest distance of what a norm gives from the formula, as a share of the largest value."""


@dataclass(frozen=True)
class NormForm(ShortRepr):
    """``gain * u / rms(u) + bias`` with ``u = x``, or ``x`` less its mean where ``centred``.

    ``weight`` is the name of the parameter of the gain, which is ``offset`` more than it (Gemma
    adds 1); None for a norm without one. ``bias`` is the name of that of the bias.
    """

    width: int
    centred: bool
    weight: str | None
    offset: float
    bias: str | None

    @staticmethod
    def of(module: nn.Module, width: int | None = None) -> NormForm | None:
        """The form of a module without children that has at most a gain and a bias, else None.

        ``width`` is tried for a module without parameters. The module is called on random rows with
        a mean far from zero; for each coordinate the line of its outputs over ``u / rms(u)`` must
        be that of its parameters, and go through them all.
        """
        own = {name: one.detach() for name, one in module.named_parameters()}
        widths = {one.numel() for one in own.values()} or {width or 0}
        if len(own) > 2 or len(widths) != 1 or any(one.ndim != 1 for one in own.values()):
            return None
        (width,) = widths
        if width < 2 or next(module.children(), None) is not None:
            return None
        device = next((one.device for one in own.values()), torch.device("cpu"))
        seeded = torch.Generator().manual_seed(0)
        rows = torch.randn(PROBES, width, generator=seeded) * 3 + 1
        rows = rows.to(device, torch.float32)
        try:
            with torch.no_grad():
                made = module(rows[None])[0]
        except Exception:  # a module that takes other inputs is no norm
            return None
        if not isinstance(made, Tensor) or made.shape != rows.shape:
            return None
        for centred in (False, True):
            found = _fitted(own, rows, made.double(), centred)
            if found is not None:
                return found
        return None

    def gain_of(self, module: nn.Module) -> Float[Tensor, " width"]:
        """The gain, in float64."""
        if self.weight is None:
            return torch.ones(self.width, dtype=torch.float64)
        return module.get_parameter(self.weight).detach().double() + self.offset

    def bias_of(self, module: nn.Module) -> Float[Tensor, " width"] | None:
        """The bias, in float64; None without one."""
        return None if self.bias is None else module.get_parameter(self.bias).detach().double()


def _fitted(own: dict[str, Tensor], rows: Tensor, made: Tensor, centred: bool) -> NormForm | None:
    u = rows.double()
    if centred:
        u = u - u.mean(1, keepdim=True)
    u = u / u.square().mean(1, keepdim=True).sqrt()
    about = u - u.mean(0)
    slope = (about * made).sum(0) / about.square().sum(0)
    level = made.mean(0) - slope * u.mean(0)
    bound = ERROR * float(made.abs().max())
    if float((slope * u + level - made).abs().max()) > bound:
        return None
    if not own:
        plain = torch.ones_like(slope), torch.zeros_like(level)
        near = max(float((slope - plain[0]).abs().max()), float((level - plain[1]).abs().max()))
        return NormForm(rows.shape[1], centred, None, 0.0, None) if near <= bound else None
    for offset in (0.0, 1.0):
        for name, parameter in own.items():
            if float((parameter.double() + offset - slope).abs().max()) > bound:
                continue
            others = [other for other in own if other != name]
            want = own[others[0]].double() if others else torch.zeros_like(level)
            if float((want - level).abs().max()) <= bound:
                bias = others[0] if others else None
                return NormForm(rows.shape[1], centred, name, offset, bias)
    return None
