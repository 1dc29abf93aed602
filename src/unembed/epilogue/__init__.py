"""What is taken from each block of logits while it is in the cache: one record, three kernels."""

from __future__ import annotations

from typing import Literal

import torch

from unembed.epilogue import compiled, eager
from unembed.epilogue.running import Update

Epilogue = Literal["compiled", "eager"]


def fastest(device: torch.device) -> Epilogue:
    """The fastest kernel that this machine can run for tensors on this device."""
    return "compiled" if device.type == "cpu" and compiled.available() else "eager"


def update_of(epilogue: Epilogue) -> Update:
    """The kernel by its name."""
    return compiled.update if epilogue == "compiled" else eager.update
