"""LoRA adapters of the small models, saved by PEFT."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from unembed.models.checkpoint import hushed


def save_adapter(model: Any, folder: Path, *, seed: int = 1, size: float = 0.3, **how: Any) -> Path:
    """An adapter of random weights, so that it changes what the model does."""
    with hushed(), torch.random.fork_rng(devices=[]):
        import peft

        config = peft.LoraConfig(
            **{"r": 2, "target_modules": ["q_proj", "up_proj"], "task_type": "CAUSAL_LM", **how}
        )
        made: Any = peft.get_peft_model(copy.deepcopy(model), config)
        drawn = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in made.named_parameters():
                if "lora_" in name:
                    parameter.copy_(size * torch.randn(parameter.shape, generator=drawn))
        made.save_pretrained(folder)
    return folder
