"""Devices by name, and the rates at which they do a model's work: published, or measured here."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from unembed.errors import UnembedError
from unembed.models.costs.model_work import ModelWork
from unembed.short_repr import ShortRepr

HERE = "here"
"""This machine, whose rates are measured."""
PRODUCTS = (0.3, 0.5, 0.7)
"""Share of the published rate of products that a run reaches: at worst, as assumed, at best."""
BANDWIDTH = (0.5, 0.7, 0.85)
"""The same of the memory's published bandwidth."""
BYTES_A_LOGIT = 8
"""A block's logits are written once and read once, in float32."""
BATCH_TOKENS = 16_384
"""Tokens of a batch on a GPU."""


@dataclass(frozen=True)
class Device(ShortRepr):
    """A device's published rates: products a second without sparsity, bytes, and bytes a second.

    ``link`` is what a device sends to the others of its machine, in one direction.
    """

    name: str
    memory: float
    bandwidth: float
    narrow: float
    float32: float
    link: float


DEVICES = {
    "h100": Device("H100 SXM", 80e9, 3.35e12, 989e12, 67e12, 450e9),
    "h200": Device("H200 SXM", 141e9, 4.8e12, 989e12, 67e12, 450e9),
    "a100": Device("A100 SXM 80 GB", 80e9, 2.04e12, 312e12, 19.5e12, 300e9),
    "l40s": Device("L40S", 48e9, 864e9, 362e12, 91.6e12, 32e9),
    "rtx4090": Device("RTX 4090", 24e9, 1.01e12, 165e12, 82.6e12, 32e9),
}


@dataclass(frozen=True)
class Rates(ShortRepr):
    """Seconds of one process: of a token of the body, and of a position's pass over the vocabulary.

    A block, which a body reads at once, takes ``body_block`` beside its tokens. The pass is a
    ``product`` with the head's rows and ``statistics`` of its logits; ``exchange`` is what
    processes that hold a model together send for a token. At best and at worst all these take
    ``fastest`` and ``slowest`` times as long. ``host`` is how many times as long as on the machine
    where constants were fitted Python's own work takes; ``memory`` is the device's, None on a CPU.
    ``replicas`` of the body read side by side; ``said`` is where all this is from.
    """

    device: str
    body: float
    product: float
    statistics: float
    body_block: float = 0.0
    exchange: float = 0.0
    fastest: float = 1.0
    slowest: float = 1.0
    host: float = 1.0
    memory: float | None = None
    gpu: bool = True
    measured: bool = False
    replicas: int = 1
    said: str = ""


def device_named(name: str) -> Device:
    """A device of the table. Raises UnembedError, with all of them, for another name."""
    found = DEVICES.get(name.lower().replace("-", "").replace("_", ""))
    if found is None:
        raise UnembedError(
            f"--device {name!r} has no published rates here: give {', '.join(DEVICES)}, or "
            f"{HERE} to measure this machine"
        )
    return found


def published(device: Device, work: ModelWork, window: float, tensor: int) -> Rates:
    """A device's rates for a model, by its published figures and an assumed share of them."""
    narrow = work.dtype != torch.float32
    peak = device.narrow if narrow else device.float32
    low, share, high = PRODUCTS
    bandwidth = device.bandwidth * BANDWIDTH[1]
    weights = (work.weight_bytes - work.head_bytes) / (bandwidth * BATCH_TOKENS)
    states = 2 * work.layers * work.width * work.bytes_a_number * 2 * (tensor - 1) / tensor
    return Rates(
        device=device.name,
        body=(work.body_flops(window) / (peak * share) + weights) / tensor,
        product=2.0 * work.rows * work.width / (peak * share) / tensor,
        statistics=BYTES_A_LOGIT * work.rows / bandwidth / tensor,
        exchange=states / (device.link * BANDWIDTH[1]),
        fastest=share / high,
        slowest=share / low,
        memory=device.memory,
        said=(
            f"published rates of the {device.name}, of which {share:.0%} are assumed to be reached "
            f"({low:.0%} to {high:.0%}), not measured"
        ),
    )
