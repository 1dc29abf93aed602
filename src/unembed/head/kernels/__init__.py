"""What is taken from each block of logits while it is at hand: one record, three kernels."""

from __future__ import annotations

from typing import Literal

import torch

from unembed.head.kernels import compiled, eager
from unembed.head.kernels.running import Update

Epilogue = Literal["compiled", "triton", "eager"]


def fastest(device: torch.device) -> Epilogue:
    """The fastest kernel that this machine can run for tensors on this device."""
    if device.type == "cpu" and compiled.available():
        return "compiled"
    return "triton" if device.type == "cuda" and _triton_runs(device) else "eager"


def update_of(epilogue: Epilogue) -> Update:
    """The kernel by its name."""
    if epilogue == "triton":
        from unembed.head.kernels import rowwise

        return rowwise.update
    return compiled.update if epilogue == "compiled" else eager.update


def _triton_runs(device: torch.device) -> bool:
    try:
        from unembed.head.kernels import rowwise
    except ImportError:
        return False
    return rowwise.available(device)
