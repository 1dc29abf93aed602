"""Small networks with their windows' exact gradients, made once."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from made_up.models import small_model
from reference import network
from unembed.models.checkpoint import hushed

NETWORKS = ("llama", "gpt2", "gemma2", "mixtral", "gpt_neox", "qwen3", "cohere", "adapter")
"""Grouped queries; transposed weights, tied; soft-caps, tied; fused experts; biases and a parallel
residual; tied; a scale of the logits, tied; LoRA matrices with all else frozen."""
TOKENS = 290
"""Of 300 rows of the head."""


def network_model(name: str) -> Any:
    """In float32; an adapter's matrices are random, so that all of them have gradients."""
    if name != "adapter":
        return small_model(name)
    with hushed(), torch.random.fork_rng(devices=[]):
        import peft

        config = peft.LoraConfig(
            r=2, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM", lora_alpha=3
        )
        model: Any = peft.get_peft_model(copy.deepcopy(small_model("llama")), config)
        drawn = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for own, parameter in model.named_parameters():
                if "lora_" in own:
                    parameter.copy_(0.3 * torch.randn(parameter.shape, generator=drawn))
    return model.eval()


@dataclass(frozen=True)
class Network:
    """A model in float64, two tasks' windows, and each window's gradients."""

    model: Any
    windows: list[network.Window]
    valid: torch.Tensor
    gradients: list[network.Gradients]
    mean: network.Mean


@cache
def exact_network(name: str) -> Network:
    """Two tasks of eight documents: tokens of the first and of the second half of the vocabulary.

    Two windows a document, of two lengths; of every third the first predictions do not count.
    """
    with hushed():
        model = network.in_float64(network_model(name))
    drawn, windows = torch.Generator().manual_seed(3), []
    tasks, documents = np.repeat([0, 1], 16), np.repeat(np.arange(16), 2)
    for i, (task, document) in enumerate(zip(tasks.tolist(), documents.tolist(), strict=True)):
        low, high = ((2, 170), (120, TOKENS))[task]
        length = 9 if i % 2 else 12
        ids = torch.randint(low, high, (length + 1,), generator=drawn)
        counted = torch.ones(length, dtype=torch.bool)
        counted[: 4 * (i % 3 == 0)] = False
        windows.append(network.Window(ids[:-1], ids[1:], counted, document))
    valid = torch.arange(300) < TOKENS
    gradients = network.window_gradients(model, windows, valid)
    return Network(model, windows, valid, gradients, network.Mean(tasks, documents))
