"""The size of the model that a configuration asks for, beside what its files hold."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch

from unembed.errors import UnembedError
from unembed.models.weight_files import StoredTensor

MOST_TIMES = 4
"""By which a model may have more numbers than its files: what is missing is drawn at random before
it is told, so that the time is bounded by what the files hold."""
DEPTHS = ("num_hidden_layers", "depth")


def refuse_larger(
    name: str, config: Any, auto: Any, stored: tuple[StoredTensor, ...], *, plain: bool
) -> None:
    """Refuse, before anything is loaded, a configuration of a far larger model than the files'.

    Of ``plain`` weights the model's numbers are counted without making them; of packed ones its
    layers alone. Raises UnembedError.
    """
    if not stored:
        return
    layers = max(_depths(config), default=0)
    if layers > len(stored):
        raise _larger(name, f"{layers:,} layers", f"{len(stored):,} tensors")
    if not plain:
        return
    try:
        with torch.device("meta"):
            model = auto.from_config(copy.deepcopy(config))
        asked = sum(parameter.numel() for parameter in model.parameters())
    except Exception:  # Loading makes it again, and says what is wrong.
        return
    held = sum(math.prod(one.shape) for one in stored)
    if asked > MOST_TIMES * held:
        raise _larger(name, f"a model of {asked:,} numbers", f"{held:,}")


def _depths(config: Any) -> list[int]:
    """The numbers of layers of all of its parts."""
    parts = [config, *(part for part in vars(config).values() if hasattr(part, "model_type"))]
    found = (getattr(part, key, None) for part in parts for key in DEPTHS)
    return [depth for depth in found if isinstance(depth, int)]


def _larger(name: str, asked: str, held: str) -> UnembedError:
    return UnembedError(
        f"{name} has a config.json of {asked}, and its files hold {held}: they do not belong "
        "together; copy or download the checkpoint again"
    )
