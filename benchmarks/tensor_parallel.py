"""What transformers' plan makes of each architecture, and how far that is from one process.

    torchrun --standalone --nproc-per-node 2 benchmarks/tensor_parallel.py

Small random models with 8 heads, 4 for keys, a vocabulary of 301 and a hidden layer of 64, in
float32 on a CPU. A line each: whether its head is tied, how the plan holds the head, the share of
the weights that the first process holds, and the largest difference of hidden states and of logits
from those of the whole model, as a share of the largest of them.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers as tf

from unembed.errors import UnembedError
from unembed.head.head import Head, final_hidden, output_embedding
from unembed.models.devices.placement import Placement
from unembed.models.devices.tensor_parallel import refuse_unrunnable
from unembed.runs.provenance import digest_of
from unembed.runs.ranks import current_ranks, joined, tensor_parallel

SHAPE = {
    "vocab_size": 301,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
HEADS = {"head_dim": 8}
ALL_KEYS = {"num_key_value_heads": 8}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
CONFIGURATIONS: dict[str, Any] = {
    "llama": lambda: tf.LlamaConfig(**SHAPE),
    "llama, tied": lambda: tf.LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "mistral": lambda: tf.MistralConfig(**SHAPE),
    "qwen2": lambda: tf.Qwen2Config(**SHAPE),
    "qwen3, tied": lambda: tf.Qwen3Config(**SHAPE, **HEADS, tie_word_embeddings=True),
    "gemma2": lambda: tf.Gemma2Config(**SHAPE, **HEADS),
    "gemma3": lambda: tf.Gemma3TextConfig(**SHAPE, **HEADS),
    "cohere": lambda: tf.CohereConfig(**SHAPE),
    "granite": lambda: tf.GraniteConfig(**SHAPE),
    "phi": lambda: tf.PhiConfig(**{**SHAPE, **ALL_KEYS}),
    "phi3": lambda: tf.Phi3Config(**SHAPE),
    "gpt_neox": lambda: tf.GPTNeoXConfig(
        **{name: value for name, value in SHAPE.items() if name != "num_key_value_heads"}
    ),
    "glm4": lambda: tf.Glm4Config(**SHAPE, **HEADS),
    "olmo2": lambda: tf.Olmo2Config(**{**SHAPE, **ALL_KEYS}),
    "starcoder2": lambda: tf.Starcoder2Config(**SHAPE),
    "mixtral": lambda: tf.MixtralConfig(**SHAPE, num_local_experts=4),
    "olmoe": lambda: tf.OlmoeConfig(**SHAPE, num_experts=4, num_experts_per_tok=2),
    "qwen3_moe": lambda: tf.Qwen3MoeConfig(**SHAPE, **HEADS, **EXPERTS),
    "gpt_oss": lambda: tf.GptOssConfig(
        **SHAPE, **HEADS, num_local_experts=4, num_experts_per_tok=2,
        layer_types=["full_attention"] * 2,
    ),
    "gpt2": lambda: tf.GPT2Config(vocab_size=301, n_embd=64, n_layer=2, n_head=8),
    "opt": lambda: tf.OPTConfig(vocab_size=301, hidden_size=64, ffn_dim=64, num_hidden_layers=2,
                                num_attention_heads=8, pad_token_id=1),
    "mamba": lambda: tf.MambaConfig(vocab_size=301, hidden_size=64, num_hidden_layers=2),
}  # fmt: skip


def measure(name: str, folder: Path) -> dict[str, Any]:
    """The line of an architecture; raises UnembedError where it is refused."""
    auto: Any = tf.AutoModelForCausalLM
    torch.manual_seed(0)
    whole = auto.from_config(CONFIGURATIONS[name]()).eval()
    for parameter in whole.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    whole.save_pretrained(folder)  # within a group its first process alone writes
    current_ranks().wait(f"{name} is saved")
    place = Placement.of(None, None)
    asked = place.loading(name, whole.config, auto, None)
    model = auto.from_pretrained(folder, **asked).eval()
    refuse_unrunnable(name, model)
    weight = output_embedding(model).weight
    ids = torch.arange(2, 82).view(4, 20)
    with torch.no_grad():
        pairs = [
            (final_hidden(model, ids), final_hidden(whole, ids)),
            (model(input_ids=ids).logits, whole(input_ids=ids).logits),
        ]
    head, theirs = Head.of(model), Head.of(whole)
    held = (one.to_local() if hasattr(one, "to_local") else one for one in model.parameters())
    off = [float((one - other).abs().max() / other.abs().max()) for one, other in pairs]
    return {
        "model": name,
        "tied": head.tied,
        "head": "by rows" if hasattr(weight, "placements") else "whole on each",
        "held": round(sum(map(torch.numel, held)) / whole.num_parameters(), 2),
        "hidden": f"{off[0]:.1e}",
        "logits": f"{off[1]:.1e}",
        "same digests": head.digest == theirs.digest and digest_of(model) == digest_of(whole),
    }


def main() -> None:
    """Measure every architecture, and print what the first process found."""
    torch.set_num_threads(1)
    tf.logging.set_verbosity_error()
    tf.utils.logging.disable_progress_bar()
    with joined(), tensor_parallel() as ranks:
        for name in sys.argv[1:] or CONFIGURATIONS:
            with tempfile.TemporaryDirectory() as own:
                folder = Path(ranks.from_first("a folder", own))
                try:
                    line = measure(name, folder)
                except UnembedError as error:
                    line = {"model": name, "refused": str(error)}
                ranks.wait(name)
            if ranks.first:
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
